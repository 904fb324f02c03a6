"""What SCORE reads off a version, beside the same formulas written with matrices."""

from math import inf, nan, pi, sqrt
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.calibration.basis import IDENTITY, LIMIT, basis, clip, sigmoid
from models.calibration.brake import combined_excess
from models.calibration.serving import MAX_ETA, Thresholds

PRIOR = 0.3
KNOWN = {("site", "north"): (-0.7, 0.04), ("site", "south"): (0.5, 0.2), ("category", "dosing"): (1.1, 0.1)}
ASKED = st.fixed_dictionaries(
    {},
    optional={
        "site": st.sampled_from(["north", "south", "new"]),
        "category": st.sampled_from(["dosing", "other"]),
        "clinician": st.sampled_from(["ann", "ben"]),
    },
)
BRAKES = st.dictionaries(st.sampled_from(["all", "site=north", "category=dosing", "site=gone"]), st.floats(-1, 2))
CURVES = st.builds(
    lambda means, roots: (
        *means,
        *(np.array(roots).reshape(3, 3) @ np.array(roots).reshape(3, 3).T)[np.triu_indices(3)],
    ),
    st.tuples(st.floats(-6, 3), st.floats(0, 3), st.floats(0, 3)),
    st.lists(st.floats(-0.7, 0.7), min_size=9, max_size=9),
)


def formula(curve: Any, groups: dict[str, str], z: float, logit: float) -> tuple[float, float]:
    a, b, c, d, e, f = curve[3:]
    features = np.array([1.0, *basis(logit)])
    moments = [KNOWN.get(key, (0.0, PRIOR)) for key in groups.items() if key[0] != "clinician"]
    mean, spread = sum(m for m, _ in moments), sum(v for _, v in moments)
    eta = clip(features @ curve[:3] + mean, MAX_ETA)
    deviation = sqrt(features @ np.array([[a, b, c], [b, d, e], [c, e, f]]) @ features + spread)
    k = sqrt(1.0 + pi / 8.0 * (a + spread))
    return sigmoid(eta / k), sigmoid((eta + z * deviation) / k)


@given(CURVES, st.lists(ASKED, min_size=1, max_size=6), BRAKES, st.sampled_from([0.0, 1.0, 2.5]), st.floats(-12, 12))
def test_risk_and_upper_risk_are_what_the_formulas_say(
    curve: Any, asked: list[dict[str, str]], brakes: dict[str, float], z: float, logit: float
) -> None:
    """However many combinations of groups were asked for before."""
    free = Thresholds(curve, KNOWN, PRIOR, ["clinician"], z)
    reading = free.braked(brakes)
    with patch("models.calibration.serving.MAX_CACHE", 3):
        for groups in [*asked, *asked]:
            held = combined_excess(brakes, ["=".join(item) for item in groups.items()])
            risk, upper = formula(curve, groups, z, logit)
            assert free.risk(logit, groups) == pytest.approx((risk, upper), abs=1e-9)
            over = held > 0.0 and logit + held >= LIMIT
            raised = 1.0 if over else formula(curve, groups, z, logit + held)[1]
            assert reading.risk(logit, groups) == pytest.approx((risk, raised), abs=1e-9)
            assert len(reading._cache) <= 3


@pytest.mark.parametrize(("intercept", "risk"), [(1e9, 1.0), (-1e9, sigmoid(-MAX_ETA))])
def test_no_log_odds_are_too_large(intercept: float, risk: float) -> None:
    assert Thresholds((intercept, *[0.0] * 8), {}, 0.0, [], 1.0).risk(0.0, {}) == pytest.approx((risk, risk), rel=1e-9)


SAFE = Thresholds((-2.8, 0.45, 0.17, 0.001, 0, 0, 1e-4, 0, 1e-4), {("category", "admin"): (-4.2, 0.01)}, 0.1, (), 0.15)
"""It has learnt of a category that even the highest logit is green."""


@pytest.mark.parametrize("held", [1e-3, 1.0, 5.0, 13.0, 1000.0])
def test_a_group_that_is_safe_at_the_end_of_the_scale_is_held_back_as_far_as_is_said(held: float) -> None:
    admin = {"category": "admin"}
    assert SAFE.cuts({"green": 0.05})["category=admin"]["green"] == LIMIT
    assert SAFE.risk(inf, admin)[1] < 0.05, "nothing holds it back"
    reading, cut = SAFE.braked({"all": -5.0, "category=admin": held}), LIMIT - held
    below, at, above = (reading.risk(logit, admin)[1] for logit in (cut - 1e-6, cut, cut + 1.0))
    assert below < 0.05 < at == above == 1.0
    assert reading.risk(nan, admin)[1] < 0.05, "whether there is a score is not for the brake to say"
    assert reading.risk(LIMIT, {})[1] < 1.0, "others are not held back"


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_at_its_cut_a_scope_has_the_upper_risk_that_is_asked_for(level: float) -> None:
    reading = Thresholds((*IDENTITY, 0.05, 0.01, -0.01, 0.04, 0.005, 0.03), KNOWN, PRIOR, [], 1.0)
    cuts = reading.cuts({"green": level, "all": 1.0 - 1e-9, "none": 1e-9})
    scopes = {"all": {}} | {"=".join(key): dict([key]) for key in KNOWN}
    assert cuts.keys() == scopes.keys()
    for scope, groups in scopes.items():
        found = cuts[scope]["green"]
        assert found is not None
        assert reading.risk(found, groups)[1] == pytest.approx(level, abs=2e-4)
        assert (cuts[scope]["all"], cuts[scope]["none"]) == (LIMIT, None)


def test_what_people_read_of_a_version() -> None:
    reading = Thresholds((0.12344, 1.0, 2.0, *[0.1] * 6), KNOWN, PRIOR, [], 1.0)
    assert reading.parameters() == {
        "intercept": 0.1234, "slope_low": 1.0, "slope_high": 2.0,
        "site=north": -0.7, "site=south": 0.5, "category=dosing": 1.1,
    }  # fmt: skip
    assert reading.risk(inf, {}) == reading.risk(LIMIT, {})
