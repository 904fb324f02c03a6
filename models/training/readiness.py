"""Learning curve and pilot readiness: how closely each tier's rejection rate is known, and how many labels it lacks.

The width of a rate's 95 % interval shrinks with the square root of its labels. The rate so far is itself uncertain, so
it is taken with Agresti and Coull's two added rejections and acceptances (Am. Stat. 1998, 52:119), which keeps a tier
without any rejection from looking certain. Labels count with their weights, so that a response counts once however many
judge it.

>>> needed(rejected=0, count=0, within=0.05)
385
>>> [row.missing for row in readiness({"green": (100, 2), "red": (40, 16)}, within=0.05)]
[0, 332]
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import ceil, fsum, inf
from statistics import NormalDist
from typing import Final

import msgspec

from models.events import TIERS, Label, Target
from models.labels import is_evidence, rejects

Z: Final = NormalDist().inv_cdf(0.975)
"""Two-sided 95 % quantile of the standard normal."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """One tier: its labels, how closely its rate is known, how many more labels it needs, and days until then.

    `labels` is the sum of their weights. `rate` is None without any; `days`, where no pace is known.
    """

    tier: str
    labels: float
    rate: float | None
    within: float
    missing: int
    days: float | None


STEPS: Final = 10
"""Points of the learning curve."""


class Pilot(msgspec.Struct, frozen=True, kw_only=True):
    """Weight of the `labels` so far, over `days`; one row a tier, and `curve`: the same after each tenth of them."""

    labels: float
    days: float
    tiers: list[Readiness]
    curve: list[list[Readiness]]


def pilot(labels: Sequence[Label], within: float = 0.02, target: Target = "any") -> Pilot:
    """Judge a label log. Only settled verdicts count: no correction, no revocation, nothing without weight.

    `target` is the policy's: whether any rejection counts as one, or only a deep one.
    """
    settled = sorted((label for label in labels if is_evidence(label)), key=_when)
    days = (_when(settled[-1]) - _when(settled[0])).total_seconds() / 86_400 if settled else 0.0
    ends = sorted({len(settled) * step // STEPS for step in range(1, STEPS + 1)} - {0})
    weight = fsum(label.weight for label in settled)
    return Pilot(
        labels=weight,
        days=days,
        tiers=readiness(_tally(settled, target), within, weight / days if days else None),
        curve=[readiness(_tally(settled[:end], target), within) for end in ends],
    )


def _when(label: Label) -> datetime:
    """When its response occurred: feedback is dated by many clocks, of which one may be years off."""
    return label.decision.occurred_at


def _tally(labels: Sequence[Label], target: Target) -> dict[str, tuple[float, float]]:
    """Weights of each tier's labels and rejections; `fsum`, so that three thirds are one."""
    parts = {tier: [label for label in labels if label.decision.tier == tier] for tier in TIERS}
    return {
        tier: (fsum(label.weight for label in part), fsum(label.weight for label in part if rejects(label, target)))
        for tier, part in parts.items()
    }


def readiness(
    tiers: Mapping[str, tuple[float, float]], within: float = 0.02, labels_per_day: float | None = None
) -> list[Readiness]:
    """What is missing per tier; `tiers` gives (labels, of which rejected). Days assume that labels keep their mix."""
    total = sum(count for count, _ in tiers.values())
    return [
        _row(name, count, rejected, within, _pace(count, total, labels_per_day))
        for name, (count, rejected) in tiers.items()
    ]


def needed(rejected: float, count: float, within: float) -> int:
    """Labels of one tier until its rate's 95 % interval reaches at most `within` to either side."""
    rate = _rate(rejected, count)
    return ceil(Z**2 * rate * (1 - rate) / within**2)


def _row(tier: str, count: float, rejected: float, within: float, pace: float | None) -> Readiness:
    rate = _rate(rejected, count)
    missing = max(0, ceil(needed(rejected, count, within) - count))
    return Readiness(
        tier=tier,
        labels=count,
        rate=rejected / count if count else None,
        within=Z * (rate * (1 - rate) / max(1, count)) ** 0.5,
        missing=missing,
        days=None if pace is None else missing / pace if pace else (0.0 if not missing else inf),
    )


def _rate(rejected: float, count: float) -> float:
    return (rejected + 2) / (count + 4)


def _pace(count: float, total: float, labels_per_day: float | None) -> float | None:
    """Labels a day that this tier can expect."""
    return None if labels_per_day is None else labels_per_day * count / max(1, total)
