"""What the calibrator changed, and why: the versions worth a person's eye, and the cuts hour by hour.

Most versions fold in a few labels and move the cuts a hair. Shown are those with another cause than labels (a jump, a
quarantine, another model), the one that ends the warm-up, and then those that move a cut far: at once, or little by
little since the last one shown.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from models.calibration.ledger import LINEAGE, lineage
from models.events import Alarm, Calibration, Standing
from models.events import Change as Entry

Version = Calibration | Standing
Cuts = dict[str, dict[str, float | None]]
"""Per scope and level (`green`, `red`): the raw logit below which that level is kept; None: none is low enough."""
ROUTINE: Final = "labels"
FAR: Final = 0.5
"""Log-odds of the raw score: a factor of 1.6 in the odds. Every detected jump moves its block further than that."""
BATCH: Final = "a batch of labels"
DAYS: Final = "the labels of a day"
"""The log of changes has an entry a day for what labels did little by little."""
CREPT: Final = "labels, little by little"
WARM: Final = "warm-up over"
MAX_SHOWN: Final = 1_000
"""A calibrator that changes more often than this is broken; `versions` still counts them all."""


class Move(NamedTuple):
    """One cut before and after a change."""

    scope: str
    level: str
    before: float | None
    after: float | None

    @property
    def size(self) -> float:
        """Log-odds moved; as good as `FAR` where a cut opened or closed."""
        return FAR if self.before is None or self.after is None else abs(self.after - self.before)


class Change(NamedTuple):
    """One version worth showing, with its moves, largest first, against the version before it, or, when it crept
    there, against the one shown before it.
    """

    deployment: str
    version: int
    cause: str
    labels: int
    at: datetime
    moves: tuple[Move, ...]


@dataclass(slots=True)
class _Progress:
    """A deployment's progress so far. A first version is the start, not a change."""

    version: int = -1
    warm: bool = False
    cuts: Cuts = field(default_factory=dict)
    shown: Cuts = field(default_factory=dict)
    hours: dict[int, Cuts] = field(default_factory=dict)


class Changes:
    """The change log over all deployments. A deployment's versions come in order; repeats are passed over."""

    def __init__(self) -> None:
        self.shown: list[Change] = []
        self.versions = 0
        """Versions published, a batch of labels as one; from the log of changes, those that were gone through."""
        self._progress: dict[str, _Progress] = {}

    def observe(self, event: Calibration | Entry) -> None:
        """Take in one version, or one entry of a calibrator's log."""
        new = event if isinstance(event, Calibration) else event.after
        progress = self._progress_of(event, new)
        if new.version <= progress.version:
            return
        counted = new.version - max(0, progress.version, lineage(new.version) * LINEAGE)
        self.versions += 1 if isinstance(event, Calibration) else counted
        if (found := _noteworthy(event, new, progress)) and len(self.shown) < MAX_SHOWN:
            self.shown.append(found)
            progress.shown = new.cuts
        progress.version, progress.cuts, progress.warm = new.version, new.cuts, progress.warm or not new.missing_labels
        if progress.warm:
            progress.hours[int(new.as_of.timestamp() // 3600)] = new.cuts

    def _progress_of(self, event: Calibration | Entry, new: Version) -> "_Progress":
        """An entry of a log says what was before it; of a calibration, which does not, the first is the start."""
        before = None if isinstance(event, Calibration) else event.before
        start = _Progress(cuts=new.cuts, shown=new.cuts)
        if before is not None:
            start = _Progress(before.version, not before.missing_labels, before.cuts, before.cuts)
        return self._progress.setdefault(event.deployment, start)

    def cuts(self, deployment: str) -> Cuts:
        """Return the cuts in force."""
        return self._progress[deployment].cuts if deployment in self._progress else {}

    def trail(self, deployment: str) -> dict[int, Cuts]:
        """Return the cuts at the end of each hour (hours since the epoch) with a version, from the warm-up's end on:
        before, nothing is green whatever its score.
        """
        return dict(sorted(self._progress[deployment].hours.items())) if deployment in self._progress else {}

    @property
    def deployments(self) -> list[str]:
        """Every deployment that has a calibration."""
        return sorted(self._progress)


def explained(changes: Iterable[Change], alarms: Iterable[Alarm]) -> list[Change]:
    """Return changes with the alarms that explain them: a batch of labels names only what its last label did.

    An alarm explains the first far move of its scope that is known by then; each explains one change.
    """
    pool = sorted((a for a in alarms if a.kind == "jump"), key=lambda a: (a.raised_at, a.alarm_id))
    found = []
    for change in changes:
        moved = {m.scope for m in change.moves if m.size >= FAR}
        mine = [a for a in pool if a.deployment == change.deployment and a.scope in moved and a.raised_at <= change.at]
        pool = [a for a in pool if a not in mine]
        named = ", ".join(f"jump: {a.scope}" for a in mine)
        found.append(change._replace(cause=named) if named and change.cause in {BATCH, CREPT} else change)
    return found


def _noteworthy(event: Calibration | Entry, new: Version, progress: _Progress) -> Change | None:
    at_once, in_all = _moves(progress.cuts, new.cuts), _moves(progress.shown, new.cuts)

    def change(cause: str, moves: list[Move]) -> Change:
        at = new.as_of if isinstance(event, Calibration) else event.at
        return Change(event.deployment, new.version, cause, new.labels, at, tuple(moves))

    if event.cause != ROUTINE and progress.version >= 0:
        return change(event.cause, at_once)
    if not new.missing_labels and not progress.warm:
        return change(WARM if isinstance(event, Calibration) else f"{WARM} by then", in_all)
    if progress.warm and _farthest(at_once) >= FAR:
        return change(BATCH if isinstance(event, Calibration) else DAYS, at_once)
    return change(CREPT, in_all) if progress.warm and _farthest(in_all) >= FAR else None


def _moves(before: Cuts, after: Cuts) -> list[Move]:
    """What moved, largest first. A scope seen for the first time has not moved."""
    return sorted(_differences(before, after), key=lambda m: (-m.size, m.scope, m.level))


def _differences(before: Cuts, after: Cuts) -> Iterator[Move]:
    for scope in before.keys() & after.keys():
        for level, cut in after[scope].items():
            old = before[scope].get(level)
            if old != cut:
                yield Move(scope, level, old, cut)


def _farthest(moves: list[Move]) -> float:
    return moves[0].size if moves else 0.0
