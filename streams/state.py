"""A stage's rows: each owned by one partition of its input, and durable in a compacted changelog before it is applied.

Faust's tables are not used. Seen on 0.15.3 with real Kafka: writes go through a buffer whose flush returns early; a
rebalance during a recovery leaves rows out, or waits for ever; the memory store drops its standbys' rows but not their
offsets. Here a partition is read from its changelog when it is first touched after it was assigned, by a reader of its
own, up to the end that the broker names; before an assignment the last owner has drained or its lease has run out.
So nothing is recovered while it changes, and there is no standby to go stale.

Rows on disk are gone on with only where the changelog still holds the very record that they end with (see
`checkpoint`). Else they are given up and read anew: the changelog is the truth. So are rows that RocksDB finds damaged
when it reads them.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, Final, Protocol

import faust
import structlog
from rocksdict import BlockBasedOptions, Cache, DbClosedError, Options, Rdict, WriteBatch

from models.errors import DeliveryError
from streams.checkpoint import ChangelogMismatch, ChangelogRecord, Checkpoint
from streams.clock import WallClock
from streams.wire import send_rows

CHECKPOINT_KEY: Final = b"\xffmark"
"""Key of the last record applied, among the rows on disk; no stage's key begins with this byte."""
BEYOND: Final = b"\xff\xff"
"""Behind every key."""

MEMTABLE_BYTES: Final = 2 * 2**20
"""Of a partition. RocksDB's own 64 MiB, of which it keeps two, let a worker's memory grow for twenty minutes; 8 MiB did
so still where few rows are written."""
CACHE_BYTES: Final = 8 * 2**20
"""Of blocks, for all partitions of a stage: RocksDB's own 32 MiB for each fill slowly, and were no faster."""
BLOOM_BITS: Final = 10
"""A key: most that are asked for are new, and a filter of so many bits knows 99 of 100 of them (RocksDB's wiki)."""

DAMAGED: Final = "Corruption"
"""What RocksDB's word on damaged files begins with; the client has one type for all that it raises."""

Row = tuple[bytes, bytes | None]
"""Key and value; a value of None deletes."""
Reader = Callable[[str, int, int], AsyncGenerator[Sequence[ChangelogRecord], None]]
"""Reads a changelog: topic, partition, and offset to begin with. Of a log that ends before that, it yields nothing, or
all from the beginning. Raises `DeliveryError`."""

log = structlog.get_logger(__name__)


class Rows(Protocol):
    """The rows of one partition. `checkpoint` is the last record of the changelog that was applied; None: none was."""

    checkpoint: Checkpoint | None

    def get(self, key: bytes) -> bytes | None:
        """Return a row."""

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows whose keys begin with `prefix`."""

    def apply(self, rows: Iterable[Row], checkpoint: Checkpoint) -> None:
        """Apply changes in order; `checkpoint` is the last of them."""

    def clear(self) -> None:
        """Forget all rows, and the checkpoint."""

    def close(self) -> None:
        """Give up what is held."""


class Memory:
    """Rows in memory: read anew from the whole changelog at every assignment."""

    def __init__(self) -> None:
        self.checkpoint: Checkpoint | None = None
        self._rows: dict[bytes, bytes] = {}
        self.get = self._rows.get

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows as they are now."""
        yield from [row for row in self._rows.items() if row[0].startswith(prefix)]

    def apply(self, rows: Iterable[Row], checkpoint: Checkpoint) -> None:
        """Apply changes in order."""
        for key, value in rows:
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value
        self.checkpoint = checkpoint

    def clear(self) -> None:
        """Forget all rows, and the checkpoint."""
        self._rows.clear()
        self.checkpoint = None

    def close(self) -> None:
        """Nothing is held."""


class Disk:
    """Rows in RocksDB, with the checkpoint that they reach in the same write: a restart reads only what came since."""

    def __init__(self, folder: Path, cache: Cache) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        options, table = Options(raw_mode=True), BlockBasedOptions()
        table.set_block_cache(cache)
        table.set_bloom_filter(BLOOM_BITS, block_based=False)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_size(MEMTABLE_BYTES)
        self._folder = folder
        self._db: Any = None
        with self._intact():
            self._db = Rdict(str(folder), options)
            said = self._db.get(CHECKPOINT_KEY)
        self.checkpoint = Checkpoint.decode(said) if said else None

    def get(self, key: bytes) -> bytes | None:
        """Return a row. Raises `DeliveryError`."""
        try:
            found: bytes | None = self._db.get(key)
        except Exception as error:
            raise self._lost(error) from error
        return found

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows, which lie in the order of their keys; the checkpoint is not one of them.

        Raises `DeliveryError`: an iterator ends where it cannot read on, and says so only when asked.
        """
        with self._intact():
            found = self._db.iter()
            found.seek(prefix)
            while found.valid() and (key := found.key()).startswith(prefix):
                if key != CHECKPOINT_KEY:
                    yield key, found.value()
                found.next()
            found.status()

    def apply(self, rows: Iterable[Row], checkpoint: Checkpoint) -> None:
        """Apply changes and the checkpoint at once."""
        batch = WriteBatch(raw_mode=True)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(CHECKPOINT_KEY, checkpoint.encode())
        with self._intact():
            self._db.write(batch)
        self.checkpoint = checkpoint

    def clear(self) -> None:
        """Forget all rows and the checkpoint, at once."""
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(b"", BEYOND)
        self._db.write(batch)
        self._db.compact_range(None, None)  # their room on the disk too
        self.checkpoint = None

    def close(self) -> None:
        """Let another process open it, if that is not done."""
        with suppress(DbClosedError):
            self._db.close()

    @contextmanager
    def _intact(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> DeliveryError:
        """Return what ends the worker. Damaged rows are removed: whoever opens them next reads the changelog."""
        if not str(error).startswith(DAMAGED):
            return DeliveryError(f"rows on disk cannot be used: {error}")
        if self._db is not None:
            self.close()
        rmtree(self._folder, ignore_errors=True)
        return DeliveryError(f"rows on disk are damaged; they are removed, and the next start reads them anew: {error}")


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

    def items(self, partition: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows of a partition whose keys begin with `prefix`."""
        return self._open[partition].items(prefix)

    async def open(self, partition: int) -> None:
        """Bring rows to what the changelog holds, unless that is done. Raises `DeliveryError`. Not twice at a time."""
        if partition in self._open:
            return
        rows = self._make(partition)
        try:
            if mismatch := await self._read_on(partition, rows):
                say = log.error if mismatch.is_loss else log.info
                say("rows on disk are read anew", changelog=self.changelog, partition=partition, why=mismatch.value)
                with _writing():
                    rows.clear()
                await self._read_on(partition, rows)
        except BaseException:
            rows.close()
            raise
        self._open[partition] = rows

    async def _read_on(self, partition: int, rows: Rows) -> ChangelogMismatch | None:
        """Apply what the changelog holds beyond these rows, or return why they may not be of it."""
        known = unproven = rows.checkpoint
        if known and known.is_old(int(WallClock().now().timestamp() * 1000)):
            return ChangelogMismatch.AGED
        async with aclosing(self._read(self.changelog, partition, known.offset if known else 0)) as found:
            async for changes in found:
                self.recovered += len(changes)
                if not changes:
                    continue
                if unproven and (mismatch := unproven.mismatch(changes[0])):
                    return mismatch
                if known and known.is_old(changes[-1].at):  # whatever our clock says
                    return ChangelogMismatch.AGED
                unproven = None
                with _writing():
                    rows.apply([(change.key, change.value) for change in changes], Checkpoint.of(changes[-1]))
        return unproven.mismatch(None) if unproven else None

    async def write(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Make rows durable, then apply them; None deletes. Raises `DeliveryError`."""
        end, at = await send_rows(self._app, self.changelog, partition, rows)
        opened = self._open[partition]
        if opened.checkpoint and end - len(rows) < opened.checkpoint.offset:
            raise DeliveryError(f"changelog {self.changelog} went back behind what was acknowledged: a log was lost")
        with _writing():
            opened.apply(rows.items(), Checkpoint.of(ChangelogRecord(end, at, *list(rows.items())[-1])))

    def close(self, *partitions: int) -> None:
        """Give up these partitions, or all."""
        for partition in partitions or tuple(self._open):
            if rows := self._open.pop(partition, None):
                rows.close()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
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
