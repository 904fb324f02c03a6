"""What every method of the benchmark can do."""

from collections.abc import Sequence
from typing import Protocol

Groups = tuple[tuple[str, str], ...]
Row = tuple[float, Groups, int]
"""Raw logit, groups, verdict."""


class Method(Protocol):
    """An online calibrator: told labels as they arrive, asked for (risk, upper risk)."""

    jumps: list[float]
    """Event times at which it announced a change, if it can."""

    def warm_up(self, rows: Sequence[Row]) -> None:
        """Fit on labelled history."""

    def predict(self, logit: float, groups: Groups) -> tuple[float, float]:
        """Return the risk and the number that the tier is decided on."""

    def learn(self, row: Row, at: float, now: float, tier: int, *, audit: bool) -> None:
        """Take a label of an event at time `at` that arrives at time `now`."""

    def state_bytes(self) -> int:
        """Size of what has to be persisted."""
