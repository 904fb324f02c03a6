"""Which events a report is about: the responses of a period, and whatever became of them.

A response belongs to the period in which it occurred, and its verdicts and its end count with it, whenever they came:
so each counts in one report, and a rate is of the responses shown. What is of no response counts when it happened:
alarms, changes of a calibrator, feedback that found no response (by its end), and, by the broker's clock, dead letters.

What is dated after it came is taken as dated then, as by the clocks of the stages: so no record that came before a
period belongs to it, and none of them need be read. In a replay the two times have nothing to do with each other.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final, NamedTuple

from models.accounts.lives import Lives
from models.events import (
    LAST_S,
    Alarm,
    Calibration,
    Change,
    Closure,
    DeadLetter,
    Decision,
    Event,
    Instruction,
    Label,
    Outcome,
)
from models.joining import MAX_SKEW

APART: Final = timedelta(hours=1)
"""By which brokers' clocks may differ: what becomes of a response comes after its decision, but to another broker."""

_TIMES: Final[dict[type[Event], Callable[[Any], datetime]]] = {
    **dict.fromkeys((Decision, Outcome, Instruction), attrgetter("occurred_at")),
    Label: attrgetter("decision.occurred_at"),
    Closure: attrgetter("closed_at"),
    Calibration: attrgetter("as_of"),
    Change: attrgetter("at"),
    Alarm: attrgetter("raised_at"),
}


class Selection(NamedTuple):
    """From `since` up to, not including, `until`, in one deployment; None: no bound, every deployment.

    `replayed`: events may be dated in any way, also long after they came.
    """

    since: datetime | None = None
    until: datetime | None = None
    deployment: str | None = None
    replayed: bool = False

    @property
    def first_ms(self) -> int | None:
        """Before which no record need be read: the broker's time, milliseconds since the epoch. None: read all.

        >>> Selection(since=datetime(2026, 1, 5, tzinfo=UTC)).first_ms, Selection().first_ms
        (1767567300000, None)
        """
        if self.since is None or self.replayed:
            return None
        return max(0, int((self.since - MAX_SKEW - APART).timestamp() * 1000))

    def holds(self, event: Event, at_ms: int, lives: Lives) -> bool:
        """Whether an event is to be counted; `lives`: of all selected decisions, which come first."""
        match event:
            case Label():
                return event.response_id in lives
            case Closure() if event.reason != "orphan":
                return event.response_id in lives
            case DeadLetter() if self.deployment is not None:
                return event.response_id in lives
            case _:
                mine = self.deployment is None or getattr(event, "deployment", None) == self.deployment
                return mine and self.within(self.when(event, at_ms))

    def within(self, at: datetime) -> bool:
        """Whether a moment lies in the period.

        >>> at = datetime(2026, 1, 5, tzinfo=UTC)
        >>> Selection().within(at), Selection(since=at).within(at), Selection(until=at).within(at)
        (True, True, False)
        """
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)

    def when(self, event: Event, at_ms: int) -> datetime:
        """Return when an event counts, a label when its response occurred; `at_ms`: when it came, by the broker.

        >>> at = datetime(2026, 1, 5, tzinfo=UTC)
        >>> event = Closure(closure_id="c", reason="orphan", response_id="r", closed_at=at)
        >>> [str(one.when(event, 1_767_500_000_000)) for one in (Selection(), Selection(replayed=True))]
        ['2026-01-04 04:18:20+00:00', '2026-01-05 00:00:00+00:00']
        """
        came, said = moment(at_ms), _TIMES.get(type(event))
        if said is None:
            return came
        return said(event) if self.replayed else min(said(event), came + MAX_SKEW)


def moment(at_ms: int) -> datetime:
    """Return the time that a broker gave, in milliseconds since the epoch; a producer's own may be any number."""
    return datetime.fromtimestamp(min(max(at_ms / 1000, 0.0), LAST_S), UTC)
