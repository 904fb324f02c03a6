"""A stage's rows: each owned by one partition of its input, and durable in a compacted changelog before it is applied.

Faust's tables are not used. Seen on 0.15.3 with real Kafka: writes go through a buffer whose flush returns early; a
rebalance during a recovery leaves rows out, or waits for ever; the memory store drops its standbys' rows but not their
offsets. Here a partition is read from its changelog when it is first touched after it was assigned, by a reader of its
own, up to the end that the broker names; before an assignment the last owner has drained or its lease has run out.
So nothing is recovered while it changes, and there is no standby to go stale.
"""

import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import faust
from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch

from models.errors import DeliveryError
from streams.clock import WallClock
from streams.topics import DELETION_KEPT
from streams.wire import send_rows

NEXT: Final = b"\xffnext"
"""Key of the changelog offset to read from, among the rows on disk; no stage's key begins with this byte."""


MEMTABLE_BYTES: Final = 2 * 2**20
"""Of a partition. RocksDB's own 64 MiB, of which it keeps two, let a worker's memory grow for twenty minutes; 8 MiB did
so still where few rows are written."""
CACHE_BYTES: Final = 8 * 2**20
"""Of blocks, for all partitions of a stage: RocksDB's own 32 MiB for each fill slowly, and were no faster."""
MARGIN: Final = timedelta(hours=1)
"""Between reading that a row is on disk and that it was deleted."""
BLOOM_BITS: Final = 10
"""A key: most that are asked for are new, and a filter of so many bits knows 99 of 100 of them (RocksDB's wiki)."""

Row = tuple[bytes, bytes | None]
"""Key and value; a value of None deletes."""


class Change(NamedTuple):
    """One record of a changelog; a value of None deletes."""

    offset: int
    key: bytes
    value: bytes | None


Reader = Callable[[str, int, int], AsyncIterator[Sequence[Change]]]
"""Reads a changelog: topic, partition, and offset to begin with. Raises `DeliveryError`."""


class Rows(Protocol):
    """The rows of one partition. `next` is the changelog offset after the last change applied."""

    next: int

    def get(self, key: bytes) -> bytes | None:
        """Return a row."""

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows."""

    def apply(self, rows: Iterable[Row], following: int) -> None:
        """Apply changes, of which none lies at `following` or beyond."""

    def close(self) -> None:
        """Give up what is held."""


class Memory:
    """Rows in memory: read anew from the whole changelog at every assignment."""

    def __init__(self) -> None:
        self.next = 0
        self._rows: dict[bytes, bytes] = {}
        self.get = self._rows.get

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows as they are now."""
        yield from list(self._rows.items())

    def apply(self, rows: Iterable[Row], following: int) -> None:
        """Apply changes in order."""
        for key, value in rows:
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value
        self.next = following

    def close(self) -> None:
        """Nothing is held."""


class Disk:
    """Rows in RocksDB, with the offset that they reach in the same write: a restart reads only what came since.

    Rows last written before the changelog's memory of deletions are given up: some would be back from the dead.
    """

    def __init__(self, folder: Path, cache: Cache) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        oldest = (WallClock().now() - DELETION_KEPT + MARGIN).timestamp()
        if folder.exists() and all(file.stat().st_mtime < oldest for file in folder.iterdir()):
            shutil.rmtree(folder)
        options, table = Options(raw_mode=True), BlockBasedOptions()
        table.set_block_cache(cache)
        table.set_bloom_filter(BLOOM_BITS, block_based=False)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_size(MEMTABLE_BYTES)
        self._db: Any = Rdict(str(folder), options)
        self.get = self._db.get
        self.next = int(self._db.get(NEXT) or 0)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows; the offset is not one of them."""
        yield from ((key, value) for key, value in self._db.items() if key != NEXT)

    def apply(self, rows: Iterable[Row], following: int) -> None:
        """Apply changes and the offset at once."""
        batch = WriteBatch(raw_mode=True)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(NEXT, str(following).encode())
        self._db.write(batch)
        self.next = following

    def close(self) -> None:
        """Let another process open it."""
        self._db.close()


class State:
    """Rows of bytes by partition. Whoever reads or writes a partition has opened it."""

    def __init__(self, app: faust.App, name: str, make: Callable[[int], Rows], read: Reader) -> None:
        self._app, self._make, self._read = app, make, read
        self.changelog = f"{app.conf.id}-{name}-changelog"
        """Name of the compacted topic that holds the rows."""
        self.recovered = 0
        """Changes read so far by all openings: shows that one makes progress."""
        self._open: dict[int, Rows] = {}

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return a row, or None."""
        return self._open[partition].get(key)

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows of a partition."""
        return self._open[partition].items()

    async def open(self, partition: int) -> None:
        """Read what the changelog holds, unless that is done. Raises `DeliveryError`. Not twice at a time."""
        if partition in self._open:
            return
        rows = self._make(partition)
        try:
            async for changes in self._read(self.changelog, partition, rows.next):
                if changes:
                    found = [(change.key, change.value) for change in changes]
                    self._apply(rows, found, max(change.offset for change in changes) + 1)
                self.recovered += len(changes)
        except BaseException:
            rows.close()
            raise
        self._open[partition] = rows

    async def write(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Make rows durable, then apply them; None deletes. Raises `DeliveryError`."""
        following = await send_rows(self._app, self.changelog, partition, rows)
        self._apply(self._open[partition], rows.items(), following)

    def close(self, *partitions: int) -> None:
        """Give up these partitions, or all."""
        for partition in partitions or tuple(self._open):
            if rows := self._open.pop(partition, None):
                rows.close()

    @staticmethod
    def _apply(rows: Rows, changes: Iterable[Row], following: int) -> None:
        try:
            rows.apply(changes, following)
        except Exception as error:
            raise DeliveryError(f"the state cannot be written here: {error}") from error  # a full disk, say


def rows_in(store: str, folder: Path) -> Callable[[int], Rows]:
    """Return what makes a partition's rows: in memory, or in RocksDB below `folder`."""
    cache = Cache(CACHE_BYTES)

    def make(partition: int) -> Any:
        try:
            return Disk(folder / f"partition-{partition}", cache) if store == "rocksdb" else Memory()
        except Exception as error:
            raise DeliveryError(f"the state of partition {partition} cannot be opened: {error}") from error

    return make
