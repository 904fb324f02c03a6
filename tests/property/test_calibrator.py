"""What holds for every input: finite, monotone, bounded, order-free in its groups, restorable at any cut."""

import json
import math
from bisect import bisect_right
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.calibration.basis import basis
from models.calibration.belief import noisy_proximal_step, proximal_step
from models.calibration.filter import Filter, Observation
from models.calibration.serving import GRID, PROBIT, curve_moments
from models.calibration.settings import FilterSettings

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
GROUPS = st.dictionaries(st.sampled_from(["site", "category", "clinician", "shift"]), st.text(max_size=3), max_size=4)
OBSERVATIONS = st.builds(
    Observation,
    logit=st.one_of(st.floats(-8, 8), ANY_FLOAT),
    groups=GROUPS.map(lambda groups: tuple(groups.items())),
    rejected=st.booleans(),
    weight=st.one_of(st.just(1.0), st.floats(0, 1), ANY_FLOAT),
    at=st.one_of(st.none(), ANY_FLOAT),
    forced=st.booleans(),
)
SETTINGS = st.builds(
    FilterSettings,
    z=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    noise=st.sampled_from([0.0, 0.05]),
    threshold=st.just(20.0),
    audit_threshold=st.just(10.0),
    grace=st.just(0),
    max_groups=st.sampled_from([3, 1000]),
)
REPEATED = st.lists(st.tuples(OBSERVATIONS, st.integers(1, 30)), max_size=12)


def grown(chosen, log):
    calibrator = Filter(chosen)
    for seen, times in log:
        for _ in range(times):
            calibrator.observe(seen)
    return calibrator


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [one for item in value for one in numbers(item)]
    return [value] if isinstance(value, float) else []


@given(SETTINGS, REPEATED, ANY_FLOAT, GROUPS)
@settings(max_examples=150, deadline=None)
def test_every_number_stays_finite(chosen, log, logit, groups):
    calibrator = grown(chosen, log)
    assert all(map(math.isfinite, numbers(calibrator.state())))
    risk, upper = calibrator.risk(logit, groups.items())
    assert 0.0 <= risk <= upper <= 1.0


@given(SETTINGS, REPEATED, st.lists(st.floats(-20, 20), min_size=2, max_size=20), GROUPS)
@settings(max_examples=150, deadline=None)
def test_risk_and_upper_risk_rise_with_the_logit(chosen, log, logits, groups):
    calibrator = grown(chosen, log)
    read = [calibrator.risk(logit, groups.items()) for logit in sorted(logits)]
    for index in (0, 1):
        values = [one[index] for one in read]
        assert all(later >= earlier - 1e-12 for earlier, later in pairwise(values))


@given(st.floats(-60, 60), st.floats(1e-6, 500), st.integers(0, 1), st.floats(1e-3, 100))
def test_a_step_goes_towards_its_label_and_never_past_it(eta, variance, rejected, weight):
    step, shrink = proximal_step(eta, variance, rejected, weight)
    z = eta + variance * step
    expected = eta + variance * weight * (rejected - 1.0 / (1.0 + math.exp(-z)))
    assert z == pytest.approx(expected, abs=1e-6 * (1.0 + variance * weight))
    assert -1e-9 <= variance * step * (1 if rejected else -1) <= variance * weight + 1e-9
    assert 0.0 < shrink * variance < 1.0


@given(st.floats(-60, 60), st.floats(1e-6, 500), st.integers(0, 1), st.floats(1e-3, 100), st.floats(0.001, 0.49))
def test_a_noisy_step_is_bounded_too(eta, variance, rejected, weight, noise):
    step, shrink = noisy_proximal_step(eta, variance, rejected, weight, noise)
    assert 0.0 <= step * (1 if rejected else -1) <= weight
    assert 0.0 < shrink * variance < 1.0


@given(SETTINGS, REPEATED)
@settings(max_examples=100, deadline=None)
def test_the_order_of_groups_within_a_label_is_immaterial(chosen, log):
    turned = [
        (Observation(o.logit, tuple(reversed(o.groups)), o.rejected, o.weight, o.at, o.forced), n) for o, n in log
    ]
    assert grown(chosen, log).state() == grown(chosen, turned).state()


@given(SETTINGS, REPEATED, st.data())
@settings(max_examples=100, deadline=None)
def test_restore_at_any_cut_goes_on_bit_for_bit(chosen, log, data):
    labels = [seen for seen, times in log for _ in range(times)]
    cut = data.draw(st.integers(0, len(labels)))
    whole, part = Filter(chosen), Filter(chosen)
    for seen in labels[:cut]:
        whole.observe(seen)
        part.observe(seen)
    part = Filter.restore(json.loads(json.dumps(part.state())))
    jumps = [(whole.observe(seen), part.observe(seen)) for seen in labels[cut:]]
    assert all(one == other for one, other in jumps)
    assert json.dumps(part.state()) == json.dumps(whole.state())
    assert part.thresholds().cuts({"green": 0.05}) == whole.thresholds().cuts({"green": 0.05})


@given(SETTINGS, REPEATED, st.sampled_from([0.01, 0.05, 0.2, 0.9]))
@settings(max_examples=100, deadline=None)
def test_looking_at_few_points_of_the_curve_finds_what_all_of_them_tell(chosen, log, level):
    reading = grown(chosen, log).thresholds()
    curve, odds = reading._curve, math.log(level / (1 - level))
    points = [curve_moments(curve, *basis(logit)) for logit in GRID]
    for scope, cut in reading.cuts({"green": level}).items():
        mean, spread = (0.0, 0.0) if scope == "all" else reading._groups[tuple(scope.split("=", 1))]
        uppers = [eta + mean + reading._z * math.sqrt(var + spread) for eta, var in points]
        k = bisect_right(uppers, odds * math.sqrt(1 + PROBIT * (curve[3] + spread)))
        logit = cut["green"]
        assert (logit is None) == (k == 0)
        assert k == 0 or GRID[k - 1] <= logit <= GRID[min(k, len(GRID) - 1)]
    nearest = min(abs(eta - odds) for eta, _ in points)  # of many points, where the curve is flat
    assert reading.deviation(level) in {math.sqrt(var) for eta, var in points if abs(eta - odds) == nearest}


@given(SETTINGS, REPEATED, st.floats(-10, 10), GROUPS)
@settings(max_examples=100, deadline=None)
def test_the_frozen_reading_agrees_with_the_filter(chosen, log, logit, groups):
    calibrator = grown(chosen, log)
    assert calibrator.thresholds().risk(logit, groups) == calibrator.risk(logit, groups.items())
