"""Which events a report is about: the responses of a period, and whatever became of them.

A response belongs to the period in which it occurred, and its verdicts and its end count with it, whenever they came:
so each counts in one report, and a rate is of the responses shown. What is of no response counts when it happened:
alarms, changes of a calibrator, feedback that found no response (by its end), and, by the broker's clock, dead letters.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

from models.accounts.lives import Lives
from models.events import Alarm, Calibration, Change, Closure, DeadLetter, Decision, Event, Instruction, Label, Outcome

_TIMES: Final[dict[type[Event], Callable[[Any], datetime]]] = {
    **dict.fromkeys((Decision, Outcome, Instruction), attrgetter("occurred_at")),
    Label: attrgetter("decision.occurred_at"),
    Closure: attrgetter("closed_at"),
    Calibration: attrgetter("as_of"),
    Change: attrgetter("after.as_of"),
    Alarm: attrgetter("raised_at"),
}


class Selection(NamedTuple):
    """From `since` up to, not including, `until`, in one deployment; None: no bound, every deployment."""

    since: datetime | None = None
    until: datetime | None = None
    deployment: str | None = None

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
                return mine and self.within(when(event, at_ms))

    def within(self, at: datetime) -> bool:
        """Whether a moment lies in the period.

        >>> at = datetime(2026, 1, 5, tzinfo=UTC)
        >>> Selection().within(at), Selection(since=at).within(at), Selection(until=at).within(at)
        (True, True, False)
        """
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


def when(event: Event, at_ms: int) -> datetime:
    """Return when an event counts, a label when its response occurred; `at_ms`: the broker's time, for what says none.

    >>> when(Closure(closure_id="c", reason="orphan", response_id="r", closed_at=datetime(2026, 1, 5, tzinfo=UTC)), 0)
    datetime.datetime(2026, 1, 5, 0, 0, tzinfo=datetime.timezone.utc)
    """
    said = _TIMES.get(type(event))
    return said(event) if said else datetime.fromtimestamp(at_ms / 1000, UTC)
