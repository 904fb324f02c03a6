"""Faust's consumer with its faults closed: what is read, in which order, what is committed, and until when it is ours.

What it does that Faust does not (each fault seen; faust-streaming 0.15.3):

- acks out of order commit past a gap: an offset is committed only up to the lowest message not yet settled here;
- a failed commit still counts as committed in memory: it is put back;
- after an assignment it drops what it has fetched and seeks back to what is committed; where nothing is yet, it stayed
  behind what it had dropped, which was lost: there it goes back to the beginning;
- a message received while the flow is being stopped may reach no agent, and those behind it do: nothing is processed
  out of order, and what was left out is read again;
- a worker whose session ran out goes on writing over whoever took over: partitions are leased (see `Lease`);
- four tasks are made for every message, so slowly that batches hardly fill: what was fetched is passed on in one.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from math import inf
from time import monotonic
from typing import Any, Final

import structlog
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as AIOKafkaConsumer
from faust.types import TP

FETCH_WAIT_MS: Final = 50
"""The embedded broker sleeps for half of this when a fetch finds nothing; on Kafka it costs twenty fetches a second."""

STRANDED_S: Final = 3.0
"""While no batch is under way, an agent has its messages within milliseconds."""

YIELD_EVERY: Final = 100
"""Messages passed on in one go, while agents wait."""

ENOUGH: Final = 512
"""Messages that wait for an agent: two batches, and with `YIELD_EVERY` below four fifths of `stream_buffer_maxsize`."""

LOOK_S: Final = 0.005
"""How often to look whether an agent has room: it takes longer for a batch."""

SAFE: Final = 0.8
"""Share of the session within which a write that starts is acknowledged before the session can end."""

log = structlog.get_logger(__name__)


class Lease:
    """Until when our partitions are certainly ours: a session from the last heartbeat that the broker answered.

    Only after that may the group give them to another. The broker does not fence us, so we must stop by ourselves.

    >>> lease = Lease(session_s=6.0)
    >>> lease.renew(100.0)
    >>> lease.holds(104.0), lease.holds(105.0)
    (True, False)
    """

    def __init__(self, session_s: float) -> None:
        self._session_s = session_s
        self._renewed = -inf

    def renew(self, at: float) -> None:
        """A heartbeat sent at `at` (seconds) was answered."""
        self._renewed = max(self._renewed, at)

    def end(self) -> None:
        """The group does not know us any more."""
        self._renewed = -inf

    def holds(self, now: float) -> bool:
        """Whether a write may start at `now`."""
        return now - self._renewed < SAFE * self._session_s


class ConsumerThread(AIOKafkaConsumerThread):
    """Faust's consumer thread; it also asks a quiet broker more often than every 1.5 s (fixed in Faust)."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        """Start, and take note of every heartbeat that is answered."""
        await super().on_start()
        worker: Any = self
        coordinator, lease = worker._consumer._coordinator, worker.consumer.lease
        beat = coordinator._do_heartbeat

        async def noted() -> bool:
            at = monotonic()
            if answered := await beat():
                lease.renew(at)
            elif not coordinator.member_id:
                lease.end()
            return bool(answered)

        coordinator._do_heartbeat = noted

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go back to what is committed, or to the beginning; return what is committed."""
        found: Mapping[TP, int] = await self.call_thread(self._go_back)
        return found

    async def _go_back(self) -> Mapping[Any, int | None]:
        consumer: Any = self._ensure_consumer()
        committed: Mapping[Any, int | None] = await consumer.seek_to_committed()
        if new := [tp for tp, offset in committed.items() if not offset]:
            await consumer.seek_to_beginning(*new)
        return committed


class Consumer(AIOKafkaConsumer):
    """Faust's consumer, committing exactly what `settle` released."""

    app: Any

    def __init__(self, transport: Any, callback: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(transport, self._receive, *args, **kwargs)
        self._pass_on = callback
        self.lease = Lease(self.app.conf.broker_session_timeout)
        self._open: dict[TP, dict[int, Any]] = defaultdict(dict)
        self._arrived: dict[tuple[TP, int], float] = {}
        self._rewound: dict[TP, float] = {}
        self._released: dict[TP, int] = {}

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Fetch and pass on until told to stop. A full queue holds this up, and a rebalance lets it go."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self.sleep(0)
                fetched = [pair async for pair in self.getmany(timeout=1.0)]
                generation = self.app.consumer_generation_id
                await self.wait_first(self._receive_all(fetched, generation), self.suspend_flow.wait())
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _receive_all(self, fetched: Sequence[tuple[TP, Any]], generation: int) -> None:
        """Receive messages while the partitions are still ours; not those that a seek went beyond."""
        for number, (tp, message) in enumerate(fetched, 1):
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if message.offset >= (self._read_offset[tp] or 0):
                await self._receive(message)
                self._read_offset[tp] = message.offset
            if number % YIELD_EVERY == 0:
                await self._room()

    async def _room(self) -> None:
        """Let agents work, and wait while they have enough: Faust would put their partitions aside for a second."""
        await asyncio.sleep(0)
        while max((t.queue.qsize() for t in self.app.topics), default=0) > ENOUGH:  # noqa: ASYNC110 (no event tells of it)
            await asyncio.sleep(LOOK_S)

    async def _receive(self, message: Any) -> None:
        """Remember a message as under way before any agent sees it; offsets arrive in order."""
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

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002 (Faust's signature)
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed: bool = await super()._commit_offsets(offsets, start_new_transaction)
        if not committed:
            self._committed_offset.update(before)
        return committed

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """The group has just given us these."""
        self.lease.renew(monotonic())
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let batches under way finish, commit them, then let the partitions go."""
        await self.app.delivery.drain()
        self.lose()
        try:
            await super().on_partitions_revoked(revoked)
        finally:
            self.lose()  # what came in between was given to nobody, and is read again by whoever gets the partition
            self.app.delivery.resume()
