"""What the calibrator changed, and why: the versions worth a person's eye, and the cuts hour by hour.

Most versions fold in one label and move the cuts a hair. Shown are those with another cause than labels (a jump, a
rollback), the first one with a cut (the warm-up is over), and those a large way from the last one shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from models.events import Calibration

Cuts = dict[str, dict[str, float | None]]
"""Per group and tier: the raw score above which the tier ends."""
ROUTINE: Final = "labels"
LARGE: Final = 0.5
"""Log-odds of the raw score: about a factor of 1.6 in the odds."""
MAX_SHOWN: Final = 1_000
"""A calibrator that jumps more often than this is broken; the count still says how often."""


class Move(NamedTuple):
    """One cut before and after a change."""

    group: str
    tier: str
    before: float | None
    after: float | None

    @property
    def size(self) -> float:
        """Log-odds moved; 0 where either side has no cut."""
        return 0.0 if self.before is None or self.after is None else abs(self.after - self.before)


class Change(NamedTuple):
    """One version worth showing. `moves` are against the version before it, largest first."""

    deployment: str
    version: int
    cause: str
    labels: int
    as_of: datetime
    moves: tuple[Move, ...]


@dataclass(slots=True)
class _Last:
    version: int = -1
    cuts: Cuts = field(default_factory=dict)
    shown: Cuts = field(default_factory=dict)
    hours: dict[int, Cuts] = field(default_factory=dict)


class Changes:
    """The change log over all deployments. A deployment's versions come in order; repeats are passed over."""

    def __init__(self) -> None:
        self.shown: list[Change] = []
        self.versions = 0
        self.jumps = 0
        self._last: dict[str, _Last] = {}

    def observe(self, calibration: Calibration) -> None:
        """Take in one version."""
        last = self._last.setdefault(calibration.deployment, _Last())
        if calibration.version <= last.version:
            return
        self.versions += 1
        self._note(calibration, last)
        last.version, last.cuts = calibration.version, calibration.cuts
        last.hours[int(calibration.as_of.timestamp() // 3600)] = calibration.cuts

    def cuts(self, deployment: str) -> Cuts:
        """Return the cuts in force."""
        return self._last[deployment].cuts if deployment in self._last else {}

    def trail(self, deployment: str) -> dict[int, Cuts]:
        """Return the cuts at the end of each hour (hours since the epoch) in which they changed."""
        return dict(sorted(self._last[deployment].hours.items())) if deployment in self._last else {}

    @property
    def deployments(self) -> list[str]:
        """Every deployment that has a calibration."""
        return sorted(self._last)

    def _note(self, new: Calibration, last: _Last) -> None:
        routine = new.cause == ROUTINE
        self.jumps += "jump" in new.cause
        against = last.shown if routine else last.cuts
        moves = sorted(_moves(against, new.cuts), key=lambda m: -m.size)
        if routine and not any(m.size >= LARGE or _opened(m) for m in moves):
            return
        last.shown = new.cuts
        if len(self.shown) < MAX_SHOWN:
            cause = _why(new.cause, moves)
            self.shown.append(Change(new.deployment, new.version, cause, new.labels, new.as_of, tuple(moves)))


def _moves(before: Cuts, after: Cuts) -> Iterator[Move]:
    for group, tiers in after.items():
        for tier, cut in tiers.items():
            old = before.get(group, {}).get(tier)
            if old != cut:
                yield Move(group, tier, old, cut)


def _opened(move: Move) -> bool:
    return move.before is None and move.after is not None


def _why(cause: str, moves: list[Move]) -> str:
    if cause != ROUTINE:
        return cause
    return "warm-up over" if any(map(_opened, moves)) else "labels, a large move in small steps"
