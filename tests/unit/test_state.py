"""Rows of a partition: what was written is there after a restart, in memory and on disk, whatever a changelog holds."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from models.errors import DeliveryError
from streams import state as module
from streams.app import BATCH_BYTES, create_app
from streams.checkpoint import UNDATED, ChangelogMismatch, ChangelogRecord, Checkpoint
from streams.clock import EventClock, WallClock
from streams.producer import Row, _batches
from streams.settings import load
from streams.state import Memory, State, rows_in

APP: Any = SimpleNamespace(conf=SimpleNamespace(id="demur-join"))
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def now() -> int:
    return int(WallClock().now().timestamp() * 1000)


class Log:
    """A changelog: what is sent to it can be read from it. Its broker's clock goes by a second with each batch."""

    def __init__(self) -> None:
        self.changes: list[ChangelogRecord] = []
        self.read_from: list[int] = []
        self.clock = now() - HOUR_MS
        self.next = 0

    async def send(self, _: Any, topic: str, partition: int, rows: Mapping[bytes, bytes | None]) -> tuple[int, int]:
        assert (topic, partition) == ("demur-join-state-changelog", 3)
        self.clock += 1000
        self.changes += [ChangelogRecord(self.next + n, self.clock, *row) for n, row in enumerate(rows.items())]
        self.next += len(rows)
        return self.next - 1, self.clock

    async def read(self, topic: str, partition: int, start: int) -> AsyncGenerator[list[ChangelogRecord], None]:
        assert (topic, partition) == ("demur-join-state-changelog", 3)
        self.read_from.append(start)
        for change in self.changes:
            if change.offset >= start or start > self.next:  # what is out of range is read from the beginning
                yield [change]
        yield []

    @property
    def rows(self) -> dict[bytes, bytes]:
        """What it holds."""
        found = {change.key: change.value for change in self.changes}
        return {key: value for key, value in found.items() if value is not None}

    def lose(self, number: int) -> None:
        """As when its broker is restored from a backup."""
        self.next = max(0, self.next - number)
        self.changes = [change for change in self.changes if change.offset < self.next]

    def compact(self) -> None:
        """Keep the newest of each key, and deletions."""
        newest = {change.key: change.offset for change in self.changes}
        self.changes = [change for change in self.changes if newest[change.key] == change.offset]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(module, "send_rows", made.send)
    return made


def state(log: Log, store: str, folder: Path) -> State:
    return State(APP, "state", rows_in(store, folder), log.read)


@pytest.mark.parametrize(("store", "again"), [("memory", 0), ("rocksdb", 2)])
async def test_rows_outlive_the_worker(log: Log, tmp_path: Path, store: str, again: int) -> None:
    first = state(log, store, tmp_path)
    await first.open(3)
    await first.write(3, {b"a": b"1", b"b": b"2"})
    await first.write(3, {b"a": None})
    first.close()
    await log.send(None, "demur-join-state-changelog", 3, {b"c": b"3"})  # another worker was here meanwhile
    second = state(log, store, tmp_path)
    await second.open(3)
    await second.open(3)
    assert sorted(second.items(3)) == [(b"b", b"2"), (b"c", b"3")]
    assert (second.get(3, b"a"), second.get(3, b"b")) == (None, b"2")
    assert log.read_from == [0, again], "once an assignment, and from disk only what is new"
    second.close(3)


@pytest.mark.parametrize(
    ("ago", "then", "anew"),
    [
        (6 * DAY_MS, 0, False),
        (7 * DAY_MS, 0, True),
        (-DAY_MS, 0, True),  # our clock is behind
        (DAY_MS, 7 * DAY_MS, True),  # and so far that what came since lies ahead of it
    ],
)
async def test_rows_on_disk_from_before_the_oldest_deletion_are_read_anew(
    log: Log, tmp_path: Path, ago: int, then: int, *, anew: bool
) -> None:
    """What told of a deletion is gone from the changelog by then, and the row would be back from the dead."""
    first = state(log, "rocksdb", tmp_path)
    await first.open(3)
    log.clock = now() - ago
    await first.write(3, {b"a": b"1", b"b": b"2"})
    first.close()
    log.changes = log.changes[1:]  # the first row was deleted since, and the deletion forgotten
    log.clock += then
    await log.send(None, "demur-join-state-changelog", 3, {b"c": b"3"})
    second = state(log, "rocksdb", tmp_path)
    await second.open(3)
    assert (second.get(3, b"a") is None, log.read_from[-1] == 0) == (anew, anew)
    assert (second.get(3, b"b"), second.get(3, b"c")) == (b"2", b"3")
    second.close()


async def test_to_open_rows_makes_them_no_younger(log: Log, tmp_path: Path) -> None:
    log.clock = now() - 7 * DAY_MS
    first = state(log, "rocksdb", tmp_path)
    await first.open(3)
    await first.write(3, {b"a": b"1"})
    first.close()
    rows_in("rocksdb", tmp_path)(3).close()  # a start that came no further
    log.changes.clear()
    second = state(log, "rocksdb", tmp_path)
    await second.open(3)
    assert second.get(3, b"a") is None
    second.close()


async def grown(log: Log, tmp_path: Path) -> None:
    """Let a worker write ten times, and end."""
    made = state(log, "rocksdb", tmp_path)
    await made.open(3)
    for n in range(10):
        await made.write(3, {b"i/%d" % n: b"x", b"newest": b"%d" % n})
    made.close()


@pytest.mark.parametrize("since", [0, 4, 5, 20], ids=["shorter", "one less", "as long", "longer"])
async def test_rows_on_disk_of_what_was_lost_are_given_up(log: Log, tmp_path: Path, since: int) -> None:
    """Of a broker that was restored from a backup; what another wrote since may reach as far."""
    await grown(log, tmp_path)
    log.lose(5)
    for n in range(since):
        await log.send(None, "demur-join-state-changelog", 3, {b"j/%d" % n: b"x"})
    with capture_logs() as said:
        again = state(log, "rocksdb", tmp_path)
        await again.open(3)
    assert dict(again.items(3)) == log.rows
    [line] = said
    why = ChangelogMismatch.SHORT if since < 5 else ChangelogMismatch.OTHER
    assert (line["log_level"], line["why"]) == ("error", why)
    again.close()


async def test_rows_on_disk_that_cannot_be_proven_any_more_are_read_anew(log: Log, tmp_path: Path) -> None:
    await grown(log, tmp_path)
    await log.send(None, "demur-join-state-changelog", 3, {b"newest": b"10"})
    log.compact()
    with capture_logs() as said:
        again = state(log, "rocksdb", tmp_path)
        await again.open(3)
    assert dict(again.items(3)) == log.rows
    assert [(line["log_level"], line["why"]) for line in said] == [("info", ChangelogMismatch.COMPACTED)]
    again.close()


async def test_a_record_of_the_same_content_at_the_same_place_proves_nothing(log: Log, tmp_path: Path) -> None:
    """What is read again is written again, byte for byte."""
    await grown(log, tmp_path)
    log.lose(5)
    await log.send(None, "demur-join-state-changelog", 3, {b"j/1": b"x", b"j/2": b"x", b"j/3": b"x", b"j/4": b"x"})
    await log.send(None, "demur-join-state-changelog", 3, {b"newest": b"9"})
    again = state(log, "rocksdb", tmp_path)
    await again.open(3)
    assert dict(again.items(3)) == log.rows
    again.close()


async def test_what_the_broker_does_not_date_proves_nothing(log: Log, tmp_path: Path) -> None:
    log.clock = UNDATED - 10_000
    await grown(log, tmp_path)
    again = state(log, "rocksdb", tmp_path)
    await again.open(3)
    assert log.read_from == [0, 0]
    again.close()


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
@pytest.mark.parametrize("number", [1, 2])
async def test_a_log_that_goes_back_under_a_worker_ends_it(log: Log, tmp_path: Path, store: str, number: int) -> None:
    """As when a broker that was not in step becomes the leader: what the worker holds is not what others will read."""
    made = state(log, store, tmp_path)
    await made.open(3)
    await made.write(3, {b"a": b"1", b"b": b"2", b"c": b"3"})
    log.lose(1)
    with pytest.raises(DeliveryError, match="a log was lost"):
        await made.write(3, {b"%d" % n: b"4" for n in range(number)})
    made.close()
    again = state(log, store, tmp_path)
    await again.open(3)
    assert dict(again.items(3)) == log.rows
    again.close()


KEYS = st.sampled_from([b"1", b"2", b"3", b"4"])
ROUND = st.tuples(
    st.sampled_from(["a", "b"]), st.dictionaries(KEYS, st.sampled_from([None, b"x"]), min_size=1),
    st.sampled_from([0, 0, 1, 2, 4]), st.booleans(),
)  # fmt: skip


@given(st.lists(ROUND, min_size=2, max_size=8))
def test_rows_are_always_what_the_changelog_holds(
    rounds: list[tuple[str, dict[bytes, bytes | None], int, bool]],
) -> None:
    """Two workers take turns, while the log loses its end, goes on and is compacted."""
    log, kept = Log(), {"a": Memory(), "b": Memory()}

    async def play() -> None:
        for who, rows, lost, compacted in rounds:
            made = State(APP, "state", lambda _, who=who: kept[who], log.read)
            await made.open(3)
            assert dict(made.items(3)) == log.rows
            await made.write(3, rows)
            log.lose(lost)
            if compacted:
                log.compact()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "send_rows", log.send)
        asyncio.run(play())


async def test_installations_share_a_disk_and_no_rows(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(state: Any) -> Any:
        return SimpleNamespace(name="join", state=state, batch=1)

    monkeypatch.setattr("streams.app.changelog_reader", lambda _: nothing)
    for prefix, found in (("test.", 0), ("live.", 0), ("test.", 1)):
        mine = load(topic_prefix=prefix, store="rocksdb", data_dir=tmp_path)
        app = create_app(
            mine, "join", [], lambda state: SimpleNamespace(name="join", state=state, batch=1), EventClock()
        )
        rows: Any = app.stage.state._make(3)
        assert len(list(rows.items())) == found
        rows.apply([(b"a", b"1")], Checkpoint(0, 0, "none"))
        rows.close()


async def test_nothing_is_read_off_a_partition_that_is_not_open(log: Log, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        state(log, "memory", tmp_path).get(3, b"a")


async def nothing(*_: Any) -> AsyncGenerator[list[ChangelogRecord], None]:
    yield []


async def test_a_changelog_that_breaks_off_leaves_nothing_open(log: Log, tmp_path: Path) -> None:
    async def breaks(*_: Any) -> AsyncGenerator[list[ChangelogRecord], None]:
        yield [ChangelogRecord(0, 0, b"a", b"1")]
        raise DeliveryError("gone")

    made = State(APP, "state", rows_in("memory", tmp_path), breaks)
    with pytest.raises(DeliveryError):
        await made.open(3)
    with pytest.raises(KeyError):
        made.get(3, b"a")


async def test_a_disk_that_takes_nothing_more_is_no_fault_of_the_event(log: Log, tmp_path: Path) -> None:
    """Else every event would end as a dead letter."""
    made = state(log, "memory", tmp_path)
    await made.open(3)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    made._open[3].apply = full  # type: ignore[method-assign]
    with pytest.raises(DeliveryError, match="No space left"):
        await made.write(3, {b"a": b"1"})


async def test_a_disk_that_gives_nothing_up_is_no_fault_of_the_event_either(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    await grown(log, tmp_path)
    log.lose(1)
    monkeypatch.setattr(module.Disk, "clear", full)
    with pytest.raises(DeliveryError, match="No space left"):
        await state(log, "rocksdb", tmp_path).open(3)


def test_a_folder_that_cannot_be_used_ends_the_worker(tmp_path: Path) -> None:
    (tmp_path / "partition-3").write_text("no database")
    with pytest.raises(DeliveryError, match="partition 3"):
        rows_in("rocksdb", tmp_path)(3)


BLOCK, FOOTER = 1000, 1000_000
"""Where a file is damaged: in a block of rows, which is found when it is read, or at its end, when it is opened."""


async def damaged(log: Log, folder: Path, place: int) -> None:
    """Let a worker write and end, and its disk flip bits."""
    made = state(log, "rocksdb", folder)
    await made.open(3)
    await made.write(3, {b"i/%05d" % n: b"x" * 100 for n in range(2000)})
    made._open[3]._db.flush()  # type: ignore[attr-defined]
    made.close()
    [file] = (folder / "partition-3").glob("*.sst")
    content = bytearray(file.read_bytes())
    for n in range(min(place, len(content) - 20), min(place + 20, len(content))):
        content[n] ^= 0xFF
    file.write_bytes(content)


async def read_all(made: State) -> dict[bytes, bytes]:
    await made.open(3)
    return dict(made.items(3, b"i/"))


async def read_each(made: State) -> dict[bytes, bytes | None]:
    await made.open(3)
    return {key: made.get(3, key) for key in (b"i/%05d" % n for n in range(2000))}


@pytest.mark.parametrize("use", [read_all, read_each])
@pytest.mark.parametrize("place", [BLOCK, FOOTER])
async def test_damaged_rows_on_disk_end_the_worker_and_the_next_reads_the_changelog(
    log: Log, tmp_path: Path, place: int, use: Any
) -> None:
    """What could not be read was a dead letter, and what lay behind it in the file was not there."""
    await damaged(log, tmp_path, place)
    made = state(log, "rocksdb", tmp_path)
    with pytest.raises(DeliveryError, match="damaged"):
        await use(made)
    made.close()
    again = state(log, "rocksdb", tmp_path)
    assert await use(again) == log.rows
    again.close()


async def test_rows_that_another_holds_open_are_not_taken_for_damaged(log: Log, tmp_path: Path) -> None:
    await grown(log, tmp_path)
    first, second = state(log, "rocksdb", tmp_path), state(log, "rocksdb", tmp_path)
    await first.open(3)
    with pytest.raises(DeliveryError, match="cannot be used: IO error: lock"):
        await second.open(3)
    assert dict(first.items(3)) == log.rows
    first.close()


def test_a_row_larger_than_a_batch_goes_alone_and_in_its_place() -> None:
    """The client's own batches: they refuse what does not fit, but never their first row."""
    client = SimpleNamespace(create_batch=lambda: BatchBuilder(BATCH_BYTES, 0))
    small, large = b"x" * 1000, b"x" * (2 * BATCH_BYTES)
    rows: list[Row] = [(b"1", small, []), (b"2", large, [("ce_id", b"2")]), (b"3", small, []), (b"4", None, [])]
    assert [batch.record_count() for batch in _batches(client, rows)] == [1, 1, 2]
    whole = b"".join(bytes(batch._build()) for batch in _batches(client, rows))
    assert len(whole) > 2 * BATCH_BYTES


def test_partitions_of_a_stage_share_what_they_remember_of_the_disk(tmp_path: Path) -> None:
    """A cache of its own for each would grow with the partitions, and for as long as they are read."""
    make = rows_in("rocksdb", tmp_path)
    one, other = make(0), make(1)
    one.apply([(str(n).encode(), b"x" * 1000) for n in range(1000)], Checkpoint(999, 0, ""))
    one._db.flush()
    assert all(one.get(str(n).encode()) for n in range(1000))
    held = [rows._db.property_int_value("rocksdb.block-cache-usage") for rows in (one, other)]
    assert held[0] == held[1] > 10**5


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
async def test_rows_are_found_by_what_their_keys_begin_with(log: Log, tmp_path: Path, store: str) -> None:
    rows = state(log, store, tmp_path)
    await rows.open(3)
    await rows.write(3, {b"i/1": b"1", b"d/b": b"2", b"c": b"3", b"d/a": b"4", b"e": b"5"})
    assert sorted(rows.items(3, b"d/")) == [(b"d/a", b"4"), (b"d/b", b"2")]
    assert len(list(rows.items(3))) == 5
