"""What the calibrator changed: the raw score below which a category is green, over event time."""

from collections.abc import Iterable
from math import inf
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.accounts import Accounts, Run
from models.accounts.changes import Cuts
from streams.report.axes import EDGE, at, draw_marks, marks, quiet, score_scale, time_axis
from streams.report.theme import ACCENT, INK, MUTED, RULE, svg, themed

NAMED: Final = 4
"""At most so many categories are named and drawn in ink: those that moved most, if they moved at all."""
MOVED: Final = 0.6
"""Log-odds: a detected jump moves its block at least so far; what moves less goes with the rest."""

Line = list[tuple[int, float]]
"""Hours since the epoch, and the cut from then on, in log-odds."""


def cuts_over_time(accounts: Accounts, run: Run, deployment: str) -> str:
    """Draw the green cut of each category; empty without calibrations."""
    lines = _lines(accounts.changes.trail(deployment))
    if not lines:
        return ""
    with themed():
        figure = Figure(figsize=(9.6, 3.2))
        axes = figure.add_subplot()
        quiet(axes)
        hours = accounts.tallies.hours() or {h: {} for line in lines.values() for h, _ in line}
        named = [s for s in sorted(lines, key=lambda s: -_moved(lines[s])) if _moved(lines[s]) >= MOVED][:NAMED]
        for scope, line in lines.items():
            colour = ACCENT if scope in named[:1] else INK if scope in named else MUTED
            _line(axes, line, max(hours) + 1, colour)
        _limits(axes, lines.values())
        _names(axes, {scope: lines[scope][-1][1] for scope in named})
        time_axis(axes, hours)
        draw_marks(axes, marks(accounts, run), named=True)
        axes.set_ylabel("green below this raw score")
        return svg(figure, "cuts", "The raw score below which each category is green, over time.")


def _lines(trail: dict[int, Cuts]) -> dict[str, Line]:
    """Return, per category (or for all, when no category has a cut of its own), its cut over time.

    Where nothing is green it lies at the lower edge.
    """
    found: dict[str, Line] = {}
    for hour, cuts in trail.items():
        for scope, tiers in cuts.items():
            if "green" in tiers:
                cut = tiers["green"]
                found.setdefault(scope, []).append((hour, -EDGE if cut is None else max(-EDGE, min(EDGE, cut))))
    categories = {scope: line for scope, line in found.items() if scope.startswith("category=")}
    return categories or found


def _moved(line: Line) -> float:
    values = [cut for _, cut in line]
    return max(values) - min(values)


def _line(axes: Axes, line: Line, end: int, colour: str) -> None:
    x = [*(at(hour) for hour, _ in line), at(end)]
    y = [*(cut for _, cut in line), line[-1][1]]
    axes.step(x, y, where="post", color=colour, linewidth=1.8 if colour == ACCENT else 1.1)


def _names(axes: Axes, ends: dict[str, float]) -> None:
    """Name lines at the right edge, pushed apart where they end close together."""
    low, high = axes.get_ylim()
    place = -inf
    for scope, end in sorted(ends.items(), key=lambda item: item[1]):
        place = max(end, place + (high - low) / 14)  # the height of a line of text
        colour = ACCENT if scope == next(iter(ends)) else INK
        axes.annotate(
            scope.partition("=")[2] or scope,
            (1.008, place),
            xycoords=("axes fraction", "data"),
            va="center",
            color=colour,
            annotation_clip=False,
        )


def _limits(axes: Axes, lines: Iterable[Line]) -> None:
    values = [cut for line in lines for _, cut in line]
    score_scale(axes, max(-EDGE, min(values) - 0.4), min(EDGE, max(values) + 0.4))
    axes.spines["bottom"].set_color(RULE)
