"""The parts of the live view. Each is a pure function of the accounts; colour repeats what a word or number says."""

from typing import Final

from rich import box
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from models.accounts import Accounts, Run
from models.accounts.changes import Cuts
from models.accounts.lags import quantiles
from models.accounts.lives import ARRIVED, DECIDED
from models.accounts.run import PromiseStatus
from models.accounts.spans import spans
from models.accounts.tallies import Cell, Tiers
from models.events import TIERS, Alarm, Tier
from models.monitors.confidence import interval
from streams.formatting import MARKS, between, brief, ground, lag, percent, promised, rate, score, visible
from streams.live.strip import bar, strip

COLOUR: Final[dict[Tier, str]] = {"green": "green", "yellow": "yellow", "red": "red"}
STYLE: Final[dict[PromiseStatus, str]] = {"within": "green", "open": "dim", "above": "bold red", "below": "bold cyan"}


def heading(accounts: Accounts, run: Run, pace: float) -> RenderableType:
    """Name the run; show its pace in records a second, and the clock of its events."""
    line = Table.grid(expand=True)
    line.add_column(ratio=1, no_wrap=True)
    line.add_column(justify="right", no_wrap=True)
    name = Text.assemble((" demur ", "reverse bold"), "  ", (run.title, "bold"), ("  " + run.broker, "dim"))
    line.add_row(name, Text.assemble(f"{pace:,.0f}/s  ", (brief(accounts.clock), "bold cyan"), " "))
    return line


def flow(accounts: Accounts) -> RenderableType:
    """Say how much came in, and what is still under way."""
    parts = (
        (accounts.lives.count(ARRIVED), "responses"),
        (accounts.feedback_in, "feedback"),
        (accounts.labels, "labels"),
        (accounts.waiting, "waiting"),
        (accounts.dead_letters, "dead letters"),
    )
    line = Text(" ", no_wrap=True, overflow="crop")
    for number, word in parts:
        line.append(f"{number:,}", "bold").append(f" {word}  ", "dim")
    return line


def tiers(accounts: Accounts, run: Run, width: int) -> RenderableType:
    """Show each tier: its share, its realised rejection with the interval, and its promise."""
    table = _table()
    table.add_column("tier")
    table.add_column("share", ratio=1)
    for name in ("", "labels", "rejected", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("promise", no_wrap=True)
    table.add_column("", no_wrap=True)
    for tier in TIERS:
        table.add_row(*_tier_row(accounts, run, tier, max(6, width - 64)))
    return _framed("tiers", table)


def _tier_row(accounts: Accounts, run: Run, tier: Tier, width: int) -> list[Text | str]:
    cell = accounts.tallies.total()[tier]
    lower, upper = interval(cell.labelled, cell.rejected)
    standing = run.promise.status(tier, lower, upper)
    share = cell.count / max(1, accounts.lives.count(DECIDED))
    return [
        Text(tier, COLOUR[tier]),
        Text(bar(share, width), COLOUR[tier], no_wrap=True),
        percent(share),
        f"{cell.labelled:,.0f}",
        percent(rate(cell)),
        between(lower, upper),
        promised(run.promise, tier),
        Text(f"{MARKS[standing]} {standing}", STYLE[standing]),
    ]


def groups(accounts: Accounts, dimension: str, width: int, rows: int) -> RenderableType:
    """Show each category or site: its mean tier over time (empty: green, full: red), and its cuts on the raw score."""
    table = _table()
    table.add_column(dimension, no_wrap=True, min_width=12, max_width=18)
    table.add_column("green to red, over time", ratio=1, no_wrap=True)
    for name in ("green", "rejected", "green below", "red from"):
        table.add_column(name, justify="right", no_wrap=True)
    cuts = accounts.changes.cuts(accounts.busiest_deployment)
    known = len(accounts.tallies.scopes(dimension))
    shown = "" if rows >= known else f" ({rows} of {known})"
    for scope in accounts.tallies.busiest(dimension, rows):
        table.add_row(*_group_row(accounts, scope, cuts, max(8, width - 59)))
    return _framed(f"by {dimension}{shown}, with the cuts on the raw score", table)


def _group_row(accounts: Accounts, scope: str, cuts: Cuts, width: int) -> list[Text | str]:
    hours = accounts.tallies.hours(scope)
    every = accounts.tallies.hours()
    series = [s.severity for s in spans(hours, min(every), max(every), width)]
    own = cuts.get(scope) or cuts.get("all", {})
    total = accounts.tallies.total(scope)
    whole = _sum(total)
    return [
        Text(visible(scope.partition("=")[2])),  # names are not markup
        strip(series, top=1.0),
        percent(total["green"].count / whole.count if whole.count else None),
        percent(rate(whole)),
        score(own.get("green")),
        score(own.get("red")),
    ]


def _sum(row: Tiers) -> Cell:
    return sum(row.values(), Cell())


def alarms(accounts: Accounts, run: Run, rows: int) -> RenderableType:
    """Show the latest alarms, and the planted drift once its time has come."""
    lines = [_alarm(a) for a in sorted(accounts.alarms.values(), key=lambda a: a.raised_at)]
    if run.drift and accounts.clock and accounts.clock >= run.drift.at:
        planted = f"{brief(run.drift.at)}  planted: drift in {run.drift.scope}"
        lines.insert(sum(a.raised_at < run.drift.at for a in accounts.alarms.values()), Text(planted, "dim"))
    shown = lines[-rows:] or [Text("none", "dim")]
    return _framed(f"alarms ({len(accounts.alarms):,})", Text("\n", no_wrap=True, overflow="ellipsis").join(shown))


def _alarm(alarm: Alarm) -> Text:
    said = f"  {ground(alarm)}"
    return Text.assemble(
        brief(alarm.raised_at), "  ", (f"▲ {alarm.kind}", "bold red"), f" {visible(alarm.scope)}", (said, "dim")
    )


def learning(accounts: Accounts) -> RenderableType:
    """Say how fast labels move the thresholds."""
    threshold = quantiles(accounts.lags.to_threshold())
    decision = quantiles(accounts.lags.to_decision())
    line = Text(no_wrap=True, overflow="crop")
    for word, number in (
        ("label to threshold p50", lag(threshold["p50"])),
        ("p99", lag(threshold["p99"])),
        ("to decision p50", lag(decision["p50"])),
        ("version", f"{accounts.changes.versions:,}"),
    ):
        line.append(f" {word} ", "dim").append(f"{number} ", "bold")
    return line


def _table() -> Table:
    return Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)


def _framed(title: str, inside: RenderableType) -> Panel:
    return Panel(
        inside,
        title=f"[dim]{title}[/]",
        title_align="left",
        box=box.ROUNDED,
        border_style="dim",
        padding=(0, 1),
    )
