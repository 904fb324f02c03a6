"""What the page says, as plain rows: the template only lays it out. Figures come from the accounts alone."""

from typing import Any, Final, NamedTuple

from models.accounts import Accounts, Run
from models.accounts.balance import accounts_of, followed
from models.accounts.changes import Change, Move, explained
from models.accounts.run import Promise, PromiseStatus
from models.accounts.selection import Selection
from models.accounts.summary import first_alarm, whole
from models.accounts.tallies import Cell, Tiers
from models.events import TIERS, Alarm, Tier
from models.monitors.confidence import interval
from streams.formatting import (
    MARKS,
    PROMISE_STATUS,
    between,
    brief,
    elapsed,
    figure,
    ground,
    lag,
    moment,
    number,
    percent,
    promised,
    rate,
    score,
)
from streams.report.charts import over_time, promises, reliability
from streams.report.cuts import cuts_over_time

MAX_CHANGES: Final = 24
MAX_MOVES: Final = 3
SMALL: Final = 0.1
"""Log-odds: moves below it are left out of a version's list, for they do not explain it."""
MAX_ALARMS: Final = 24
MAX_GROUPS: Final = 60
"""Rows a person still reads; the page says how many more there are."""


class Tile(NamedTuple):
    """One headline figure."""

    name: str
    figure: str
    says: str
    mark: str = ""
    """A standing, for a colour and a sign beside the words."""


class TierRow(NamedTuple):
    """One tier, in words."""

    tier: Tier
    decisions: str
    share: str
    labelled: str
    rejected: str
    realised: str
    interval: str
    promise: str
    standing: PromiseStatus
    says: str


class GroupRow(NamedTuple):
    """One category or site. `shares` are percentages for the bar; `green` is the realised rate among its greens."""

    name: str
    decisions: str
    shares: list[tuple[Tier, float, str]]
    labelled: str
    realised: str
    green: str
    interval: str
    standing: PromiseStatus
    says: str


class ChangeRow(NamedTuple):
    """One version of the calibrator that changed something a person would ask about."""

    when: str
    version: str
    labels: str
    cause: str
    moves: list[str]


class AlarmRow(NamedTuple):
    """One alarm. Ids in its evidence are left out: they are for inquiries, not for reading."""

    when: str
    what: str
    facts: str


def page(accounts: Accounts, run: Run, figures: dict[str, Any]) -> dict[str, Any]:
    """Return everything the template needs."""
    alarms = sorted(accounts.alarms.values(), key=lambda a: a.raised_at)
    changes = sorted(explained(accounts.changes.shown, alarms), key=lambda change: change.at)
    several = len(accounts.tallies.scopes("deployment")) > 1
    return {
        "run": run,
        "figures": figures,
        "period": _period(accounts, run.asked or Selection()),
        "tiles": _tiles(accounts, run, figures),
        "charts": _charts(accounts, run),
        "tiers": [_tier(accounts, run, tier) for tier in TIERS],
        "groups": {dimension: _groups(accounts, run, dimension) for dimension in ("deployment", "category", "site")},
        "cuts_of": accounts.busiest_deployment if several else "",
        "promised_otherwise": _promised_otherwise(accounts, run),
        "changes": [_change(c, several=several) for c in changes[-MAX_CHANGES:]],
        "earlier_changes": max(0, len(changes) - MAX_CHANGES),
        "alarms": [_alarm(a, several=several) for a in alarms[-MAX_ALARMS:]],
        "earlier_alarms": max(0, len(alarms) - MAX_ALARMS),
        "balance": accounts_of(accounts, run.dead_letters_planted) if run.asked is None else [followed(accounts)],
        "dead": sorted(accounts.dead.items()),
        "reasons": [(code.replace("_", " "), n) for code, n in accounts.reasons.most_common()],
        "setup": [*run.settings.items(), *run.versions.items(), ("broker", run.broker), *_timings(run, figures)],
        "marks": MARKS,
        "number": number,
        "percent": percent,
    }


def _period(accounts: Accounts, asked: Selection) -> str:
    hours, found = [*accounts.tallies.hours()], "no decisions"
    if hours:
        found = f"{hours[-1] - hours[0] + 1:,} hours of event time, until {moment(accounts.clock)}"
    bounds = [f"{word} {moment(at)}" for word, at in (("from", asked.since), ("before", asked.until)) if at]
    return f"Responses {' and '.join(bounds)} UTC: {found}" if bounds else found


def _timings(run: Run, figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What only a run that we watched can tell."""
    if run.asked is not None:
        return []
    lags = figures["label_to_decision_ms"]
    times = f"{lag(lags['p50'])} median, {lag(lags['p99'])} p99"
    return [("label to decision", times), ("wall time", f"{run.seconds:.1f} s")]


def _promised_otherwise(accounts: Accounts, run: Run) -> int:
    """Deployments whose own promise or target is not the one that the page shows."""
    own = [accounts.policies.of(scope.partition("=")[2]) for scope in accounts.tallies.scopes("deployment")]
    return sum((Promise.of(policy), policy.target) != (run.promise, accounts.target) for policy in own)


def _charts(accounts: Accounts, run: Run) -> dict[str, str]:
    """Draw what there are figures for. The template places them as they are: matplotlib has escaped every text."""
    return {
        "reliability": reliability(accounts, run) if accounts.raw.labelled else "",
        "promises": promises(accounts, run),
        "over_time": over_time(accounts, run) if accounts.tallies.hours() else "",
        "cuts": cuts_over_time(accounts, run, accounts.busiest_deployment),
    }


def _tiles(accounts: Accounts, run: Run, figures: dict[str, Any]) -> list[Tile]:
    return [
        Tile("responses decided on", number(figures["decisions_out"]), f"{number(figures['labels'])} labels came back"),
        _green_tile(accounts, run),
        _drift_tile(accounts, run),
        *(_watched_tiles(figures) if run.asked is None else [_judged_tile(accounts)]),
    ]


def _watched_tiles(figures: dict[str, Any]) -> list[Tile]:
    threshold = figures["label_to_threshold_ms"]
    kept = "Nothing lost" if figures["balanced"] else "Something is missing"
    return [
        Tile("label to threshold", lag(threshold["p50"]), f"median; p99 {lag(threshold['p99'])}"),
        Tile(
            "accounts",
            kept,
            "every message has its outcome" if figures["balanced"] else "; ".join(figures["imbalances"]),
            "within" if figures["balanced"] else "above",
        ),
    ]


def _judged_tile(accounts: Accounts) -> Tile:
    account = followed(accounts)
    share = account.parts["judged"] / account.went_in if account.went_in else None
    return Tile("responses judged", percent(share), f"{number(account.parts['pending'])} pending")


def _green_tile(accounts: Accounts, run: Run) -> Tile:
    row = _tier(accounts, run, "green")
    if not accounts.tallies.total()["green"].labelled:
        return Tile(f"green ({row.share})", "untested", f"no green response has a verdict; promise {row.promise}")
    says = f"rejected; {row.interval}, promise {row.promise}"
    if row.standing == "open":
        says = f"rejected, {row.rejected} of {row.labelled} verdicts: too few to tell; promise {row.promise}"
    return Tile(f"green ({row.share})", row.realised, says, row.standing)


def _drift_tile(accounts: Accounts, run: Run) -> Tile:
    if run.drift is None:
        says = "no drift was planted: this is what was found" if run.asked is None else "raised in the period"
        return Tile("alarms", number(len(accounts.alarms)), says)
    alarm, scope = first_alarm(accounts, run.drift), _plain(run.drift.scope)
    if alarm is None:
        return Tile("planted drift", "not found", f"{scope}, {brief(run.drift.at)}", "above")
    after = elapsed((alarm.raised_at - run.drift.at).total_seconds())
    return Tile("planted drift found after", after, f"{scope}; event time", "within")


def _tier(accounts: Accounts, run: Run, tier: Tier) -> TierRow:
    total = accounts.tallies.total()
    cell, decided = total[tier], sum(c.count for c in total.values())
    lower, upper = interval(cell.labelled, cell.rejected)
    standing = run.promise.status(tier, lower, upper)
    return TierRow(
        tier,
        number(cell.count),
        percent(cell.count / decided if decided else None),
        number(whole(cell.labelled)),
        number(whole(cell.rejected)),
        percent(rate(cell)),
        between(lower, upper),
        promised(run.promise, tier),
        standing,
        PROMISE_STATUS[standing] if cell.labelled else "no verdicts",
    )


def _groups(accounts: Accounts, run: Run, dimension: str) -> tuple[list[GroupRow], int]:
    """Return the rows of the busiest, in order of name, and how many groups more there are.

    A deployment is held against its own promise; one that is alone is the whole page, if it has the page's.
    """
    known = len(accounts.tallies.scopes(dimension))
    busiest = accounts.tallies.busiest(dimension, MAX_GROUPS)
    if dimension != "deployment":
        rows = [_group(accounts, run.promise, scope) for scope in busiest]
    else:
        apart = known > 1 or _promised_otherwise(accounts, run)
        rows = [_deployment(accounts, scope) for scope in busiest] if apart else []
    return rows, known - len(busiest)


def _deployment(accounts: Accounts, scope: str) -> GroupRow:
    policy = accounts.policies.of(scope.partition("=")[2])
    promise = Promise.of(policy)
    row = _group(accounts, promise, scope)
    return row._replace(says=f"{row.says}, promise {promised(promise, 'green')} of {policy.target} rejections")


def _group(accounts: Accounts, promise: Promise, scope: str) -> GroupRow:
    row = accounts.tallies.total(scope)
    whole_row, green = sum(row.values(), Cell()), row["green"]
    lower, upper = interval(green.labelled, green.rejected)
    standing = promise.status("green", lower, upper)
    return GroupRow(
        scope.partition("=")[2],
        number(whole_row.count),
        _shares(row, whole_row.count),
        number(whole(whole_row.labelled)),
        percent(rate(whole_row)),
        percent(rate(green)),
        between(lower, upper),
        standing,
        standing if green.labelled else "no verdicts",
    )


def _shares(row: Tiers, count: int) -> list[tuple[Tier, float, str]]:
    shares = [(tier, row[tier].count / count if count else 0.0) for tier in TIERS]
    return [(tier, round(100 * share, 2), percent(share)) for tier, share in shares]


def _change(change: Change, *, several: bool) -> ChangeRow:
    return ChangeRow(
        brief(change.at),
        number(change.version),
        number(change.labels),
        f"{change.deployment}: {_plain(change.cause)}" if several else _plain(change.cause),
        [_move(m) for m in change.moves if m.size >= SMALL][:MAX_MOVES],
    )


def _move(move: Move) -> str:
    name = f"{_plain(move.scope)}, {move.level} {'below' if move.level == 'green' else 'from'}"
    if move.before is None or move.after is None:
        return f"{name} {score(move.after)}, was {score(move.before)}"
    return f"{name} {score(move.after)} instead of {score(move.before)}"


def _plain(scope: str) -> str:
    return scope.replace("=", " ")


def _alarm(alarm: Alarm, *, several: bool) -> AlarmRow:
    evidence = {name: value for name, value in alarm.evidence.items() if not isinstance(value, str)}
    facts = (
        ground(alarm),
        f"since {brief(alarm.since)}",
        *(f"{name.replace('_', ' ')} {figure(value)}" for name, value in evidence.items()),
    )
    what = f"{alarm.kind}, {_plain(alarm.scope)}"
    return AlarmRow(brief(alarm.raised_at), f"{alarm.deployment}: {what}" if several else what, "; ".join(facts))
