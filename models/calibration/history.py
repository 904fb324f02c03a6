"""A deployment's log, replayed: any version again, the running state again, and the log as finally corrected.

A version is the fold of what came before it, so it can be had again for as long as its labels are kept. When the log's
beginning has expired, replays start from an entry of the calibrator's own log (`Change.state`): of the same lineage,
where LEARN has begun anew meanwhile (see `ledger`). Entries whose state another version of demur wrote are passed over.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from msgspec.structs import replace

from models.calibration.control import revise
from models.calibration.learning import Entry, Learning, identity
from models.calibration.ledger import LINEAGE, Ledger, lineage
from models.errors import EventError, StateError
from models.events import Change, Instruction, Label
from models.policy import Policy


class Revised(NamedTuple):
    """The fold of a log as finally revised; how many revisions that honours; up to which entry of the log."""

    learning: Learning
    revisions: int
    last: str


class History:
    """Labels and instructions of one deployment in the order of their log, each once; `whole`: none has expired."""

    def __init__(
        self,
        deployment: str,
        policy: Policy,
        log: Iterable[Entry],
        changes: Iterable[Change] = (),
        *,
        whole: bool = True,
    ) -> None:
        self._deployment = deployment
        self._policy = policy
        self._whole = whole
        events: dict[str, Entry] = {}
        for event in log:
            events.setdefault(identity(event), event)
        self._log = list(events.values())
        self._places = {id_: place for place, id_ in enumerate(events)}
        self.changes = sorted({change.after.version: change for change in changes}.values(), key=_version)
        self._told = {change.last: change for change in self.changes}
        self.passed_over: set[int] = set()
        """Versions of the entries that a replay could have started from, had this version been able to read them."""

    @cached_property
    def _begun(self) -> Policy:
        """The policy as LEARN went by it when the log began, as far as its entries can be read."""
        for change in self.changes:
            if change.state is not None:
                with suppress(StateError):
                    return self._restore(change).ledger.policy
        return self._policy

    def at(self, version: int) -> Learning:
        """Return the calibrator as it stood at `version`, or at the next that an event ended with.

        Raises `StateError` if it is not reached, or no longer.
        """
        learning, place = self._nearest(version)
        for event in self._log[place:]:
            if learning.ledger.version >= version:
                break
            self._fold(learning, event)
        if not version <= learning.ledger.version < (lineage(version) + 1) * LINEAGE:
            raise StateError(f"there is no version {version}; the newest is {learning.ledger.version}")
        return learning

    def after(self, last: str) -> Learning:
        """Return the fold of the log from as far back as it goes, up to the event of id `last`.

        Raises `StateError` if that event, or everything to start from, has expired.
        """
        if last not in self._places:
            raise StateError(f"the log does not hold {last}, after which the state stood: it has expired")
        learning, place = self._farthest()
        for event in self._log[place : self._places[last] + 1]:
            self._fold(learning, event)
        return learning

    def corrected(self) -> "Revised":
        """Return the fold of the log as finally revised.

        By the policy as it stands now: so a calibrator comes to be learnt for what a policy has been changed to. What
        rollbacks dismissed stays dismissed. Raises `StateError` if the log is no longer whole: a label cannot be
        subtracted; but where nothing learnt holds any more, what is left of the log is a beginning.
        """
        if not self._whole and self._policy.basis == self._begun.basis:
            raise StateError("the beginning of the label log has expired: corrections can no longer be folded in")
        standing, last = self._standing()
        learning = Learning(Ledger(self._deployment, self._policy))
        for event in revise(standing):
            fold(learning, uncited(event))
        revisions = sum(isinstance(event, Label) and event.kind != "verdict" for event in standing)
        return Revised(learning, revisions, last)

    def follow(self, then: "Revised", log: Iterable[Entry], refused: Container[str] = ()) -> "Revised":
        """Return a corrected fold continued by what came since; `refused`: ids of instructions that were set aside.

        Raises `StateError` if anything but verdicts came: then the whole log must be folded anew.
        """
        last = then.last
        for event in log:
            if (id_ := identity(event)) in self._places or id_ in refused:
                continue
            if isinstance(event, Instruction) or event.kind != "verdict":
                raise StateError("meanwhile something was ordered, corrected or revoked: order this anew")
            self._places[id_] = len(self._log)
            self._log.append(event)
            fold(then.learning, uncited(event))
            last = id_
        return then._replace(last=last)

    def _standing(self) -> tuple[list[Entry], str]:
        """Return the log without the verdicts that a rollback dismissed, and without what set a state as a whole; and
        the id of the last of it all that LEARN followed.
        """
        learning, place = self._farthest()
        line: list[Entry] = [event for event in self._log[:place] if isinstance(event, Label)]
        lines, marks = [line], {learning.ledger.version: (0, len(line))}
        for event in self._log[place:]:
            before = learning.ledger.version
            self._fold(learning, event)
            if isinstance(event, Instruction) and learning.ledger.version > before:
                if event.order == "rollback":
                    which, length = marks.get(event.version, (0, 0))
                    line = back(lines[which][:length], line)
                    lines.append(line)
                elif event.order == "release":
                    line.append(event)
            elif isinstance(event, Label):
                line.append(event)
            marks[learning.ledger.version] = len(lines) - 1, len(line)
        return line, learning.last

    def _fold(self, learning: Learning, event: Entry) -> None:
        """Fold one event by the policy under which LEARN did: an entry says so where it was another than before."""
        if (entry := self._told.get(identity(event))) is not None:
            learning.set_policy(learning.ledger.policy.with_learning(entry.after.policy))
        fold(learning, event)

    def _empty(self) -> Learning:
        return Learning(Ledger(self._deployment, self._begun))

    def _nearest(self, version: int) -> tuple[Learning, int]:
        """Return where to start for `version`: the fold, and the place of the event it takes next."""
        known = [change for change in self._starts(lineage(version)) if change.after.version <= version]
        if found := self._resumed(reversed(known)):
            return found
        if self._whole:
            return self._empty(), 0
        raise self._lost(f"version {version} can no longer be had: the labels that led to it have expired")

    def _farthest(self) -> tuple[Learning, int]:
        if self._whole:
            return self._empty(), 0
        if found := self._resumed(self._starts(lineage(self.changes[-1].after.version) if self.changes else 0)):
            return found
        raise self._lost("the beginning of the label log has expired, and no entry to start from is kept")

    def _lost(self, why: str) -> StateError:
        more = f"; {len(self.passed_over)} entries were written by another version of demur: run that one"
        return StateError(why + more * bool(self.passed_over))

    def _starts(self, line: int) -> Iterator[Change]:
        known = (change for change in self.changes if change.state is not None and change.last in self._places)
        return (change for change in known if lineage(change.after.version) == line)

    def _resumed(self, starts: Iterable[Change]) -> tuple[Learning, int] | None:
        """Return the fold at the first of these that can be read, and the place of the event it takes next."""
        for change in starts:
            try:
                return self._restore(change), self._places[change.last] + 1
            except StateError:
                self.passed_over.add(change.after.version)
        return None

    def _restore(self, change: Change) -> Learning:
        return Learning.restore(change.state, self._policy.with_learning(change.after.policy))


def back(kept: list[Entry], dismissed: list[Entry]) -> list[Entry]:
    """Return `kept` with the revisions that came since: they may concern labels that stand."""
    known = {identity(event) for event in kept}
    revisions = [event for event in dismissed if isinstance(event, Label) and event.kind != "verdict"]
    return kept + [event for event in revisions if identity(event) not in known]


def uncited(event: Entry) -> Entry:
    """Return an event whose decision cites no version: those of a corrected log were never published."""
    if isinstance(event, Instruction):
        return event
    return replace(event, decision=replace(event.decision, calibrator_version=0))


def fold(learning: Learning, event: Entry) -> None:
    """Fold one event as LEARN does, which sets aside what cannot be followed."""
    with suppress(EventError):
        for _ in learning.apply(event):
            pass


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Return where two JSON values differ, by path; empty: they are equal bit for bit. A tuple is a list there.

    >>> differences({"a": [1, 2.0], "b": 1}, {"a": [1, 2.5], "c": 1})
    ['a.1: 2.0, 2.5', 'b: 1, absent', 'c: absent, 1']
    """
    match first, second:
        case dict(), dict():
            names = sorted(first | second)
            pairs = [(name, first.get(name, ABSENT), second.get(name, ABSENT)) for name in names]
        case list() | tuple(), list() | tuple() if len(first) == len(second):
            pairs = [(str(n), one, other) for n, (one, other) in enumerate(zip(first, second, strict=True))]
        case _:
            return [] if repr(first) == repr(second) else [f"{where}: {first}, {second}"]
    return [line for name, one, other in pairs for line in differences(one, other, f"{where}.{name}".lstrip("."))]


def gaps(changes: Sequence[Change]) -> list[int]:
    """Return the versions after which an entry is missing: each names the one before it."""
    return [one.after.version for one, next_ in pairwise(changes) if next_.before != one.after]


def _version(change: Change) -> int:
    return change.after.version


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()
