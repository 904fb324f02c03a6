"""Loosening is bounded per day; tightening is immediate (invariant I9).

What is bounded is what people see: the raw logit below which a scope (all responses, or one group value) is green. Its
`ceiling` for a day of event time is where it stood when the day began, plus the policy's allowance. Where the
calibrator would go beyond, the scorers read logits as that much higher, for that scope: at the old threshold plus the
allowance a response is green, above it is not. The estimate itself moves on; only its effect is spread over days. What
was used of yesterday's allowance is given anew as today goes on: there is not twice as much within minutes of midnight.

The highest threshold is the end of the scale, `LIMIT`. What is raised to there has no risk that is low enough, even of
a group that is learnt to be safe up to the end: its threshold, too, lies as much lower as it is held back.

A response has several groups, and its threshold is about that of all, moved by what each of its groups moves it. So
each scope's distance from its ceiling is published, below it (negative) too, and a response is held back by that of all
and by what each of its groups adds to it: two groups that improve on one day do not add up to twice the allowance. Nor
is it held back by less than any one of its scopes (see `combined_excess`).

Thresholds are not quite sums, though: the curve is no line, and uncertainties do not add up. So each combination of
groups that a label has had has a ceiling of its own, as a scope has, and is held back that far where that is farther.

**How far that holds.** A scope, and a combination that had a label before the day began, rises by no more than the
allowance a day (`tests/property/test_brake.py`). Of combinations `KNOWN` are remembered, those labelled last. Any other
keeps to it as far as thresholds are sums: in the worst of 120 courses made at random, in which answers became better by
leaps, one of two groups would have risen by up to .96 logits on a day where .5 are allowed, one of three by up to 1.04.

The brake starts with the first day that begins warm: before, nothing is green. A scope that the morning did not know is
held to the ceiling of all. One that the calibrator knows no more, after a rollback or because others took its place,
is served as if never seen: it stands where all do, and its own ceiling holds for as long as it is the lower one. A
person may approve higher ceilings; a broken promise lowers them (see `ledger`).
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from models.calibration.basis import LIMIT
from models.errors import StateError

DAY_S: Final = 86_400.0

KNOWN: Final = 500
"""Combinations of groups: those of eight categories, three histories and twenty sites. They fit into a message, however
long their names are."""

ABSENT: Final = 100
"""Scopes of which nothing but a ceiling is known that a day begins with: more than a rollback forgets. Of more, those
held back farthest are kept; else a free text with a value a response would fill the memory."""

Cuts = Mapping[str, Mapping[str, float | None]]

Combination = tuple[tuple[str, str], ...]
"""The groups of a response, by name and value, sorted."""

Greens = Mapping[Combination, float]
"""The raw logit below which each combination is green."""

NONE: Final[Greens] = MappingProxyType({})


class Ceiling(NamedTuple):
    """A combination's, and what of it is released until the day's end."""

    value: float
    withheld: float

    def at(self, part: float) -> float:
        """Return where it is at a part of the day in [0, 1]."""
        return self.value - (1.0 - part) * self.withheld


FREE: Final = Ceiling(LIMIT, 0.0)
"""No threshold is higher."""


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

    __slots__ = ("_ceilings", "_combined", "_day", "_part", "_withheld", "allowance")

    def __init__(self, allowance: float) -> None:
        self.allowance = allowance
        self._day = -1
        self._part = 1.0
        self._ceilings: dict[str, float] = {}
        self._withheld: dict[str, float] = {}
        """What of the ceilings is released until the day's end."""
        self._combined: dict[Combination, Ceiling] = {}
        """First those that are longest without a label."""

    @property
    def combined(self) -> dict[Combination, float]:
        """The ceilings of combinations, once the brake has begun."""
        return {groups: ceiling.at(self._part) for groups, ceiling in self._combined.items()} if self._ceilings else {}

    @property
    def known(self) -> dict[Combination, float]:
        """All combinations, as if their ceilings were the lowest."""
        return dict.fromkeys(self._combined, -LIMIT)

    def know(self, groups: Combination) -> None:
        """Take note of a label's groups; alone, one is a scope."""
        if len(groups) > 1:
            self._combined[groups] = self._combined.pop(groups, FREE)
            if len(self._combined) > KNOWN:
                del self._combined[next(iter(self._combined))]

    def is_new(self, day: int) -> bool:
        """Whether `day` (days since the epoch) begins; a clock running backwards begins none."""
        return day > self._day

    def start(self, day: int, cuts: Cuts, greens: Greens = NONE) -> None:
        """Begin a day at the thresholds in force: those of the calibrator, under the ceilings of the day before.

        What of the new ceilings lies above those of yesterday is released as the day goes on.
        """
        follows, self._part = day == self._day + 1, 1.0
        known, cuts = cuts.keys(), self.with_absent(cuts)
        over = self._over(cuts) if self._ceilings else {}
        held = allocated(over) if over else {}
        self._combined |= {groups: self._begun(groups, cut, over, follows=follows) for groups, cut in greens.items()}
        ceilings = {scope: green(cut) + self.allowance - held.get(scope, 0.0) for scope, cut in cuts.items()}
        rises = {scope: value - self._ceiling(scope) for scope, value in ceilings.items()}
        self._ceilings, self._withheld = ceilings, allocated(rises) if follows else {}
        self._day, self._part = day, 0.0
        self._forget(ceilings.keys() - known)

    def go_on(self, day: int, part: float) -> None:
        """Go on to a part of the day in [0, 1]; not back."""
        if day == self._day:
            self._part = max(self._part, part)

    def excess(self, cuts: Cuts, greens: Greens = NONE) -> dict[str, float]:
        """Return by how many logits each scope's threshold lies above its ceiling (or below); empty: all may pass."""
        if not self._ceilings:
            return {}
        over = self._over(self.with_absent(cuts))
        worst: dict[str, str] = {}
        for scope in sorted(over, key=over.__getitem__):
            worst[scope.partition("=")[0]] = scope  # of each name the value that is most held back
        held = combined_excess(over, [scope for scope in worst.values() if over[scope] > over["all"]])
        return over if held > 0.0 or self.beyond(greens, over) else {}

    def beyond(self, greens: Greens, excess: Mapping[str, float]) -> dict[Combination, float]:
        """Return by how many logits combinations lie above their ceilings, where that is more than by `excess`.

        >>> brake, both = Brake(allowance=0.5), (("category", "b"), ("site", "a"))
        >>> brake.know(both)
        >>> brake.start(20_000, {"all": {"green": -3.0}}, {both: -2.0})
        >>> brake.beyond({both: -1.0}, {"all": 0.25}), brake.beyond({both: -1.0}, {"all": 0.75})
        ({(('category', 'b'), ('site', 'a')): 0.5}, {})
        """
        over = {groups: round(cut - self._combined[groups].at(self._part), 6) for groups, cut in greens.items()}
        return {groups: one for groups, one in over.items() if one > round(combined_excess(excess, scopes(groups)), 6)}

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
        for groups in self._combined:
            if not ceilings.keys().isdisjoint(("all", *scopes(groups))):
                self._combined[groups] = FREE

    def cap(self, cuts: Cuts, greens: Greens = NONE) -> None:
        """Hold ceilings to the allowance above thresholds that a person has put in place."""
        cuts = self.with_absent(cuts)
        for scope, before in self._ceilings.items():
            self._ceilings[scope] = min(before, green(cuts[scope]) + self.allowance)
        for groups, cut in greens.items():
            ceiling = self._combined[groups]
            self._combined[groups] = ceiling._replace(value=min(ceiling.value, cut + self.allowance))

    def with_absent(self, cuts: Cuts) -> Cuts:
        """Add the scopes of which only a ceiling is known: served as if never seen, they stand where all do.

        >>> brake, cuts = Brake(allowance=0.5), {"all": {"green": -3.0}}
        >>> brake.tighten("site=a", cuts, step=1.0)
        >>> brake.with_absent(cuts)
        {'all': {'green': -3.0}, 'site=a': {'green': -3.0}}
        """
        return {**cuts, **{scope: cuts["all"] for scope in self._ceilings if scope not in cuts}}

    def state(self) -> dict[str, Any]:
        """Return the state as JSON types."""
        held = {scope: value for scope, value in self._withheld.items() if value}
        combined = [(groups, *ceiling) for groups, ceiling in self._combined.items()]
        known = {"day": self._day, "part": self._part, "ceilings": dict(self._ceilings), "withheld": held}
        return {**known, "combined": combined}

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
        self._combined = {groups: Ceiling(value, withheld) for groups, value, withheld in saved.combined}
        return self

    def _over(self, cuts: Cuts) -> dict[str, float]:
        return {scope: round(green(cut) - self._ceiling(scope), 6) for scope, cut in cuts.items()}

    def _forget(self, absent: Iterable[str]) -> None:
        """Of absent scopes keep the ceilings that hold them back farther than all, and of too many the lowest."""
        lowest = sorted((round(self._ceiling(scope), 6), scope) for scope in absent)
        general = round(self._ceiling("all"), 6)
        for place, (ceiling, scope) in enumerate(lowest):
            if ceiling >= general or place >= ABSENT:
                del self._ceilings[scope]
                self._withheld.pop(scope, None)

    def _ceiling(self, scope: str) -> float:
        """Return where a scope's ceiling is now; one that is not known is held to that of all."""
        known = scope if scope in self._ceilings else "all"
        return self._ceilings.get(known, LIMIT) - (1.0 - self._part) * self._withheld.get(known, 0.0)

    def _begun(self, groups: Combination, cut: float, over: Mapping[str, float], *, follows: bool) -> Ceiling:
        """Return the ceiling of a day that begins where a combination stands, held back as `over` and yesterday say."""
        before = self._combined[groups].value
        value = min(cut - combined_excess(over, scopes(groups)), before) + self.allowance
        return Ceiling(round(value, 6), round(max(0.0, value - before), 6) if follows else 0.0)

    def _put(self, scope: str, ceiling: float) -> None:
        self._ceilings[scope], self._withheld[scope] = ceiling, 0.0


def allocated(excess: Mapping[str, float]) -> dict[str, float]:
    """Return by how many logits each scope is held back, so that a response is by their `combined_excess` at least.

    That of a response is reckoned as its threshold is: what holds back all, and what each of its groups adds to it.

    >>> allocated({"all": 0.5, "site=a": 0.75, "site=b": 0.0})
    {'all': 0.5, 'site=a': 0.75, 'site=b': 0.5}
    >>> allocated({"all": -0.5, "site=a": 0.0, "category=b": 0.25})
    {'all': 0.0, 'site=a': 0.25, 'category=b': 0.5}
    """
    general = excess["all"]
    names = {scope.partition("=")[0] for scope in excess if excess[scope] > general}
    most, spare = max(general, 0.0), min(general, 0.0) / max(len(names), 1)
    return {scope: max(most, value, most + value - general + spare) for scope, value in excess.items()} | {"all": most}


def combined_excess(excess: Mapping[str, float], scopes: Iterable[str]) -> float:
    """Return by how many logits a response of these scopes is held back.

    >>> combined_excess({"all": -0.5, "site=a": 0.25, "category=b": 0.0}, ["site=a", "category=b", "history=new"])
    0.75
    >>> combined_excess({"all": -0.5, "site=a": 0.25, "category=b": -3.0}, ["site=a", "category=b"])
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
            name: None if value is None else round(value - combined_excess(excess, [scope]), 4)
            for name, value in cut.items()
        }
        for scope, cut in cuts.items()
    }


def scopes(groups: Combination) -> Iterator[str]:
    """Return the scopes that a combination has.

    >>> [*scopes((("category", "b"), ("site", "a")))]
    ['category=b', 'site=a']
    """
    return map("=".join, groups)


class _Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    day: int
    part: float
    ceilings: dict[str, float]
    withheld: dict[str, float]
    combined: list[tuple[Combination, float, float]]


def green(cut: Mapping[str, float | None]) -> float:
    """Return a scope's green threshold; none at all is the lowest logit there is."""
    value = cut["green"]
    return -LIMIT if value is None else value
