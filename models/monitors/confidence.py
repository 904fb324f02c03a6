"""An anytime-valid interval for a rejection rate: it may be read after every label, and for ever.

For verdicts x_1, x_2, ... with conditional means p_i, which may change all the time, and S_n = x_1 + ... + x_n,

    exp(lambda S_n - sum_i log(1 - p_i + p_i e^lambda))

is a martingale for each lambda. The logarithm is concave in p, so with the running mean m_n = (p_1 + ... + p_n) / n

    K_n(lambda, m_n) = exp(lambda S_n - n log(1 - m_n + m_n e^lambda))

lies below it. Ville's inequality on a mixture over lambda gives: with probability 1 - alpha, for all n at once, the
average of K_n over the mixture stays below 1 / alpha at the true m_n. Every rate at which it does not is excluded.
A verdict of weight w counts as w verdicts; the martingale is then a supermartingale, by Jensen's inequality. So the
interval covers the *average* rate so far, without assuming that the rate stands still.

Reference: Howard, Ramdas, McAuliffe, Sekhon, *Time-uniform Chernoff bounds via nonnegative supermartingales*, 2020.
"""

from math import exp, log
from typing import Final, NamedTuple

LAMBDAS: Final = tuple(0.03 * 1.4**k for k in range(16))
"""Tilts from 0.03 to 4.7 logits. At rates of .05 to .5 a bound lies up to 27 % further from the observed rate than that
of the best tilt from ten labels to ten thousand, 24 to 37 % at a hundred thousand, and 1.6 to 2.9 times as far at a
million, where the best tilt is smaller than these."""

STEPS: Final = 30
"""Halvings of the bracket: rates to 1e-9."""


class Interval(NamedTuple):
    """Bounds of a rate, in [0, 1]."""

    lower: float
    upper: float


def interval(labelled: float, rejected: float, alpha: float = 0.05) -> Interval:
    """Return the 1 - alpha confidence sequence at its current point.

    >>> [round(bound, 4) for bound in interval(1000, 30)]
    [0.0153, 0.0513]
    >>> interval(0, 0)
    Interval(lower=0.0, upper=1.0)
    """
    return Interval(_lower(labelled, rejected, alpha), 1.0 - _lower(labelled, labelled - rejected, alpha))


def excess(labelled: float, rejected: float, rate: float) -> float:
    """Return the log evidence that the running mean exceeds `rate`: log of the mixture of K_n over positive tilts.

    >>> excess(0, 0, 0.05)
    0.0
    >>> round(excess(400, 40, 0.05), 2)
    6.09
    """
    logs = [tilt * rejected - labelled * log(1.0 - rate + rate * exp(tilt)) for tilt in LAMBDAS]
    top = max(logs)
    return top + log(sum(exp(value - top) for value in logs) / len(logs))


def most(labelled: float, rejected: float, rate: float) -> float:
    """Return the log evidence at the best of all tilts: an upper bound of `excess`, for a tenth of its cost.

    Both counts are above 0.

    >>> round(most(400, 40, 0.05), 2)
    8.26
    """
    mean = rejected / labelled
    kept = (1.0 - mean) * log((1.0 - mean) / (1.0 - rate)) if mean < 1.0 else 0.0
    return labelled * (mean * log(mean / rate) + kept)


def _lower(labelled: float, rejected: float, alpha: float) -> float:
    """Return the largest excluded rate below the observed one; each side has half of alpha."""
    if rejected == 0:
        return 0.0
    bound, low, high = log(2.0 / alpha), 0.0, rejected / labelled
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if excess(labelled, rejected, middle) >= bound else (low, middle)
    return low
