"""Delivery: state durable, then outcomes durable, then the offset. Together with `consumer`, the place that knows how.

What Faust does that this replaces (each seen; faust-streaming 0.15.3):

- an exception acks the record and skips it; undecodable bytes are acked: agents read raw bytes and nothing escapes;
- the commit follows a flush that may return early: nothing is settled before the broker acknowledged all of it;
- a graceful stop or a rebalance cuts batches in half: it waits until those under way are settled, then commits.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

import structlog
from faust.types import TP

from models.errors import DeliveryError, LeaseLost
from streams.state import State
from streams.wire import Record, Send, send_all

AHEAD: Final = 2
"""Batches of an agent under way: while one waits for the encoder or the broker, another partition's is worked on."""

PART: Final = itemgetter(0, 1)
"""Topic and partition of a record."""
PLACE: Final = itemgetter(0, 1, 2)
"""Those and its offset."""

log = structlog.get_logger(__name__)


class Plan(NamedTuple):
    """What a batch leads to: rows to write (None deletes) and records to send."""

    rows: dict[bytes, bytes | None]
    sends: list[Send]
    more: bool = False
    """Whether time has more to change than a plan should hold: the next `tick` follows at once."""
    left: int = 0
    """Records at the end of the batch that wait until then."""


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

    async def tick(self, partition: int, settled: Mapping[str, datetime], /) -> Plan:
        """Decide what the passing of time leads to. `settled`: until when there is nothing left, by input topic."""

    async def poison(self, record: Record) -> Plan:
        """Decide what a record leads to that `handle` cannot process: a dead letter, and red."""

    def done(self, partition: int) -> None:
        """The plan just made is durable."""

    def forget(self) -> None:
        """The partitions are no longer ours: drop what is cached."""


class Delivery:
    """Runs batches through stages, so that a crash at any point loses nothing and repeats only what is idempotent."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._under_way: set[asyncio.Task[None]] = set()
        self._locks: dict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stages: list[Stage] = []
        self._draining = False
        self._writing = self._followed = 0

    async def consume(self, stage: Stage, stream: Any) -> None:
        """The body of an agent: take what is queued, settle it, again; those of one partition stay in order."""
        self._stages.append(stage)
        free = asyncio.Semaphore(AHEAD - 1)
        async for records in _batches(stream, stage):
            if not self._draining:
                self._start(self._deliver(stage, records)).add_done_callback(lambda _: free.release())
                await free.acquire()

    async def tick(self, stage: Stage, partitions: Iterable[int]) -> None:
        """Let time pass in a stage's partitions, and look for messages that nobody works on. Not in a rebalance."""
        if self._app.rebalancing:
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
            stage.state.close()

    def resume(self) -> None:
        """Take batches again."""
        self._draining = False

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run to the end, even when whoever waits is cancelled: a batch is never cut in half."""
        await asyncio.shield(self._start(work))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def act(self, stage: Stage, partition: int, plan: Plan) -> None:
        """Carry out a plan, and those that follow at once."""
        await self._carry_out(stage, partition, plan)
        while plan.more:
            if self._draining:
                raise LeaseLost  # the partition goes: whoever has it next goes on, and reads the batch again
            plan = await stage.tick(partition, {})
            await self._carry_out(stage, partition, plan)
            self._followed += 1

    async def _carry_out(self, stage: Stage, partition: int, plan: Plan) -> None:
        """State first, so that what was sent can always be derived again; then outcomes."""
        if plan.rows:
            await self._ours(stage.state.write(partition, plan.rows))
        if plan.sends:
            await self._ours(send_all(self._app, plan.sends))
        stage.done(partition)

    async def _ours(self, write: Coroutine[Any, Any, Any]) -> None:
        """Write while the partitions are ours. Raises `LeaseLost` when they may not be."""
        if not self._app.consumer.lease.holds(monotonic()):
            write.close()
            raise LeaseLost
        self._writing += 1
        try:
            await write
        finally:
            self._writing -= 1

    def moves(self) -> int:
        """Return a number that grows while a batch makes progress: rows read from changelogs, plans that followed."""
        return self._followed + sum(stage.state.recovered for stage in self._stages)

    def overstays(self) -> bool:
        """Whether something is being written that may not be ours any more: the worker must end at once."""
        return self._writing > 0 and not self._app.consumer.lease.holds(monotonic())

    async def _tick(self, stage: Stage, partition: int) -> None:
        async with self._locks[stage.name, partition]:
            try:
                await stage.state.open(partition)
                settled = self._app.consumer.settled_until(partition)
                await self.act(stage, partition, await stage.tick(partition, settled))
            except LeaseLost:
                self._put_off(stage, partition)
            except DeliveryError as error:
                await self._give_up(stage, error)

    async def _deliver(self, stage: Stage, records: Iterable[Record]) -> None:
        parts = [(TP(*part), list(found)) for part, found in groupby(sorted(records, key=PLACE), key=PART)]
        done = await asyncio.gather(*(self._deliver_part(stage, *part) for part in parts), return_exceptions=True)
        for error in filter(None, done):
            await self._give_up(stage, error)

    async def _give_up(self, stage: Stage, error: BaseException) -> None:
        """End the worker. An error that is not ours is named, not quoted: it may hold patient text."""
        known = error if isinstance(error, DeliveryError) else DeliveryError(type(error).__name__)
        log.error("delivery failed: the worker ends, another takes over", stage=stage.name, error=str(known))
        await self._app.crash(known)

    def _put_off(self, stage: Stage, partition: int) -> None:
        """Forget what a batch began; if the partition is still ours, the batch is read again."""
        log.warning("the partition may not be ours for long: a batch is put off", stage=stage.name)
        stage.forget()
        stage.state.close(partition)

    async def _deliver_part(self, stage: Stage, tp: TP, records: Sequence[Record]) -> None:
        async with self._locks[stage.name, tp.partition]:
            if not (mine := self._app.consumer.ours(tp, records)):
                return
            if not self._app.consumer.follow(tp, mine):
                await self._app.consumer.rewind(tp)
                return
            try:
                await stage.state.open(tp.partition)
                await self._process(stage, tp.partition, mine)
            except LeaseLost:
                self._put_off(stage, tp.partition)
                return
        self._app.consumer.settle(tp, mine)

    async def _process(self, stage: Stage, partition: int, records: Sequence[Record]) -> None:
        try:
            while records:
                plan = await stage.handle(partition, records)
                await self.act(stage, partition, plan)
                records = records[len(records) - plan.left :]
        except (DeliveryError, LeaseLost):
            raise
        except Exception as error:  # noqa: BLE001 (no input may stop the stream: it is tried alone, then set aside)
            await self._one_by_one(stage, records, error)

    async def _one_by_one(self, stage: Stage, records: Sequence[Record], error: Exception) -> None:
        log.warning("a batch failed; its records are tried alone", stage=stage.name, error=type(error).__name__)
        stage.forget()
        for record in records:
            left = 1
            while left:
                plan = await self._plan_for(stage, record)
                await self.act(stage, record.partition, plan)
                left = plan.left

    @staticmethod
    async def _plan_for(stage: Stage, record: Record) -> Plan:
        try:
            return await stage.handle(record.partition, [record])
        except Exception as error:  # noqa: BLE001 (see above)
            log.error("dead letter: internal", stage=stage.name, error=type(error).__name__, offset=record.offset)  # noqa: TRY400 (a traceback may quote patient text)
            return await stage.poison(record)


async def _batches(stream: Any, stage: Stage) -> AsyncIterator[list[Record]]:
    """Yield what is queued, at once: never wait for a batch to fill. What Faust calls a message is a list of them."""
    queue = stream.channel.queue
    async for parcel in stream.noack():
        waiting = list(parcel)
        while waiting:
            limit = stage.batch
            while len(waiting) < limit and not queue.empty():
                waiting += queue.get_nowait().value
            yield waiting[:limit]
            waiting = waiting[limit:]
