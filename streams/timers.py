"""When rows of a partition are due, in event time, how far event time has come, and when rows that are over may go."""

import heapq
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Final

from streams.clock import Clock

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
GRACE_S: Final = 300.0
"""After a crash, what led to a row comes again: from here, or once more from the stage before. That takes seconds."""


class Timers:
    """A heap of (due, key). Entries may be outdated: whoever takes one asks the row itself."""

    def __init__(self, watermark: datetime = EPOCH) -> None:
        self.watermark = watermark
        self._heap: list[tuple[datetime, str]] = []

    def set(self, key: str, due: datetime | None) -> None:
        """Wake `key` when the watermark reaches `due`."""
        if due is not None:
            heapq.heappush(self._heap, (due, key))

    def advance(self, to: datetime) -> None:
        """Move the watermark; it never goes back."""
        self.watermark = max(self.watermark, to)

    @property
    def has_due(self) -> bool:
        """Whether an entry is due."""
        return bool(self._heap) and self._heap[0][0] <= self.watermark

    def due(self) -> Iterator[tuple[datetime, str]]:
        """Take every entry that is due, in order; what is set meanwhile takes its place among them."""
        while self.has_due:
            yield heapq.heappop(self._heap)


class DeletionQueue:
    """Rows that are over but stay for a while, so that what led to them is known when it comes again.

    By the clock of the machine: event time may run through a week while a worker restarts.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def add(self, keys: Iterable[str]) -> None:
        """Note that these rows are over since now."""
        now = self._clock.monotonic()
        for key in keys:
            self._since.pop(key, None)
            self._since[key] = now

    def take_expired(self, most: int) -> list[str]:
        """Take rows that have been over for `GRACE_S`. Whoever deletes them looks whether they still are."""
        until = self._clock.monotonic() - GRACE_S
        found = list(takewhile(lambda key: self._since[key] <= until, islice(self._since, most)))
        for key in found:
            del self._since[key]
        return found
