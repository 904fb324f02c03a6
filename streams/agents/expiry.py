"""Rows that expire: kept for a while of event time, and of real time, so that repeats are known; then deleted."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial

from streams.clock import Clock
from streams.state import State
from streams.timers import EPOCH, Graves, Timers


class Shelf:
    """A partition's rows: when each is over, by name; a name and a time are held once, however many refer to them."""

    def __init__(self, clock: Clock) -> None:
        self.timers = Timers()
        self.graves = Graves(clock)
        self._over: dict[str, datetime] = {}

    def keep(self, name: str, until: datetime) -> None:
        """Keep a row until then."""
        self._over[name] = until
        self.timers.set(name, until)

    def clear(self) -> list[str]:
        """Take the names of the rows that may go now."""
        self.graves.lay(name for _, name in self.timers.due())
        gone = [name for name in self.graves.ripe() if self._over[name] <= self.timers.watermark]
        for name in gone:
            del self._over[name]
        return gone


class Expiry:
    """Deletes rows `keep` after their event time, or after they came if they came late: they may still be repeated.

    `read` tells a row's time when the partition is new to us.
    """

    def __init__(self, keep: timedelta, read: Callable[[bytes, bytes], datetime | None], clock: Clock) -> None:
        self._keep = keep
        self._read = read
        self._shelves = defaultdict[int, Shelf](partial(Shelf, clock))

    @property
    def watermark(self) -> datetime:
        """The latest event time seen in any partition."""
        return max((shelf.timers.watermark for shelf in self._shelves.values()), default=EPOCH)

    def set(self, partition: int, key: bytes, at: datetime) -> datetime:
        """Note that a row lives on from `at`, or from now if that is later, and return which; time comes that far."""
        shelf = self._shelves[partition]
        shelf.timers.advance(at)
        now = shelf.timers.watermark
        shelf.keep(key.decode(), now + self._keep)
        return now

    def take(self, partition: int, state: State) -> dict[bytes, bytes | None]:
        """Return the rows to delete now."""
        if partition not in self._shelves:
            self._open(self._shelves[partition], state.items(partition))
        return dict.fromkeys(map(str.encode, self._shelves[partition].clear()))

    def forget(self) -> None:
        """The partitions are no longer ours."""
        self._shelves.clear()

    def _open(self, shelf: Shelf, rows: Iterable[tuple[bytes, bytes]]) -> None:
        for key, value in rows:
            if (at := self._read(key, value)) is not None:
                shelf.timers.advance(at)
                shelf.keep(key.decode(), at + self._keep)
