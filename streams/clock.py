"""Where the shell takes the time from; the core never does.

Two clocks tell it live, and either may be wrong for a while: that of this machine, and the broker's, which dates every
record that it takes. What is closed early is lost; what is closed late is not. So time passes by the slower of the two:
a clock that runs ahead closes nothing, and one that stands still, or a machine that slept, holds things up until it is
right again. How late a decision comes is told by the faster one: in doubt too late.
"""

import time
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

import structlog

from models.joining import MAX_SKEW

APART_S: Final = 60.0
"""Between the two clocks: those under NTP agree far better, and a write is acknowledged in half of it or not at all."""

SINCE_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux's `CLOCK_MONOTONIC` stands still while the machine is suspended; that of macOS, which has no other, goes on."""

log = structlog.get_logger(__name__)


def since_boot() -> float:
    """Return seconds of this machine, those too in which it was suspended: what others grant us runs out meanwhile."""
    return time.clock_gettime(SINCE_BOOT)


class Clock(Protocol):
    """What tells the time to a stage: live, or, in a replay, only the times of the events."""

    def now(self) -> datetime | None:
        """Return the wall time, or None in a replay."""

    def latest(self) -> datetime | None:
        """Return the time that it may be by now, or None in a replay: nothing is younger than by this."""

    def clamped(self, occurred_at: datetime, came_at: float = 0.0) -> datetime:
        """Return how far an event may move the watermark. `came_at`: in seconds since the epoch, if that is known."""

    def monotonic(self) -> float:
        """Return seconds of this machine awake, in a replay too: a redelivery takes its time whatever events say."""

    def observe_broker_time(self, at: float) -> None:
        """The broker took a record at `at`, seconds since the epoch by its own clock, some time ago."""

    def synchronise(self, at: float | None) -> None:
        """The broker has just taken a record of ours, at `at`; None: it dates none."""

    def wall_time_at(self, monotonic: float) -> datetime | None:
        """Return the time that it surely was at this moment of `monotonic`; None: nobody has told, or in a replay."""

    @property
    def is_synchronised(self) -> bool:
        """Whether the broker has said how late it is, or that it will not."""

    @property
    def skew_s(self) -> float:
        """Seconds by which this machine's clock is ahead of the broker's; nought if that is not known."""


class _Machine:
    monotonic = staticmethod(time.monotonic)


class WallClock:
    """The time of this machine, for what people read."""

    def now(self) -> datetime:
        """Return the time of this machine."""
        return datetime.fromtimestamp(time.time(), UTC)  # noqa: TID251 (the one place that reads the clock)


class LiveClock(WallClock, _Machine):
    """Live operation: time passes without events, and an event from the future does not move it.

    >>> clock = LiveClock()
    >>> clock.is_synchronised, clock.wall_time_at(clock.monotonic())
    (False, None)
    >>> clock.observe_broker_time(0.0)  # the broker is decades behind, or this machine ahead
    >>> clock.wall_time_at(clock.monotonic()).year
    1970
    """

    def __init__(self) -> None:
        self._broker_offset: float | None = None
        """What the broker's clock said when `monotonic` was nought, or said later: in seconds since the epoch."""
        self._synchronised = self._apart = False

    @property
    def is_synchronised(self) -> bool:
        """Whether the broker has answered a write: what it took before may be of long ago."""
        return self._synchronised

    def observe_broker_time(self, at: float) -> None:
        """What was taken longer ago says less: the latest counts, and from then on the seconds of this machine."""
        offset = at - self.monotonic()
        self._broker_offset = offset if self._broker_offset is None else max(self._broker_offset, offset)

    def synchronise(self, at: float | None) -> None:
        """Set the clock, back too, and say so once if this machine's differs."""
        self._synchronised = True
        if at is None:
            return
        self._broker_offset = at - self.monotonic()
        before, self._apart = self._apart, abs(self.skew_s) > APART_S
        if self._apart and not before:
            log.warning(
                "the clocks of this machine and of the broker differ: time passes by the slower one",
                ahead_s=round(self.skew_s),
                remedy="put the clocks right",
            )

    @property
    def skew_s(self) -> float:
        """By this machine's clock, and the broker's as its seconds carry that on."""
        if self._broker_offset is None or not self._synchronised:
            return 0.0
        return self.now().timestamp() - self.monotonic() - self._broker_offset

    def wall_time_at(self, monotonic: float) -> datetime | None:
        """By the slower clock; where the broker dates nothing, by this machine's."""
        if self._broker_offset is None and not self._synchronised:
            return None
        offset = self.now().timestamp() - self.monotonic()
        slower = min(offset, offset if self._broker_offset is None else self._broker_offset)
        return datetime.fromtimestamp(slower + monotonic, UTC)

    def clamped(self, occurred_at: datetime, came_at: float = 0.0) -> datetime:
        """An event dated more than `MAX_SKEW` after it came is taken as dated then, also when it is read days later.

        Of what came at a time that is not known, or that its producer set, the faster clock says whether it is dated
        ahead: a clock that is behind would have what stands forgotten.
        """
        known = datetime.fromtimestamp(came_at, UTC) if came_at > 0.0 else occurred_at
        clamped = min(occurred_at, known + MAX_SKEW)
        return clamped if clamped <= self.now() else min(clamped, self.latest() + MAX_SKEW)

    def latest(self) -> datetime:
        """By the faster clock."""
        now, offset = self.now(), self._broker_offset
        return now if offset is None else max(now, datetime.fromtimestamp(offset + self.monotonic(), UTC))


class EventClock(_Machine):
    """Replay: time is what the events say, so that a replay gives the same bytes at any speed."""

    is_synchronised = True
    skew_s = 0.0

    def now(self) -> None:
        """No wall time."""

    def latest(self) -> None:
        """No wall time."""

    def clamped(self, occurred_at: datetime, _: float = 0.0) -> datetime:
        """Every event may move the watermark."""
        return occurred_at

    def observe_broker_time(self, _: float) -> None:
        """The broker tells no time."""

    def synchronise(self, _: float | None) -> None:
        """The broker tells no time."""

    def wall_time_at(self, _: float) -> None:
        """No time but that of the events."""


def clock_for(source: Literal["wall", "event"]) -> Clock:
    """Return the clock that a setting names."""
    return LiveClock() if source == "wall" else EventClock()
