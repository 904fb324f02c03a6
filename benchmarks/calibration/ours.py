"""demur's calibrator as a method of the benchmark."""

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.calibration.method import Groups, Row
from models.calibration.filter import Filter, Observation
from models.calibration.serving import Thresholds
from models.calibration.settings import FilterSettings


class Demur:
    """The filter, with default settings unless told otherwise."""

    def __init__(self, **settings: Any) -> None:
        self.filter = Filter(FilterSettings(**settings))
        self.jumps: list[float] = []
        self._reading: Thresholds | None = None
        self._named: dict[Groups, dict[str, str]] = {}

    def warm_up(self, rows: Sequence[Row]) -> None:
        for logit, groups, verdict in rows:
            self.filter.observe(Observation(logit, groups, bool(verdict), 1.0, -1.0))

    def predict(self, logit: float, groups: Groups) -> tuple[float, float]:
        """Read the newest version, as SCORE does; unlike there, every label makes one here."""
        if self._reading is None:
            self._reading = self.filter.thresholds()
        if (named := self._named.get(groups)) is None:
            named = self._named[groups] = dict(groups)
        return self._reading.risk(logit, named)

    def learn(self, row: Row, at: float, now: float, tier: int, *, audit: bool) -> None:  # noqa: ARG002
        logit, groups, verdict = row
        self._reading = None
        if self.filter.observe(Observation(logit, groups, bool(verdict), 1.0, at, audit)):
            self.jumps.append(now)

    def state_bytes(self) -> int:
        return len(json.dumps(self.filter.state(), separators=(",", ":")))
