"""Per scope, hour of event time and tier: decisions, verdicts, rejections.

A scope is the empty string (everything) or `dimension=value`, as in alarms: `category=dosing`, `site=north`.

>>> tallies = Tallies()
>>> tallies.decided({"category": "dosing"}, hour=0, tier="green")
>>> tallies.judged({"category": "dosing"}, hour=0, tier="green", weight=1.0, rejected=True)
>>> tallies.total("category=dosing")["green"]
Cell(count=1, labelled=1.0, rejected=1.0)
>>> tallies.scopes("category")
['category=dosing']
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from models.events import TIERS, Tier

MAX_VALUES: Final = 200
"""Values kept apart per dimension; the rest are counted together, so that odd input cannot fill the memory."""
OTHER: Final = "(other)"


@dataclass(slots=True)
class Cell:
    """`count` decisions; `labelled` and `rejected` are sums of label weights, from verdicts with weight > 0."""

    count: int = 0
    labelled: float = 0.0
    rejected: float = 0.0

    def __add__(self, other: "Cell") -> "Cell":
        return Cell(self.count + other.count, self.labelled + other.labelled, self.rejected + other.rejected)


Tiers = dict[Tier, Cell]


def empty() -> Tiers:
    """Return a fresh row: one cell per tier."""
    return {tier: Cell() for tier in TIERS}


class Tallies:
    """All cells; every marginal that a view asks for is kept, so that asking costs nothing."""

    def __init__(self) -> None:
        self._totals: dict[str, Tiers] = {"": empty()}
        self._hours: dict[str, dict[int, Tiers]] = {"": {}}
        self._values: Counter[str] = Counter()

    def decided(self, groups: Mapping[str, str], hour: int, tier: Tier) -> None:
        """Count one decision."""
        for cell in self._cells(groups, hour, tier):
            cell.count += 1

    def judged(self, groups: Mapping[str, str], hour: int, tier: Tier, *, weight: float, rejected: bool) -> None:
        """Count one verdict at the hour and tier of its decision."""
        for cell in self._cells(groups, hour, tier):
            cell.labelled += weight
            cell.rejected += weight * rejected

    def total(self, scope: str = "") -> Tiers:
        """Return a scope's cells over all time."""
        return self._totals.get(scope) or empty()

    def hours(self, scope: str = "") -> dict[int, Tiers]:
        """Return a scope's cells per hour (hours since the epoch), in order of time."""
        return dict(sorted(self._hours.get(scope, {}).items()))

    def scopes(self, dimension: str) -> list[str]:
        """Return the scopes of a dimension, sorted."""
        return sorted(scope for scope in self._totals if scope.startswith(f"{dimension}="))

    def busiest(self, dimension: str, most: int) -> list[str]:
        """Return the scopes of a dimension with most decisions, at most so many, sorted, so that rows stay in place."""
        by_count = sorted(self.scopes(dimension), key=lambda scope: -sum(c.count for c in self._totals[scope].values()))
        return sorted(by_count[:most])

    def _cells(self, groups: Mapping[str, str], hour: int, tier: Tier) -> Iterator[Cell]:
        for scope in ("", *(self._scope(d, v) for d, v in groups.items())):
            yield self._totals[scope][tier]
            yield self._hours[scope].setdefault(hour, empty())[tier]

    def _scope(self, dimension: str, value: str) -> str:
        scope = f"{dimension}={value}"
        if scope in self._totals:
            return scope
        if self._values[dimension] >= MAX_VALUES:
            scope = f"{dimension}={OTHER}"
        self._values[dimension] += 1
        self._totals.setdefault(scope, empty())
        self._hours.setdefault(scope, {})
        return scope
