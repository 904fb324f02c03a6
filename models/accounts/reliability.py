"""Predicted against realised rejection, and the Brier score, from verdicts as they arrive.

Every prediction was made before its verdict, so these figures are out of sample (prequential: Dawid 1984).

References:
    Brier (1950), Verification of forecasts expressed in terms of probability.
    DeGroot and Fienberg (1983), The comparison and evaluation of forecasters.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from models.monitors.confidence import interval

_PER_LOGIT: Final = 4
"""Fine cells are a quarter of a log-odds unit wide; `Curve.points` merges them."""
_CLIP: Final = 1e-6
"""Probabilities nearer to 0 or 1 than this share the outermost cell."""


class Point(NamedTuple):
    """One bin of a reliability diagram: mean prediction, realised rate with its interval, and label weight."""

    predicted: float
    realised: float
    lower: float
    upper: float
    labelled: float


@dataclass(slots=True)
class _Bin:
    weight: float = 0.0
    predicted: float = 0.0
    rejected: float = 0.0

    def take(self, other: "_Bin") -> None:
        self.weight += other.weight
        self.predicted += other.predicted
        self.rejected += other.rejected


class Curve:
    """Reliability of one forecaster.

    >>> curve = Curve()
    >>> for n in range(100):
    ...     curve.add(0.2, weight=1.0, rejected=n % 5 == 0)
    >>> round(curve.brier, 3), round(curve.error(), 3)
    (0.16, 0.0)
    """

    def __init__(self) -> None:
        self._bins: dict[int, _Bin] = {}
        self._squared = 0.0

    def add(self, predicted: float, *, weight: float, rejected: bool) -> None:
        """Count one verdict on a response whose predicted probability of rejection is known."""
        p = min(max(predicted, _CLIP), 1 - _CLIP)
        cell = math.floor(_PER_LOGIT * math.log(p / (1 - p)))
        self._bins.setdefault(cell, _Bin()).take(_Bin(weight, weight * predicted, weight * rejected))
        self._squared += weight * (predicted - rejected) ** 2

    @property
    def labelled(self) -> float:
        """Sum of label weights."""
        return sum(b.weight for b in self._bins.values())

    @property
    def brier(self) -> float:
        """Mean squared difference between prediction and verdict; NaN without verdicts."""
        return self._squared / self.labelled if self._bins else math.nan

    def error(self, bins: int = 12) -> float:
        """Expected calibration error: mean absolute gap between predicted and realised rate, weighted by labels."""
        merged = list(self._merged(bins))
        return sum(abs(b.predicted - b.rejected) for b in merged) / self.labelled if merged else math.nan

    def points(self, bins: int = 12) -> list[Point]:
        """Return at most about `bins` points of about equal label weight, in order of prediction."""
        return [
            Point(b.predicted / b.weight, b.rejected / b.weight, *interval(b.weight, b.rejected), b.weight)
            for b in self._merged(bins)
        ]

    def _merged(self, bins: int) -> Iterator[_Bin]:
        share, heap = self.labelled / bins, _Bin()
        for _, cell in sorted(self._bins.items()):
            heap.take(cell)
            if heap.weight >= share:
                yield heap
                heap = _Bin()
        if heap.weight > 0:
            yield heap
