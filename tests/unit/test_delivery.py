"""The guards around Faust's consumer, each against the fault that it closes."""

import asyncio
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import faust
import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import UnknownMemberIdError
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.structs import OffsetAndMetadata
from faust.transport.consumer import Fetcher
from faust.types.tuples import TP

from models.errors import DeliveryError, LeaseLost
from streams.agents.fold import Fold
from streams.agents.join import Join
from streams.agents.score import BATCH as SCORED
from streams.app import create_app
from streams.clock import EventClock, LiveClock
from streams.consumer import FETCH_WAIT_MS, MAX_BATCHES_IN_FLIGHT, Consumer, ConsumerThread, Lag
from streams.delivery import NO_ROW, Delivery, Plan
from streams.lease import Lease
from streams.settings import load
from streams.start_offsets import Committed, checkpoint
from streams.wire import Record
from tests.stagecraft import START, HospitalClock

PART = TP("feedback", 0)
BATCH = 128
"""How many messages the stage takes at once."""


def right() -> HospitalClock:
    """Of a machine that agrees with the broker."""
    clock = HospitalClock()
    clock.synchronise(START.timestamp())
    return clock


def consumer(*offsets: int, committed: int | None = 10) -> Consumer:
    """A consumer that has received messages at these offsets."""
    made = Consumer.__new__(Consumer)
    made._in_flight, made._processed, made._seen, made._rewound = defaultdict(dict), {}, {}, {}
    made._weights, made._has_room, made._idle_since = Counter(), asyncio.Event(), {}
    made._received, made._last, made._observations, made._committing = {}, {}, {}, {}
    made.app = SimpleNamespace(clock=right())
    made._read_offset = defaultdict(lambda: None)
    made._committed_offset = {PART: committed}
    made.callback = _nothing
    made.lease = Lease(session_s=6.0, rebalance_s=60.0)
    made.lease.renew(float("inf"))
    if offsets:
        asyncio.run(made._receive(PART, records(*offsets), 1))
    return made


async def _nothing(_: Any) -> None:
    return


def app_of(made: Any, **more: Any) -> Any:
    """An app around a consumer, of a machine that agrees with the broker unless `more` says otherwise."""
    return SimpleNamespace(**{"rebalancing": False, "consumer": made, "clock": right()} | more)


def records(*offsets: int, tp: TP = PART, value: bytes = b"", at: float = 0.0) -> list[Record]:
    return [Record(*tp, offset, b"", value, {}, at) for offset in offsets]


def in_flight(made: Consumer) -> list[Record]:
    return list(made._in_flight[PART].values())


def mark_processed(made: Consumer, *offsets: int) -> None:
    made.mark_processed(PART, [made._in_flight[PART][offset] for offset in offsets])


def test_faust_is_the_version_whose_faults_are_closed_here() -> None:
    """When this fails, read Faust's changes to its consumer, then `streams/delivery.py` anew."""
    assert faust.__version__ == "0.15.3"


@pytest.mark.parametrize(
    ("settled", "commits"),
    [((10, 11, 12), 13), ((10, 12), 11), ((12,), 10), ((12, 11, 10), 13), ((11, 12), 10)],
)
def test_a_commit_never_passes_what_is_under_way(settled: tuple[int, ...], commits: int) -> None:
    made = consumer(10, 11, 12)
    mark_processed(made, *settled)
    assert made._new_offset(PART) == commits


def test_a_gap_of_the_log_is_no_obstacle() -> None:
    made = consumer(10, 15, 40)
    mark_processed(made, 10, 15, 40)
    assert made._new_offset(PART) == 41


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_failed_commit_is_tried_again(monkeypatch: pytest.MonkeyPatch, *, succeeds: bool) -> None:
    made = consumer(10)

    async def commit(self: Any, offsets: Any, *_: Any) -> bool:
        self._committed_offset.update(offsets)  # Faust does so whether or not it succeeded
        return succeeds

    monkeypatch.setattr("streams.consumer.AIOKafkaConsumer._commit_offsets", commit)
    asyncio.run(made._commit_offsets({PART: 11}))
    assert made._committed_offset[PART] == (11 if succeeds else 10)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace()
    monkeypatch.setattr("streams.consumer.AIOKafkaConsumerThread._create_worker_consumer", lambda *_: made)
    return made


def set_up(folder: Path, stage: str, batch: int) -> None:
    app = create_app(
        load(data_dir=folder),
        stage,
        [],
        lambda state: SimpleNamespace(name=stage, state=state, batch=batch),
        EventClock(),
    )
    ConsumerThread.__new__(ConsumerThread)._create_worker_consumer(SimpleNamespace(app=app))


@pytest.mark.parametrize(("stage", "waits"), [("score", False), ("join", True), ("learn", True), ("watch", True)])
def test_only_the_scoring_of_responses_waits_for_nothing(
    client: SimpleNamespace, tmp_path: Path, stage: str, *, waits: bool
) -> None:
    set_up(tmp_path, stage, 256)
    assert (client._fetch_min_bytes > 1, client._fetch_max_wait_ms) == (waits, FETCH_WAIT_MS)


@pytest.mark.parametrize(("batch", "most"), [(1, 2**20), (256, 2**20), (4096, 2**23)])
def test_a_fetch_brings_a_batch(client: SimpleNamespace, tmp_path: Path, batch: int, most: int) -> None:
    set_up(tmp_path, "learn", batch)
    assert client._max_partition_fetch_bytes == most


def test_messages_that_reached_no_agent_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, sought = consumer(10, 11, 12), []

    async def seek(self: Any, tp: TP, offset: int) -> None:
        sought.append((tp, offset))

    monkeypatch.setattr(Consumer, "seek", seek)
    mark_processed(made, 12)
    for at, again in ((100.0, []), (102.0, []), (104.0, [(PART, 10)])):
        monkeypatch.setattr("streams.consumer.monotonic", lambda at=at: at)
        asyncio.run(made.refetch_stuck())
        assert sought == again


def test_what_is_read_again_makes_room_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all that was under way is put off, nothing settles any more: whoever reads must not wait for that."""
    made, offsets = fetching(), range(10, 10 + 2 * MAX_BATCHES_IN_FLIGHT * BATCH)

    async def seek(self: Any, tp: TP, offset: int) -> None:
        self._read_offset[tp] = offset

    monkeypatch.setattr(Consumer, "seek", seek)

    async def run() -> None:
        reading = asyncio.create_task(made._receive_all(fetched(*offsets), 1))
        await asyncio.sleep(0.01)
        assert not reading.done()
        lowest = in_flight(made)[0]
        for at in (100.0, 104.0):
            monkeypatch.setattr("streams.consumer.monotonic", lambda at=at: at)
            await made.refetch_stuck()
        await asyncio.wait_for(reading, 10)
        assert in_flight(made) == [lowest], "the rest of what was fetched comes again, in order"
        await made._receive_all(fetched(*offsets[:200]), 1)
        assert [r.offset for r in in_flight(made)] == list(offsets[:200])
        made.mark_processed(PART, in_flight(made))

    asyncio.run(run())
    assert (made._processed, made._weights.total()) == ({PART: 210}, 0)


@pytest.fixture
def sought(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """To which offsets a consumer went back."""
    found: list[int] = []

    async def seek(self: Any, tp: TP, offset: int) -> None:
        self._read_offset[tp] = offset
        found.append(offset)

    monkeypatch.setattr(Consumer, "seek", seek)
    return found


def test_what_is_read_again_is_no_longer_that_which_an_agent_may_hold(
    sought: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lowest counted still as given: it alone was processed, and with nothing under way, what had been fetched
    before the seek was taken for what follows it. All between the two was lost.
    """
    made, stage = fetching(), Stage()
    delivery = Delivery(app_of(made), stage)
    asyncio.run(made._receive_all(fetched(*range(10, 20)), 1))
    queued = in_flight(made)
    monkeypatch.setattr("streams.consumer.monotonic", lambda: 100.0)
    asyncio.run(made.rewind(PART))
    asyncio.run(delivery._deliver(queued))
    asyncio.run(made._receive_all(fetched(20, 21), 1))
    monkeypatch.setattr("streams.consumer.monotonic", lambda: 104.0)
    asyncio.run(delivery._deliver(in_flight(made)[-2:]))
    assert (sought, stage.handled, made._processed) == ([10, 10], [], {})
    asyncio.run(made._receive_all(fetched(*range(10, 22)), 1))
    asyncio.run(delivery._deliver(in_flight(made)))
    assert (stage.handled, made._new_offset(PART)) == (list(range(10, 22)), 22)


def test_a_batch_whose_partition_is_read_again_meanwhile_settles_nothing(sought: list[int]) -> None:
    """Whoever looks for what is stranded waits for the broker between two partitions, and a batch may begin."""
    made = consumer(10, 11, 12)
    begun = in_flight(made)[:2]
    asyncio.run(made.rewind(PART))
    made.mark_processed(PART, begun)
    assert (sought, made._processed, made._new_offset(PART)) == ([10], {}, 10)


def test_what_an_agent_works_on_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = consumer(10, 11, 12)
    monkeypatch.setattr(Consumer, "seek", None)
    for at in (100.0, 102.0, 104.0):
        monkeypatch.setattr("streams.consumer.monotonic", lambda at=at: at)
        asyncio.run(made.refetch_stuck())
        mark_processed(made, next(iter(made._in_flight[PART])))


class Stage:
    """Records what it is asked to do."""

    name, batch = "test", 10

    def __init__(self, rows: Any = None, on_write: Any = lambda: None) -> None:
        self.state = SimpleNamespace(write=self.write, open=self.open, close=self.close, items=self.items, recovered=0)
        self.rows, self.on_write = rows or {}, on_write
        self.handled: list[int] = []
        self.poisoned: list[int] = []
        self.written: list[Any] = []
        self.opened: list[int] = []
        self.forgotten: list[tuple[int, ...]] = []
        self.ticks = self.finished = 0

    def plan(self) -> Any:
        sends: Any = ["an outcome"] if self.rows else []
        return Plan(self.rows, sends)

    async def write(self, partition: int, rows: Any) -> None:
        self.written.append(rows)
        self.on_write()

    async def open(self, partition: int) -> None:
        self.opened.append(partition)

    def items(self, partition: int) -> Any:
        return self.rows.items()

    def close(self, *partitions: int) -> None:
        self.opened = [p for p in self.opened if partitions and p not in partitions]

    async def handle(self, partition: int, records: Any) -> Any:
        if any(r.value == b"poison" for r in records):
            raise ZeroDivisionError
        self.handled += [r.offset for r in records]
        return self.plan()

    async def tick(self, partition: int, watermarks: Any) -> Any:
        self.ticks += 1
        self.watermarks = watermarks
        return self.plan()

    async def poison(self, record: Any) -> Any:
        self.poisoned.append(record.offset)
        return self.plan()

    def done(self, partition: int) -> None:
        self.finished += 1

    def forget(self, *partitions: int) -> None:
        self.forgotten.append(partitions)


def test_a_partition_that_was_lost_is_not_touched() -> None:
    """Messages taken before a rebalance may belong to another worker by now."""
    made, stage = consumer(10, 11), Stage()
    taken = in_flight(made)
    made.reset_tracking()
    asyncio.run(Delivery(app_of(made), stage)._deliver(taken))
    assert stage.handled == []
    assert made._processed == {}


def test_what_cannot_be_processed_is_set_aside_alone() -> None:
    made, stage = consumer(10), Stage()
    asyncio.run(made._receive(PART, [*records(11, value=b"poison"), *records(12)], 1))
    asyncio.run(Delivery(app_of(made), stage)._deliver(in_flight(made)))
    assert (stage.handled, stage.poisoned, made._processed) == ([10, 12], [11], {PART: 13})
    assert stage.forgotten == [(0,), (0,)], "what a stage began with the batch, and with that record, must not count"


def test_what_ends_a_worker_ends_it_also_when_records_are_tried_alone() -> None:
    """What another version wrote, and rows that are unreadable, were taken for a fault of the record, and set aside."""
    made, crashed = consumer(10), list[BaseException]()
    asyncio.run(made._receive(PART, [*records(11, value=b"poison"), *records(12, value=b"newer"), *records(13)], 1))

    class Older(Stage):
        async def handle(self, partition: int, records: Any) -> Any:
            plan = await super().handle(partition, records)
            if any(record.value == b"newer" for record in records):
                raise DeliveryError("written by another version")
            return plan

    async def crash(error: BaseException) -> None:
        crashed.append(error)

    stage = Older()
    asyncio.run(Delivery(app_of(made, crash=crash), stage)._deliver(in_flight(made)))
    assert (stage.poisoned, [str(error) for error in crashed]) == ([11], ["written by another version"])
    assert made._processed == {}, "nothing of the batch is settled"


@pytest.mark.parametrize("fails", [MemoryError(), OSError(5, "Input/output error")])
def test_what_a_machine_lacks_is_no_fault_of_a_record(fails: Exception) -> None:
    """All that came while it lasted became dead letters."""
    made, crashed = consumer(10, 11), list[BaseException]()

    class Starved(Stage):
        async def handle(self, partition: int, records: Any) -> Any:
            raise fails

    async def crash(error: BaseException) -> None:
        crashed.append(error)

    stage = Starved()
    asyncio.run(Delivery(app_of(made, crash=crash), stage)._deliver(in_flight(made)))
    assert (stage.poisoned, [str(error) for error in crashed]) == ([], [type(fails).__name__])
    assert made._processed == {}, "nothing of the batch is settled"


@pytest.mark.parametrize("when", ["before the rows", "before the outcomes"])
def test_a_worker_without_word_from_the_broker_writes_nothing(when: str) -> None:
    """Its session may be over and another worker at work; if not, the batch is read again."""
    made = consumer(10, 11)
    stage = Stage(rows={b"k": b"v"}, on_write=made.lease.end)
    if when == "before the rows":
        made.lease.end()
    asyncio.run(Delivery(app_of(made), stage)._deliver(in_flight(made)))
    assert stage.written == ([] if when == "before the rows" else [{b"k": b"v"}])
    assert (made._processed, stage.forgotten, stage.finished, stage.opened) == ({}, [(0,)], 0, [])


ANSWERED, LOADING, UNKNOWN, REBALANCING = 0, 14, 25, 27
"""Error codes of Kafka's protocol: none, COORDINATOR_LOAD_IN_PROGRESS, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS."""


class Member:
    """A consumer in a group, by aiokafka's own coordinator; a test says what the broker answers, and when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.answers = 100.0, ANSWERED
        self.lease = Lease(session_s=6.0, rebalance_s=60.0)
        self.answer = asyncio.Event()
        self.answer.set()
        self.group: Any = GroupCoordinator.__new__(GroupCoordinator)
        self.group.group_id, self.group.coordinator_id = "demur-join", 0
        self.group.generation, self.group.member_id = 7, "me"
        self.group._rejoin_needed_fut, self.group._send_req = asyncio.Future(), self._ask
        self.thread: Any = ConsumerThread.__new__(ConsumerThread)
        client = SimpleNamespace(_coordinator=self.group, commit=None)
        self.thread._consumer, self.thread.consumer = client, self
        monkeypatch.setattr("streams.consumer.AIOKafkaConsumerThread.on_start", _nothing)
        monkeypatch.setattr("streams.clock.time.clock_gettime", lambda _: self.at)

    async def start(self) -> "Member":
        await self.thread.on_start()
        return self

    async def _ask(self, request: Any) -> Any:
        answers = self.answers
        if isinstance(request, HeartbeatRequest):
            await self.answer.wait()
        return SimpleNamespace(error_code=answers, topics=[(PART.topic, [(PART.partition, answers)])])

    def committing(self, _: TP, offset: int) -> Committed:
        return Committed(offset)

    async def beat(self) -> None:
        await self.group._do_heartbeat()

    async def commit(self) -> None:
        await self.group._do_commit_offsets(None, {PART: SimpleNamespace(offset=1, metadata="")})

    @property
    def holds(self) -> bool:
        return self.lease.holds(self.at)


async def test_a_consumer_that_has_started_commits_by_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    member = await Member(monkeypatch).start()
    assert member.thread._consumer.commit.__name__ == "with_checkpoints"


def test_a_place_is_committed_with_the_checkpoint_of_what_was_settled_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """By which the log is known again. More may be settled between the choice of a place and its commit."""
    made, committed = consumer(10, 11, 12), []
    thread: Any = ConsumerThread.__new__(ConsumerThread)
    thread.consumer = made

    async def send(offsets: Any) -> None:
        committed.append(offsets)

    thread._commit_checkpoints(client := SimpleNamespace(commit=send))

    async def commit(_: Any, offsets: Any, *__: Any) -> bool:
        mark_processed(made, 11)
        await client.commit({PART: OffsetAndMetadata(offsets[PART], "")})
        return True

    monkeypatch.setattr("streams.consumer.AIOKafkaConsumer._commit_offsets", commit)
    mark_processed(made, 10)
    asyncio.run(made._commit_offsets({PART: 11}))
    asyncio.run(client.commit({PART: 12}))  # a place that was not chosen here
    [settled] = records(10)
    assert committed == [{PART: (11, Committed(11, checkpoint(settled)).metadata)}, {PART: (12, "")}]


async def test_in_a_rebalance_the_lease_ends_before_the_group_goes_on_without_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Heartbeats are answered all the while; whoever has not joined again after a minute is a member no longer."""
    member = await Member(monkeypatch).start()
    await member.beat()
    member.answers, held = REBALANCING, []
    for _ in range(60):
        member.at += 1.0
        await member.beat()
        held.append(member.holds)
    assert held == [True] * 47 + [False] * 13
    member.answers, member.group._rejoin_needed_fut = ANSWERED, asyncio.Future()  # it has joined
    await member.beat()
    assert member.holds


async def test_a_commit_that_the_group_refuses_ends_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, not at the next heartbeat; nor does one bring it back that was answered before."""
    member = await Member(monkeypatch).start()
    await member.beat()
    member.answer.clear()
    beating = asyncio.create_task(member.beat())
    await asyncio.sleep(0)
    member.answers = UNKNOWN
    with pytest.raises(UnknownMemberIdError):
        await member.commit()
    assert not member.holds
    member.answer.set()
    await beating
    assert not member.holds


@pytest.mark.parametrize(
    ("answers", "late_s", "holds"),
    [
        (ANSWERED, 0.0, True),
        (ANSWERED, 10.0, False),
        (UNKNOWN, 0.0, False),
        (REBALANCING, 0.0, False),
        (LOADING, 0.0, False),
    ],
    ids=["a member", "it was told long after", "none any more", "for the next time already", "an error"],
)
async def test_an_assignment_alone_says_nothing_of_whether_it_still_stands(
    monkeypatch: pytest.MonkeyPatch, answers: int, late_s: float, *, holds: bool
) -> None:
    """The worker may have been suspended after it, or busy for long, before it heard of it."""
    member, made, told = await Member(monkeypatch).start(), consumer(), list[Any]()
    made.lease, member.answers = member.lease, answers

    async def tell(_: Any, *given: Any) -> None:
        member.at += late_s
        await made.on_partitions_assigned(*given)

    async def hear(_: Any, *given: Any) -> None:
        told.append(given)

    monkeypatch.setattr("streams.consumer.AIOKafkaConsumerThread.on_partitions_assigned", tell)
    monkeypatch.setattr("streams.consumer.AIOKafkaConsumer.on_partitions_assigned", hear)
    await member.thread.on_partitions_assigned({PART}, 7)
    assert (member.holds, told) == (holds, [({PART}, 7)])


async def test_a_machine_that_was_suspended_has_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds that timers count stand still meanwhile; those of the broker do not."""
    member, made, stage = await Member(monkeypatch).start(), consumer(), Stage(rows={b"k": b"v"})
    made.lease = member.lease
    await made._receive(PART, records(10), 1)
    await member.beat()
    member.at += 3600.0
    await Delivery(app_of(made), stage)._deliver(in_flight(made))
    assert (stage.written, made._processed) == ([], {})


async def test_a_heartbeat_that_the_group_refuses_ends_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    member = await Member(monkeypatch).start()
    await member.beat()
    assert member.holds
    member.answers = UNKNOWN
    await member.beat()
    assert not member.holds


@pytest.mark.parametrize("first", ["a record", "a quiet second"])
@pytest.mark.parametrize("leased", [True, False])
def test_nothing_is_done_before_the_broker_has_told_the_time(first: str, *, leased: bool) -> None:
    """A machine that was behind took a backlog for prompt, dated rows by a clock of years ago, and let them stand for
    ever; so the broker is asked, by a write of nothing, though no event may come for weeks.
    """
    made, clock, told = consumer(10), HospitalClock(), list[bool]()

    class Timed(Stage):
        async def handle(self, partition: int, records: Any) -> Any:
            told.append(clock.is_synchronised)
            return await super().handle(partition, records)

        async def tick(self, partition: int, watermarks: Any) -> Any:
            told.append(clock.is_synchronised)
            return await super().tick(partition, watermarks)

    stage = Timed(on_write=partial(clock.synchronise, None))
    stage.state.items = lambda _: [(b"k", b"v")]
    delivery = Delivery(app_of(made, clock=clock), stage)
    if not leased:
        made.lease.end()
    for _ in range(2):
        asyncio.run(delivery._deliver(in_flight(made)) if first == "a record" else delivery.tick([0]))
    assert set(told) == ({True} if leased else set())
    assert stage.written == ([{NO_ROW: None}] if leased else [])


def test_a_stage_that_has_no_rows_writes_none_to_learn_the_time() -> None:
    """Where nobody sent anything for so long that Kafka forgot its place, rows would say that it had read something."""
    stage = Stage()
    asyncio.run(Delivery(app_of(consumer(), clock=HospitalClock()), stage).tick([0]))
    assert (stage.ticks, stage.written) == (1, [])


@pytest.mark.parametrize("fails", [LeaseLost(), DeliveryError("the broker is gone")])
def test_time_passes_under_the_same_guards(fails: Exception) -> None:
    crashed: list[BaseException] = []

    def write() -> None:
        raise fails

    async def crash(error: BaseException) -> None:
        crashed.append(error)

    stage = Stage(rows={b"k": b"v"}, on_write=write)
    app = app_of(consumer(), crash=crash)
    asyncio.run(Delivery(app, stage).tick([0]))
    if isinstance(fails, LeaseLost):
        assert (crashed, stage.forgotten, stage.opened, stage.finished) == ([], [(0,)], [], 0)
    else:
        assert (crashed, stage.finished) == ([fails], 0)


def test_a_write_that_outlasts_the_session_is_noticed() -> None:
    made, seen = consumer(10), list[bool]()

    def write() -> None:
        seen.append(delivery.writes_without_lease())
        if len(seen) == 3:  # at the second
            made.lease.end()
            seen.append(delivery.writes_without_lease())

    delivery = Delivery(app_of(made), Stage(on_write=write))
    for _ in range(2):
        asyncio.run(delivery.execute(0, Plan({b"k": b"v"}, [])))
        seen.append(delivery.writes_without_lease())
    assert seen == [False, False, False, True, False]


def test_nothing_is_processed_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust drops what it holds when its flow stops, and goes on behind it: 10 and 11 never came to the agent."""
    made, stage, sought = consumer(10, 11, 12, 13), Stage(), []

    async def seek(self: Any, tp: TP, offset: int) -> None:
        sought.append(offset)

    monkeypatch.setattr(Consumer, "seek", seek)
    delivery = Delivery(app_of(made), stage)
    late = in_flight(made)[2:]
    asyncio.run(delivery._deliver(late))
    assert (stage.handled, made._processed, sought) == ([], {}, [10])
    for offsets in ((12, 13), (10, 11, 12, 13)):  # what was on its way, then what was read again
        asyncio.run(made._receive(PART, records(*offsets), 1))
    asyncio.run(delivery._deliver([*late, *in_flight(made)]))
    assert (stage.handled, made._new_offset(PART), sought) == ([10, 11, 12, 13], 14, [10])


class Full(Stage):
    """For whom after each record time has more to change than two plans hold."""

    def __init__(self) -> None:
        super().__init__()
        self.course: list[int | str] = []

    async def handle(self, partition: int, records: Any) -> Any:
        await super().handle(partition, records[:1])
        self.course.append(records[0].offset)
        return Plan(self.row(), [], more=True, left=len(records) - 1)

    async def tick(self, partition: int, watermarks: Any) -> Any:
        self.course.append("time")
        return Plan(self.row(), [], more=self.course[-2] != "time")

    def row(self) -> dict[bytes, bytes | None]:
        return {b"%d" % len(self.course): b""}


def test_what_is_due_comes_before_the_next_record() -> None:
    """And each plan that is carried out counts as progress: a worker with much to make up for is not stuck."""
    made, stage = consumer(10), Full()
    asyncio.run(made._receive(PART, [*records(11, value=b"poison"), *records(12)], 1))
    delivery = Delivery(app_of(made), stage)
    before = delivery.progress_count()
    asyncio.run(delivery._deliver(in_flight(made)))
    after_two = ["time", "time"]
    assert stage.course == [10, *after_two, 12, *after_two]
    assert (stage.poisoned, made._processed, delivery.progress_count() - before) == ([11], {PART: 13}, 4)
    assert stage.written == [{b"%d" % n: b""} for n in range(1, 7)], "each plan, in its order"
    stage.state.recovered = 7
    assert delivery.progress_count() - before == 11


def test_the_idle_seconds_of_a_stage_are_no_progress() -> None:
    stage = Stage()
    delivery = Delivery(app_of(consumer()), stage)
    asyncio.run(delivery.tick([0, 1]))
    assert (stage.ticks, delivery.progress_count()) == (2, 0)


def test_whoever_has_much_to_make_up_for_lets_go_when_asked() -> None:
    """A rebalance waits for no more than a plan; the batch is not settled: whoever has the partition next reads it."""
    made, stage = consumer(10, 11), Full()
    delivery = Delivery(app_of(made), stage)
    delivery._draining = True
    asyncio.run(delivery._deliver(in_flight(made)))
    assert (stage.course, stage.finished, stage.forgotten, made._processed) == ([10], 1, [(0,)], {})


class Slow(Stage):
    """Waits with partition 0 until released."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    async def handle(self, partition: int, records: Any) -> Any:
        if not partition:
            await self.release.wait()
        return await super().handle(partition, records)


def stream(*messages: list[Record]) -> Any:
    """What an agent is given."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    for message in messages:
        queue.put_nowait(SimpleNamespace(value=message))

    async def values() -> Any:
        while True:
            yield (await queue.get()).value

    return SimpleNamespace(channel=SimpleNamespace(queue=queue), noack=values)


def test_while_one_partition_waits_another_is_worked_on_and_each_in_order() -> None:
    other = TP("feedback", 1)
    made, made.batch = Slow(), 2  # type: ignore[misc]
    given = [records(10, 11), records(20, tp=other), records(21, tp=other), records(12), records(22, 23, tp=other)]

    async def run() -> list[list[int]]:
        seen = []
        source = consumer()
        for message in given:
            await source._receive(TP(*message[0][:2]), message, 1)
        agent = asyncio.create_task(Delivery(app_of(source), made).consume(stream(*given)))
        for _ in range(2):
            await asyncio.sleep(0.01)
            seen.append(list(made.handled))
            made.release.set()
        agent.cancel()
        return [*seen, [source._processed[PART], source._processed[other]]]

    blocked, freed, settled = asyncio.run(run())
    assert blocked == [20, 21, 22], "no more than two batches are under way"
    assert (freed, settled) == ([20, 21, 22, 10, 11, 12, 23], [13, 24])


class Idle:
    """A consumer whose messages are all ours."""

    lease = Lease(session_s=6.0, rebalance_s=60.0)
    lease.renew(float("inf"))

    def __init__(self) -> None:
        self.settled: list[int] = []
        self.looked = self.committed = 0

    def still_assigned(self, _: TP, records: list[Record]) -> list[Record]:
        return records

    def is_next(self, *_: Any) -> bool:
        return True

    def mark_processed(self, _: TP, records: list[Record]) -> None:
        self.settled += [r.offset for r in records]

    def idle_watermarks(self, _: int) -> dict[str, datetime]:
        return {}

    async def refetch_stuck(self) -> None:
        self.looked += 1

    async def commit(self) -> None:
        self.committed += 1


def test_what_is_queued_makes_one_batch_and_what_is_more_the_next() -> None:
    stage, source, sizes = Stage(), Idle(), list[int]()
    stage.batch = 3  # type: ignore[misc]
    handle = stage.handle

    async def counted(partition: int, records: Any) -> Any:
        sizes.append(len(records))
        return await handle(partition, records)

    stage.handle = counted  # type: ignore[method-assign]

    async def run() -> None:
        given = stream(*(records(n) for n in range(10, 17)), records(17, 18))
        agent = asyncio.create_task(Delivery(app_of(source), stage).consume(given))
        await asyncio.sleep(0.01)
        agent.cancel()

    asyncio.run(run())
    assert (sizes, source.settled) == ([3, 3, 3], list(range(10, 19)))


def test_what_nobody_works_on_is_looked_for_only_while_nobody_works() -> None:
    stage, source, looked = Slow(), Idle(), list[int]()

    async def run() -> None:
        delivery = Delivery(app_of(source), stage)
        agent = asyncio.create_task(delivery.consume(stream(records(10))))
        await asyncio.sleep(0.01)
        for _ in range(2):
            await delivery.tick([])
            looked.append(source.looked)
            stage.release.set()
            await asyncio.sleep(0.01)
        await delivery.drain()
        await delivery.tick([])
        looked.append(source.looked)
        agent.cancel()

    asyncio.run(run())
    assert (looked, source.settled) == ([0, 1, 1], [10])


def test_in_a_rebalance_no_batch_begins_and_after_it_they_do() -> None:
    stage, source = Stage(), Idle()

    async def run() -> list[list[int]]:
        delivery, given = Delivery(app_of(source), stage), stream(records(10))
        await delivery.drain()
        agent = asyncio.create_task(delivery.consume(given))
        await asyncio.sleep(0.01)
        before = list(stage.handled)
        delivery.resume()
        given.channel.queue.put_nowait(SimpleNamespace(value=records(11)))
        await asyncio.sleep(0.01)
        agent.cancel()
        return [before, stage.handled]

    assert asyncio.run(run()) == [[], [11]]


class Recovering(Stage):
    """Whose rows are read for as long as a test wants, unless that is cut off, which takes a while too."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Semaphore(0)
        self.read, self.cut_off, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def open(self, partition: int) -> None:
        self.begun.release()
        try:
            await self.read.wait()
        except asyncio.CancelledError:
            self.cut_off.set()
            await self.closed.wait()
            raise
        await super().open(partition)


async def test_a_rebalance_does_not_wait_for_rows_to_be_read() -> None:
    """It may take minutes, the watchdog grants one, and two workers that start again would interrupt each other's."""
    made, stage = consumer(), Recovering()
    made.commit = Idle().commit  # type: ignore[assignment, method-assign]
    await made._receive(PART, records(10, 11), 1)
    delivery = Delivery(app_of(made), stage)
    work = [delivery._run(delivery._deliver(in_flight(made))), delivery.tick([1]), delivery.tick([0])]
    working = [asyncio.create_task(one) for one in work]  # the last waits for the first
    for _ in range(2):
        await stage.begun.acquire()
    draining = asyncio.create_task(delivery.drain())
    for _ in range(10):
        await asyncio.sleep(0)
    stopping = asyncio.create_task(delivery.drain())  # we are told to stop meanwhile
    await asyncio.sleep(0)
    stage.closed.set()
    assert stage.cut_off.is_set()
    await asyncio.wait_for(asyncio.gather(draining, stopping, *working), 10)
    assert (stage.handled, stage.ticks, stage.opened, made._processed) == ([], 0, [], {})
    assert made.still_assigned(PART, in_flight(made)) == in_flight(made), "whoever has the partition next reads them"
    delivery.resume()
    stage.read.set()
    await delivery._deliver(in_flight(made))
    assert (stage.handled, stage.opened) == ([10, 11], [0])


async def test_what_takes_too_long_for_another_reason_ends_the_worker() -> None:
    made, stage, crashed = consumer(), Stage(), list[BaseException]()
    await made._receive(PART, records(10), 1)

    async def fails(_: int) -> None:
        raise TimeoutError

    async def crash(error: BaseException) -> None:
        crashed.append(error)

    stage.state.open = fails
    await Delivery(app_of(made, crash=crash), stage)._deliver(in_flight(made))
    assert [repr(error) for error in crashed] == ["DeliveryError('TimeoutError')"]


class Counting(Stage):
    """How many batches it works on at once."""

    at_once = most = 0

    async def handle(self, partition: int, records: Any) -> Any:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        return await super().handle(partition, records)


@pytest.mark.parametrize(("other", "most"), [(TP("decisions", 0), 1), (TP("decisions", 1), 2)])
def test_topics_share_the_rows_of_a_partition_and_take_turns_with_them(other: TP, most: int) -> None:
    made, stage = consumer(10), Counting()
    asyncio.run(made._receive(other, records(10, tp=other), 1))
    asyncio.run(Delivery(app_of(made), stage)._deliver([*in_flight(made), *made._in_flight[other].values()]))
    assert (stage.handled, stage.most) == ([10, 10], most)


def test_what_cannot_be_delivered_ends_the_worker_and_is_not_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    made, stage, crashed = consumer(10), Stage(), []

    async def fails(_: int) -> None:
        raise ValueError("a patient's name")

    async def crash(error: BaseException) -> None:
        crashed.append(error)

    stage.state.open = fails
    asyncio.run(Delivery(app_of(made, crash=crash), stage)._deliver(in_flight(made)))
    assert ([repr(error) for error in crashed], made._processed) == (["DeliveryError('ValueError')"], {})
    assert "patient" not in capsys.readouterr().out


def fetching() -> Consumer:
    """A consumer in generation 1 of its group."""
    made = consumer()
    made.app = SimpleNamespace(consumer_generation_id=1, stage=SimpleNamespace(batch=BATCH), clock=right())
    made.flow_active, made._read_offset = True, defaultdict(lambda: None, {PART: 10})
    return made


TAKEN = 1_767_600_007.0
"""When the broker took what is fetched: seven seconds after eight."""


def fetched(*offsets: int, tp: TP = PART, value: bytes = b"") -> dict[TP, list[Any]]:
    """What aiokafka gives; times in milliseconds."""
    return {
        tp: [
            SimpleNamespace(**record._asdict(), timestamp=TAKEN * 1e3, timestamp_type=1)
            for record in records(*offsets, tp=tp, value=value)
        ]
    }


@pytest.mark.parametrize(("kind", "begins", "told"), [(1, 10, True), (1, 12, False), (0, 10, False)])
def test_the_broker_tells_the_time_with_what_is_new_and_no_producer_does(kind: int, begins: int, *, told: bool) -> None:
    made = fetching()
    made._read_offset[PART] = begins
    made.app.clock = LiveClock()
    found = fetched(10, 11)
    for record in found[PART]:
        record.timestamp_type = kind
    asyncio.run(made._receive_all(found, 1))
    assert (made.app.clock.wall_time_at(made.app.clock.monotonic()) is not None) == told
    assert not made.app.clock.is_synchronised, "it may be a backlog"


@pytest.mark.parametrize("at", [-1, None, 1_767_600_007_000_000, 10**18])
def test_a_date_that_is_none_stops_no_partition(at: int | None) -> None:
    """A topic of CreateTime takes any number of any producer's; by it no stage could date what it keeps."""
    made, received = fetching(), []

    async def callback(message: Any) -> None:
        received.extend(message.value)

    made.callback = callback
    found = fetched(10)
    found[PART][0].timestamp, found[PART][0].timestamp_type = at, 0
    asyncio.run(made._receive_all(found, 1))
    assert [record.at for record in received] == [0.0]


def test_what_a_seek_went_beyond_is_not_received() -> None:
    made = fetching()
    asyncio.run(made._receive_all(fetched(8, 9, 10, 11), 1))
    assert list(made._in_flight[PART]) == [10, 11]


@pytest.mark.parametrize(
    "change",
    [{"flow_active": False}, {"app": SimpleNamespace(consumer_generation_id=2, stage=SimpleNamespace(batch=BATCH))}],
)
def test_what_was_fetched_before_a_rebalance_is_not_received_after_it(change: dict[str, Any]) -> None:
    made = fetching()

    async def rebalance(_: Any) -> None:
        made.__dict__.update(change)

    made.callback = rebalance
    asyncio.run(made._receive_all(fetched(10) | fetched(20, tp=TP("feedback", 1)), 1))
    assert (list(made._in_flight[PART]), list(made._in_flight[TP("feedback", 1)])) == ([10], [])


def test_what_is_sought_while_agents_are_given_messages_is_read() -> None:
    made = fetching()

    async def seek(_: Any) -> None:
        made._read_offset[PART] = 10

    made.callback = seek
    asyncio.run(made._receive_all(fetched(10, 11, 12), 1))
    assert made._read_offset[PART] == 10


def test_a_partition_with_much_to_read_does_not_hold_up_another() -> None:
    made, seen = fetching(), []

    async def receive(message: Any) -> None:
        seen.append((message.partition, len(message.value)))

    made.callback = receive
    asyncio.run(made._receive_all(fetched(*range(10, 310)) | fetched(20, tp=TP("feedback", 1)), 1))
    assert seen == [(0, 128), (1, 1), (0, 128), (0, 44)]


@pytest.mark.parametrize("error", [None, OSError()])
def test_what_is_fetched_while_the_flow_is_stopped_is_read_again(error: Exception | None) -> None:
    made, fetcher = fetching(), SimpleNamespace(should_stop=False)
    made.flow_active, made.consumer_stopped_errors = False, ()
    made._stopped = made._crashed = asyncio.Event()  # not set

    async def fetch(_: float) -> tuple[dict[TP, list[Any]], None]:
        return fetched(10), None

    async def seek() -> None:
        fetcher.should_stop = True
        if error:
            raise error

    made._wait_next_records, made.perform_seek, made.sleep = fetch, seek, _nothing
    asyncio.run(made._drain_messages(fetcher))
    assert (fetcher.should_stop, dict(made._in_flight)) == (True, {})


@pytest.mark.parametrize("told", [True, False])
def test_whoever_reads_may_be_told_to_stop_in_a_rebalance_but_not_end_by_itself(*, told: bool) -> None:
    """Faust took the first for a crash too, and woke a supervisor that was not there."""
    made, begun = fetching(), asyncio.Event()
    made._stopped = made._crashed = asyncio.Event()  # not set
    made.consumer_stopped_errors = ()

    async def fetch(_: float) -> None:
        begun.set()
        await asyncio.Event().wait()

    made._wait_next_records, made.sleep = fetch, _nothing  # type: ignore[assignment]

    async def end() -> bool:
        fetcher = Fetcher(SimpleNamespace(consumer=made, rebalancing=True))
        await fetcher.start()
        await begun.wait()
        if not told:
            [reading] = fetcher._futures
            reading.cancel()
            await asyncio.wait([reading])
        await fetcher.stop()
        return fetcher.crashed

    assert asyncio.run(end()) != told


@pytest.mark.parametrize(
    ("size", "least", "most"), [(500, 3 * BATCH, (MAX_BATCHES_IN_FLIGHT + 1) * BATCH), (2**20, 1, 20)]
)
def test_agents_are_given_no_more_than_they_have_room_for(size: int, least: int, most: int) -> None:
    made, seen, value = fetching(), [], b"x" * size

    async def fetch() -> None:
        for start in range(10, 3010, 4):
            await made._receive_all(fetched(*range(start, start + 4), value=value), 1)

    async def work() -> None:
        task = asyncio.create_task(fetch())
        while not task.done() or made._in_flight[PART]:
            await asyncio.sleep(0.001)
            seen.append(len(made._in_flight[PART]))
            if seen[-1] > least or task.done():
                made.mark_processed(PART, in_flight(made)[:16])

    asyncio.run(work())
    assert made._processed[PART] == 3010
    assert least < max(seen) < most


def test_what_may_be_under_way_fits_into_fausts_buffer_even_if_it_comes_singly(tmp_path: Path) -> None:
    """Faust puts partitions aside when four fifths of the buffer are full, and sleeps when all are."""
    app = create_app(
        load(data_dir=tmp_path), "learn", [], lambda state: SimpleNamespace(name="learn", state=state), EventClock()
    )
    assert (MAX_BATCHES_IN_FLIGHT + 1) * max(SCORED, Fold.batch, Join.batch) < 0.8 * app.conf.stream_buffer_maxsize


def test_no_time_passes_in_a_rebalance() -> None:
    app = app_of(consumer(), rebalancing=True)
    stage = Stage()
    asyncio.run(Delivery(app, stage).tick([0]))
    assert stage.ticks == 0
    app.rebalancing = False
    asyncio.run(Delivery(app, stage).tick([0]))
    assert (stage.ticks, stage.opened) == (1, [0])


class Place(NamedTuple):
    """What aiokafka knows of a partition."""

    position: int | None
    highwater: int | None


def at_place(place: Place) -> ConsumerThread:
    """One that has fetched so far."""
    known = SimpleNamespace(_position=place.position, highwater=place.highwater, timestamp=0)
    thread, found = ConsumerThread.__new__(ConsumerThread), SimpleNamespace(state_value={PART: known}.__getitem__)
    subscription = SimpleNamespace(assignment=found)
    subscribed = SimpleNamespace(is_assigned=[PART].__contains__, subscription=subscription)
    thread._consumer = SimpleNamespace(_subscription=subscribed)  # type: ignore[assignment]
    return thread


def look(made: Consumer, *, fetched: bool = True) -> None:
    """Let a second pass, in which it may fetch, and look."""
    thread: Any = made._thread
    made.app.clock.wait(1.0)
    thread._consumer._subscription.subscription.assignment.state_value(PART).timestamp += fetched
    made._note_idle()


SECOND = START + timedelta(seconds=1)
"""When it was looked at first."""


@pytest.mark.parametrize(
    ("place", "open_", "known"),
    [
        (Place(13, 13), (), True),
        (Place(0, 0), (), True),
        (Place(13, 14), (), False),
        (Place(13, 13), (12,), False),
        (Place(13, None), (), False),
        (Place(None, 13), (), False),
    ],
    ids=["all settled", "empty", "something unread", "something under way", "never fetched", "place unknown"],
)
def test_time_passes_only_where_nothing_is_left(place: Place, open_: tuple[int, ...], *, known: bool) -> None:
    made, stage = consumer(*open_), Stage()
    made._thread, made.flow_active = at_place(place), True
    made.assignment = lambda: {PART, TP("feedback", 7)}  # type: ignore[method-assign]  # one has just gone
    for _ in range(3):
        look(made)
    asyncio.run(Delivery(app_of(made), stage).tick([0]))
    assert stage.watermarks == ({"feedback": SECOND} if known else {})


def read_to_the_end() -> Consumer:
    made = consumer()
    made._thread, made.flow_active = at_place(Place(13, 13)), True
    made.assignment = lambda: {PART}  # type: ignore[method-assign]
    return made


def test_time_stands_still_while_nothing_is_fetched() -> None:
    """When the broker answered a fetch is not known, for aiokafka asks this machine's clock, and when it has come: but
    after the one before had come, and that was after the look before it was seen.
    """
    made = read_to_the_end()
    for _ in range(2):
        look(made)
        assert made.idle_watermarks(0) == {}
    for fetched in (True, False, False):
        look(made, fetched=fetched)
        assert made.idle_watermarks(0) == {"feedback": SECOND}
    look(made)
    assert made.idle_watermarks(0) == {"feedback": SECOND + timedelta(seconds=1)}
    look(made)
    assert made.idle_watermarks(0) == {"feedback": SECOND + timedelta(seconds=4)}


@pytest.mark.parametrize("days", [-2000, 0, 400])
def test_a_clock_that_is_wrong_ends_nothing_early(days: int) -> None:
    """Of this machine; and of the broker: they are not wrong together."""
    made, other = read_to_the_end(), read_to_the_end()
    made.app.clock.at += timedelta(days=days)
    other.app.clock.observe_broker_time((SECOND + timedelta(days=days)).timestamp())
    for one in (made, other) * 3:
        look(one)
    assert made.idle_watermarks(0) == {"feedback": SECOND + timedelta(days=min(days, 0))}
    assert other.idle_watermarks(0) == {"feedback": SECOND}
    made.app.clock.at -= timedelta(days=days)
    assert made.idle_watermarks(0) == {"feedback": SECOND}


def test_what_was_known_of_a_partition_is_forgotten_when_it_goes() -> None:
    made = consumer()
    made._idle_since[PART] = 1.0
    made.reset_tracking()
    assert made.idle_watermarks(0) == {}


LAST_FETCH = SECOND.timestamp()


def lags(place: Place, *offsets: int, settled: int = 0, noted: bool) -> dict[str, Lag]:
    """A minute after the last fetch, when these offsets were received, one a second until then, and so many settled."""
    made, first = consumer(), LAST_FETCH - len(offsets)
    made._thread, made.flow_active = at_place(place), True
    made.assignment = lambda: {PART}  # type: ignore[method-assign]
    for n, offset in enumerate(offsets):
        asyncio.run(made._receive(PART, records(offset, at=first + n), 1))
    for _ in range(3 * noted):
        look(made)
    made.mark_processed(PART, in_flight(made)[:settled])
    made.app.clock.wait(60.0 - 2 * noted)
    return made.lags(LAST_FETCH + 60.0)


@pytest.mark.parametrize(
    ("place", "offsets", "settled", "lag"),
    [
        (Place(13, 13), (10, 11, 12), 0, Lag(3, 63.0)),
        (Place(13, 13), (10, 11, 12), 2, Lag(1, 61.0)),
        (Place(13, 20), (10, 11, 12), 2, Lag(8, 61.0)),
        (Place(13, 20), (10, 11, 12), 3, Lag(7, 61.0)),
        (Place(13, 13), (10, 11, 12), 3, Lag(0, 60.0)),
        (Place(14, 14), (10, 11, 12), 3, Lag(0, 60.0)),
        (Place(0, 0), (), 0, Lag(0, 60.0)),
        (Place(10, 13), (), 0, Lag(3, 0.0)),
    ],
    ids=[
        "all under way",
        "some of it",
        "and some not fetched",
        "only what is not fetched",
        "nothing, but the broker was not heard for a minute",
        "nothing but the mark of a transaction's end",
        "empty",
        "nothing was read yet",
    ],
)
def test_how_far_a_stage_is_behind(place: Place, offsets: tuple[int, ...], settled: int, lag: Lag) -> None:
    assert lags(place, *offsets, settled=settled, noted=True) == {"feedback": lag}


def test_what_waits_is_told_while_the_rest_of_a_fetch_still_waits_for_room() -> None:
    """What is held up for minutes is what an operator must see."""
    assert lags(Place(20, 20), 10, 11, noted=False) == {"feedback": Lag(10, 62.0)}
    assert lags(Place(20, 20), 10, 11, settled=2, noted=False) == {"feedback": Lag(8, 61.0)}


def test_the_lag_of_a_topic_is_that_of_all_its_partitions_and_goes_with_them() -> None:
    made, other = consumer(), TP("feedback", 1)
    known = at_place(Place(13, 15))
    state: Any = known._consumer._subscription  # type: ignore[union-attr]
    state.is_assigned = [PART, other].__contains__
    state.subscription.assignment.state_value = lambda tp: SimpleNamespace(
        _position=13, highwater=15 if tp == PART else 40, timestamp=LAST_FETCH * 1e3
    )
    made._thread = known
    for tp, at in ((PART, 5.0), (other, 3.0)):
        asyncio.run(made._receive(tp, records(12, tp=tp, at=LAST_FETCH - at), 1))
    assert made.lags(LAST_FETCH) == {"feedback": Lag(3 + 28, 5.0)}
    state.is_assigned = [other].__contains__  # another worker has it, before we were told
    assert made.lags(LAST_FETCH) == {"feedback": Lag(28, 3.0)}
    made.reset_tracking()
    assert made.lags(LAST_FETCH) == {}


def test_draining_waits_for_the_batch_under_way_and_starts_no_other() -> None:
    stage, seen = Stage(), list[str]()
    stage.opened = [0, 1]

    async def run() -> None:
        app = SimpleNamespace(rebalancing=False, consumer=SimpleNamespace(commit=lambda: _say(seen, "committed")))
        delivery, release = Delivery(app, stage), asyncio.Event()

        async def batch() -> None:
            await release.wait()
            seen.append("finished")
            raise DeliveryError  # what becomes of it is the business of whoever waits for it

        running = asyncio.create_task(delivery._run(batch()))
        await asyncio.sleep(0)
        running.cancel()  # Faust cancels its agents when it stops
        draining = asyncio.create_task(delivery.drain())
        await asyncio.sleep(0)
        release.set()
        await draining
        await delivery.tick([0])

    asyncio.run(run())
    assert seen == ["finished", "committed"]
    assert (stage.ticks, stage.forgotten, stage.opened) == (0, [()], [])


async def _say(seen: list[str], word: str) -> None:
    seen.append(word)
