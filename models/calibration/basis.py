"""From a raw logit to the features of beta calibration.

With p = sigmoid(s) the calibrated log-odds are a straight line in ln p and -ln(1 - p). The line is the identity for
slopes (1, 1), Platt's map for equal slopes, and bends at most once: each end of the scale has its own slope. Both
features grow with s, so non-negative slopes make the map monotone.

The features are centred and scaled to the middle of an encoder's usual range (s about -2.6, spread 1.8), so that the
intercept is nearly independent of the slopes.

Reference: Kull, Silva Filho, Flach, *Beta calibration*, AISTATS 2017.
"""

from math import exp, log1p, nan
from numbers import Real
from typing import Any, Final

LIMIT: Final = 10.0
"""Logits are clipped to +-10 (risk 5e-5): one absurd score must not have the leverage to bend the whole curve."""

IDENTITY: Final = (-2.8 + 0.25 / 1.5, 1.8, 1 / 1.5)
"""Intercept and slopes for which the calibrated logit equals the raw one."""


def clip(value: float, bound: float) -> float:
    """Return `value` cut to [-bound, bound]."""
    return -bound if value < -bound else min(value, bound)


def sigmoid(eta: float) -> float:
    """Probability of log-odds `eta`, which must lie within +-700.

    >>> sigmoid(0.0)
    0.5
    """
    return 1.0 / (1.0 + exp(-eta))


def basis(logit: float) -> tuple[float, float]:
    """Return ((ln p + 2.8) / 1.8, -1.5 ln(1 - p) - 0.25) for p = sigmoid(logit); NaN counts as the centre (0, 0).

    >>> x1, x2 = basis(-2.6)
    >>> round(x1, 3), round(x2, 3)
    (0.071, -0.143)
    >>> a, b, c = IDENTITY
    >>> round(a + b * x1 + c * x2, 9)
    -2.6
    >>> basis(1e300) == basis(10.0)
    True
    """
    if not -LIMIT <= logit <= LIMIT:
        if logit != logit:  # noqa: PLR0124  # NaN, without a call on the hot path
            return 0.0, 0.0
        logit = clip(logit, LIMIT)
    if logit > 0.0:
        tail = log1p(exp(-logit))
        return (2.8 - tail) / 1.8, 1.5 * (tail + logit) - 0.25
    tail = log1p(exp(logit))
    return (logit - tail + 2.8) / 1.8, 1.5 * tail - 0.25


def number(value: Any) -> float:
    """Read a feature as a logit; whatever is not a number is NaN.

    >>> number("high"), number(True), number(2), number(-(10**400))
    (nan, nan, 2.0, -10.0)
    """
    real = isinstance(value, Real) and not isinstance(value, bool)  # NumPy's numbers are real ones, too
    try:
        return float(value) if real else nan
    except OverflowError:
        return LIMIT if value > 0 else -LIMIT
