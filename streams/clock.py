"""Where the shell takes the time from; the core never does."""

import time
from datetime import UTC, datetime
from typing import Literal, Protocol

from models.joining import MAX_SKEW


class Clock(Protocol):
    """Wall time, or, in a replay, only the times of the events."""

    def now(self) -> datetime | None:
        """Return the wall time, or None in a replay."""

    def bounded(self, occurred_at: datetime, came_at: float = 0.0) -> datetime:
        """Return how far an event may move the watermark. `came_at`: in seconds since the epoch, if that is known."""

    def passed(self) -> float:
        """Return seconds of this machine, in a replay too: a redelivery takes its time whatever the events say."""


class _Machine:
    passed = staticmethod(time.monotonic)


class WallClock(_Machine):
    """Live operation: time passes without events, and an event from the future does not move it."""

    def now(self) -> datetime:
        """Return the time of this machine."""
        return datetime.fromtimestamp(time.time(), UTC)  # noqa: TID251 (the one place that reads the clock)

    def bounded(self, occurred_at: datetime, came_at: float = 0.0) -> datetime:
        """An event dated more than `MAX_SKEW` after it came is taken as dated then, also when it is read days later."""
        known = datetime.fromtimestamp(came_at, UTC) if came_at > 0.0 else occurred_at
        return min(occurred_at, known + MAX_SKEW, self.now() + MAX_SKEW)


class EventClock(_Machine):
    """Replay: time is what the events say, so that a replay gives the same bytes at any speed."""

    def now(self) -> None:
        """No wall time."""

    def bounded(self, occurred_at: datetime, _: float = 0.0) -> datetime:
        """Every event may move the watermark."""
        return occurred_at


def clock_for(source: Literal["wall", "event"]) -> Clock:
    """Return the clock that a setting names."""
    return WallClock() if source == "wall" else EventClock()
