"""The whole picture, fitted to the terminal: from 80 by 24 up."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType

from models.accounts import Accounts, Run
from streams.live.panels import alarms, flow, groups, heading, learning, tiers

_FIXED: Final = 15
"""Lines of heading, flow, tiers (6), heads and frames of categories (3) and alarms (2), learning, and one to spare."""
_SITES: Final = 3
"""Lines of head and frame of the table of sites, which is shown when there is room for it."""


@dataclass(frozen=True)
class Screen:
    """A picture of the accounts. `pace` is in records a second."""

    accounts: Accounts
    run: Run
    pace: float = 0.0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width, room = options.max_width, max(4, console.size.height - _FIXED)
        rows = min(self._known("category"), room - 2)
        sites = self._known("site") if room - rows - self._known("site") - _SITES >= 4 else 0
        left = room - rows - (sites + _SITES if sites else 0)
        yield heading(self.accounts, self.run, self.pace)
        yield flow(self.accounts)
        yield tiers(self.accounts, self.run, width)
        yield groups(self.accounts, "category", width, rows)
        if sites:
            yield groups(self.accounts, "site", width, sites)
        yield alarms(self.accounts, self.run, max(1, min(left, 12)))
        yield learning(self.accounts)

    def _known(self, dimension: str) -> int:
        return len(self.accounts.tallies.scopes(dimension))
