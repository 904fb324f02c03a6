"""Has a block of the calibrator jumped? A CUSUM of likelihood ratios per block.

For each block (all responses, each group value, the slope) and each alternative delta, the evidence after a label y is

    M <- max(1, M) * q_delta(y) / q_0(y),    logit q_delta = eta + delta t,

with t = 1, but for the slope t = -eta / `REACH`, cut to [-1, 1]: if scores say less than they did, the log-odds shrink
towards 0, so that low ones rise and high ones fall (the temperature of Guo et al.). The evidence is restarted, with its
start time, whenever it falls to 1. Under "no jump" each ratio has mean at most 1, so crossing a threshold c takes at
least c labels on average (the average run length of an e-detector). Evidence that grows names its own change point: the
event time at which it last restarted. Labels come late and in any order, so for a while after a change most are of
events before it; those say nothing of what came after, and evidence passes them over. Which labels it passes over is
known before their verdicts are, so the bound stands as long as the delay does not depend on the verdict; where it does,
nothing is passed over (`filter` watches that). For all responses the far alternatives count for less (`FAR`): a few
unlucky rejections feed them, and a change that is really as large is soon seen all the same.

Null and alternative are compared on a clipped scale: upward alternatives never take the null below `FLOOR`, downward
ones never above 1 - `FLOOR`. A null in that tail is then over-stated in the safe direction (the ratio's mean stays at
most 1), so a curve slightly wrong where nobody looks raises no alarm.

References: Page, *Continuous inspection schemes*, Biometrika 1954; Shin, Ramdas, Rinaldo, *E-detectors*, 2022;
Guo et al., *On calibration of modern neural networks*, ICML 2017.
"""

from math import exp
from operator import mul
from typing import Final, cast

import msgspec

from models.calibration.belief import Offset

DELTAS: Final = (-1.4, -0.6, 0.6, 1.4)
"""Alternatives in logits: odds times 0.25, 0.55, 1.8, 4."""

REACH: Final = 3.5
"""Log-odds at which a change of slope moves a response by a whole delta (risk 3 %); beyond, by no more."""

UPWARD: Final = 2
"""Index of the first alternative in which risk rises."""
NEAR, MOST = DELTAS[UPWARD:]

Ratios = tuple[float, float, float, float]

SHIFTED: Final = cast("Ratios", tuple(exp(delta) - 1.0 for delta in DELTAS))
"""By what share the odds grow under each alternative."""

FLOOR: Final = 0.003
CEILING: Final = 1.0 - FLOOR
FAR: Final = 0.3
"""Weight of the far alternatives where all responses are concerned."""

ALL: Final = "all"
"""Scope of the curve itself: every response of the deployment."""


class Jump(msgspec.Struct, frozen=True, kw_only=True):
    """A change that the evidence forced. `since` is in seconds since the epoch, `delta` in logits.

    `kind`: `jump` (the block was shifted; a change of slope is one of `all`, with the delta of its low scores),
    `quarantine` (a guarded group turned lenient: its labels are ignored from now on), `bias` (audited verdicts
    contradict organic ones: the organic labels' bias is estimated from now on),
    `tightening` (greens were rejected more often than promised: their threshold was moved by `delta`, see `ledger`).
    """

    kind: str
    scope: str
    delta: float
    statistic: float
    threshold: float
    since: float


def tilted(eta: float) -> Ratios:
    """By what share the odds at log-odds `eta` grow under each alternative of the slope.

    >>> [round(g, 2) for g in tilted(-3.5)] == [round(g, 2) for g in SHIFTED]
    True
    >>> [round(g, 2) for g in tilted(1.0)]
    [0.49, 0.19, -0.16, -0.33]
    """
    tilt = -eta / REACH if -REACH < eta < REACH else -1.0 if eta > 0.0 else 1.0
    near, far = exp(NEAR * tilt), exp(MOST * tilt)
    return 1.0 / far - 1.0, 1.0 / near - 1.0, near - 1.0, far - 1.0


def ratios(p: float, growth: Ratios, rejected: bool) -> Ratios:  # noqa: FBT001  # the hot path: naming costs
    """Likelihood ratio of one label under each alternative, q_delta(y) / q_0(y).

    >>> [round(r, 3) for r in ratios(0.05, SHIFTED, True)]
    [0.256, 0.561, 1.75, 3.518]
    >>> [round(r, 3) for r in ratios(0.0001, SHIFTED, False)]
    [1.0, 1.0, 0.998, 0.991]
    """
    g0, g1, g2, g3 = growth
    low = high = p
    if not FLOOR <= p <= CEILING:
        low, high = (p, FLOOR) if p < FLOOR else (CEILING, p)
        if g0 > 0.0:
            low, high = high, low
    a = 1.0 / (1.0 + low * g0)
    b = 1.0 / (1.0 + low * g1)
    c = 1.0 / (1.0 + high * g2)
    d = 1.0 / (1.0 + high * g3)
    return (a + g0 * a, b + g1 * b, c + g2 * c, d + g3 * d) if rejected else (a, b, c, d)


def ratios_noisy(p: float, noise: float, growth: Ratios, *, rejected: bool) -> Ratios:
    """As `ratios` when a share `noise` of the labels is flipped at random: both sides pass through the flip."""

    def ratio(growth: float) -> float:
        null = min(p, 1.0 - FLOOR) if growth < 0.0 else max(p, FLOOR)
        other = null * (1.0 + growth) / (1.0 + null * growth)
        seen, told = (noise + (1.0 - 2.0 * noise) * q for q in (null, other))
        return told / seen if rejected else (1.0 - told) / (1.0 - seen)

    a, b, c, d = (ratio(share) for share in growth)
    return a, b, c, d


def weighted(values: Ratios, weight: float) -> Ratios:
    """Ratios of a label of `weight` in [0, 1]: their powers; the mean stays at most 1 by Jensen's inequality."""
    a, b, c, d = values
    return a**weight, b**weight, c**weight, d**weight


def compare(eta: float, noise: float, weight: float, rejected: bool) -> tuple[Ratios, Ratios]:  # noqa: FBT001  # as above
    """Likelihood ratios of a label under the alternatives of a shift, and under those of the slope."""
    p, slope = 1.0 / (1.0 + exp(-eta)), tilted(eta)
    if noise:
        shift = ratios_noisy(p, noise, SHIFTED, rejected=rejected)
        tilt = ratios_noisy(p, noise, slope, rejected=rejected)
    else:
        shift, tilt = ratios(p, SHIFTED, rejected), ratios(p, slope, rejected)
    return (shift, tilt) if weight >= 1.0 else (weighted(shift, weight), weighted(tilt, weight))


def accumulate(block: Offset, values: tuple[float, ...], at: float, passing: bool = True) -> float:  # noqa: FBT001, FBT002  # hot
    """Fold one label's ratios into a block's evidence. Returns the strongest, as `strongest` does.

    `passing`: evidence passes over labels of events before the change that it speaks of.
    """
    evidence, since, weights, best, j = block.evidence, block.since, block.weights, 0.0, -1
    for ratio in values:
        j += 1  # the hot path: enumerate() costs a sixth
        new = evidence[j]
        if new > 1.0:
            if at < since[j] and passing:
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
        score = new * weights[j]
        if score > best:  # noqa: PLR1730  # as above: max() costs a call
            best = score
    return best


def strongest(block: Offset) -> tuple[float, int]:
    """Return the strongest evidence, scaled to the common threshold, and its alternative."""
    scores = [*map(mul, block.evidence, block.weights)]
    score = max(scores)
    return score, len(scores) - 1 - scores[::-1].index(score)


def size(block: Offset, j: int) -> float:
    """Return the jump's size: the mean of its direction's alternatives, weighted by their evidence.

    For small jumps the log evidence is a parabola in delta, so equal evidence for 0.6 and 1.4 means 1.0.
    """
    near, far = (UPWARD, UPWARD + 1) if j % len(DELTAS) >= UPWARD else (UPWARD - 1, UPWARD - 2)
    first, second = (block.evidence[j - j % len(DELTAS) + k] for k in (near, far))
    return (first * DELTAS[near] + second * DELTAS[far]) / (first + second)


def same_direction(block: Offset, j: int) -> tuple[float, int]:
    """Return a rater's strongest evidence for any change in the direction of alternative `j`, and its alternative."""
    first, found = UPWARD if j % len(DELTAS) >= UPWARD else 0, block.evidence
    return max([(found[k], k) for k in (first, first + 1, first + len(DELTAS), first + len(DELTAS) + 1)])


def restart(block: Offset) -> None:
    """Forget the evidence of a block: its null has just been moved."""
    count = len(block.evidence)
    block.evidence, block.since = [1.0] * count, [0.0] * count
