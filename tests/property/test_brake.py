"""How far a response's threshold can rise, whatever its groups are and however the estimate moves."""

import random
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import combinations, product
from math import exp

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from models.calibration.brake import Brake, combined_excess
from models.calibration.ledger import Ledger, thresholds
from models.events import Calibration, Label, decode, encode
from models.oracle.risk import risks
from models.policy import Policy
from tests.unit.test_ledger import START, label

ALLOWANCE = 0.5
NAMES = {"site": "xyz", "category": "abz", "history": "pqz"}
"""No brake ever knows the last value of each."""
RESPONSES = [
    [f"{name}={value}" for name, value in zip(NAMES, values, strict=True)] for values in product(*NAMES.values())
]
PAIRS_AND_TRIPLES = [
    tuple(zip(names, values, strict=True))
    for size in (2, 3)
    for names in combinations(sorted(NAMES), size)
    for values in product("ab", repeat=size)
]
KNOWN = [f"{name}={value}" for name, values in NAMES.items() for value in values[:-1]]
LOGITS = st.integers(-20, 20).map(lambda n: n / 10.0)

estimates = st.tuples(LOGITS, st.dictionaries(st.sampled_from(KNOWN), LOGITS))
"""A threshold of all, and by how much it is another for groups: sums, as they are where the curve is a line."""
moments = st.tuples(st.floats(0.0, 0.999), estimates, st.booleans())
"""When in the day; what is learnt by then; and whether no other group is known any more, as after a rollback."""
days = st.lists(st.tuples(st.integers(1, 2), st.lists(moments, min_size=1, max_size=4)))


def in_force(brake: Brake, general: float, groups: Mapping[str, float]) -> list[float]:
    """Return each response's threshold."""
    cuts = {"all": {"green": general}} | {scope: {"green": general + own} for scope, own in groups.items()}
    excess = brake.excess(cuts)
    return [
        general + sum(groups.get(scope, 0.0) for scope in scopes) - combined_excess(excess, scopes)
        for scopes in RESPONSES
    ]


@given(estimates, days)
def test_no_response_loosens_by_more_than_a_days_allowance_and_by_less_soon_after_midnight(
    first: tuple[float, dict[str, float]],
    course: list[tuple[int, list[tuple[float, tuple[float, dict[str, float]], bool]]]],
) -> None:
    brake, day, before = Brake(ALLOWANCE), 100, None
    known = first
    for passed, labels in [(1, [(0.0, first, False)]), *course]:
        brake.go_on(day, 1.0)
        day += passed
        morning = in_force(brake, *known)
        brake.start(day, {"all": {"green": known[0]}} | {s: {"green": known[0] + own} for s, own in known[1].items()})
        brake = Brake.restore(msgspec.json.decode(msgspec.json.encode(brake.state())), ALLOWANCE)
        for part, estimate, forgets in sorted(labels, key=lambda one: one[0]):
            known = (estimate[0], ({} if forgets else known[1]) | estimate[1])
            brake.go_on(day, part)
            now = in_force(brake, *known)
            if before is not None:
                assert all(after <= then + ALLOWANCE + 1e-5 for after, then in zip(now, morning, strict=True))
                if passed == 1:
                    allowed = ALLOWANCE * (1.0 + part) + 1e-5
                    assert all(after <= then + allowed for after, then in zip(now, before, strict=True))
        before = morning if brake.excess({"all": {"green": 99.0}}) else None


FEW = PAIRS_AND_TRIPLES[::7]
thresholds_of_few = st.tuples(*[LOGITS] * len(FEW))


@given(st.lists(st.tuples(st.integers(1, 2), st.lists(st.tuples(st.floats(0.0, 0.999), estimates, thresholds_of_few)))))
def test_no_combination_loosens_by_more_than_a_days_allowance_whatever_its_own_threshold_is(
    course: list[tuple[int, list[tuple[float, tuple[float, dict[str, float]], tuple[float, ...]]]]],
) -> None:
    """Thresholds of combinations that have nothing to do with those of their groups."""
    brake, day, before = Brake(ALLOWANCE), 100, None
    cuts, greens = {"all": {"green": 0.0}}, dict.fromkeys(FEW, 0.0)
    for groups in FEW:
        brake.know(groups)

    def stand() -> list[float]:
        excess = brake.excess(cuts, greens)
        beyond = brake.beyond(greens, excess)
        held = [max(beyond.get(groups, 0.0), combined_excess(excess, map("=".join, groups))) for groups in FEW]
        return [greens[groups] - one for groups, one in zip(FEW, held, strict=True)]

    for passed, labels in course:
        brake.go_on(day, 1.0)
        day += passed
        morning = stand()
        brake.start(day, cuts, greens)
        brake = Brake.restore(msgspec.json.decode(msgspec.json.encode(brake.state())), ALLOWANCE)
        for part, (general, own), own_greens in sorted(labels, key=lambda one: one[0]):
            greens = dict(zip(FEW, own_greens, strict=True))
            cuts = {"all": {"green": general}} | {scope: {"green": general + its} for scope, its in own.items()}
            brake.go_on(day, part)
            now = stand()
            assert all(after <= then + ALLOWANCE + 1e-5 for after, then in zip(now, morning, strict=True))
            if passed == 1 and before is not None:
                allowed = ALLOWANCE * (1.0 + part) + 1e-5
                assert all(after <= then + allowed for after, then in zip(now, before, strict=True))
        before = morning


def better(seed: int, per_day: int = 1500, days: int = 14) -> Iterator[Label]:
    """Answers that become better at once, in some groups and perhaps by a slope; groups and sizes are drawn.

    Of a third of the responses one group is not known: they are of two.
    """
    rng = random.Random(seed)
    base = {(name, value): rng.gauss(0.0, 0.6) for name in NAMES for value in "ab"}
    shift = {key: -abs(rng.gauss(0.0, 2.0)) if rng.random() < 0.6 else 0.0 for key in base}
    everyone = -abs(rng.gauss(0.0, 1.0)) if rng.random() < 0.4 else 0.0
    slopes = (slope := rng.uniform(0.6, 1.3)), slope * (rng.uniform(0.6, 1.6) if rng.random() < 0.5 else 1.0)
    start = per_day * rng.uniform(3.0, 6.0)
    for i in range(per_day * days):
        names = NAMES if rng.random() < 2.0 / 3.0 else rng.sample([*NAMES], 2)
        at, groups = START + timedelta(days=i / per_day), {name: rng.choice("ab") for name in names}
        logit, new = rng.gauss(-2.0, 1.6), i > start
        eta = slopes[new] * logit - 0.3 + sum(base[key] + shift[key] * new for key in groups.items()) + everyone * new
        one = label(i, rng.random() < 1.0 / (1.0 + exp(-eta)), logit, tier="yellow")
        scored = replace(one.decision, occurred_at=at, groups=groups)
        yield replace(one, occurred_at=at + timedelta(minutes=1), decision=scored)


COMBINED = [dict(groups) for groups in PAIRS_AND_TRIPLES]
GRID = [n / 1000.0 for n in range(-9000, 9001)]


def greens(version: Calibration) -> list[float]:
    """Return the threshold of each scope, and of each response of two and of three groups, to a thousandth."""
    reading = thresholds(version)
    found = [bisect_left(GRID, 0.05, key=lambda x, of=of: reading.risk(x, of)[1]) for of in COMBINED]
    return [version.cuts[f"{name}={value}"]["green"] or 0.0 for name in NAMES for value in "ab"] + [
        GRID[place] for place in found
    ]


def rises(seed: int, every: int = 125) -> list[float]:
    """Return by how much each threshold of `greens` rose at most since its day began, or since it was warm."""
    ledger, day, morning, found = Ledger("icu", Policy(groups=tuple(NAMES))), 0, [], []
    for n, one in enumerate(better(seed)):
        if one.occurred_at.toordinal() > day and ledger.version > 4000 and ledger.missing_labels() == 0:
            morning, day = greens(ledger.calibration()), one.occurred_at.toordinal()
        ledger.apply(one)
        if morning and n % every == 0:
            found.append([now - then for now, then in zip(greens(ledger.calibration()), morning, strict=True)])
    return [max(risen) for risen in zip(*found, strict=True)]


@pytest.mark.parametrize("seed", [33, 53, 61])
def test_no_group_and_no_combination_of_groups_loosens_by_more_than_a_days_allowance(seed: int) -> None:
    """Those of 120 courses in which what two groups, or three, would add is least of all the sum."""
    assert max(rises(seed)) <= ALLOWANCE + 5e-3, "a threshold is read off a grid of a quarter logit"


def test_the_oracle_holds_a_combination_back_as_the_scorers_do() -> None:
    ledger = Ledger("icu", Policy(groups=tuple(NAMES)))
    version = next(
        version
        for n, one in enumerate(better(61))
        if (ledger.apply(one), n % 125 == 0)[1]
        and "combined" in (version := decode(Calibration, encode(ledger.calibration()))).parameters
    )
    reading, without = thresholds(version), thresholds(version).braked(version.parameters["brakes"])
    held = [dict(groups) for groups, _ in version.parameters["combined"]]
    for groups in [*COMBINED, {"site": "a"}, {}, {"site": "z", "category": "a"}]:
        assert risks(version.parameters, -2.0, groups) == pytest.approx(reading.risk(-2.0, groups), abs=1e-9)
        turned = dict(reversed(groups.items()))
        assert (reading.risk(-2.0, turned)[1] > without.risk(-2.0, groups)[1]) == (groups in held)
