"""What green really delivers: its realised rejection rate by scope, beside its confidence sequence.

A scope is `all`, `audit`, or one group value such as `category=dosing`. Two questions, two answers:

- *How often were greens rejected so far?* The running rate with its anytime-valid interval (see `confidence`). A
  `breach` is raised, once, when green's lower bound passes the green cut. While the average rate is at most the cut
  this ever happens with probability `ALPHA` / 2 per scope.
- *Are they rejected too often now?* A CUSUM of bets against "the rate is at most the cut",
  M <- max(1, M) (1 + b (x - cut)) for a few stakes b. An `excess` is raised when it passes `EVIDENCE`; while the claim
  holds that takes at least `EVIDENCE` greens on average. It names the time since when M has grown.

A label counts with its weight, so a response counts once however many judge it before it is settled: its evidence is
raised to the power of the weight, and by Hoelder's inequality the mean of a product of such powers is no larger than
that of one verdict alone, even if all verdicts on a response agree. It may count for less (see `ledger`), if how much
does not depend on what the verdict is. Who judges after that, as the n-th, counts 1/n on top, for a late rejection must
not be lost; if on every response two more do so and agree, a rate at the cut was called a `breach` in 9 % of 400 runs
of 1,500 responses instead of 1 %.

A green that was given under a higher cut than is promised now is not counted: of it this was not promised.

Only labelled responses count, so `all` is the rate among those who answered; `audit`, whose verdicts are forced, is
free of that selection. Nothing here claims "at most 5 % in every window".

Reference for the CUSUM: Shin, Ramdas, Rinaldo, *E-detectors*, 2022.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from math import inf, log
from typing import Any, Final, Literal

import msgspec

from models.errors import StateError
from models.events import Alarm, Label, Target, digest
from models.labels import is_evidence, rejects
from models.monitors.confidence import excess, most

ALPHA: Final = 0.05
EVIDENCE: Final = 1000.0
PASSED: Final = log(2.0 / ALPHA)
"""Log evidence at which green's lower bound has passed the cut."""

STAKES: Final = (0.01, 0.03, 0.1)
"""Shares of the largest possible stake, 1 / cut, that each CUSUM bets: best against rates of .06, .08 and .15 when the
cut is .05. Far below 1, so that a few acceptances do not bankrupt one."""

MAX_SCOPES: Final = 1000
"""Scopes that are counted; beyond, the one with the fewest labels makes room."""


class Cell(msgspec.Struct):
    """One scope: counts, one CUSUM per stake, and when each last restarted (seconds since the epoch)."""

    labelled: float = 0.0
    rejected: float = 0.0
    grown: list[float] = msgspec.field(default_factory=lambda: [1.0] * len(STAKES))
    since: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(STAKES))
    breached: bool = False


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A promise not kept. `statistic`: realised rate (breach) or evidence (excess), against its `threshold`."""

    kind: Literal["breach", "excess"]
    scope: str
    statistic: float
    threshold: float
    labelled: float
    rejected: float
    since: float


class Guarantee:
    """Realised rejection of one deployment. Mutable, with `snapshot` and `restore`, like the ledger beside it.

    >>> monitor = Guarantee(cut=0.05)
    >>> found = []
    >>> for i in range(100):
    ...     found += monitor.count(["all", "site=north"], rejected=i % 6 == 0, at=float(i))
    >>> [(finding.kind, finding.scope, finding.labelled) for finding in found]
    [('breach', 'all', 55.0), ('breach', 'site=north', 55.0), ('excess', 'all', 79.0), ('excess', 'site=north', 79.0)]
    """

    __slots__ = ("_cells", "_since", "cut")

    def __init__(self, cut: float) -> None:
        self.cut = cut
        self._cells: dict[str, Cell] = {}
        self._since: dict[str, float] = {}

    def observe(self, label: Label, target: Target = "any", only: Iterable[str] | None = None) -> tuple[Finding, ...]:
        """Count a green's label under `all`, `audit` if its verdict was forced, and each of its groups; or `only` under
        these.

        Corrections, revocations and labels without weight are not counted, as in the ledger.
        """
        scored = label.decision
        if not is_evidence(label) or scored.tier != "green" or (scored.upper or 0.0) >= self.cut:
            return ()
        scopes = ["all", *(["audit"] if scored.audit else []), *("=".join(item) for item in scored.groups.items())]
        counted, at = scopes if only is None else only, scored.occurred_at.timestamp()
        return self.count(counted, rejected=rejects(label, target), at=at, weight=label.weight)

    def count(self, scopes: Iterable[str], *, rejected: bool, at: float, weight: float = 1.0) -> tuple[Finding, ...]:
        """Count one verdict on a green given at `at`. Returns what it revealed."""
        found: list[Finding] = []
        since, general = self._since, self._since.get("all", -inf)
        for scope in scopes:
            if at < general or at < since.get(scope, -inf):
                continue
            cell = self._cell(scope)
            cell.labelled += weight
            cell.rejected += weight * rejected
            self._bet(cell, at, weight, rejected=rejected)
            found += self._findings(scope, cell, at)
        return tuple(found)

    def forget(self, scope: str, at: float) -> None:
        """Begin a scope (`all`: every one) anew: what is green changed at `at`, earlier responses say nothing of it."""
        if scope == "all":
            self._cells.clear()
        else:
            self._cells.pop(scope, None)
        known = self._since
        kept = {name: since for name, since in known.items() if since > at} if scope == "all" else known
        self._since = {**kept, scope: max(at, known.get(scope, -inf))}  # a clock behind must not bring them back

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state as versioned JSON types."""
        cells = msgspec.to_builtins(self._cells)
        return {"schema": 3, "cut": self.cut, "cells": cells, "since": dict(self._since)}

    @classmethod
    def restore(cls, snapshot: object, cut: float) -> "Guarantee":
        """Continue from `snapshot`, bit for bit. Raises `StateError` if it is damaged or of another version.

        Counts that answer to another `cut` than is promised now are not taken over.
        """
        try:
            saved = msgspec.convert(snapshot, _Snapshot)
        except msgspec.ValidationError as error:
            raise StateError(f"guarantee monitor: snapshot is damaged or of another version: {error}") from None
        self = cls(cut)
        if cut == saved.cut:
            self._cells, self._since = saved.cells, saved.since
        return self

    def _cell(self, scope: str) -> Cell:
        cells = self._cells
        if (cell := cells.get(scope)) is None:
            if len(cells) >= MAX_SCOPES:
                del cells[min(cells, key=lambda other: cells[other].labelled)]
            cell = cells[scope] = Cell()
        return cell

    def _bet(self, cell: Cell, at: float, weight: float, *, rejected: bool) -> None:
        grown, since, odds = cell.grown, cell.since, (1.0 - self.cut) / self.cut if rejected else -1.0
        for j, stake in enumerate(STAKES):
            if grown[j] <= 1.0:
                grown[j], since[j] = 1.0, at
            grown[j] *= (1.0 + stake * odds) ** weight

    def _findings(self, scope: str, cell: Cell, at: float) -> Iterator[Finding]:
        labelled, rejected, evidence = cell.labelled, cell.rejected, sum(cell.grown) / len(STAKES)
        if evidence >= EVIDENCE:
            since = cell.since[cell.grown.index(max(cell.grown))]
            cell.grown = [1.0] * len(STAKES)
            yield self._finding("excess", scope, evidence, EVIDENCE, cell, since)
        if not cell.breached and rejected > self.cut * labelled and self._passed(labelled, rejected):
            cell.breached = True
            yield self._finding("breach", scope, rejected / labelled, self.cut, cell, at)

    def _passed(self, labelled: float, rejected: float) -> bool:
        return most(labelled, rejected, self.cut) >= PASSED and excess(labelled, rejected, self.cut) >= PASSED

    @staticmethod
    def _finding(  # noqa: PLR0913, PLR0917  # a finding's facts
        kind: Literal["breach", "excess"], scope: str, statistic: float, threshold: float, cell: Cell, since: float
    ) -> Finding:
        return Finding(
            kind=kind,
            scope=scope,
            statistic=statistic,
            threshold=threshold,
            labelled=cell.labelled,
            rejected=cell.rejected,
            since=since,
        )


def alarm(finding: Finding, label: Label) -> Alarm:
    """Put a finding on the wire. The id derives from label and scope, so that a replay repeats it byte for byte."""
    return Alarm(
        alarm_id=digest(f"{label.label_id}|{finding.kind}|{finding.scope}".encode())[:32],
        kind=finding.kind,
        deployment=label.deployment,
        scope=finding.scope,
        statistic=finding.statistic,
        threshold=finding.threshold,
        evidence={"labelled": finding.labelled, "rejected": finding.rejected, "label": label.label_id},
        since=datetime.fromtimestamp(finding.since, tz=UTC),
        raised_at=label.occurred_at,
    )


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: Literal[3]
    cut: float
    cells: dict[str, Cell]
    since: dict[str, float]
