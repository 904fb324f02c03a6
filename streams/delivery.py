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
from typing import Any, Final, NamedTuple, Protocol

import structlog
from faust.types import TP

from models.errors import DeliveryError, LeaseLost
from streams.clock import since_boot
from streams.state import State
from streams.wire import Record, Send, send_all

MAX_CONCURRENT_BATCHES: Final = 2
"""Batches of an agent under way: while one waits for the encoder or the broker, another partition's is worked on."""

PART: Final = itemgetter(0, 1)
"""Topic and partition of a record."""
PLACE: Final = itemgetter(0, 1, 2)
"""Those and its offset."""

NO_ROW: Final = b"\x00clock"
"""Key that no row has: deleted, so that the broker has a record to date."""

NO_FAULT: Final = (DeliveryError, MemoryError, OSError)
"""What no record can be blamed for, and none is set aside for: the worker ends, and the machine may recover."""

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

    async def tick(self, partition: int, watermarks: Mapping[str, datetime], /) -> Plan:
        """Decide what the passing of time leads to. `watermarks`: until when there is nothing left, by input topic."""

    async def poison(self, record: Record) -> Plan:
        """Decide what a record leads to that `handle` cannot process: a dead letter, and red."""

    def done(self, partition: int) -> None:
        """The plan just made is durable."""

    def forget(self, *partitions: int) -> None:
        """These partitions, or all, are no longer ours, or not as we hold them: drop what is cached."""


class Delivery:
    """Runs batches through a stage, so that a crash at any point loses nothing and repeats only what is idempotent."""

    def __init__(self, app: Any, stage: Stage) -> None:
        self._app, self._stage = app, stage
        self._under_way: set[asyncio.Task[None]] = set()
        self._locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By partition: its rows are shared by all input topics."""
        self._draining = False
        self._openings: set[asyncio.Timeout] = set()
        self._writing = self._followed = 0

    async def consume(self, stream: Any) -> None:
        """The body of an agent: take what is queued, settle it, again; those of one partition stay in order."""
        free = asyncio.Semaphore(MAX_CONCURRENT_BATCHES - 1)
        async for records in _batches(stream, self._stage):
            if not self._draining:
                self._start(self._deliver(records)).add_done_callback(lambda _: free.release())
                await free.acquire()

    async def tick(self, partitions: Iterable[int]) -> None:
        """Let time pass in partitions, and look for messages that nobody works on. Not in a rebalance."""
        if self._app.rebalancing:
            return
        if not (self._under_way or self._draining):
            await self._app.consumer.refetch_stuck()
        for partition in sorted(partitions):
            if not self._draining:
                await self._run(self._tick(partition))

    async def drain(self) -> None:
        """Start no further batch, wait for those under way, commit; put off those whose rows are still being read."""
        self._draining = True
        for opening in self._openings:
            if not opening.expired():
                opening.reschedule(0.0)
        if self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)
            await self._app.consumer.commit()
        self._stage.forget()
        self._stage.state.close()

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

    async def execute(self, partition: int, plan: Plan) -> None:
        """Carry out a plan, and those that follow at once."""
        await self._carry_out(partition, plan)
        while plan.more:
            if self._draining:
                raise LeaseLost  # the partition goes: whoever has it next goes on, and reads the batch again
            plan = await self._stage.tick(partition, {})
            await self._carry_out(partition, plan)
            self._followed += 1

    async def _carry_out(self, partition: int, plan: Plan) -> None:
        """State first, so that what was sent can always be derived again; then outcomes."""
        if plan.rows:
            await self._while_leased(self._stage.state.write(partition, plan.rows))
        if plan.sends:
            await self._while_leased(send_all(self._app, plan.sends))
        self._stage.done(partition)

    async def _while_leased(self, write: Coroutine[Any, Any, Any]) -> None:
        """Write while the partitions are ours. Raises `LeaseLost` when they may not be."""
        if not self._app.consumer.lease.holds(since_boot()):
            write.close()
            raise LeaseLost
        self._writing += 1
        try:
            await write
        finally:
            self._writing -= 1

    def progress_count(self) -> int:
        """Return a number that grows while a batch makes progress: rows read from changelogs, plans that followed."""
        return self._followed + self._stage.state.recovered

    def writes_without_lease(self) -> bool:
        """Whether something is being written that may not be ours any more: the worker must end at once."""
        return self._writing > 0 and not self._app.consumer.lease.holds(since_boot())

    async def _open(self, partition: int) -> None:
        """Bring a partition's rows up to date; a rebalance cuts that off. Raises `LeaseLost` then."""
        try:
            async with asyncio.timeout(0.0 if self._draining else None) as opening:
                self._openings.add(opening)
                await self._stage.state.open(partition)
        except TimeoutError:
            if not opening.expired():
                raise
            raise LeaseLost from None
        finally:
            self._openings.discard(opening)

    async def _synchronise(self, partition: int) -> None:
        """Do nothing before the broker has answered a write, and so said how late it is: by a clock that may be years
        behind, a backlog would be prompt, and rows would be dated, and forgotten.
        """
        if not self._app.clock.is_synchronised:
            await self._while_leased(self._stage.state.write(partition, {NO_ROW: None}))

    async def _tick(self, partition: int) -> None:
        async with self._locks[partition]:
            try:
                await self._open(partition)
                if any(self._stage.state.items(partition)):  # a changelog without any stays empty (`start_offsets`)
                    await self._synchronise(partition)
                watermarks = self._app.consumer.idle_watermarks(partition)
                await self.execute(partition, await self._stage.tick(partition, watermarks))
            except LeaseLost:
                self._abandon(partition)
            except DeliveryError as error:
                await self._give_up(error)

    async def _deliver(self, records: Iterable[Record]) -> None:
        parts = [(TP(*part), list(found)) for part, found in groupby(sorted(records, key=PLACE), key=PART)]
        done = await asyncio.gather(*(self._deliver_part(*part) for part in parts), return_exceptions=True)
        for error in filter(None, done):
            await self._give_up(error)

    async def _give_up(self, error: BaseException) -> None:
        """End the worker. An error that is not ours is named, not quoted: it may hold patient text."""
        known = error if isinstance(error, DeliveryError) else DeliveryError(type(error).__name__)
        log.error("delivery failed: the worker ends, another takes over", stage=self._stage.name, error=str(known))
        await self._app.crash(known)

    def _abandon(self, partition: int) -> None:
        """Forget what a batch began; if the partition is still ours, the batch is read again."""
        log.warning("the partition may not be ours for long: a batch is put off", stage=self._stage.name)
        self._stage.forget(partition)
        self._stage.state.close(partition)

    async def _deliver_part(self, tp: TP, records: Sequence[Record]) -> None:
        async with self._locks[tp.partition]:
            if not (mine := self._app.consumer.still_assigned(tp, records)):
                return
            if not self._app.consumer.is_next(tp, mine):
                await self._app.consumer.rewind(tp)
                return
            try:
                await self._open(tp.partition)
                await self._synchronise(tp.partition)
                await self._process(tp.partition, mine)
            except LeaseLost:
                self._abandon(tp.partition)
                return
        self._app.consumer.mark_processed(tp, mine)

    async def _process(self, partition: int, records: Sequence[Record]) -> None:
        try:
            while records:
                plan = await self._stage.handle(partition, records)
                await self.execute(partition, plan)
                records = records[len(records) - plan.left :]
        except (LeaseLost, *NO_FAULT):
            raise
        except Exception as error:  # noqa: BLE001 (no input may stop the stream: it is tried alone, then set aside)
            await self._one_by_one(records, error)

    async def _one_by_one(self, records: Sequence[Record], error: Exception) -> None:
        log.warning("a batch failed; its records are tried alone", stage=self._stage.name, error=type(error).__name__)
        self._stage.forget(records[0].partition)
        for record in records:
            left = 1
            while left:
                plan = await self._plan_for(record)
                await self.execute(record.partition, plan)
                left = plan.left

    async def _plan_for(self, record: Record) -> Plan:
        try:
            return await self._stage.handle(record.partition, [record])
        except NO_FAULT:
            raise
        except Exception as error:  # noqa: BLE001 (see above)
            log.error("dead letter: internal", stage=self._stage.name, error=type(error).__name__, offset=record.offset)  # noqa: TRY400 (a traceback may quote patient text)
            self._stage.forget(record.partition)  # what it changed before it failed
            return await self._stage.poison(record)


async def _batches(stream: Any, stage: Stage) -> AsyncIterator[list[Record]]:
    """Yield what is queued, at once: never wait for a batch to fill. What Faust calls a message is a list of them."""
    queue = stream.channel.queue
    async for message in stream.noack():
        waiting = list(message)
        while waiting:
            limit = stage.batch
            while len(waiting) < limit and not queue.empty():
                waiting += queue.get_nowait().value
            yield waiting[:limit]
            waiting = waiting[limit:]
