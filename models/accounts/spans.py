"""Hours gathered into spans of equal length, so that a chart of any run has a readable number of points."""

from typing import NamedTuple

from models.accounts.tallies import Tiers, empty
from models.events import TIERS


class Span(NamedTuple):
    """Cells of the hours from `start` (hours since the epoch) on."""

    start: int
    tiers: Tiers

    @property
    def decided(self) -> int:
        """Decisions of all tiers."""
        return sum(cell.count for cell in self.tiers.values())

    @property
    def severity(self) -> float | None:
        """Mean tier: green counts 0, yellow a half, red 1; None where nothing was decided."""
        weight = self.tiers["yellow"].count / 2 + self.tiers["red"].count
        return weight / self.decided if self.decided else None


def spans(hours: dict[int, Tiers], first: int, last: int, at_most: int) -> list[Span]:
    """Gather `hours` from `first` to `last` (inclusive) into at most `at_most` spans of whole hours.

    >>> from models.accounts.tallies import Cell
    >>> hours = {h: {"green": Cell(count=h), "yellow": Cell(), "red": Cell()} for h in range(5)}
    >>> [(s.start, s.decided) for s in spans(hours, 0, 4, at_most=3)]
    [(0, 1), (2, 5), (4, 4)]
    """
    step = -(-(last - first + 1) // at_most)
    found = [Span(start, empty()) for start in range(first, last + 1, step)]
    for hour, tiers in hours.items():
        into = found[(hour - first) // step].tiers
        for tier in TIERS:
            into[tier] += tiers[tier]
    return found
