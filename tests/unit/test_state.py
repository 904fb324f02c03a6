"""Rows of a partition: what was written is there after a restart, in memory and on disk, whatever a changelog holds."""

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder

from models.errors import DeliveryError
from streams import state as module
from streams.app import BATCH_BYTES
from streams.clock import WallClock
from streams.producer import Row, _batches
from streams.state import Change, State, rows_in


class Log:
    """A changelog: what is sent to it can be read from it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.read_from: list[int] = []

    async def send(self, _: Any, topic: str, partition: int, rows: Mapping[bytes, bytes | None]) -> int:
        assert (topic, partition) == ("demur-join-state-changelog", 3)
        self.changes += [Change(len(self.changes) + n, *row) for n, row in enumerate(rows.items())]
        return len(self.changes)

    async def read(self, topic: str, partition: int, start: int) -> AsyncIterator[list[Change]]:
        assert (topic, partition) == ("demur-join-state-changelog", 3)
        self.read_from.append(start)
        for change in self.changes[start:]:
            yield [change]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(module, "send_rows", made.send)
    return made


def state(log: Log, store: str, folder: Path) -> State:
    app: Any = SimpleNamespace(conf=SimpleNamespace(id="demur-join"))
    return State(app, "state", rows_in(store, folder), log.read)


@pytest.mark.parametrize(("store", "again"), [("memory", 0), ("rocksdb", 3)])
async def test_rows_outlive_the_worker(log: Log, tmp_path: Path, store: str, again: int) -> None:
    first = state(log, store, tmp_path)
    await first.open(3)
    await first.write(3, {b"a": b"1", b"b": b"2"})
    await first.write(3, {b"a": None})
    first.close()
    log.changes.append(Change(3, b"c", b"3"))  # another worker was here meanwhile
    second = state(log, store, tmp_path)
    await second.open(3)
    await second.open(3)
    assert sorted(second.items(3)) == [(b"b", b"2"), (b"c", b"3")]
    assert (second.get(3, b"a"), second.get(3, b"b")) == (None, b"2")
    assert log.read_from == [0, again], "once an assignment, and from disk only what is new"
    second.close(3)


@pytest.mark.parametrize(("days", "read_from"), [(6, 2), (7, 0)])
async def test_rows_on_disk_from_before_the_oldest_deletion_are_read_anew(
    log: Log, tmp_path: Path, days: int, read_from: int
) -> None:
    """What told of a deletion is gone from the changelog by then, and the row would be back from the dead."""
    first = state(log, "rocksdb", tmp_path)
    await first.open(3)
    await first.write(3, {b"a": b"1", b"b": b"2"})
    first.close()
    then = WallClock().now().timestamp() - days * 86_400
    for file in (tmp_path / "partition-3").iterdir():
        os.utime(file, (then, then))
    second = state(log, "rocksdb", tmp_path)
    await second.open(3)
    assert log.read_from == [0, read_from]
    assert second.get(3, b"b") == b"2"
    second.close()


async def test_nothing_is_read_off_a_partition_that_is_not_open(log: Log, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        state(log, "memory", tmp_path).get(3, b"a")


async def test_a_changelog_that_breaks_off_leaves_nothing_open(log: Log, tmp_path: Path) -> None:
    async def breaks(*_: Any) -> AsyncIterator[list[Change]]:
        yield [Change(0, b"a", b"1")]
        raise DeliveryError("gone")

    made = State(SimpleNamespace(conf=SimpleNamespace(id="demur-join")), "state", rows_in("memory", tmp_path), breaks)  # type: ignore[arg-type]
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


def test_a_folder_that_cannot_be_used_ends_the_worker(tmp_path: Path) -> None:
    (tmp_path / "partition-3").write_text("no database")
    with pytest.raises(DeliveryError, match="partition 3"):
        rows_in("rocksdb", tmp_path)(3)


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
    one.apply([(str(n).encode(), b"x" * 1000) for n in range(1000)], 1000)
    one._db.flush()
    assert all(one.get(str(n).encode()) for n in range(1000))
    held = [rows._db.property_int_value("rocksdb.block-cache-usage") for rows in (one, other)]
    assert held[0] == held[1] > 10**5
