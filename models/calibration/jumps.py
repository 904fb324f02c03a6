"""Has a block of the calibrator jumped? A CUSUM of likelihood ratios per block.

For each block (all responses, each group value) and each alternative delta, the evidence after a label y is

    M <- max(1, M) * q_delta(y) / q_0(y),    logit q_delta = eta + delta,

restarted, with its start time, whenever it falls to 1. Under "no jump" each ratio has mean at most 1, so crossing a
threshold c takes at least c labels on average (the average run length of an e-detector). Evidence that grows names its
own change point: the event time at which it last restarted. Labels come late and in any order, so for a while after a
change most are of events before it; those say nothing of what came after, and evidence passes them over. Which labels
it passes over is known before their verdicts are, so the bound stands as long as the delay does not depend on the
verdict; where it does, nothing is passed over (`filter` watches that).

Null and alternative are compared on a clipped scale: upward alternatives never take the null below `FLOOR`, downward
ones never above 1 - `FLOOR`. A null in that tail is then over-stated in the safe direction (the ratio's mean stays at
most 1), so a curve slightly wrong where nobody looks raises no alarm.

References: Page, *Continuous inspection schemes*, Biometrika 1954; Shin, Ramdas, Rinaldo, *E-detectors*, 2022.
"""

from math import exp
from typing import Final

import msgspec

from models.calibration.belief import Offset

DELTAS: Final = (-1.6, -0.8, 0.8, 1.6)
"""Alternatives in logits: odds times 0.2, 0.45, 2.2, 5."""

UPWARD: Final = 2
"""Index of the first alternative in which risk rises."""

_GROWTH: Final = tuple(exp(delta) - 1.0 for delta in DELTAS)
FLOOR: Final = 0.003

ALL: Final = "all"
"""Scope of the curve itself: every response of the deployment."""

Ratios = tuple[float, float, float, float]


class Jump(msgspec.Struct, frozen=True, kw_only=True):
    """A change that the evidence forced. `since` and `at` are seconds since the epoch, `delta` is in logits.

    `kind`: `jump` (the block was shifted), `quarantine` (a guarded group turned lenient: its labels are ignored from
    now on), `bias` (audited verdicts contradict organic ones: the organic labels' bias is estimated from now on),
    `tightening` (greens were rejected more often than promised: their threshold was moved by `delta`, see `ledger`).
    """

    kind: str
    scope: str
    delta: float
    statistic: float
    threshold: float
    since: float
    at: float


def ratios(p: float, *, rejected: bool) -> Ratios:
    """Likelihood ratio of one label under each alternative, q_delta(y) / q_0(y).

    >>> [round(r, 3) for r in ratios(0.05, rejected=True)]
    [0.21, 0.462, 2.097, 4.136]
    >>> [round(r, 3) for r in ratios(0.0001, rejected=False)]
    [1.0, 1.0, 0.996, 0.988]
    """
    low, high = min(p, 1.0 - FLOOR), max(p, FLOOR)
    g0, g1, g2, g3 = _GROWTH
    if rejected:
        return (
            (1.0 + g0) / (1.0 + low * g0),
            (1.0 + g1) / (1.0 + low * g1),
            (1.0 + g2) / (1.0 + high * g2),
            (1.0 + g3) / (1.0 + high * g3),
        )
    return 1.0 / (1.0 + low * g0), 1.0 / (1.0 + low * g1), 1.0 / (1.0 + high * g2), 1.0 / (1.0 + high * g3)


def ratios_noisy(p: float, noise: float, *, rejected: bool) -> Ratios:
    """As `ratios` when a share `noise` of the labels is flipped at random: both sides pass through the flip."""

    def ratio(growth: float) -> float:
        null = min(p, 1.0 - FLOOR) if growth < 0.0 else max(p, FLOOR)
        other = null * (1.0 + growth) / (1.0 + null * growth)
        seen, told = (noise + (1.0 - 2.0 * noise) * q for q in (null, other))
        return told / seen if rejected else (1.0 - told) / (1.0 - seen)

    a, b, c, d = (ratio(growth) for growth in _GROWTH)
    return a, b, c, d


def temper(values: Ratios, weight: float) -> Ratios:
    """Ratios of a label of `weight` in [0, 1]: their powers; the mean stays at most 1 by Jensen's inequality."""
    a, b, c, d = values
    return a**weight, b**weight, c**weight, d**weight


def accumulate(block: Offset, values: Ratios, at: float, passing: bool = True) -> float:  # noqa: FBT001, FBT002  # hot
    """Fold one label's ratios into a block's evidence. Returns the strongest, as `strongest` does.

    `passing`: evidence passes over labels of events before the change that it speaks of.
    """
    evidence, since, best = block.evidence, block.since, 0.0
    for j, ratio in enumerate(values):
        new = evidence[j]
        if new > 1.0:
            if passing and at < since[j]:
                continue
            new *= ratio
            if new <= 1.0:
                evidence[j], since[j] = 1.0, 0.0
                continue
        elif ratio > 1.0:
            new, since[j] = ratio, at
        else:
            continue
        evidence[j] = new
        score = new * (block.down if j < UPWARD else block.up)
        best = best if best > score else score  # noqa: FURB136  # the hot path: max() costs a call
    return best


def strongest(block: Offset) -> tuple[float, int]:
    """Return the strongest evidence, scaled to the common threshold, and its alternative."""
    scores = [value * (block.down if j < UPWARD else block.up) for j, value in enumerate(block.evidence)]
    return max((score, j) for j, score in enumerate(scores))


def size(block: Offset, j: int) -> float:
    """Return the jump's size: the mean of its direction's alternatives, weighted by their evidence.

    For small jumps the log evidence is a parabola in delta, so equal evidence for 0.8 and 1.6 means 1.2.
    """
    near, far = (UPWARD, UPWARD + 1) if j >= UPWARD else (UPWARD - 1, UPWARD - 2)
    first, second = block.evidence[near], block.evidence[far]
    return (first * DELTAS[near] + second * DELTAS[far]) / (first + second)


def restart(block: Offset) -> None:
    """Forget the evidence of a block: its null has just been moved."""
    block.evidence, block.since = [1.0] * 4, [0.0] * 4
