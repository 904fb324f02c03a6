"""The Gaussian beliefs of the calibrator and their one-label update.

The log-odds of a rejection are

    eta = b0 + b1 x1 + b2 x2 + b3 [organic] + sum over groups g of m_g

with (x1, x2) from `basis`, a joint Gaussian over (b0..b3), the *curve*, and an independent scalar Gaussian per group
value, its *offset*. A label moves eta to the solution z of the implicit (proximal) equation

    z = eta + V w (y - sigmoid(z)),    V = prior variance of eta, w = weight,

which is the exact mode of the posterior along the only direction that a label informs. So a step can never overshoot
its label: |z - eta| <= V w. Variances shrink by the Laplace curvature at z.

References: McCormick et al., *Dynamic logistic regression and dynamic model averaging*, Biometrics 2012 (random walk
on the coefficients); Kulis and Bartlett, *Implicit online learning*, ICML 2010 (the proximal step).
"""

from dataclasses import dataclass, field
from math import exp, inf, sqrt
from typing import Final

from models.calibration.basis import IDENTITY, clip
from models.calibration.serving import MAX_ETA, Coefficients

MIN_CURVATURE: Final = 1e-4
"""Curvature of the logistic loss at |eta| = 9; below it a label would no longer lower the variance at all."""

TOLERANCE: Final = 1e-9
QUADRATIC: Final = 2e-8
"""A Newton step d leaves an error below d^2 reach / 20 (the logistic's second derivative is below 0.1)."""
MAX_STEPS: Final = 60
"""Newton needs two or three steps at the variances that occur; halving the bracket reaches the tolerance in 37."""

SLOPE_VARIANCES: Final = (0.25, 0.1)
"""Prior of the two slopes, about +-0.3 on the raw scale each; the random walk never widens them beyond it."""

MAX_OFFSET: Final = 6.0
"""Log-odds beyond which a shift changes no tier any more (risk 0.0025 to 0.9975)."""

MAX_VARIANCE: Final = 4.0
"""A standard deviation of 2 logits is "we do not know"; repeated jumps must not widen further."""

COMMON: Final = 0.9
"""Logits of a rater's severity, at most, that pull on the groups of a label: one severe rater must not pull far."""

FLAT: Final = 0.01
"""Square of a first slope of 0.1: scores that say no more than this have no factor to doubt."""

Gain = tuple[float, float, float, float]


@dataclass(slots=True)
class Offset:
    """What one group value adds to the log-odds, and the evidence that it has jumped (see `jumps`).

    Between its labels the mean reverts to 0 at `rate` per label and the variance to its prior at 2 `doubt`: with both
    equal an Ornstein-Uhlenbeck process in label counts, with more doubt one that keeps its mean but may soon move.
    `weights` scale the evidence of each alternative to the common threshold. A rater has four more, those of the slope:
    one who flips every verdict looks like scores that say less.
    Times are seconds since the epoch; `valid_since` is the estimated time of its last jump: older events say nothing
    of it.
    """

    mean: float
    var: float
    clock: int
    prior: float = 0.1
    rate: float = 0.0
    doubt: float = 0.0
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    evidence: list[float] = field(default_factory=lambda: [1.0] * 4)
    since: list[float] = field(default_factory=lambda: [0.0] * 4)
    valid_since: float = -inf
    quarantined: bool = False
    is_rater: bool = False

    def make_rater(self) -> None:
        """Make it a rater's. To follow the scores more closely than others is no offence: its weight is 0."""
        self.is_rater = True
        self.weights += (0.0, 0.0, 1.0, 1.0)
        self.evidence, self.since = [1.0] * 8, [0.0] * 8

    def at(self, clock: int) -> tuple[float, float]:
        """Mean and variance after reverting from its own clock to `clock`.

        >>> mean, var = Offset(mean=0.8, var=0.02, clock=0, prior=0.1, rate=3.5e-5, doubt=3.5e-5).at(20_000)
        >>> round(mean, 3), round(var, 3)
        (0.397, 0.08)
        """
        past, prior = self.clock - clock, self.prior
        kept = exp(self.rate * past)
        known = kept if self.doubt == self.rate else exp(self.doubt * past)
        return self.mean * kept, prior + (self.var - prior) * known * known

    def advance(self, clock: int) -> None:
        """Revert to `clock`."""
        self.mean, self.var = self.at(clock)
        self.clock = clock

    def update(self, step: float, shrink: float) -> None:
        """Take this offset's part of a label."""
        var = self.var
        self.mean += var * step
        self.var = var - shrink * var * var

    def move(self, shift: float, spread: float) -> None:
        """Shift the mean and widen the variance, both within bounds: a jump never makes the offset absurd."""
        self.mean = clip(self.mean + shift, MAX_OFFSET)
        self.var = min(self.var + spread, max(self.var, MAX_VARIANCE))


@dataclass(slots=True)
class Curve:
    """Joint Gaussian over intercept, two slopes, and the bias of organic labels (off: mean and variance zero).

    `cov` is the upper triangle by rows: 00 01 02 03 11 12 13 22 23 33.
    """

    mean: list[float]
    cov: list[float]

    @classmethod
    def prior(cls, intercept_variance: float) -> "Curve":
        """Centre on the identity map."""
        first, second = SLOPE_VARIANCES
        return cls([*IDENTITY, 0.0], [intercept_variance, 0.0, 0.0, 0.0, first, 0.0, 0.0, second, 0.0, 0.0])

    @property
    def biased(self) -> bool:
        """Whether the bias of organic labels is being estimated."""
        return self.cov[9] > 0.0

    def coefficients(self) -> Coefficients:
        """Return what serving needs: the bias coordinate concerns labels only."""
        a, b, c, _, e, f, _, h, _, _ = self.cov
        m0, m1, m2, _ = self.mean
        return m0, m1, m2, a, b, c, e, f, h

    def walk(self, intercept: float, slopes: float, bias: float) -> None:
        """Add the random walk's variance of one label."""
        cov = self.cov
        cov[0] += intercept
        if cov[4] < SLOPE_VARIANCES[0]:
            cov[4] += slopes
        if cov[7] < SLOPE_VARIANCES[1]:
            cov[7] += slopes
        if cov[9]:
            cov[9] += bias

    def move(self, shift: float, spread: float, slope_spread: float) -> None:
        """Shift the intercept and widen it and the first slope: after a jump the shape is less certain too."""
        self.mean[0] = clip(self.mean[0] + shift, 2.0 * MAX_OFFSET)
        self.cov[0] += max(0.0, min(spread, MAX_VARIANCE - self.cov[0]))
        self.cov[4] += max(0.0, min(slope_spread, SLOPE_VARIANCES[0] - self.cov[4]))

    def rescale(self, factor: float, spread: float) -> None:
        """Multiply the log-odds by `factor` and add `spread` to its variance, within the bounds of each coefficient."""
        b0, b1, b2, b3 = self.mean
        self.mean = [factor * b0, factor * b1, factor * b2, b3]
        for k, b, bound in ((0, b0, MAX_VARIANCE), (4, b1, SLOPE_VARIANCES[0]), (7, b2, SLOPE_VARIANCES[1])):
            if b and b * b * spread > bound - self.cov[k]:
                spread = max(0.0, bound - self.cov[k]) / (b * b)
        for k, product in ((0, b0 * b0), (1, b0 * b1), (2, b0 * b2), (4, b1 * b1), (5, b1 * b2), (7, b2 * b2)):
            self.cov[k] += spread * product

    def floor_variance(self, intercept: float, slope: float) -> None:
        """Keep the variances of the intercept and of the first slope at no less than these."""
        self.cov[0], self.cov[4] = max(self.cov[0], intercept), max(self.cov[4], slope)

    def widen_slope(self, slope: float) -> None:
        """Keep the first slope's variance at no less than `slope` by doubting all log-odds' factor (see `rescale`).

        Intercept and slopes are then widened together: the next labels say how much flatter the scores are, not also
        where they are flatter.
        """
        short = slope - self.cov[4]
        if short > 0.0:
            self.rescale(1.0, short / max(self.mean[1] ** 2, FLAT))

    def gain(self, x1: float, x2: float, organic: float) -> Gain:
        """Covariance times the feature vector (1, x1, x2, organic)."""
        a, b, c, d, e, f, g, h, i, j = self.cov
        if not j:  # no bias: its column is zero
            return a + b * x1 + c * x2, b + e * x1 + f * x2, c + f * x1 + h * x2, 0.0
        return (
            a + b * x1 + c * x2 + d * organic,
            b + e * x1 + f * x2 + g * organic,
            c + f * x1 + h * x2 + i * organic,
            d + g * x1 + i * x2 + j * organic,
        )

    def update(self, gain: Gain, step: float, shrink: float) -> None:
        """Move the mean by `step` along the gain and take `shrink` of its square off the covariance."""
        u0, u1, u2, u3 = gain
        k0, k1, k2 = shrink * u0, shrink * u1, shrink * u2
        b0, b1, b2, b3 = self.mean
        a, b, c, d, e, f, g, h, i, j = self.cov
        if u3:  # else there is no bias
            b3 += u3 * step
            d, g, i, j = d - k0 * u3, g - k1 * u3, i - k2 * u3, j - shrink * u3 * u3
        self.mean = [b0 + u0 * step, b1 + u1 * step, b2 + u2 * step, b3]
        self.cov = [a - k0 * u0, b - k0 * u1, c - k0 * u2, d, e - k1 * u1, f - k1 * u2, g, h - k2 * u2, i, j]

    def keep_monotone(self, z: float) -> None:
        """Raise each slope to z standard deviations of itself.

        Then eta + z sd(eta) grows with the logit, not eta alone: its derivative is a sum of the features' derivatives
        (all positive) times (slope - z sd(slope)), by the triangle inequality in the norm of the covariance.
        """
        mean, (_, _, _, _, first, _, _, second, _, _), zz = self.mean, self.cov, z * z
        _, low, high, _ = mean
        if low < 0.0 or low * low < zz * first:
            mean[1] = z * sqrt(first)
        if high < 0.0 or high * high < zz * second:
            mean[2] = z * sqrt(second)

    def enable_bias(self, bias: float, variance: float) -> None:
        """Switch the bias of organic labels on: they read `bias` too high, give or take `variance`.

        Until now the intercept was the organic one. True intercept = organic - bias, hence the variances add, and
        the covariance of intercept and bias is minus the bias's variance.
        """
        self.mean[0] -= bias
        self.mean[3] = bias
        self.cov[0] += variance
        self.cov[3] = -variance
        self.cov[9] = variance


def proximal_step(eta: float, variance: float, rejected: int, weight: float) -> tuple[float, float]:
    """Solve the implicit equation for |eta| <= 60, by Newton steps inside a bracket.

    The bracket is halved wherever Newton leaves it or fails to halve its own step (Numerical Recipes, `rtsafe`).
    Returns (z - eta) / V and the curvature's shrink r / (1 + r V).

    >>> step, shrink = proximal_step(eta=-3.0, variance=0.5, rejected=1, weight=1.0)
    >>> round(-3.0 + 0.5 * step, 4), round(shrink, 4)
    (-2.5367, 0.0657)
    """
    reach = variance * weight
    p = 1.0 / (1.0 + exp(-eta))
    move = reach * (rejected - p) / (1.0 + reach * p * (1.0 - p))
    z = eta + move
    if move * move * reach >= QUADRATIC:
        last = inf
        if -MAX_ETA <= z <= MAX_ETA:  # a second step is nearly always the last: here, for a call costs as much again
            p = 1.0 / (1.0 + exp(-z))
            last = (z - eta - reach * (rejected - p)) / -(1.0 + reach * p * (1.0 - p))
        z = z + last if last * last * reach < QUADRATIC else _search(z, eta, reach, rejected)
    p = 1.0 / (1.0 + exp(-z))
    bend = p * (1.0 - p)
    curvature = weight * (bend if bend > MIN_CURVATURE else MIN_CURVATURE)  # noqa: FURB136  # the hot path
    return (z - eta) / variance, curvature / (1.0 + curvature * variance)


def _search(z: float, eta: float, reach: float, rejected: int) -> float:
    """Solve z = eta + reach (rejected - sigmoid(z)) from `z`, the first step's end."""
    low, high = (eta, MAX_ETA) if rejected else (-MAX_ETA, eta)
    if not low <= z <= high:
        z = (low + high) / 2.0
    last = abs(z - eta) / 2.0
    for _ in range(MAX_STEPS):
        p = 1.0 / (1.0 + exp(-z))
        gap = z - eta - reach * (rejected - p)
        move = -gap / (1.0 + reach * p * (1.0 - p))
        if move * move * reach < QUADRATIC:
            return z + move
        low, high = (low, z) if gap > 0.0 else (z, high)
        if not low <= z + move <= high or abs(move) > last:
            move = (low + high) / 2.0 - z
        z += move
        last = abs(move) / 2.0
        if last < TOLERANCE:
            break
    return z


def noisy_proximal_step(eta: float, variance: float, rejected: int, weight: float, noise: float) -> tuple[float, float]:
    """As `proximal_step`, when a share `noise` of the labels is flipped at random: one Fisher-scoring step.

    A rejection deep in the green says almost nothing, for it is most likely a flip.

    >>> step, _ = noisy_proximal_step(-6.0, 0.5, 1, 1.0, noise=0.05)
    >>> round(step, 3)
    0.043
    """
    p = 1.0 / (1.0 + exp(-eta))
    seen = noise + (1.0 - 2.0 * noise) * p
    slope = (1.0 - 2.0 * noise) * p * (1.0 - p)
    fisher = weight * max(slope * slope / (seen * (1.0 - seen)), MIN_CURVATURE / 10.0)
    score = weight * slope * (rejected - seen) / (seen * (1.0 - seen))
    return score / (1.0 + fisher * variance), fisher / (1.0 + fisher * variance)


def pull(severity: float, eta: float, variance: float, weight: float) -> float:
    """Return the step by which a label's groups take over from its rater what raters there have in common.

    Where raters judge in one group each, nothing tells its risk from their severity, and severity is not served. So the
    group's offset learns as if it had to explain the rater's severity too, up to `COMMON` of it: it settles where the
    raters are as much too severe as too lenient (Huber's M-estimate of location), and where they judge in all groups
    the pulls cancel. Each rater weighs alike: the curvature is a typical one's, at `eta` without `severity`; at their
    own, the severe would prevail, whose verdicts are less one-sided.

    Reference: Huber, *Robust estimation of a location parameter*, Annals of Mathematical Statistics 1964.

    >>> [round(pull(severity, eta=severity - 2.0, variance=0.5, weight=1.0), 3) for severity in (-0.5, 0.5, 3.0)]
    [-0.05, 0.05, 0.09]
    """
    p = 1.0 / (1.0 + exp(severity - eta))
    curvature = weight * p * (1.0 - p)
    return curvature / (1.0 + curvature * variance) * clip(severity, COMMON)
