"""The interval around a realised rejection rate. One place, so that every view shows the same one."""

from models.monitors import confidence


def anytime(rejected: float, labelled: float) -> tuple[float, float]:
    """Return the 95 % confidence sequence, (0, 1) without labels: to be watched live, as it holds at all times.

    A label of weight w < 1 counts as w labels: by Jensen's inequality the w-th power of a factor with mean at most 1
    has mean at most 1.

    >>> [round(bound, 4) for bound in anytime(30, 1000)]
    [0.0153, 0.0513]
    """
    lower, upper = confidence.interval(labelled, rejected)
    return lower, upper
