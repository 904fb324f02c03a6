"""Loosening is bounded per day; tightening is immediate (invariant I9).

What is bounded is what people see: the raw logit below which a scope (all responses, or one group value) is green. Its
`ceiling` for a day of event time is where it stood when the day began, plus the policy's allowance. Where the
calibrator would go beyond, the scorers read logits as that much higher, for that scope: at the old threshold plus the
allowance a response is green, above it is not. The estimate itself moves on; only its effect is spread over days. What
was used of yesterday's allowance is given anew as today goes on: there is not twice as much within minutes of midnight.

A response has several groups, and its threshold is about that of all, moved by what each of its groups moves it. So
each scope's distance from its ceiling is published, below it (negative) too, and a response is held back by that of all
and by what each of its groups adds to it: two groups that improve on one day do not add up to twice the allowance. Nor
is it held back by less than any one of its scopes (see `together`).

**How far that holds.** A scope alone rises by no more than the allowance a day. So does every response, as far as
thresholds are sums (`tests/property/test_brake.py`). They are not quite: the curve is none, and uncertainties do not
add up. Where answers become better by leaps, in courses made at random, a response of two groups rose by .55 logits on
a day where .5 are allowed, one of three by up to .89, two in 24 courses by more than .55.

The brake starts with the first day that begins warm: before, nothing is green. A scope that the morning did not know is
held to the ceiling of all. A person may approve higher ceilings; a broken promise lowers them (see `ledger`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from models.calibration.basis import LIMIT
from models.errors import StateError

DAY_S: Final = 86_400.0

Cuts = Mapping[str, Mapping[str, float | None]]


class Brake:
    """Ceilings of one deployment.

    >>> brake = Brake(allowance=0.5)
    >>> brake.start(20_000, {"all": {"green": -3.0}})
    >>> brake.excess({"all": {"green": -2.2}, "site=new": {"green": -2.6}})
    {'all': 0.3, 'site=new': -0.1}
    >>> brake.start(20_001, {"all": {"green": -2.2}})
    >>> for hour in (0, 12, 24):
    ...     brake.go_on(20_001, hour / 24)
    ...     brake.excess({"all": {"green": -2.2}})
    {'all': 0.3}
    {'all': 0.05}
    {}
    """

    __slots__ = ("_ceilings", "_day", "_part", "_withheld", "allowance")

    def __init__(self, allowance: float) -> None:
        self.allowance = allowance
        self._day = -1
        self._part = 1.0
        self._ceilings: dict[str, float] = {}
        self._withheld: dict[str, float] = {}
        """What of the ceilings is released until the day's end."""

    def is_new(self, day: int) -> bool:
        """Whether `day` (days since the epoch) begins; a clock running backwards begins none."""
        return day > self._day

    def start(self, day: int, cuts: Cuts) -> None:
        """Begin a day at the thresholds in force: those of the calibrator, under the ceilings of the day before.

        What of the new ceilings lies above those of yesterday is released as the day goes on.
        """
        follows, self._part = day == self._day + 1, 1.0
        held = shares(self._over(cuts)) if self._ceilings else {}
        ceilings = {scope: green(cut) + self.allowance - held.get(scope, 0.0) for scope, cut in cuts.items()}
        rises = {scope: value - self._ceiling(scope) for scope, value in ceilings.items()}
        self._ceilings, self._withheld = ceilings, shares(rises) if follows else {}
        self._day, self._part = day, 0.0

    def go_on(self, day: int, part: float) -> None:
        """Go on to a part of the day in [0, 1]; not back."""
        if day == self._day:
            self._part = max(self._part, part)

    def excess(self, cuts: Cuts) -> dict[str, float]:
        """Return by how many logits each scope's threshold lies above its ceiling (or below); empty: all may pass."""
        if not self._ceilings:
            return {}
        over = self._over(cuts)
        worst: dict[str, str] = {}
        for scope in sorted(over, key=over.__getitem__):
            worst[scope.partition("=")[0]] = scope  # of each name the value that is most held back
        held = together(over, [scope for scope in worst.values() if over[scope] > over["all"]])
        return over if held > 0.0 else {}

    def tighten(self, scope: str, cuts: Cuts, step: float) -> None:
        """Lower a scope's threshold by `step` at once; it may rise again by the allowance a day.

        >>> brake = Brake(allowance=0.5)
        >>> brake.tighten("all", {"all": {"green": -3.0}}, step=1.0)
        >>> brake.excess({"all": {"green": -3.0}})
        {'all': 1.0}
        """
        stands = min(green(cuts.get(scope, cuts["all"])), self._ceiling(scope))
        self._put(scope, max(stands - step, -LIMIT))

    def approve(self, ceilings: Mapping[str, float]) -> None:
        """Let thresholds rise to what a person approved, today no further."""
        for scope, ceiling in ceilings.items():
            self._put(scope, ceiling)

    def cap(self, cuts: Cuts) -> None:
        """Hold ceilings to the allowance above thresholds that a person has put in place."""
        for scope in self._ceilings.keys() & cuts.keys():
            self._ceilings[scope] = min(self._ceilings[scope], green(cuts[scope]) + self.allowance)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON types."""
        held = {scope: value for scope, value in self._withheld.items() if value}
        return {"day": self._day, "part": self._part, "ceilings": dict(self._ceilings), "withheld": held}

    @classmethod
    def restore(cls, state: object, allowance: float) -> "Brake":
        """Continue from `state`. Raises `StateError` if it is damaged."""
        try:
            saved = msgspec.convert(state, _Saved)
        except msgspec.ValidationError as error:
            raise StateError(f"the brake's state is damaged: {error}") from None
        self = cls(allowance)
        self._day, self._part = saved.day, saved.part
        self._ceilings, self._withheld = saved.ceilings, saved.withheld
        return self

    def _over(self, cuts: Cuts) -> dict[str, float]:
        return {scope: round(green(cut) - self._ceiling(scope), 6) for scope, cut in cuts.items()}

    def _ceiling(self, scope: str) -> float:
        """Return where a scope's ceiling is now; one that is not known is held to that of all."""
        known = scope if scope in self._ceilings else "all"
        return self._ceilings.get(known, LIMIT) - (1.0 - self._part) * self._withheld.get(known, 0.0)

    def _put(self, scope: str, ceiling: float) -> None:
        self._ceilings[scope], self._withheld[scope] = ceiling, 0.0


def shares(excess: Mapping[str, float]) -> dict[str, float]:
    """Return by how many logits each scope is held back, so that a response is by `together` of its scopes at least.

    That of a response is reckoned as its threshold is: what holds back all, and what each of its groups adds to it.

    >>> shares({"all": 0.5, "site=a": 0.75, "site=b": 0.0})
    {'all': 0.5, 'site=a': 0.75, 'site=b': 0.5}
    >>> shares({"all": -0.5, "site=a": 0.0, "category=b": 0.25})
    {'all': 0.0, 'site=a': 0.25, 'category=b': 0.5}
    """
    general = excess["all"]
    names = {scope.partition("=")[0] for scope in excess if excess[scope] > general}
    most, spare = max(general, 0.0), min(general, 0.0) / max(len(names), 1)
    return {scope: max(most, value, most + value - general + spare) for scope, value in excess.items()} | {"all": most}


def together(excess: Mapping[str, float], scopes: Iterable[str]) -> float:
    """Return by how many logits a response of these scopes is held back.

    >>> together({"all": -0.5, "site=a": 0.25, "category=b": 0.0}, ["site=a", "category=b", "history=new"])
    0.75
    >>> together({"all": -0.5, "site=a": 0.25, "category=b": -3.0}, ["site=a", "category=b"])
    0.25
    """
    general = excess.get("all", 0.0)
    own = [excess[scope] for scope in scopes if scope in excess]
    return max(0.0, general, *own, general + sum(value - general for value in own))


def effective(cuts: Cuts, excess: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """Return the thresholds in force: lowered by the excess of their scope, or of all if that is larger.

    >>> effective({"all": {"green": -2.0}, "site=a": {"green": None}}, {"all": 0.5})
    {'all': {'green': -2.5}, 'site=a': {'green': None}}
    """
    return {
        scope: {
            name: None if value is None else round(value - together(excess, [scope]), 4) for name, value in cut.items()
        }
        for scope, cut in cuts.items()
    }


class _Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    day: int
    part: float
    ceilings: dict[str, float]
    withheld: dict[str, float]


def green(cut: Mapping[str, float | None]) -> float:
    """Return a scope's green threshold; none at all is the lowest logit there is."""
    value = cut["green"]
    return -LIMIT if value is None else value
