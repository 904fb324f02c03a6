"""The interval around a realised rejection rate. One place, so that every view shows the same one."""

from typing import Protocol

from scipy.special import betaincinv

CONFIDENCE = 0.95


class Interval(Protocol):
    """From rejected and labelled weight to lower and upper bound of the rate."""

    def __call__(self, rejected: float, labelled: float) -> tuple[float, float]:
        """Return the bounds; (0, 1) without labels."""


def clopper_pearson(rejected: float, labelled: float) -> tuple[float, float]:
    """Exact 95 % interval of a proportion, at one moment fixed beforehand; weights count as fractions.

    References:
        Clopper and Pearson (1934), The use of confidence or fiducial limits.

    >>> tuple(round(x, 4) for x in clopper_pearson(3, 100))
    (0.0062, 0.0852)
    >>> clopper_pearson(0, 0)
    (0.0, 1.0)
    """
    tail, accepted = (1 - CONFIDENCE) / 2, labelled - rejected
    lower = float(betaincinv(rejected, accepted + 1, tail)) if rejected > 0 else 0.0
    upper = float(betaincinv(rejected + 1, accepted, 1 - tail)) if accepted > 0 else 1.0
    return lower, upper
