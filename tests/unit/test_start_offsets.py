"""Where a stage begins to read: at its place; where it never read, at the beginning; nowhere else without a word."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from prometheus_client import CollectorRegistry, Counter
from structlog.testing import capture_logs

from models.errors import DeliveryError
from streams.consumer import ConsumerThread
from streams.start_offsets import Committed, checkpoint, restore_offsets
from streams.wire import Record

DECISIONS, FEEDBACK = TopicPartition("t.decisions", 0), TopicPartition("t.feedback", 0)
CHANGELOG = TopicPartition("t.demur-join-state-changelog", 0)


class Client:
    """aiokafka's consumer: what is committed, and where each log begins and ends."""

    def __init__(
        self, committed: dict[TopicPartition, int | None], logs: dict[TopicPartition, tuple[int, int]]
    ) -> None:
        self.places, self.logs = committed, logs
        self.metadata: dict[TopicPartition, str | None] = {}
        self._coordinator = self
        self.sought: dict[TopicPartition, int] = {}
        self.rebalances = self.has_rebalanced = False
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=SimpleNamespace(active=True)))

    def assignment(self) -> set[TopicPartition]:
        return set(self.places)

    async def fetch_committed_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        found = {tp: at for tp in tps if (at := self.places[tp]) is not None}
        return {tp: OffsetAndMetadata(at, self.metadata.get(tp, "")) for tp, at in found.items()}

    async def commit(self, offsets: Any) -> None:
        if self.rebalances:
            raise CommitFailedError
        self.places |= offsets

    async def beginning_offsets(self, tps: Any) -> dict[TopicPartition, int]:
        if self.has_rebalanced:
            self._subscription.subscription.assignment.active = False
        return {tp: self.logs[tp][0] for tp in tps}

    async def end_offsets(self, tps: Any) -> dict[TopicPartition, int]:
        return {tp: self.logs[tp][1] for tp in tps}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.sought[tp] = offset


LOST = Counter("lost", "Lost.", ["topic"], registry=CollectorRegistry())


APP = SimpleNamespace(
    conf=SimpleNamespace(id="t.demur-join"),
    stage=SimpleNamespace(state=SimpleNamespace(changelog=CHANGELOG.topic)),
    lost={topic: LOST.labels(topic=topic) for topic in ("t.decisions", "t.feedback")},
)


def back(client: Client) -> Any:
    return {tp: at.offset for tp, at in asyncio.run(restore_offsets(client, APP)).items()}


def test_a_new_owner_begins_at_the_place_of_the_last() -> None:
    client = Client({DECISIONS: 7, FEEDBACK: 0}, {DECISIONS: (0, 9), FEEDBACK: (0, 9), CHANGELOG: (0, 5)})
    assert back(client) == client.sought == {DECISIONS: 7, FEEDBACK: 0}


@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("begins", [0, 3])
def test_where_it_never_read_a_stage_begins_at_the_beginning_and_has_a_place_there(rows: int, begins: int) -> None:
    """Before anything is processed, so that rows imply a place. A quiet input may be empty for long."""
    logs = {DECISIONS: (begins, 9), FEEDBACK: (4, 4), CHANGELOG: (0, rows)}
    client = Client({DECISIONS: 2 if rows else None, FEEDBACK: None}, logs)
    expected = {DECISIONS: 2 if rows else begins, FEEDBACK: 4}
    assert back(client) == client.sought == client.places == expected


@pytest.mark.parametrize("known", [{}, {DECISIONS: 9}], ids=["of none", "of one of its inputs"])
def test_a_stage_that_has_rows_and_no_place_does_not_read_all_again(known: dict[TopicPartition, int]) -> None:
    """Kafka forgets the place of a group that had no member for a week: all would be decided and labelled again."""
    logs = {DECISIONS: (0, 9), FEEDBACK: (0, 9), CHANGELOG: (0, 5)}
    client = Client({DECISIONS: None, FEEDBACK: None} | known, logs)
    with pytest.raises(DeliveryError, match=r"t\.demur-join has no place in .*t\.feedback.*--to-datetime") as raised:
        back(client)
    assert ("t.decisions" in str(raised.value)) is not bool(known)
    assert (client.sought, client.places[FEEDBACK]) == ({}, None)


@pytest.mark.parametrize("rebalance", ["rebalances", "has_rebalanced"])
def test_nothing_is_read_in_a_rebalance_that_leaves_no_place(rebalance: str) -> None:
    """After it, another may have gone on from there."""
    client = Client({FEEDBACK: None}, {FEEDBACK: (0, 9), CHANGELOG: (0, 0)})
    setattr(client, rebalance, True)
    with pytest.raises(IllegalStateError):  # upon which Faust waits for the next assignment
        back(client)
    assert (client.sought, client.places) == ({}, {FEEDBACK: None})


def reads(monkeypatch: pytest.MonkeyPatch, client: Client, answer: Any) -> Any:
    """Return a consumer thread whose fetches have this answer."""

    async def answered(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(AIOKafkaConsumerThread, "_fetch_records", answered)
    thread: Any = ConsumerThread.__new__(ConsumerThread)
    thread._consumer, thread.consumer, thread._unproven = client, SimpleNamespace(app=APP), {}
    return thread


def fetch(monkeypatch: pytest.MonkeyPatch, client: Client, at: int) -> list[Any]:
    """Fetch from where the broker has nothing; return what is logged."""
    thread = reads(monkeypatch, client, OffsetOutOfRangeError({FEEDBACK: at}))
    with capture_logs() as logs:
        assert asyncio.run(thread._fetch_records()) == {}
    return logs


@pytest.mark.parametrize(("committed", "end"), [(2, 9), (0, 7)], ids=["some", "all there was"])
def test_what_was_deleted_before_it_was_read_is_counted_and_named(
    monkeypatch: pytest.MonkeyPatch, committed: int, end: int
) -> None:
    client = Client({FEEDBACK: committed}, {FEEDBACK: (7, end)})
    before = LOST.labels(topic="t.feedback")._value.get()
    [logged] = fetch(monkeypatch, client, committed)
    assert (logged["log_level"], logged["topic"], logged["partition"]) == ("error", "t.feedback", 0)
    assert logged["records"] == LOST.labels(topic="t.feedback")._value.get() - before == 7 - committed
    assert client.sought == client.places == {FEEDBACK: 7}, "nobody counts them again"


@pytest.mark.parametrize("rebalance", ["rebalances", "has_rebalanced"])
def test_what_another_worker_will_find_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch, rebalance: str) -> None:
    client = Client({FEEDBACK: 2}, {FEEDBACK: (7, 9)})
    setattr(client, rebalance, True)
    assert fetch(monkeypatch, client, 2) == []
    assert client.sought == {}


def test_a_place_behind_the_end_of_a_log_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log lost its end, or was made anew: to begin elsewhere would leave out or repeat what nobody knows."""
    client = Client({FEEDBACK: 12}, {FEEDBACK: (0, 9)})
    with pytest.raises(DeliveryError, match=r"t\.demur-join has its place in t\.feedback/0 at 12, .*--to-datetime"):
        fetch(monkeypatch, client, 12)
    assert client.sought == {}


def found(offset: int, at: float = 8.0, value: bytes = b"{}") -> Any:
    """Return a record as aiokafka does."""
    place = {"topic": FEEDBACK.topic, "partition": 0, "offset": offset}
    return SimpleNamespace(**place, key=b"r1", value=value, headers=(), timestamp=int(at * 1e3), timestamp_type=1)


def settled(last: int) -> str:
    """Return what is committed with the place 7."""
    return Committed(7, checkpoint(Record(*FEEDBACK, last, b"r1", b"{}", {}, 8.0))).metadata


LAST = settled(6)


def restored(
    monkeypatch: pytest.MonkeyPatch, answer: Any, *, begins: int = 0, ends: int = 9, metadata: str | None = LAST
) -> Any:
    """Return the client, and its thread once it has gone back to the place 7."""
    client = Client({FEEDBACK: 7}, {FEEDBACK: (begins, ends)})
    client.metadata[FEEDBACK] = metadata
    thread = reads(monkeypatch, client, answer)
    assert asyncio.run(thread._restore_offsets()) == {FEEDBACK: 7}
    return client, thread


def test_what_was_settled_last_is_read_again_and_known(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {FEEDBACK: [found(6), found(7, at=9.0)]}
    client, thread = restored(monkeypatch, answer)
    assert client.sought == {FEEDBACK: 6}
    assert asyncio.run(thread._fetch_records()) == answer
    assert thread._unproven == {}


@pytest.mark.parametrize(
    ("metadata", "others"),
    [
        (LAST, [found(6, at=9.0), found(7)]),
        (LAST, [found(6, value=b"{ }"), found(7)]),
        (settled(4), [found(4), found(6), found(7)]),
    ],
    ids=["of another time", "of another length", "behind the last, where the end of a transaction was"],
)
def test_a_log_that_lost_its_end_and_was_written_on_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch, metadata: str, others: list[Any]
) -> None:
    """What took the place of the settled records would be left out without a word."""
    answer = {FEEDBACK: others[:1]}
    _, thread = restored(monkeypatch, answer, metadata=metadata)
    with pytest.raises(DeliveryError, match=r"demur-join has settled t\.feedback/0 up to 7, and .*--to-datetime"):  # noqa: PT012
        asyncio.run(thread._fetch_records())
        answer[FEEDBACK] = others[1:]
        asyncio.run(thread._fetch_records())


def test_a_log_that_lost_its_end_and_is_being_written_on_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has grown to our place, at which the next fetch would find a record."""
    _, thread = restored(monkeypatch, OffsetOutOfRangeError({FEEDBACK: 6}), ends=5)
    with pytest.raises(DeliveryError, match=r"has its place in t\.feedback/0 at 7, where there is no record"):
        asyncio.run(thread._fetch_records())


@pytest.mark.parametrize("metadata", ["", None, "of another tool", LAST.replace("6", "7", 1), "-5 0 x"])
def test_a_place_that_somebody_else_set_is_believed(monkeypatch: pytest.MonkeyPatch, metadata: str | None) -> None:
    answer = {FEEDBACK: [found(7)]}
    client, thread = restored(monkeypatch, answer, metadata=metadata)
    assert client.sought == {FEEDBACK: 7}
    assert asyncio.run(thread._fetch_records()) == answer


def test_what_retention_has_deleted_since_it_was_settled_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = LOST.labels(topic="t.feedback")._value.get()
    client, thread = restored(monkeypatch, OffsetOutOfRangeError({FEEDBACK: 6}), begins=7)
    assert asyncio.run(thread._fetch_records()) == {}
    assert client.sought == {FEEDBACK: 7}
    assert LOST.labels(topic="t.feedback")._value.get() == before
    _, thread = restored(monkeypatch, {FEEDBACK: [found(8, value=b"other")]})
    assert asyncio.run(thread._fetch_records()), "compacted, or the end of a transaction"


def test_what_is_committed_with_a_place_tells_nothing_of_a_text() -> None:
    """Whoever may describe the group could guess short ones."""
    said = [Record(*FEEDBACK, 6, b"r1", text, {}, 8.0) for text in (b"comment: HIV", b"comment: flu")]
    assert len({Committed(7, checkpoint(record)).metadata for record in said}) == 1
