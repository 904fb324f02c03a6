"""How long until a label moves the threshold, and until a decision is made with it: broker time, milliseconds.

Version n of a calibrator is the fold of the first n changes, so the i-th change of a deployment's label topic is
contained in the first calibration published with `version` ≥ i, and has reached the decisions with the first one whose
`calibrator_version` is at least that calibration's.

>>> lags = Lags()
>>> lags.change("d", 1_000)
>>> lags.calibration("d", version=1, at_ms=1_020)
>>> lags.decision("d", version=1, at_ms=1_050)
>>> lags.to_threshold().tolist(), lags.to_decision().tolist()
([20], [50])
"""

from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

Milliseconds = NDArray[np.int64]
_NONE: Final[Milliseconds] = np.empty(0, np.int64)


def _longs() -> "array[int]":
    return array("q")


@dataclass(slots=True)
class _Trace:
    """What is known of one deployment. Calibrations come in order of version, so a repeat is never above the last."""

    changes: "array[int]" = field(default_factory=_longs)
    versions: "array[int]" = field(default_factory=_longs)
    published: "array[int]" = field(default_factory=_longs)
    decided: dict[int, int] = field(default_factory=dict)

    def reached(self) -> tuple[Milliseconds, Milliseconds]:
        """Return, for each change that a calibration contains, its time and the calibration's index."""
        changes = np.array(self.changes, np.int64)
        versions = np.array(self.versions, np.int64)
        index = np.searchsorted(versions, np.arange(1, len(changes) + 1))
        seen = index < len(versions)
        return changes[seen], index[seen]

    def to_threshold(self) -> Milliseconds:
        since, index = self.reached()
        return np.array(self.published, np.int64)[index] - since

    def to_decision(self) -> Milliseconds:
        since, index = self.reached()
        versions = np.array(sorted(self.decided), np.int64)
        at = np.array([self.decided[int(v)] for v in versions], np.int64)
        first = np.minimum.accumulate(at[::-1])[::-1]
        place = np.searchsorted(versions, np.array(self.versions, np.int64)[index])
        seen = place < len(versions)
        return first[place[seen]] - since[seen]


class Lags:
    """Record times of changes, calibrations and decisions, per deployment. Feed each change once."""

    def __init__(self) -> None:
        self._traces: defaultdict[str, _Trace] = defaultdict(_Trace)

    def change(self, deployment: str, at_ms: int) -> None:
        """Note a label or an instruction that is a change of its deployment's calibrator."""
        self._traces[deployment].changes.append(at_ms)

    def calibration(self, deployment: str, *, version: int, at_ms: int) -> None:
        """Note a calibration; a repeat is passed over."""
        trace = self._traces[deployment]
        if trace.versions and version <= trace.versions[-1]:
            return
        trace.versions.append(version)
        trace.published.append(at_ms)

    def decision(self, deployment: str, *, version: int, at_ms: int) -> None:
        """Note the calibrator version that a decision was made with."""
        decided = self._traces[deployment].decided
        decided[version] = min(at_ms, decided.get(version, at_ms))

    def to_threshold(self) -> Milliseconds:
        """Return each contained change's milliseconds until its calibration was published."""
        return np.concatenate([_NONE, *(t.to_threshold() for t in self._traces.values())])

    def to_decision(self) -> Milliseconds:
        """Return each contained change's milliseconds until the first decision made with it."""
        return np.concatenate([_NONE, *(t.to_decision() for t in self._traces.values())])


def quantiles(lag: Milliseconds) -> dict[str, float | None]:
    """Return p50 and p99 in milliseconds; None when nothing was measured."""
    if not len(lag):
        return {"p50": None, "p99": None}
    p50, p99 = np.percentile(lag, (50, 99))
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}
