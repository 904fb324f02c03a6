"""How figures are said to people, in the terminal and in the report alike."""

from datetime import UTC, datetime
from math import ceil, exp, log10
from typing import Final
from unicodedata import category

from models.accounts.run import Promise, PromiseStatus
from models.accounts.tallies import Cell
from models.events import Alarm, Tier
from models.policy import Policy

SHARES: Final = {
    "breach": "rejected",
    "tightening": "rejected",
    "unscored": "of responses without a score",
    "orphans": "of endings without a response",
    "doubted": "of scored responses in doubt",
}
"""What the statistic of an alarm is a share of. Of other kinds, and of a tightening after an excess, it is evidence."""
DAY_S: Final = 86_400.0
DASH: Final = "\N{EN DASH}"
NONE: Final = "n/a"
PROMISE_STATUS: Final[dict[PromiseStatus, str]] = {
    "within": "within the promise",
    "open": "too few labels to tell",
    "above": "above the promise",
    "below": "below the promise",
}
MARKS: Final[dict[PromiseStatus, str]] = {"within": "●", "open": "○", "above": "▲", "below": "▼"}
"""Beside the words, so that a colour is not needed."""


def visible(text: str) -> str:
    r"""Leave out what steers a terminal instead of being seen: topics may hold names from outside.

    >>> visible("do\x1b]52;c;x\x07sing\nµg")
    'do]52;c;xsing\nµg'
    """
    return "".join(one for one in text if one == "\n" or category(one)[0] != "C")


def percent(share: float | None) -> str:
    """Say a share with about two significant digits.

    >>> percent(0.0314), percent(0.31), percent(0.937), percent(0.996), percent(None)
    ('3.1 %', '31 %', '94 %', '99.6 %', 'n/a')
    >>> percent(0.00004), percent(0.99996), percent(0.0), percent(1.0), percent(1e-9)
    ('0.004 %', '99.996 %', '0 %', '100 %', '0 %')
    """
    if share is None:
        return NONE
    return f"{_digits(share)} %"


def between(lower: float, upper: float) -> str:
    """Say an interval of shares; one that excludes nothing says nothing.

    >>> between(0.021, 0.043).replace(DASH, " to "), between(0.0, 1.0)
    ('2.1 to 4.3 %', 'n/a')
    """
    if (lower, upper) == (0.0, 1.0):
        return NONE
    return f"{_digits(lower)}{DASH}{_digits(upper)} %"


def terms(policy: Policy, horizon_s: float) -> dict[str, str]:
    """Say what a report's figures rest on: how long verdicts are waited for, and the policy.

    >>> terms(Policy(), 3 * DAY_S)
    {'horizon': '3 days', 'plan': 'full-access', 'target': 'any rejection', 'audit sample': '3.0 %'}
    """
    return {
        "horizon": f"{horizon_s / DAY_S:g} days",
        "plan": policy.plan,
        "target": f"{policy.target} rejection",
        "audit sample": percent(policy.audit_rate),
    }


def promised(promise: Promise, tier: Tier) -> str:
    """Say a tier's band of realised rejection.

    >>> promised(Promise(), "red")
    '> 20 %'
    """
    low, high = (100 * x for x in promise.band(tier))
    return {"green": f"≤ {high:g} %", "yellow": f"{low:g}{DASH}{high:g} %", "red": f"> {low:g} %"}[tier]


def rate(cell: Cell) -> float | None:
    """Return the realised rejection rate of a cell, or None without labels."""
    return cell.rejected / cell.labelled if cell.labelled else None


def score(cut: float | None) -> str:
    """Say a raw-score cut, given in log-odds, as the probability it stands for.

    >>> score(-2.944), score(0.0), score(None)
    ('5.0 %', '50 %', 'none')
    """
    return "none" if cut is None else percent(1 / (1 + exp(-cut)))


def lag(milliseconds: float | None) -> str:
    """Say a duration.

    >>> lag(12.3), lag(1234.0), lag(92_000.0), lag(None)
    ('12 ms', '1.2 s', '92 s', 'n/a')
    """
    if milliseconds is None:
        return NONE
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def number(count: float) -> str:
    """Say a count; a sum of weights with one decimal.

    >>> number(12345), number(2.5)
    ('12,345', '2.5')
    """
    return f"{count:,}" if isinstance(count, int) else f"{count:,.1f}"


def figure(value: float) -> str:
    """Say a statistic with three significant digits.

    >>> figure(12345.6), figure(0.05678)
    ('12,346', '0.0568')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ground(alarm: Alarm) -> str:
    """Say what an alarm rests on, against what it needed: a share, which is below 1, or evidence, which is far above.

    >>> at = datetime(2026, 1, 8, tzinfo=UTC)
    >>> known = {"alarm_id": "a", "deployment": "d", "scope": "all", "since": at, "raised_at": at}
    >>> ground(Alarm(kind="breach", statistic=0.071, threshold=0.05, **known))
    '7.1 % rejected, at most 5.0 % expected'
    >>> ground(Alarm(kind="jump", statistic=12345.6, threshold=10_000.0, **known))
    'evidence 12,346, needed 10,000'
    """
    if alarm.kind in SHARES and alarm.threshold < 1.0:
        return f"{percent(alarm.statistic)} {SHARES[alarm.kind]}, at most {percent(alarm.threshold)} expected"
    return f"evidence {figure(alarm.statistic)}, needed {figure(alarm.threshold)}"


def elapsed(seconds: float) -> str:
    """Say how long something took, in the largest units that matter.

    >>> elapsed(90), elapsed(5400), elapsed(100_000)
    ('1 min', '1 h 30 min', '1 d 3 h')
    """
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def moment(at: datetime | None) -> str:
    """Say an event time, to the minute, in UTC.

    >>> moment(datetime.fromisoformat("2026-01-08T13:30:00+01:00"))
    'Thu 8 Jan 2026 12:30'
    """
    return NONE if at is None else _utc(at, "%b %Y %H:%M")


def brief(at: datetime | None) -> str:
    """Say an event time where the year is plain, in UTC.

    >>> brief(datetime.fromisoformat("2026-01-09T01:30:00+13:00"))
    'Thu 8 Jan 12:30'
    """
    return NONE if at is None else _utc(at, "%b %H:%M")


def _digits(share: float) -> str:
    """Two significant digits of a percentage; near 0 and 100 as many as tell it from them, down to a millionth."""
    value = 100 * share
    near = 100 - value if value > 99 else value
    if near < 1e-6 or near >= 10:
        return f"{value:.0f}"
    return f"{value:.{1 if near >= 0.1 else ceil(-log10(near))}f}"


def _utc(at: datetime, words: str) -> str:
    """Say a time of whatever offset in UTC, from its weekday on."""
    at = at.astimezone(UTC)
    return f"{at:%a} {at.day} {at:{words}}"
