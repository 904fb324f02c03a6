"""When rows of a partition are due, in event time, and how far event time has come."""

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Timers:
    """A heap of (due, key). Entries may be outdated: whoever takes one asks the row itself."""

    def __init__(self, watermark: datetime = EPOCH) -> None:
        self.watermark = watermark
        self._heap: list[tuple[datetime, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, key: str, due: datetime | None) -> None:
        """Wake `key` when the watermark reaches `due`."""
        if due is not None:
            heapq.heappush(self._heap, (due, key))

    def advance(self, to: datetime) -> None:
        """Move the watermark; it never goes back."""
        self.watermark = max(self.watermark, to)

    def due(self) -> Iterator[tuple[datetime, str]]:
        """Take every entry that is due, in order; what is set meanwhile takes its place among them."""
        while self._heap and self._heap[0][0] <= self.watermark:
            yield heapq.heappop(self._heap)
