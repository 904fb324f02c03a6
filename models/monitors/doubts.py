"""Doubts that keep a deployment's responses from being green, but for those with which every deployment begins.

>>> doubts, cold = Doubts(), ("calibration_missing", "warming_up: 300 labels missing")
>>> doubts.among(cold), doubts.among(("risk_between_cuts: 0.1200 < 0.2", "truncated")), doubts.among(cold)
([], ['truncated'], ['calibration_missing', 'warming_up'])
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from models.tiers import DOUBTS

COLD: Final = frozenset({"calibration_missing", "warming_up"})
"""Those of a calibrator that has learnt too little: no news until there was one that had learnt enough."""


class Doubts(Struct):
    """`warm`: whether a scored response of the deployment was without those of `COLD`."""

    warm: bool = False

    def among(self, reasons: Iterable[str]) -> list[str]:
        """Return the codes of the doubts among the reasons of the next scored response."""
        found = [code for code in (reason.partition(":")[0] for reason in reasons) if code in DOUBTS]
        self.warm = self.warm or COLD.isdisjoint(found)
        return [code for code in found if self.warm or code not in COLD]
