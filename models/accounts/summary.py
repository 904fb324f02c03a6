"""The figures of a run as one JSON object. Its keys are a contract: scripts read them."""

from datetime import datetime
from typing import Any

from models.accounts.accounts import Accounts
from models.accounts.balance import balances
from models.accounts.lags import quantiles
from models.accounts.lives import ARRIVED, DECIDED
from models.accounts.run import Drift, Promise, Run
from models.accounts.selection import Selection
from models.accounts.tallies import Cell
from models.events import TIERS, Alarm
from models.monitors.confidence import interval

SUMMARY_SCHEMA = 1


def summary(accounts: Accounts, run: Run) -> dict[str, Any]:
    """Return the figures of a run. Counts are of different ids, but `feedback_in` counts records.

    What the report of a running system does not know is None: its inputs are not read, so nothing is balanced; and
    feedback that found no response belongs to no deployment.
    `tiers` are held against `promise`, the default policy's, and in `deployments` each against its own.
    `labelled` and `rejected` are sums of label weights; `lower` and `upper` bound the realised rejection rate.
    """
    wrong = balances(accounts, run.dead_letters_planted) if run.asked is None else []
    return {
        "schema": SUMMARY_SCHEMA,
        "title": run.title,
        "broker": run.broker,
        "seconds": round(run.seconds, 3),
        **_asked(run.asked or Selection()),
        **_counts(accounts),
        **_unknown(run.asked),
        "dead_letters_planted": run.dead_letters_planted,
        "dead_letters_by_code": _by_code(accounts),
        **_drift(accounts, run.drift),
        "tiers": _tiers(accounts),
        "deployments": _deployments(accounts),
        "target": accounts.target,
        "promise": run.promise._asdict(),
        "brier": {"raw": _number(accounts.raw.brier), "calibrated": _number(accounts.calibrated.brier)},
        "calibration_error": {"raw": _number(accounts.raw.error()), "calibrated": _number(accounts.calibrated.error())},
        "calibrator_versions": accounts.changes.versions,
        "alarms": len(accounts.alarms),
        "label_to_threshold_ms": quantiles(accounts.lags.to_threshold()),
        "label_to_decision_ms": quantiles(accounts.lags.to_decision()),
        "balanced": not wrong if run.asked is None else None,
        "imbalances": wrong,
        "oracle_differences": run.oracle_differences,
        "note": run.note,
        "settings": run.settings,
        "versions": run.versions,
    }


def first_alarm(accounts: Accounts, drift: Drift) -> Alarm | None:
    """Return the first jump alarm in the scope of a planted drift at or after it, by event time."""
    fitting = [
        a for a in accounts.alarms.values() if a.kind == "jump" and a.scope == drift.scope and a.raised_at >= drift.at
    ]
    return min(fitting, key=lambda a: (a.raised_at, a.alarm_id), default=None)


def bounded(cell: Cell) -> dict[str, float]:
    """Return a cell with the interval of its realised rejection rate."""
    lower, upper = interval(cell.labelled, cell.rejected)
    return {
        "count": cell.count,
        "labelled": whole(cell.labelled),
        "rejected": whole(cell.rejected),
        "lower": lower,
        "upper": upper,
    }


def whole(weight: float) -> float:
    """Return an integer where a weight is one, so that plain counts read as such.

    >>> whole(3.0), whole(2.5)
    (3, 2.5)
    """
    near = round(weight, 6)
    return int(near) if near == int(near) else near


def _counts(accounts: Accounts) -> dict[str, int]:
    return {
        "responses_in": accounts.lives.count(ARRIVED),
        "decisions_out": accounts.lives.count(DECIDED),
        "feedback_in": accounts.feedback_in,
        "labels": accounts.labels,
        "corrections": accounts.kinds["correction"] + accounts.kinds["revocation"],
        "duplicates": accounts.duplicates,
        "orphans": accounts.endings["orphan"],
        "closures": accounts.endings["unlabelled"],
        "pending": accounts.waiting,
        "dead_letters": accounts.dead_letters,
        "audited": accounts.audits,
        "invalid": accounts.invalid.total(),
    }


def _unknown(asked: Selection | None) -> dict[str, None]:
    if asked is None:
        return {}
    return dict.fromkeys(("responses_in", "feedback_in", *(["orphans"] if asked.deployment else [])))


def _by_code(accounts: Accounts) -> dict[str, int]:
    return {f"{topic}:{code}": n for (topic, code), n in sorted(accounts.dead.items())}


def _drift(accounts: Accounts, drift: Drift | None) -> dict[str, str | None]:
    if drift is None:
        return {"drift_planted_at": None, "drift_scope": None, "drift_alarm_at": None}
    alarm = first_alarm(accounts, drift)
    return {
        "drift_planted_at": _iso(drift.at),
        "drift_scope": drift.scope,
        "drift_alarm_at": _iso(alarm.raised_at) if alarm else None,
    }


def _asked(asked: Selection) -> dict[str, str | None]:
    since, until = (at.isoformat() if at else None for at in (asked.since, asked.until))
    return {"from": since, "to": until, "deployment": asked.deployment}


def _deployments(accounts: Accounts) -> dict[str, Any]:
    found = {}
    for scope in accounts.tallies.scopes("deployment"):
        name = scope.removeprefix("deployment=")
        policy = accounts.policies.of(name)
        promise = Promise.of(policy)._asdict()
        found[name] = {"target": policy.target, "promise": promise, "tiers": _tiers(accounts, scope)}
    return found


def _tiers(accounts: Accounts, scope: str = "") -> dict[str, dict[str, float]]:
    total = accounts.tallies.total(scope)
    return {tier: bounded(total[tier]) for tier in TIERS}


def _iso(at: datetime) -> str:
    return at.isoformat()


def _number(value: float) -> float | None:
    return round(value, 6) if value == value else None  # noqa: PLR0124  NaN is not JSON
