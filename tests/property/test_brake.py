"""How far a response's threshold can rise, whatever its groups are and however the estimate moves."""

import random
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import product
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from models.calibration.brake import Brake, together
from models.calibration.ledger import Ledger, thresholds
from models.events import Calibration, Label
from models.policy import Policy
from tests.unit.test_ledger import START, label

ALLOWANCE = 0.5
NAMES = {"site": "xyz", "category": "abz", "history": "pqz"}
"""No brake ever knows the last value of each."""
RESPONSES = [
    [f"{name}={value}" for name, value in zip(NAMES, values, strict=True)] for values in product(*NAMES.values())
]
KNOWN = [f"{name}={value}" for name, values in NAMES.items() for value in values[:-1]]
LOGITS = st.integers(-20, 20).map(lambda n: n / 10.0)

estimates = st.tuples(LOGITS, st.dictionaries(st.sampled_from(KNOWN), LOGITS))
"""A threshold of all, and by how much it is another for groups: sums, as they are where the curve is a line."""
days = st.lists(
    st.tuples(st.integers(1, 2), st.lists(st.tuples(st.floats(0.0, 0.999), estimates), min_size=1, max_size=4))
)


def in_force(brake: Brake, general: float, groups: Mapping[str, float]) -> list[float]:
    """Return each response's threshold."""
    cuts = {"all": {"green": general}} | {scope: {"green": general + own} for scope, own in groups.items()}
    excess = brake.excess(cuts)
    return [
        general + sum(groups.get(scope, 0.0) for scope in scopes) - together(excess, scopes) for scopes in RESPONSES
    ]


@given(estimates, days)
def test_no_response_loosens_by_more_than_a_days_allowance_and_by_less_soon_after_midnight(
    first: tuple[float, dict[str, float]], course: list[tuple[int, list[tuple[float, tuple[float, dict[str, float]]]]]]
) -> None:
    brake, day, before = Brake(ALLOWANCE), 100, None
    known = first
    for passed, labels in [(1, [(0.0, first)]), *course]:
        brake.go_on(day, 1.0)
        day += passed
        morning = in_force(brake, *known)
        brake.start(day, {"all": {"green": known[0]}} | {s: {"green": known[0] + own} for s, own in known[1].items()})
        for part, estimate in sorted(labels, key=lambda one: one[0]):
            known = (estimate[0], known[1] | estimate[1])  # groups stay once they are known
            brake.go_on(day, part)
            now = in_force(brake, *known)
            if before is not None:
                assert all(after <= then + ALLOWANCE + 1e-5 for after, then in zip(now, morning, strict=True))
                if passed == 1:
                    allowed = ALLOWANCE * (1.0 + part) + 1e-5
                    assert all(after <= then + allowed for after, then in zip(now, before, strict=True))
        before = morning if brake.excess({"all": {"green": 99.0}}) else None


def better(seed: int, per_day: int = 1500, days: int = 14) -> Iterator[Label]:
    """Answers that become better at once, in some groups and perhaps by a slope; groups and sizes are drawn."""
    rng = random.Random(seed)
    base = {(name, value): rng.gauss(0.0, 0.6) for name in NAMES for value in "ab"}
    shift = {key: -abs(rng.gauss(0.0, 2.0)) if rng.random() < 0.6 else 0.0 for key in base}
    everyone = -abs(rng.gauss(0.0, 1.0)) if rng.random() < 0.4 else 0.0
    slopes = (slope := rng.uniform(0.6, 1.3)), slope * (rng.uniform(0.6, 1.6) if rng.random() < 0.5 else 1.0)
    start = per_day * rng.uniform(3.0, 6.0)
    for i in range(per_day * days):
        at, groups = START + timedelta(days=i / per_day), {name: rng.choice("ab") for name in NAMES}
        logit, new = rng.gauss(-2.0, 1.6), i > start
        eta = slopes[new] * logit - 0.3 + sum(base[key] + shift[key] * new for key in groups.items()) + everyone * new
        one = label(i, rng.random() < 1.0 / (1.0 + exp(-eta)), logit, tier="yellow")
        scored = replace(one.decision, occurred_at=at, groups=groups)
        yield replace(one, occurred_at=at + timedelta(minutes=1), decision=scored)


def greens(version: Calibration) -> list[float]:
    """Return the threshold of each scope, and of each response of three groups, to a thousandth."""
    reading = thresholds(version)
    responses = [dict(zip(NAMES, values, strict=True)) for values in product("ab", repeat=len(NAMES))]
    found = [bisect_left(GRID, 0.05, key=lambda x, of=of: reading.risk(x, of)[1]) for of in responses]
    return [version.cuts[f"{name}={value}"]["green"] or 0.0 for name in NAMES for value in "ab"] + [
        GRID[place] for place in found
    ]


GRID = [n / 1000.0 for n in range(-9000, 9001)]


@pytest.mark.parametrize("seed", [2, 6, 23])
def test_thresholds_are_not_quite_sums(seed: int) -> None:
    """Those of 24 courses in which a response loosened furthest; a scope alone never does beyond its allowance."""
    ledger, day, morning, rises = Ledger("icu", Policy(groups=tuple(NAMES))), 0, None, []
    for n, one in enumerate(better(seed)):
        today = one.occurred_at.toordinal()
        if today > day and ledger.version > 4000:
            morning = greens(ledger.calibration())
        day = today
        ledger.apply(one)
        if morning and n % 125 == 0:
            rises.append([now - then for now, then in zip(greens(ledger.calibration()), morning, strict=True)])
    scopes = 2 * len(NAMES)
    assert max(max(one[:scopes]) for one in rises) <= ALLOWANCE + 1e-3
    assert max(max(one[scopes:]) for one in rises) <= 0.9
