"""When to draw: twice a second on a terminal, a line every few seconds elsewhere."""

from collections import deque
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live

from models.accounts import Accounts, Run
from models.accounts.lags import quantiles
from models.accounts.lives import DECIDED
from models.accounts.tallies import Cell
from models.events import TIERS
from streams.formatting import brief, lag, percent, rate
from streams.live.screen import Screen

DRAW_EVERY_S: Final = 0.5
"""A picture costs a twentieth of a second of the cores that it watches."""
SAY_EVERY_S: Final = 5.0
PACE_OVER_S: Final = 3.0
"""Throughput is a mean over this long: shorter flickers, longer lags."""


class LiveView:
    """Shows accounts while they are fed. Call `refresh(now)` from the thread that feeds them; it is cheap when not due.

    `now` is any monotonic time in seconds.
    """

    def __init__(self, accounts: Accounts, run: Run, console: Console | None = None) -> None:
        self._accounts, self._run = accounts, run
        self._console = console or Console()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
        self._due = float("-inf")
        self._paces: deque[tuple[float, int]] = deque()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def refresh(self, now: float, *, force: bool = False) -> None:
        """Draw, or say a line, if it is time to; `force` does it anyhow (the last one)."""
        nothing_to_say = self._live is None and self._accounts.clock is None
        if (now < self._due or nothing_to_say) and not force:
            return
        self._due = now + (DRAW_EVERY_S if self._live else SAY_EVERY_S)
        pace = self._pace(now)
        if self._live:
            self._live.update(Screen(self._accounts, self._run, pace), refresh=True)
        else:
            self._console.print(line(self._accounts, pace), highlight=False, soft_wrap=True)

    def _pace(self, now: float) -> float:
        """Records a second since the oldest sample kept."""
        self._paces.append((now, self._accounts.records.total()))
        while len(self._paces) > 2 and now - self._paces[0][0] > PACE_OVER_S:
            self._paces.popleft()
        since, before = self._paces[0]
        return (self._paces[-1][1] - before) / (now - since) if now > since else 0.0


def line(accounts: Accounts, pace: float) -> str:
    """Say where the stream stands in one plain line."""
    total = accounts.tallies.total()
    threshold = quantiles(accounts.lags.to_threshold())
    return "  ".join(
        (
            brief(accounts.clock),
            f"{accounts.lives.count(DECIDED):,} decisions",
            f"{accounts.labels:,} labels",
            f"{pace:,.0f} records/s",
            *(_tier(tier, total[tier], accounts) for tier in TIERS),
            f"label to threshold {lag(threshold['p50'])}",
            f"alarms {len(accounts.alarms):,}",
            f"dead letters {accounts.dead_letters:,}",
        )
    )


def _tier(tier: str, cell: Cell, accounts: Accounts) -> str:
    decided = accounts.lives.count(DECIDED)
    return f"{tier} {percent(cell.count / decided if decided else None)} (rejected {percent(rate(cell))})"
