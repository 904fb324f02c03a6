"""Loosening is bounded per day; tightening is immediate (invariant I9).

What is bounded is what people see: the raw logit below which a scope (all responses, or one group value) is green. Its
`ceiling` for a day of event time is where it stood when the day's first label came, plus the policy's allowance. Where
the calibrator would go beyond, the scorers read logits as that much higher, for that scope: at the old threshold plus
the allowance a response is green, above it is not. The estimate itself moves on; only its effect is spread over days.

A response has several groups, and its threshold is about that of all, moved by what each of its groups moves it. So
each scope's distance from its ceiling is published, below it (negative) too, and a response is held back by that of all
and by what each of its groups adds to it: two groups that improve on one day do not add up to twice the allowance. Nor
is it held back by less than any one of its scopes (see `together`).

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
    >>> brake.excess({"all": {"green": -2.2}})
    {}
    """

    __slots__ = ("_ceilings", "_day", "allowance")

    def __init__(self, allowance: float) -> None:
        self.allowance = allowance
        self._day = -1
        self._ceilings: dict[str, float] = {}

    def is_new(self, day: int) -> bool:
        """Whether `day` (days since the epoch) begins; a clock running backwards begins none."""
        return day > self._day

    def start(self, day: int, cuts: Cuts) -> None:
        """Begin a day at the thresholds in force: those of the calibrator, under the ceilings of the day before.

        Names of groups that would rise beyond all share the allowance, for a response has a group of each.
        """
        rise = {scope: min(green(cut) - self._ceiling(scope), 0.0) + self.allowance for scope, cut in cuts.items()}
        general = rise["all"]
        names = {scope.partition("=")[0] for scope in rise if rise[scope] > general}
        if self._ceilings and names:
            most = general + (self.allowance - general) / len(names)
            rise = {scope: min(value, most) for scope, value in rise.items()}
        self._ceilings = {scope: self._ceiling(scope) + value for scope, value in rise.items()}
        self._day = day

    def excess(self, cuts: Cuts) -> dict[str, float]:
        """Return by how many logits each scope's threshold lies above its ceiling (or below); empty: all may pass."""
        if not self._ceilings:
            return {}
        over = {scope: round(green(cut) - self._ceiling(scope), 6) for scope, cut in cuts.items()}
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
        self._ceilings[scope] = max(stands - step, -LIMIT)

    def approve(self, ceilings: Mapping[str, float]) -> None:
        """Let thresholds rise to what a person approved, today no further."""
        self._ceilings.update(ceilings)

    def cap(self, cuts: Cuts) -> None:
        """Hold ceilings to the allowance above thresholds that a person has put in place."""
        for scope in self._ceilings.keys() & cuts.keys():
            self._ceilings[scope] = min(self._ceilings[scope], green(cuts[scope]) + self.allowance)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON types."""
        return {"day": self._day, "ceilings": dict(self._ceilings)}

    @classmethod
    def restore(cls, state: object, allowance: float) -> "Brake":
        """Continue from `state`. Raises `StateError` if it is damaged."""
        try:
            saved = msgspec.convert(state, _Saved)
        except msgspec.ValidationError as error:
            raise StateError(f"the brake's state is damaged: {error}") from None
        self = cls(allowance)
        self._day, self._ceilings = saved.day, saved.ceilings
        return self

    def _ceiling(self, scope: str) -> float:
        if not self._ceilings:
            return LIMIT
        return self._ceilings.get(scope, self._ceilings.get("all", LIMIT))


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
    ceilings: dict[str, float]


def green(cut: Mapping[str, float | None]) -> float:
    """Return a scope's green threshold; none at all is the lowest logit there is."""
    value = cut["green"]
    return -LIMIT if value is None else value
