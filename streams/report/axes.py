"""What the charts share: a scale on which 1 % and 50 % can both be read, days on the time axis, and marks in time."""

from collections.abc import Iterable
from datetime import datetime
from math import exp, log
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.ticker import FuncFormatter

from models.accounts import Accounts, Run
from models.accounts.summary import first_alarm
from streams.report.theme import INK, MUTED, RULE

PERCENTS: Final = (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
SCORES: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
MAX_MARKS: Final = 10
"""More lines than that hide what they mark."""
EDGE: Final = log(0.999 / 0.001)
"""Log-odds beyond which a cut is drawn at the edge: nearly every response lies on one side of it."""


class Mark(NamedTuple):
    """A moment to show: `x` on the date axis, `side` of the words that touches the line."""

    x: float
    words: str
    style: str
    side: Literal["left", "right"]


def root_scale(axes: Axes, *, both: bool) -> None:
    """Scale shares by the square root (x, or both axes): low rates, which decide green, get room, and 0 is in sight."""
    labels = [f"{100 * p:g} %" for p in PERCENTS]
    axes.set_xscale("function", functions=(_root, np.square))
    axes.set_xlim(0, 1)
    axes.set_xticks(PERCENTS, labels=labels)
    if both:
        axes.set_yscale("function", functions=(_root, np.square))
        axes.set_ylim(0, 1)
        axes.set_yticks(PERCENTS, labels=labels)


def _root(share: Any) -> Any:
    return np.sqrt(np.clip(share, 0, None))


def score_scale(axes: Axes, low: float, high: float) -> None:
    """Label a vertical axis of log-odds with the probabilities they stand for."""
    ticks = [log(p / (1 - p)) for p in SCORES]
    axes.set_ylim(low, high)
    axes.set_yticks([t for t in ticks if low <= t <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 / (1 + exp(-x)):.2g} %"))


def at(hour: float) -> float:
    """Return where matplotlib's date axis has an hour since the epoch: it counts days."""
    return hour / 24


def time_axis(axes: Axes, hours: Iterable[int]) -> None:
    """Span the given hours, with short dates."""
    known = list(hours)
    axes.set_xlim(at(min(known)), at(max(known) + 1))
    days = (max(known) - min(known)) / 24
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=4, maxticks=9))  # type: ignore[no-untyped-call]
    words = "%a %d %b" if 3 < days < 20 else "%d %b" if days >= 20 else "%d %b %H:%M"
    axes.xaxis.set_major_formatter(DateFormatter(words))  # type: ignore[no-untyped-call]


def marks(accounts: Accounts, run: Run) -> list[Mark]:
    """Return the planted drift and the alarm that found it, or, without a drift, the last jumps in the picture."""
    hours = accounts.tallies.hours()
    found = [m for m in _moments(accounts, run) if hours and at(min(hours)) <= m.x <= at(max(hours) + 1)]
    return found[-MAX_MARKS:]


def _moments(accounts: Accounts, run: Run) -> list[Mark]:
    if run.drift is None:
        jumps = sorted(a.raised_at for a in accounts.alarms.values() if a.kind == "jump")
        return [Mark(_place(when), "jump", "-", "left") for when in jumps]
    alarm = first_alarm(accounts, run.drift)
    planted = Mark(_place(run.drift.at), "drift planted", "--", "right")
    return [planted, Mark(_place(alarm.raised_at), "alarm", "-", "left")] if alarm else [planted]


def _place(when: datetime) -> float:
    return at(when.timestamp() / 3600)


def draw_marks(axes: Axes, found: list[Mark], *, named: bool) -> None:
    """Draw marks as vertical lines, named above the axes if asked."""
    for mark in found:
        axes.axvline(mark.x, color=INK, linestyle=mark.style, linewidth=1.1)
        if named:
            axes.annotate(
                mark.words,
                (mark.x, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(4 if mark.side == "left" else -4, 3),
                textcoords="offset points",
                ha=mark.side,
                color=INK,
            )


def quiet(axes: Axes) -> None:
    """Leave only what is needed to read a value."""
    axes.tick_params(length=0)
    axes.grid(visible=True, axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.yaxis.label.set_color(MUTED)
