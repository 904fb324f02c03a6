"""What a soak must show: memory that does not grow, lag that is bounded."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from msgspec import Struct

GROWTH: Final = 0.05
"""Share of its memory that a worker may seem to grow by in the second half, by the line through its samples."""
LAG_S: Final = 10.0
"""Seconds of input that may lie unread at any time in the second half."""
STEADY_S: Final = 900.0
"""By then rows have long gone as fast as they come, and what holds them has nearly stopped growing in steps."""


class Sample(Struct, frozen=True):
    """At a time since the start: messages that a stage has not committed yet, and resident MB by worker.

    `speed` is that of the machine (see `speed`): on a virtual one, neighbours may halve it.
    """

    at_s: float
    lag: int
    rss_mb: dict[str, float]
    speed: float = 1.0


def complaints(samples: Sequence[Sample], rate: float) -> Iterator[str]:
    """Say what the second half of the samples shows that must not be; `rate` in messages a second."""
    late = second_half(samples)
    highest = max(sample.lag for sample in late)
    if highest > LAG_S * rate:
        yield f"lag: {highest} messages, more than {LAG_S:g} s of {rate:.0f} a second"
    if late[0].at_s >= STEADY_S:
        for worker in late[0].rss_mb:
            if (more := growth(late, worker)) > GROWTH:
                yield f"memory: {worker} grew by {more:.1%} in the second half; the bound is {GROWTH:.0%}"


def second_half(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the samples of the second half of the time.

    >>> [s.at_s for s in second_half([Sample(t, 0, {}) for t in (0.0, 10.0, 20.0, 30.0)])]
    [20.0, 30.0]
    """
    middle = samples[-1].at_s / 2
    return [sample for sample in samples if sample.at_s >= middle]


def growth(samples: Sequence[Sample], worker: str) -> float:
    """Return the growth of a worker's memory along the line through samples, as a share of their mean.

    >>> growth([Sample(t, 0, {"join": 100 + t}) for t in (0.0, 5.0, 10.0)], "join")
    0.095...
    """
    at, rss = [s.at_s for s in samples], [s.rss_mb[worker] for s in samples]
    if len(samples) < 2:
        return 0.0
    slope = float(np.polyfit(at, rss, 1)[0])
    return slope * (at[-1] - at[0]) / float(np.mean(rss))
