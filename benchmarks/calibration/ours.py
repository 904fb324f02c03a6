"""demur's calibrator as a method of the benchmark."""

import heapq
import json
from collections.abc import Sequence
from typing import Any

from benchmarks.calibration.method import Groups, Row
from models.calibration.filter import Filter, Observation
from models.calibration.maturity import Maturity
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


class Matured(Demur):
    """With the maturity buffer of the ledger: labels wait while one kind of verdict arrives faster."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.maturity, self.held = Maturity(), list[tuple[float, int, Row, float, bool]]()

    def learn(self, row: Row, at: float, now: float, tier: int, *, audit: bool) -> None:
        self.maturity.add(now - at, rejected=bool(row[2]))
        hold = self.maturity.hold_s()
        heapq.heappush(self.held, (at + hold if hold else 0.0, len(self.held), row, at, audit))
        while self.held and self.held[0][0] <= now:
            _, _, known, shown, forced = heapq.heappop(self.held)
            super().learn(known, shown, now, tier, audit=forced)
