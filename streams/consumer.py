"""Faust's consumer with its faults closed: what is read, in which order, what is committed, and until when it is ours.

What it does that Faust does not (each fault seen; faust-streaming 0.15.3):

- acks out of order commit past a gap: an offset is committed only up to the lowest message not yet settled here;
- a failed commit still counts as committed in memory: it is put back;
- after an assignment it drops what it has fetched and seeks back to what is committed; where nothing is yet, it stayed
  behind what it had dropped, which was lost: there a place is committed first (see `start_offsets`);
- records that were deleted before they were read are passed over in silence: they are counted and named;
- a message received while the flow is being stopped may reach no agent, and those behind it do: nothing is processed
  out of order, and what was left out is read again;
- nobody knows whether anything lies unread: of each partition it is noted when the broker last said that nothing does,
  and how much does is told to whoever asks;
- a worker whose session ran out goes on writing over whoever took over: partitions are leased (see `lease`);
- a batch in a codec that is not installed ends a worker, again and again, and no word says where it lies;
- whoever reads and is told to stop in a rebalance is said to have crashed, for want of a supervisor to wake;
- four tasks are made for every message, and two dozen calls, so slowly that batches hardly fill: what was fetched of a
  partition is passed on as one message, whose value is the list of what was read.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from time import monotonic
from traceback import walk_tb
from typing import Any, Final, NamedTuple, cast

import structlog
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, UnsupportedCodecError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as AIOKafkaConsumer
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from models.errors import DeliveryError
from models.events import LAST_S
from streams.clock import since_boot
from streams.lease import Lease
from streams.start_offsets import Committed, check_last, checkpoint, restore_offsets, skip_deleted
from streams.wire import Record, by_broker, header_map

FETCH_WAIT_MS: Final = 50
"""The embedded broker sleeps for half of this when a fetch finds nothing; on Kafka it costs twenty fetches a second."""

FETCH_BYTES: Final = 2**20
"""Of a partition, at least; and a batch's worth."""
RECORD_BYTES: Final = 2**11
"""Of a label, with room: a megabyte would cut LEARN's batches in half."""

STUCK_S: Final = 3.0
"""While no batch is under way, an agent has its messages within milliseconds."""

MAX_BATCHES_IN_FLIGHT: Final = 4
"""Batches of a topic under way: an agent works on two, and two wait for it."""

BYTES_PER_UNIT: Final = 2**15
"""Bytes for which a message counts once more: a megabyte of text is no light thing to have under way."""

log = structlog.get_logger(__name__)


class FetchPosition(NamedTuple):
    """How far a partition is read, and where it ended at its last fetch, which `fetch` tells from those before."""

    position: int
    high_watermark: int
    fetch: int


class FetchObservation(NamedTuple):
    """When a partition was looked at, and which fetch was the last; in seconds of this machine.

    aiokafka dates a fetch by this machine's clock, which may be wrong: it is only seen that it is another one. It came
    after the last look; and the broker answered it after the one before had come, however long it was on its way.
    """

    at: float
    fetch: int
    came: float | None = None
    answered: float | None = None
    """Not before these."""

    def again(self, at: float, fetch: int) -> "FetchObservation":
        """Look once more."""
        return self._replace(at=at) if fetch == self.fetch else FetchObservation(at, fetch, self.at, self.came)


class Lag(NamedTuple):
    """How many records are not settled, and for how long (seconds) the oldest of them has waited in its topic."""

    records: int
    seconds: float


def _weight(records: Iterable[Record]) -> int:
    """Return how many messages these count for: a large one for many."""
    return sum(1 + len(record.value) // BYTES_PER_UNIT for record in records)


def _record(found: Any) -> Record:
    """Keep what a stage reads: Faust's own message has twice as many fields."""
    at = (found.timestamp or 0) / 1e3
    at = at if 0.0 <= at < LAST_S else 0.0  # a producer's own date may be any number
    what = found.key, found.value or b"", header_map(found.headers)
    return Record(found.topic, found.partition, found.offset, *what, at, by_broker(found))


class ConsumerThread(AIOKafkaConsumerThread):
    """Faust's consumer thread; it also asks a quiet broker more often than every 1.5 s (fixed in Faust)."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        consumer._fetch_min_bytes = transport.app.fetch_min_bytes
        consumer._max_partition_fetch_bytes = max(FETCH_BYTES, RECORD_BYTES * transport.app.stage.batch)
        consumer._auto_offset_reset = "none"  # it begins nowhere by itself
        return consumer

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> Any:
        try:
            found = await super()._fetch_records(*args, **kwargs)
        except UnsupportedCodecError as error:
            raise missing_codec(error) from None
        except OffsetOutOfRangeError as error:
            for tp, offset in error.args[0].items():
                at = self._unproven.pop(tp, Committed(offset))
                await skip_deleted(self._ensure_consumer(), self.consumer.app, tp, at)
            return {}
        for tp in self._unproven.keys() & found:
            self._check_last(tp, found[tp])
        return found

    def _check_last(self, tp: TP, found: Iterable[Any]) -> None:
        """Know a partition again by what lies before the place that was gone back to, until it is reached."""
        at = self._unproven[tp]
        for record in found:
            if record.offset >= at.offset:
                del self._unproven[tp]
                return
            check_last(self.consumer.app, tp, at, _record(record))

    async def on_start(self) -> None:
        """Start, and let the lease know of heartbeats that are answered, and when the group does not know us any more.

        An answer that comes after that was given before, and says nothing.
        """
        self._unproven: dict[TP, Committed] = {}
        """Where partitions were gone back to of which nothing was read since: they may be other logs by now."""
        await super().on_start()
        worker: Any = self
        coordinator, lease = worker._consumer._coordinator, worker.consumer.lease
        beat, reset = coordinator._do_heartbeat, coordinator.reset_generation

        async def noted() -> bool:
            at, generation = since_boot(), coordinator.generation
            answered = await beat()
            if answered and coordinator.generation == generation:
                lease.renew(at, rebalancing=coordinator._rejoin_needed_fut.done())
            return bool(answered)

        def ended() -> None:
            lease.end()
            reset()

        coordinator._do_heartbeat, coordinator.reset_generation = noted, ended
        self._commit_checkpoints(worker._consumer)

    def _commit_checkpoints(self, client: Any) -> None:
        """Let it commit, with each place, the checkpoint of what was settled last before that, if that is known."""
        commit, committing = client.commit, cast("Consumer", self.consumer).committing

        async def with_checkpoints(places: Mapping[TP, Any]) -> None:
            offsets = {tp: at if isinstance(at, int) else at.offset for tp, at in places.items()}
            await commit({tp: (offset, committing(tp, offset).metadata) for tp, offset in offsets.items()})

        client.commit = with_checkpoints

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Ask the broker, for the lease: no heartbeat is sent while we join, and the assignment may be long past."""
        worker: Any = self
        with suppress(KafkaError):  # there is no word of it, and no lease until there is
            await worker._consumer._coordinator._do_heartbeat()
        await super().on_partitions_assigned(assigned, generation_id)

    def fetch_position(self, tp: TP) -> FetchPosition | None:
        """Return what the last fetch of a partition showed; None: it is not ours, or was not fetched from."""
        consumer: Any = self._ensure_consumer()
        if not consumer._subscription.is_assigned(tp):
            return None
        known = consumer._subscription.subscription.assignment.state_value(tp)
        at = known.timestamp  # before the high watermark: another thread sets it after that
        high_watermark, position = known.highwater, known._position
        return None if high_watermark is None or position is None else FetchPosition(position, high_watermark, at)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go back to what is committed, which something is; return it."""
        return cast("Mapping[TP, int]", await self.call_thread(self._restore_offsets))

    async def _restore_offsets(self) -> Mapping[TP, int]:
        self._unproven = dict(await restore_offsets(self._ensure_consumer(), self.consumer.app))
        return {tp: at.offset for tp, at in self._unproven.items()}


def missing_codec(error: UnsupportedCodecError) -> DeliveryError:
    """Say where a batch lies that cannot be unpacked; those who unpack it are in the error's frames."""
    frames = (frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__))
    found = [one for one in frames if isinstance(one, PartitionRecords)]
    where = f"{found[-1]._tp.topic}/{found[-1]._tp.partition}/{found[-1].next_fetch_offset}" if found else "a topic"
    return DeliveryError(
        f"the batch at {where} is compressed, and its codec is not installed: `pip install cramjam` where the workers "
        "run; run `demur topics`, so that the broker unpacks what comes, or let its producer not compress"
    )


class Consumer(AIOKafkaConsumer):
    """Faust's consumer, committing exactly what `mark_processed` released."""

    app: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lease = Lease(self.app.conf.broker_session_timeout, self.app.conf.broker_rebalance_timeout)
        self._in_flight: dict[TP, dict[int, Record]] = defaultdict(dict)
        self._seen: dict[tuple[TP, int], float] = {}
        self._rewound: dict[TP, float] = {}
        self._observations: dict[TP, FetchObservation] = {}
        self._idle_since: dict[TP, float] = {}
        """Until when nothing lay unread, in seconds of this machine."""
        self._received: dict[TP, int] = {}
        """Where what was not yet received begins."""
        self._processed: dict[TP, int] = {}
        self._last: dict[TP, Record] = {}
        """What was released last."""
        self._committing: dict[TP, Committed] = {}
        """Places as they were chosen: more may be released before they are committed."""
        self._weights = Counter[str]()
        self._has_room = asyncio.Event()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Fetch and pass on until told to stop. A full queue holds this up, and a rebalance lets it go."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self.sleep(0)
                fetched, _ = await self._wait_next_records(1.0)
                generation = self.app.consumer_generation_id
                if self.flow_active:
                    await self.wait_first(self._receive_all(fetched or {}, generation), self.suspend_flow.wait())
                    self._note_idle()
                elif not self.should_stop:
                    await self._seek_again()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not fetcher.should_stop:
                raise

    async def _seek_again(self) -> None:
        """Go back to what is committed, as Faust does with what was fetched while the flow was being stopped."""
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 (it is sought again when the flow goes on)
            log.warning("cannot go back to what is committed, while nothing is read", error=type(error).__name__)

    async def _receive_all(self, fetched: Mapping[TP, Sequence[Any]], generation: int) -> None:
        """Receive messages while the partitions are still ours, in turn; where it is sought meanwhile, not the rest.

        A batch's worth of one partition goes in one go: what a batch costs once is shared by as many as can be.
        """
        self._observe_broker_time(fetched)
        reached, batch = {tp: self._read_offset[tp] for tp in fetched}, self.app.stage.batch
        for start in range(0, max(map(len, fetched.values()), default=0), batch):
            for tp, found in fetched.items():
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                if self._read_offset[tp] != reached[tp]:
                    continue
                first = reached[tp] or 0
                if part := [_record(r) for r in found[start : start + batch] if r.offset >= first]:
                    reached[tp] = part[-1].offset
                    await self._receive(tp, part, generation)
            await self._await_capacity()

    def _observe_broker_time(self, fetched: Mapping[TP, Sequence[Any]]) -> None:
        """Let the clock know when the broker took what is new, where it is the broker that says so."""
        for tp, records in fetched.items():
            if records and by_broker(records[-1]) and records[-1].offset >= (self._read_offset[tp] or 0):
                self.app.clock.observe_broker_time(records[-1].timestamp / 1e3)

    def _note_idle(self) -> None:
        """Note until when we have received all there is of each partition; the last fetch is wholly received."""
        if self.flow_active:
            thread, now = cast("ConsumerThread", self._thread), self.app.clock.monotonic()
            positions = {tp: fetched for tp in self.assignment() if (fetched := thread.fetch_position(tp))}
            self._received |= {tp: fetched.position for tp, fetched in positions.items()}
            for tp, fetched in positions.items():
                first = FetchObservation(now, fetched.fetch)
                seen = self._observations[tp] = self._observations.get(tp, first).again(now, fetched.fetch)
                if fetched.position >= fetched.high_watermark and seen.answered is not None:
                    self._idle_since[tp] = seen.answered

    def idle_watermarks(self, partition: int) -> dict[str, datetime]:
        """Return, by topic, until when all that the broker took of this partition is settled; none: not known."""
        return {
            tp.topic: until
            for tp, at in self._idle_since.items()
            if tp.partition == partition and not self._in_flight[tp] and (until := self.app.clock.wall_time_at(at))
        }

    def lags(self, now: float) -> dict[str, Lag]:
        """Return, by topic, what of our partitions is not settled at `now` (seconds since the epoch).

        By the last fetch: nothing is asked of the broker. In a rebalance no partition is ours.
        """
        found: dict[str, Lag] = {}
        in_flight = {tp for tp, messages in self._in_flight.items() if messages}
        for tp in self._received.keys() | self._processed | in_flight:
            if fetched := cast("ConsumerThread", self._thread).fetch_position(tp):
                records, seconds = self._lag(tp, fetched, now)
                others = found.get(tp.topic, Lag(0, 0.0))
                found[tp.topic] = Lag(others.records + records, max(others.seconds, seconds))
        return found

    def _lag(self, tp: TP, fetched: FetchPosition, now: float) -> Lag:
        """What was read but not yet received has no time that is known: it came after what was released last."""
        if lowest := next(iter(self._in_flight[tp].values()), None):
            offset, waited = lowest.offset, [now - lowest.at]
        else:
            offset = max(self._received.get(tp, 0), self._processed.get(tp, 0))
            waited = [self.app.clock.monotonic() - at for at in (self._idle_since.get(tp),) if at is not None]
            waited += [now - last.at for last in (self._last.get(tp),) if last]
        return Lag(max(0, fetched.high_watermark - offset), max(0.0, min(waited, default=0.0)))

    async def _await_capacity(self) -> None:
        """Let agents work, and wait while they have enough."""
        await asyncio.sleep(0)
        while max(self._weights.values(), default=0) > MAX_BATCHES_IN_FLIGHT * self.app.stage.batch:
            self._has_room.clear()
            await self._has_room.wait()

    async def _receive(self, tp: TP, records: Sequence[Record], generation: int) -> None:
        """Remember messages of a partition as under way before any agent sees them; offsets arrive in order."""
        first, value, in_flight = records[0], cast("Any", records), self._in_flight[tp]
        if next(reversed(in_flight), -1) >= first.offset:
            self._take(tp, [r for r in in_flight.values() if r.offset >= first.offset])  # they come again
        in_flight.update((r.offset, r) for r in records)
        self._weights[tp.topic] += _weight(records)
        self._read_offset[tp] = records[-1].offset
        message = ConsumerMessage(
            *tp, first.offset, first.at, 0, None, None, value, None, tp=tp, generation_id=generation
        )
        await self.callback(message)

    def still_assigned(self, tp: TP, records: Iterable[Record]) -> list[Record]:
        """Return those messages of a partition that are still ours to process: these very ones."""
        in_flight = self._in_flight[tp]
        return [r for r in records if in_flight.get(r.offset) is r]

    def mark_processed(self, tp: TP, records: Iterable[Record]) -> None:
        """Release messages of a partition whose outcomes are durable."""
        if done := self._take(tp, records):
            self._processed[tp] = max(self._processed.get(tp, 0), max(r.offset for r in done) + 1)
            self._last[tp] = done[-1]

    def committing(self, tp: TP, offset: int) -> Committed:
        """Return a place that is being committed, with what was released last before it, if that is known."""
        at = self._committing.get(tp)
        return at if at and at.offset == offset else Committed(offset)

    def _take(self, tp: TP, records: Iterable[Record]) -> list[Record]:
        """Return those messages that were ours; now they are not under way, and there is room for others."""
        taken = [self._in_flight[tp].pop(r.offset) for r in self.still_assigned(tp, records)]
        self._weights[tp.topic] -= _weight(taken)
        self._has_room.set()
        return taken

    def lowest_in_flight(self) -> tuple[tuple[TP, int], ...] | None:
        """Return the lowest message under way of each partition; None: there is none."""
        return tuple((tp, next(iter(messages))) for tp, messages in self._in_flight.items() if messages) or None

    def is_next(self, tp: TP, records: Sequence[Record]) -> bool:
        """Whether these are the very next of their partition; else those before them reached no agent."""
        return [r.offset for r in records] == list(islice(self._in_flight[tp], len(records)))

    async def refetch_stuck(self) -> None:
        """Read again what no agent was given since this was last asked, and for a while."""
        now, places = monotonic(), self.lowest_in_flight() or ()
        self._seen = {place: self._seen.get(place, now) for place in places}
        for tp, offset in places:
            if now - self._seen[tp, offset] > STUCK_S:
                await self.rewind(tp)

    async def rewind(self, tp: TP) -> None:
        """Read a partition again from the lowest message under way on; once, and then wait for it to come.

        Those behind it make room for themselves: where nothing settles, whoever reads would wait for ever. The lowest
        stays under way, so that nothing goes on behind it; but no agent that has it may process it: it comes again.
        """
        if monotonic() - self._rewound.get(tp, 0.0) > STUCK_S:
            self._rewound[tp] = monotonic()
            log.warning("messages were received but given to no agent: reading them again", topic=tp.topic)
            lowest, *behind = self._in_flight[tp].values()
            self._take(tp, behind)
            self._in_flight[tp][lowest.offset] = lowest._replace()
            await self.seek(tp, lowest.offset)

    def reset_tracking(self) -> None:
        """Forget everything: the group is rebalancing and what is committed will be read again from there."""
        self._in_flight.clear()
        self._seen.clear()
        self._rewound.clear()
        self._observations.clear()
        self._idle_since.clear()
        self._received.clear()
        self._processed.clear()
        self._last.clear()
        self._weights.clear()
        self._has_room.set()

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Any:
        return (tp for tp in self._processed if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        lowest_open = next(iter(self._in_flight[tp]), None)
        return self._processed[tp] if lowest_open is None else lowest_open

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002 (Faust's signature)
        before = {tp: self._committed_offset[tp] for tp in offsets}
        for tp, offset in offsets.items():
            last = self._last.get(tp)
            self._committing[tp] = Committed(offset, checkpoint(last) if last and last.offset < offset else None)
        committed: bool = await super()._commit_offsets(offsets, start_new_transaction)
        if not committed:
            self._committed_offset.update(before)
        return committed

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let batches under way finish, commit them, then let the partitions go."""
        await self.app.delivery.drain()
        self.reset_tracking()
        try:
            await super().on_partitions_revoked(revoked)
        finally:
            # What came in between was given to nobody, and is read again by whoever gets the partition.
            self.reset_tracking()
            self.app.delivery.resume()
