"""Rows that expire: kept for a while of event time, and of real time, so that repeats are known; then deleted."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta

from streams.clock import Clock
from streams.state import State
from streams.timers import EPOCH, Graves, Timers


class Expiry:
    """Deletes rows `keep` after their event time, or after they came if they came late: they may still be repeated.

    `read` tells a row's time when the partition is new to us.
    """

    def __init__(self, keep: timedelta, read: Callable[[bytes, bytes], datetime | None], clock: Clock) -> None:
        self._keep = keep
        self._read = read
        self._timers: dict[int, Timers] = defaultdict(Timers)
        self._graves: dict[int, Graves] = defaultdict(lambda: Graves(clock))
        self._latest: dict[tuple[int, bytes], datetime] = defaultdict(lambda: EPOCH)

    @property
    def watermark(self) -> datetime:
        """The latest event time seen in any partition."""
        return max((t.watermark for t in self._timers.values()), default=EPOCH)

    def set(self, partition: int, key: bytes, at: datetime) -> datetime:
        """Note that a row lives on from `at`, or from now if that is later, and return which; time comes that far."""
        timers = self._timers[partition]
        timers.advance(at)
        self._keep_from(timers.watermark, partition, key)
        return timers.watermark

    def take(self, partition: int, state: State) -> dict[bytes, bytes | None]:
        """Return the rows to delete now."""
        if partition not in self._timers:
            self._open(partition, state)
        timers, graves = self._timers[partition], self._graves[partition]
        graves.lay(key for _, key in timers.due())
        ripe = map(str.encode, graves.ripe())
        gone = [key for key in ripe if self._latest[partition, key] + self._keep <= timers.watermark]
        for key in gone:
            del self._latest[partition, key]
        return dict.fromkeys(gone)

    def forget(self) -> None:
        """The partitions are no longer ours."""
        self._timers.clear()
        self._graves.clear()
        self._latest.clear()

    def _open(self, partition: int, state: State) -> None:
        self._timers[partition] = Timers()
        for key, value in state.items(partition):
            if (at := self._read(key, value)) is not None:
                self._timers[partition].advance(at)
                self._keep_from(at, partition, key)

    def _keep_from(self, at: datetime, partition: int, key: bytes) -> None:
        self._latest[partition, key] = at
        self._timers[partition].set(key.decode(), at + self._keep)
