"""Delivery: state durable, then outcomes durable, then the offset. The one place that knows how.

What Faust does that this replaces (each seen; faust-streaming 0.15.3):

- an exception acks the record and skips it; undecodable bytes are acked: agents read raw bytes and nothing escapes;
- acks out of order commit past a gap: an offset is committed only up to the lowest message not yet settled here;
- the commit follows a flush that may return early: nothing is settled before the broker acknowledged all of it;
- a failed commit still counts as committed in memory: it is put back;
- a message received while the flow is being stopped may reach no agent, and those behind it do: nothing is processed
  out of order, and what was left out is read again;
- a graceful stop or a rebalance cuts batches in half: it waits until those under way are settled, then commits.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from itertools import groupby, islice
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

import structlog
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as AIOKafkaConsumer
from faust.types import TP

from models.errors import DeliveryError
from streams.state import State
from streams.wire import Send, send_all

FETCH_WAIT_MS: Final = 50
"""The embedded broker sleeps for half of this when a fetch finds nothing; on Kafka it costs twenty fetches a second."""

STRANDED_S: Final = 3.0
"""While no batch is under way, an agent has its messages within milliseconds."""

log = structlog.get_logger(__name__)


class Record(NamedTuple):
    """One consumed message, raw."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes]
    at: float
    """When the broker took it, in seconds since the epoch."""


class Plan(NamedTuple):
    """What a batch leads to: rows to write (None deletes) and records to send."""

    rows: dict[bytes, bytes | None]
    sends: list[Send]


class Stage(Protocol):
    """What an agent runs. `handle` decides; it changes nothing that a failed delivery would have to undo."""

    state: State

    @property
    def name(self) -> str:
        """Names its consumer group."""

    @property
    def batch(self) -> int:
        """How many events it takes at once."""

    async def handle(self, partition: int, records: Sequence[Record]) -> Plan:
        """Decide what records (of one partition, in order) lead to."""

    async def tick(self, partition: int) -> Plan:
        """Decide what the passing of time leads to, while no records come."""

    async def poison(self, record: Record) -> Plan:
        """Decide what a record leads to that `handle` cannot process: a dead letter, and red."""

    def done(self, partition: int) -> None:
        """The plan just made is durable."""

    def forget(self) -> None:
        """The partitions are no longer ours: drop what is cached."""


class ConsumerThread(AIOKafkaConsumerThread):
    """Faust's consumer thread, which asks a quiet broker more often than every 1.5 s (fixed in Faust)."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer


class Consumer(AIOKafkaConsumer):
    """Faust's consumer, committing exactly what `settle` released."""

    app: Any

    def __init__(self, transport: Any, callback: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(transport, self._receive, *args, **kwargs)
        self._pass_on = callback
        self._open: dict[TP, dict[int, Any]] = defaultdict(dict)
        self._arrived: dict[tuple[TP, int], float] = {}
        self._rewound: dict[TP, float] = {}
        self._released: dict[TP, int] = {}

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _receive(self, message: Any) -> None:
        """Remember an input as under way before any agent sees it; offsets arrive in order. Changelogs pass too."""
        if message.tp.topic in self.app.inputs:
            self._open[message.tp][message.offset] = message
            self._arrived[message.tp, message.offset] = monotonic()
        await self._pass_on(message)

    def owns(self, message: Any) -> bool:
        """Whether this very message is still ours to process."""
        return self._open[message.tp].get(message.offset) is message

    def settle(self, messages: Iterable[Any]) -> None:
        """Release messages whose outcomes are durable."""
        for m in messages:
            self._arrived.pop((m.tp, m.offset), None)
            if self._open[m.tp].pop(m.offset, None) is not None:
                self._released[m.tp] = max(self._released.get(m.tp, 0), m.offset + 1)

    def under_way(self) -> tuple[tuple[TP, int], ...] | None:
        """Return the lowest message under way of each partition; None: there is none."""
        return tuple((tp, next(iter(messages))) for tp, messages in self._open.items() if messages) or None

    def follow(self, messages: Sequence[Any]) -> bool:
        """Whether these are the very next of their partition; else those before them reached no agent."""
        return [m.offset for m in messages] == list(islice(self._open[messages[0].tp], len(messages)))

    async def fetch_stranded(self) -> None:
        """Read again what no agent was given for a while."""
        for tp, messages in list(self._open.items()):
            if messages and monotonic() - self._arrived[tp, next(iter(messages))] > STRANDED_S:
                await self.rewind(tp)

    async def rewind(self, tp: TP) -> None:
        """Read a partition again from the lowest message under way on; once, and then wait for it to come."""
        if monotonic() - self._rewound.get(tp, 0.0) > STRANDED_S:
            self._rewound[tp] = monotonic()
            log.warning("messages were received but given to no agent: reading them again", topic=tp.topic)
            await self.seek(tp, next(iter(self._open[tp])))

    def lose(self) -> None:
        """Forget everything: the group is rebalancing and what is committed will be read again from there."""
        self._open.clear()
        self._arrived.clear()
        self._rewound.clear()
        self._released.clear()

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Any:
        return (tp for tp in self._released if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        lowest_open = next(iter(self._open[tp]), None)
        return self._released[tp] if lowest_open is None else lowest_open

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Read from these offsets on; Faust would still drop what lies before those it had read until then."""
        await super().seek_wait(partitions)
        self._read_offset.update({tp: offset or None for tp, offset in partitions.items()})

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002 (Faust's signature)
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed: bool = await super()._commit_offsets(offsets, start_new_transaction)
        if not committed:
            self._committed_offset.update(before)
        return committed

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let batches under way finish, commit them, then let the partitions go."""
        await self.app.delivery.drain()
        self.lose()
        try:
            await super().on_partitions_revoked(revoked)
        finally:
            self.lose()  # what came in between was given to nobody, and is read again by whoever gets the partition
            self.app.delivery.resume()


class Delivery:
    """Runs batches through stages, so that a crash at any point loses nothing and repeats only what is idempotent."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._under_way: set[asyncio.Task[None]] = set()
        self._locks: dict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stages: list[Stage] = []
        self._draining = False

    async def consume(self, stage: Stage, stream: Any) -> None:
        """The body of an agent: take what is queued, settle it, again."""
        self._stages.append(stage)
        async for events in _batches(stream, stage.batch):
            if not self._draining:
                await self._run(self._deliver(stage, events))

    async def tick(self, stage: Stage, partitions: Iterable[int]) -> None:
        """Let time pass in a stage's partitions, and look for messages that nobody works on.

        Not while the rows are still being recovered: what is read off them now would be kept, and be too little.
        """
        if self._app.rebalancing or self._app.in_recovery:
            return
        if not (self._under_way or self._draining):
            await self._app.consumer.fetch_stranded()
        for partition in sorted(partitions):
            if not self._draining:
                await self._run(self._tick(stage, partition))

    async def drain(self) -> None:
        """Start no further batch, wait for those under way, commit."""
        self._draining = True
        if self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)
            await self._app.consumer.commit()
        for stage in self._stages:
            stage.forget()

    def resume(self) -> None:
        """Take batches again."""
        self._draining = False

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run to the end, even when whoever waits is cancelled: a batch is never cut in half."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def act(self, stage: Stage, partition: int, plan: Plan) -> None:
        """Carry out a plan: state first, so that what was sent can always be derived again; then outcomes."""
        if plan.rows:
            await stage.state.write(partition, plan.rows)
        if plan.sends:
            await send_all(self._app, plan.sends)
        stage.done(partition)

    async def _tick(self, stage: Stage, partition: int) -> None:
        async with self._locks[stage.name, partition]:
            await self.act(stage, partition, await stage.tick(partition))

    async def _deliver(self, stage: Stage, events: Sequence[Any]) -> None:
        messages = sorted((e.message for e in events if self._app.consumer.owns(e.message)), key=_place)
        parts = [list(part) for _, part in groupby(messages, key=lambda m: m.tp)]
        try:
            await asyncio.gather(*(self._deliver_part(stage, part) for part in parts))
        except DeliveryError as error:
            log.error("delivery failed: the worker ends, another takes over", stage=stage.name, error=str(error))  # noqa: TRY400 (its text is enough)
            await self._app.crash(error)

    async def _deliver_part(self, stage: Stage, messages: Sequence[Any]) -> None:
        partition = messages[0].partition
        async with self._locks[stage.name, partition]:
            if not self._app.consumer.follow(messages):
                await self._app.consumer.rewind(messages[0].tp)
                return
            try:
                plan = await stage.handle(partition, [_record(m) for m in messages])
                await self.act(stage, partition, plan)
            except DeliveryError:
                raise
            except Exception as error:  # noqa: BLE001 (no input may stop the stream: it is tried alone, then set aside)
                await self._one_by_one(stage, messages, error)
        self._app.consumer.settle(messages)

    async def _one_by_one(self, stage: Stage, messages: Sequence[Any], error: Exception) -> None:
        log.warning("a batch failed; its records are tried alone", stage=stage.name, error=type(error).__name__)
        stage.forget()
        for message in messages:
            record = _record(message)
            try:
                plan = await stage.handle(record.partition, [record])
            except Exception as alone:  # noqa: BLE001 (see above)
                log.error("dead letter: internal", stage=stage.name, error=type(alone).__name__, offset=record.offset)  # noqa: TRY400 (a traceback may quote patient text)
                plan = await stage.poison(record)
            await self.act(stage, record.partition, plan)


async def _batches(stream: Any, limit: int) -> AsyncIterator[list[Any]]:
    """Yield what is queued, at once: never wait for a batch to fill."""
    queue = stream.channel.queue
    async for event in stream.noack().events():
        batch = [event]
        while len(batch) < limit and not queue.empty():
            batch.append(queue.get_nowait())
        yield batch


def _place(message: Any) -> tuple[Any, int]:
    return message.tp, message.offset


def _record(m: Any) -> Record:
    found = m.headers.items() if isinstance(m.headers, Mapping) else m.headers or ()
    return Record(m.topic, m.partition, m.offset, m.key, m.value or b"", dict(found), m.timestamp or 0.0)
