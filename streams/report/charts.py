"""The report's figures. Each function draws one and returns it as inline SVG."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.accounts import Accounts, Promise, Run
from models.accounts.reliability import Point
from models.accounts.spans import Span, spans
from models.events import TIERS, Tier
from models.monitors.confidence import interval
from streams.formatting import percent
from streams.report.axes import at, draw_marks, marks, quiet, root_scale, time_axis
from streams.report.theme import ACCENT, INK, MUTED, PAPER, RULE, TIER, svg, themed

HATCH: dict[Tier, str | None] = {"green": None, "yellow": None, "red": "////"}
"""Red is hatched, so that the tiers differ without their hues."""


def reliability(accounts: Accounts, run: Run) -> str:
    """Predicted against realised rejection: the encoder's own probability, and the calibrated risk."""
    with themed():
        figure = Figure(figsize=(5.6, 4.9))
        axes = figure.add_subplot()
        root_scale(axes, both=True)
        quiet(axes)
        _bands(axes, run.promise)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        _curve(axes, accounts.raw.points(), "encoder's probability", MUTED, "s")
        _curve(axes, accounts.calibrated.points(), "calibrated risk", ACCENT, "o")
        axes.set(xlabel="predicted probability of rejection", ylabel="realised share rejected")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.94), labelcolor=INK)
        return svg(figure, "reliability", "Reliability diagram: predicted against realised rejection.")


def _bands(axes: Axes, promise: Promise) -> None:
    for tier in TIERS:
        low, high = promise.band(tier)
        axes.axvspan(low, high, color=TIER[tier], alpha=0.10, linewidth=0)
        middle = ((low**0.5 + high**0.5) / 2) ** 2
        axes.text(middle, 0.985, tier, transform=axes.get_xaxis_transform(), ha="center", va="top", color=MUTED)


def _curve(axes: Axes, points: list[Point], name: str, colour: str, marker: str) -> None:
    x, y = [p.predicted for p in points], [p.realised for p in points]
    below = [p.realised - p.lower for p in points]
    above = [p.upper - p.realised for p in points]
    face = PAPER if marker == "s" else colour
    axes.errorbar(x, y, yerr=(below, above), fmt="none", ecolor=colour, elinewidth=1.1, alpha=0.55)
    axes.plot(
        x, y, color=colour, marker=marker, markersize=5, markerfacecolor=face, linewidth=1.3, label=name, clip_on=False
    )


def promises(accounts: Accounts, run: Run) -> str:
    """Realised rejection per tier with its interval, on the band that the tier promises."""
    with themed():
        figure = Figure(figsize=(9.6, 1.9))
        axes = figure.add_subplot()
        root_scale(axes, both=False)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_yticks(range(3), labels=TIERS)
        axes.set_ylim(2.6, -0.6)
        for row, tier in enumerate(TIERS):
            _promise(axes, row, tier, accounts, run)
        return svg(figure, "promises", "Realised rejection per tier, its 95 % interval, and the promised band.")


def _promise(axes: Axes, row: int, tier: Tier, accounts: Accounts, run: Run) -> None:
    low, high = run.promise.band(tier)
    axes.barh(row, high - low, left=low, height=0.62, color=TIER[tier], alpha=0.28, linewidth=0)
    cell = accounts.tallies.total()[tier]
    if not cell.labelled:
        return
    lower, upper = interval(cell.labelled, cell.rejected)
    axes.plot([lower, upper], [row, row], color=INK, linewidth=2.2, solid_capstyle="butt")
    axes.plot(cell.rejected / cell.labelled, row, "o", color=INK, markersize=6)
    said = percent(cell.rejected / cell.labelled)
    axes.annotate(said, (upper, row), xytext=(7, 0), textcoords="offset points", va="center")


def over_time(accounts: Accounts, run: Run) -> str:
    """Tier shares over event time, for all responses and for the drifted scope; and how green kept its promise."""
    scopes = [""] if run.drift is None else ["", run.drift.scope]
    with themed():
        figure = Figure(figsize=(9.6, 2.0 * len(scopes) + 1.9))
        every = figure.subplots(len(scopes) + 1, 1, sharex=True, squeeze=False)[:, 0]
        found, hours = marks(accounts, run), accounts.tallies.hours()
        for n, (axes, scope) in enumerate(zip(every, scopes, strict=False)):
            axes.set_title(_title(scope), pad=16 if n == 0 else 6)
            _stack(axes, spans(accounts.tallies.hours(scope), min(hours), max(hours), at_most=84))
            draw_marks(axes, found, named=n == 0)
        _green(every[-1], spans(hours, min(hours), max(hours), at_most=21), run.promise)
        draw_marks(every[-1], found, named=False)
        time_axis(every[-1], hours)
        return svg(figure, "over-time", "Tier shares over time, with the planted drift and the alarm marked.")


def _title(scope: str) -> str:
    return f"Tiers, {scope.replace('=', ' ')}" if scope else "Tiers, all responses"


def _stack(axes: Axes, found: list[Span]) -> None:
    """Stack tier shares, green at the bottom; each names itself at the right edge. Without decisions: a gap."""
    last = max((n for n, span in enumerate(found) if span.decided), default=None)
    if last is None:
        return
    edges = [*found, found[-1]]
    x, base = [*(at(s.start) for s in found), at(found[-1].start + _length(found))], [0.0] * len(edges)
    for tier in TIERS:
        top = [b + s.tiers[tier].count / max(1, s.decided) for b, s in zip(base, edges, strict=True)]
        axes.fill_between(
            x, base, top, facecolor=TIER[tier], step="post", linewidth=0, hatch=HATCH[tier], edgecolor=PAPER
        )
        middle = (base[last] + top[last]) / 2
        if top[last] - base[last] > 0.08:
            axes.annotate(
                tier,
                (1.005, middle),
                xycoords=("axes fraction", "data"),
                va="center",
                color=MUTED,
                annotation_clip=False,
            )
        base = top
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], labels=["0 %", "50 %", "100 %"])
    axes.tick_params(length=0)


def _length(found: list[Span]) -> int:
    """Hours in a span."""
    return found[1].start - found[0].start if len(found) > 1 else 1


def _green(axes: Axes, found: list[Span], promise: Promise) -> None:
    axes.set_title("Green: share rejected, with 95 % intervals", pad=6)
    quiet(axes)
    drawn = [s for s in found if s.tiers["green"].labelled]
    for span in drawn:
        _green_point(axes, span, _length(found) / 2)
    if not drawn:
        axes.text(0.015, 0.75, "no green response has a verdict", transform=axes.transAxes, color=MUTED)
    top = max((s.tiers["green"].rejected / s.tiers["green"].labelled for s in drawn), default=0.0)
    limit = min(1.0, max(3 * promise.green, 1.4 * top))
    axes.set_ylim(0, limit)
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
    axes.axhspan(promise.green, limit, color=RULE, alpha=0.35, linewidth=0)
    axes.axhline(promise.green, color=INK, linewidth=0.9)


def _green_point(axes: Axes, span: Span, half: float) -> None:
    green = span.tiers["green"]
    lower, upper = interval(green.labelled, green.rejected)
    x = at(span.start + half)
    axes.plot([x, x], [lower, upper], color=TIER["green"], linewidth=1.6)
    axes.plot(x, green.rejected / green.labelled, "o", color=TIER["green"], markersize=4.5, clip_on=False)
