"""The calibrator learns, is safe with any input, and restores bit for bit."""

import hashlib
import json
import math
import random
from fractions import Fraction
from statistics import median

import msgspec
import numpy as np
import pytest
from river import checks, evaluate, metrics

from models.calibration.belief import SLOPE_VARIANCES, Curve
from models.calibration.delays import Delays
from models.calibration.estimator import RejectionCalibrator
from models.calibration.filter import FADING, Filter, Observation
from models.calibration.jumps import accumulate
from models.calibration.offsets import Offsets
from models.calibration.settings import DEFAULTS, FilterSettings
from models.calibration.state import SCHEMA, read
from models.errors import Invalid, SettingsError, StateError


def stream(count, seed, shift_at=None, shift=0.0, scope=None):
    """Labels with true log-odds 0.8 s - 0.3, moved by `shift` from `shift_at` on, where `scope` (or all) applies."""
    rng = random.Random(seed)
    for i in range(count):
        logit = rng.gauss(-2.6, 1.8)
        groups = (("category", rng.choice("abcd")), ("site", rng.choice("xyz")))
        moved = shift_at is not None and i >= shift_at and (scope is None or scope in groups)
        eta = 0.8 * logit - 0.3 + (shift if moved else 0.0)
        rejected = rng.random() < 1.0 / (1.0 + math.exp(-eta))
        yield Observation(logit, groups, rejected, 1.0, float(i))


def folded(observations, settings=DEFAULTS):
    calibrator = Filter(settings)
    return calibrator, [jump for seen in observations if (jump := calibrator.observe(seen))]


@pytest.mark.parametrize("check", list(checks.yield_checks(RejectionCalibrator())), ids=lambda check: check.__name__)
def test_river_check(check):
    check(RejectionCalibrator())


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, Fraction])
def test_a_score_of_any_numeric_type_counts(kind):
    one, other = RejectionCalibrator(), RejectionCalibrator()
    for n in range(100):
        one.learn_one({"logit": kind(-4 if n % 2 else 2)}, n % 2 == 0)
        other.learn_one({"logit": -4.0 if n % 2 else 2.0}, n % 2 == 0)
    assert one.predict_proba_one({"logit": kind(-4)}) == other.predict_proba_one({"logit": -4.0})


@pytest.mark.parametrize("logit", ["-2.0", None, True, math.nan, np.float32("nan")])
def test_a_score_that_is_no_number_is_not_learnt_from(logit):
    model = RejectionCalibrator()
    before = model.predict_proba_one({"site": "a"})
    assert model.predict_proba_one({"logit": logit, "site": "a"}) == before
    with pytest.raises(Invalid, match="`logit` is not a number"):
        model.learn_one({"logit": logit, "site": "a"}, y=True)
    model.learn_one({"site": "a"}, y=True)  # without one, as river has it, the middle


def test_river_can_evaluate_it_with_delayed_labels():
    dataset = [({"logit": seen.logit, **dict(seen.groups)}, seen.rejected) for seen in stream(2000, seed=1)]
    metric = evaluate.progressive_val_score(dataset, RejectionCalibrator(), metrics.LogLoss(), delay=50)
    assert metric.get() < 0.42


def test_it_finds_the_truth():
    calibrator, jumps = folded(stream(5000, seed=2))
    assert not jumps
    for logit in (-5.0, -3.0, -1.0, 1.0):
        truth = 1.0 / (1.0 + math.exp(0.3 - 0.8 * logit))
        assert calibrator.risk(logit, [("category", "a"), ("site", "x")])[0] == pytest.approx(truth, rel=0.25)


def test_an_unseen_group_is_served_from_the_prior_with_a_wider_margin():
    calibrator, _ = folded(stream(5000, seed=2))
    known, unseen = (calibrator.risk(-3.0, [("category", c), ("site", "x")]) for c in ("a", "new"))
    assert unseen[1] - unseen[0] > known[1] - known[0]
    assert unseen[0] == pytest.approx(known[0], abs=0.03)


@pytest.mark.parametrize(
    ("scope", "name", "shift"),
    [(None, "all", 1.2), (None, "all", -1.2), (("category", "b"), "category=b", 2.0), (("site", "y"), "site=y", 1.6)],
)
def test_a_jump_is_found_where_it_is_and_since_when(scope, name, shift):
    calibrator, labels = Filter(), stream(6000, seed=3, shift_at=3000, shift=shift, scope=scope)
    jumps = [(jump, seen.at) for seen in labels if (jump := calibrator.observe(seen))]
    assert jumps, "the jump detector must fire"
    first, at = jumps[0]
    assert first.scope == name
    assert first.kind == "jump"
    assert math.copysign(1.0, first.delta) == math.copysign(1.0, shift)
    assert 2800 <= first.since <= at <= 3800


def test_without_the_detector_recovery_is_slower():
    labels = list(stream(3400, seed=4, shift_at=3000, shift=2.0, scope=("category", "b")))
    quick, _ = folded(labels)
    slow, jumps = folded(labels, FilterSettings(grace=10**9))
    assert not jumps
    truth, groups = 1.0 / (1.0 + math.exp(-(0.8 * -3.0 - 0.3 + 2.0))), [("category", "b"), ("site", "x")]
    assert abs(quick.risk(-3.0, groups)[0] - truth) < abs(slow.risk(-3.0, groups)[0] - truth)


def test_labels_older_than_a_jump_are_ignored():
    calibrator, jumps = folded(stream(4000, seed=3, shift_at=3000, shift=1.6))
    before = calibrator.state()
    assert calibrator.observe(Observation(-2.0, (), rejected=True, at=jumps[-1].since - 1.0)) is None
    delays = {name: before[name] for name in ("late", "delays")}
    assert {**calibrator.state(), **delays} == {**before, "ignored": before["ignored"] + 1}


def flattening(count, seed, flat_at):
    """Labels whose log-odds shrink to 0.6 of what they were from `flat_at` on: the scores say less."""
    rng = random.Random(seed)
    for i in range(count):
        logit = rng.gauss(-2.6, 1.8)
        eta = (0.8 * logit - 0.3) * (0.6 if i >= flat_at else 1.0)
        yield Observation(logit, (), rng.random() < 1.0 / (1.0 + math.exp(-eta)), 1.0, float(i))


def test_scores_that_say_less_are_a_jump_of_the_slope():
    labels = [list(flattening(4000, seed, 3000)) for seed in range(5)]
    found = [folded(log) for log in labels]
    for _, jumps in found:
        assert [(jump.kind, jump.scope) for jump in jumps][:1] == [("jump", "all")]
        assert jumps[0].delta > 0.0
    blind = [folded(log, FilterSettings(threshold_slope=1e100))[0] for log in labels]
    assert sum(off(one) for one, _ in found) < sum(map(off, blind))


def off(calibrator):
    """Mean divergence from the truth of `flattening` after its change, in nats."""
    logits = [-2.6 + 1.8 * k / 4.0 for k in range(-8, 9)]
    shares = [math.exp(-((k / 4.0) ** 2) / 2.0) for k in range(-8, 9)]
    total = 0.0
    for logit, share in zip(logits, shares, strict=True):
        truth, p = 1.0 / (1.0 + math.exp(-0.6 * (0.8 * logit - 0.3))), calibrator.risk(logit, ())[0]
        total += share * (truth * math.log(truth / p) + (1.0 - truth) * math.log((1.0 - truth) / (1.0 - p)))
    return total / sum(shares)


UNPROVEN = FilterSettings(threshold=1e99, threshold_all=3e97, threshold_slope=2e97, threshold_down=2e99)
"""The default ratios, and thresholds that no change reaches."""


def test_a_suspected_change_too_small_to_prove_is_learnt_sooner():
    labels = [list(stream(3600, seed, shift_at=3000, shift=0.5)) for seed in range(8)]
    truth, groups = 1.0 / (1.0 + math.exp(0.3 + 0.8 * 2.0 - 0.5)), [("category", "a"), ("site", "x")]
    wary, deaf = (
        sum(abs(folded(log, settings)[0].risk(-2.0, groups)[0] - truth) for log in labels)
        for settings in (
            UNPROVEN,
            FilterSettings(grace=10**9),
        )
    )
    assert wary < deaf


def test_flatter_scores_are_learnt_before_they_are_proven(monkeypatch):
    labels = [list(flattening(3250, seed, 3000)) for seed in range(12)]
    wary = sum(off(folded(log)[0]) for log in labels)
    monkeypatch.setattr("models.calibration.filter.SOONER", 1.0)
    assert wary < sum(off(folded(log)[0]) for log in labels)


def test_a_suspicion_of_flatter_scores_does_not_outlast_its_cause(monkeypatch):
    widened = []
    monkeypatch.setattr(
        Curve, "widen_slope", lambda self, slope, widen=Curve.widen_slope: widened.append(widen(self, slope))
    )
    for fading in (FADING, 1.0):
        monkeypatch.setattr("models.calibration.filter.FADING", fading)
        folded(flattening(6000, 1, 3000), UNPROVEN)
        widened.append(fading)
    assert 0 < widened.index(FADING) < 0.5 * (len(widened) - widened.index(FADING))


@pytest.mark.parametrize("slope", [0.0, 1e-200, 0.05, 1.8])
def test_doubt_about_the_factor_has_a_floor_and_bounds(slope):
    curve = Curve.prior(0.01)
    curve.mean[1], curve.cov[4], curve.cov[7] = slope, 0.001, 0.001
    curve.widen_slope(0.03)
    assert 0.001 <= curve.cov[4] <= 0.03 * (1.0 + 1e-9)
    assert (curve.cov[4] > 0.0299) == (slope > 0.1)
    assert curve.cov[0] <= 4.0
    assert curve.cov[0] * curve.cov[4] >= curve.cov[1] ** 2


def test_a_slope_of_nothing_has_no_factor_to_doubt():
    """With `z` = 0 a slope may be 0, and its variance a little beyond its bound by the last step of its walk."""
    curve = Curve.prior(1.0)
    curve.mean[1], curve.cov[4] = 0.0, SLOPE_VARIANCES[0] + 1e-9
    curve.rescale(0.5, 0.1)
    assert curve.cov[4] >= SLOPE_VARIANCES[0]


def test_a_site_that_turns_lenient_is_quarantined_until_released():
    labels = list(stream(6000, seed=5, shift_at=3000, shift=-8.0, scope=("site", "y")))
    calibrator, jumps = folded(labels)
    assert [(jump.kind, jump.scope) for jump in jumps] == [("quarantine", "site=y")]
    trusting, _ = folded(labels, FilterSettings(guarded=()))
    at_site = (("category", "a"), ("site", "y"))
    assert calibrator.risk(-3.0, at_site)[1] > 2.0 * trusting.risk(-3.0, at_site)[1]
    ignored = calibrator.ignored
    calibrator.observe(Observation(-2.0, at_site, rejected=False))
    assert calibrator.ignored == ignored + 1
    assert calibrator.release("site", "y")
    assert not calibrator.release("site", "y")
    calibrator.observe(Observation(-2.0, at_site, rejected=False))
    assert calibrator.ignored == ignored + 1


def test_what_is_known_of_a_risky_site_outlives_its_quarantine():
    """Its upper risk fell to an average site's, at the very label that showed its verdicts to be worth nothing."""
    rng, calibrator, risky = random.Random(1), Filter(), [("site", "i")]
    for n in range(9000):
        logit, site = rng.gauss(-2.6, 1.8), rng.choice("abcdefghi")
        truth = 1.0 / (1.0 + math.exp(0.3 - 0.8 * logit - (1.5 if site == "i" else 0.0)))
        rejected = rng.random() < truth and (site != "i" or n < 6000)
        before = calibrator.risk(-3.0, risky)[1]
        if (jump := calibrator.observe(Observation(logit, (("site", site),), rejected, 1.0, float(n)))) is not None:
            break
    assert (jump.kind, jump.scope) == ("quarantine", "site=i")
    average = calibrator.risk(-3.0, [("site", "a")])[1]
    assert calibrator.risk(-3.0, risky)[1] == pytest.approx(before, rel=0.05)
    assert before > 1.5 * average
    calibrator.release("site", "i")
    assert calibrator.risk(-3.0, risky)[1] == pytest.approx(before, rel=0.05)


def test_the_floor_bounds_what_a_lenient_site_gains():
    labels = list(stream(3000, seed=6, shift_at=0, shift=-2.0, scope=("site", "y")))
    floored, _ = folded(labels, FilterSettings(grace=10**9))
    free, _ = folded(labels, FilterSettings(grace=10**9, guarded=()))
    at_site = (("category", "a"), ("site", "y"))
    assert floored.risk(-1.0, at_site)[0] > 1.3 * free.risk(-1.0, at_site)[0]


def test_a_strict_clinician_moves_the_site_less_than_without_rater_effects():
    rng = random.Random(7)
    labels = []
    for i in range(4000):
        strict = i % 4 == 0
        rejected = rng.random() < (0.5 if strict else 0.08)
        labels.append((("c0" if strict else f"c{i % 3 + 1}"), rejected))
    plain, _ = folded(Observation(-2.6, (("site", "x"),), y) for _, y in labels)
    aware, _ = folded(Observation(-2.6, (("clinician", c), ("site", "x")), y) for c, y in labels)
    risks = [f.risk(-2.6, [("site", "x")])[0] for f in (plain, aware)]
    assert risks[1] < risks[0] - 0.02


def error(calibrator):
    """Mean absolute error of the log-odds from -6 to 0."""
    read = [(calibrator.risk(logit, ())[0], 0.8 * logit - 0.3) for logit in range(-6, 1)]
    return sum(abs(math.log(p / (1.0 - p)) - eta) for p, eta in read) / len(read)


def half_reported(count, seed, audited, drift=0.0, fading=0.0):
    """Labels of which a tenth is forced up to event `audited`, and none later; of other rejections .4 are reported.

    From event 10,000 on the log-odds rise by `drift` and the log share of reports falls by `fading`, per 10,000 events.
    """
    rng = random.Random(seed)
    for i in range(count):
        logit, forced = rng.gauss(-2.6, 1.8), rng.random() < 0.1 and i < audited
        part = max(0, i - 10_000) / 10_000
        eta = 0.8 * logit - 0.3 + drift * part
        rejected = rng.random() < 1.0 / (1.0 + math.exp(-eta))
        if forced or not rejected or rng.random() < 0.4 * math.exp(-fading * part):
            yield Observation(logit, (), rejected, 1.0, float(i), forced)


def test_audits_that_contradict_volunteered_labels_switch_the_bias_on():
    labels = list(half_reported(12_000, 8, audited=12_000))
    calibrator, jumps = folded(labels)
    honest, _ = folded(labels, FilterSettings(audit_threshold=1e100))
    assert [jump.kind for jump in jumps] == ["bias"]
    assert error(calibrator) < 0.5 * error(honest)


def test_a_drift_without_audits_is_one_of_the_risk_not_of_the_bias():
    """What volunteered verdicts show is risk and bias together: only an audit tells that it is the bias that moved."""
    short = []
    for seed in (8, 9):
        calibrator, jumps = folded(half_reported(30_000, seed, audited=10_000, drift=1.0))
        assert jumps[0].kind == "bias"
        risk = calibrator.risk(-3.0, ())[0]
        short.append(0.8 * -3.0 - 0.3 + 2.0 - math.log(risk / (1.0 - risk)))
    assert sum(short) / 2 < 0.4


def test_a_bias_that_drifts_is_followed_where_audits_go_on():
    off = {}
    for walk in (DEFAULTS.bias_walk, 0.0):
        labels = half_reported(24_000, 8, audited=24_000, fading=1.0)
        calibrator, _ = folded(labels, FilterSettings(bias_walk=walk))
        off[walk] = error(calibrator)
    assert off[DEFAULTS.bias_walk] < 0.35
    assert off[0.0] > 2.0 * off[DEFAULTS.bias_walk]


def test_silence_taken_for_acceptance_would_halve_the_risk():
    """Seven of ten greens get no verdict. JOIN closes them as unlabelled; were they accepted, this would follow."""
    rng, told, guessed = random.Random(10), [], []
    for seen in stream(12_000, seed=10):
        answered = rng.random() < (0.3 if seen.logit < -2.6 else 1.0)
        told += [seen] if answered else []
        guessed.append(seen if answered else msgspec.structs.replace(seen, rejected=False))
    truth = 1.0 / (1.0 + math.exp(0.3 + 0.8 * 4.0))
    ours, other = (folded(labels)[0].risk(-4.0, ())[0] for labels in (told, guessed))
    assert ours == pytest.approx(truth, rel=0.25)
    assert other < 0.6 * truth


def test_known_noise_is_discounted():
    rng = random.Random(9)
    labels = [Observation(rng.gauss(-4.0, 1.0), (), rng.random() < 0.06) for _ in range(3000)]
    aware, _ = folded(labels, FilterSettings(noise=0.05))
    plain, _ = folded(labels)
    assert aware.risk(-4.0, ())[0] < 0.025
    assert plain.risk(-4.0, ())[0] > 0.045


def test_groups_are_bounded_and_the_quarantined_stay():
    calibrator = Filter(FilterSettings(max_groups=3, grace=0))
    calibrator.observe(Observation(-2.0, (("site", "keep"),), rejected=False))
    calibrator._offsets.by_key["site", "keep"].quarantined = True
    for i in range(10):
        calibrator.observe(Observation(-2.0, (("category", f"c{i}"),), rejected=False))
    assert sorted(calibrator.state()["groups"]["category"]) == ["c8", "c9"]
    assert "keep" in calibrator.state()["groups"]["site"]


def test_leniency_of_a_site_is_served_down_to_a_floor_and_raters_not_at_all():
    offsets = Offsets(FilterSettings())
    groups = [("site", "x"), ("category", "x"), ("clinician", "x")]
    offsets.find(tuple(groups), clock=0)
    for mean, floored in ((-2.0, -0.3), (0.5, 0.5)):
        for key in groups:
            offsets.by_key[key].mean = mean
        served = {key: moments[0] for key, moments in offsets.served(clock=0).items()}
        assert served == {("category", "x"): mean, ("site", "x"): floored}


def test_raters_are_compared_when_there_are_three_whoever_comes_and_goes():
    offsets = Offsets(FilterSettings(max_groups=4))
    for name, told in (("a", False), ("b", False), ("c", True), ("d", True)):
        groups = (("site", "x"), ("clinician", name))
        for _ in range(2):
            keys, blocks = offsets.find(groups, clock=ord(name))
            assert keys == ([("clinician", name), ("site", "x")] if told else [("site", "x")])
            assert blocks == [offsets.by_key[key] for key in keys]
    again = Offsets(FilterSettings(max_groups=4))
    again.restore(read({**Filter(FilterSettings()).state(), "groups": offsets.state()}).groups, clock=200)
    assert (offsets.raters, again.raters) == (3, 3)
    offsets.find((("clinician", "e"),), clock=200)
    assert ("clinician", "a") not in offsets.by_key


def test_what_is_known_to_be_risky_is_forgotten_last():
    """A free text that takes a new value for each response must not make a bad site look like any other."""
    calibrator = Filter(FilterSettings(max_groups=20, grace=10**9))
    for i in range(300):
        calibrator.observe(Observation(-3.0, (("site", "bad"),), rejected=i % 2 == 0))
        calibrator.observe(Observation(-3.0, (("site", "good"),), rejected=False))
    bad = calibrator.risk(-3.0, [("site", "bad")])[1]
    for i in range(100):
        calibrator.observe(Observation(-2.0, (("category", f"c{i}"),), rejected=i % 9 == 0))
    for i in range(100):
        calibrator.observe(Observation(-2.0, (("site", f"s{i}"),), rejected=i % 9 == 0))
    kept = calibrator.state()["groups"]
    assert "bad" in kept["site"]
    assert sum(map(len, kept.values())) == 20
    assert calibrator.risk(-3.0, [("site", "bad")])[1] > bad / 2.0


def test_state_survives_json_and_is_small():
    calibrator, _ = folded(stream(4000, seed=10))
    text = json.dumps(calibrator.state(), separators=(",", ":"))
    assert Filter.restore(json.loads(text)).state() == calibrator.state()
    assert len(text) < 3000


@pytest.mark.parametrize(
    "damage",
    [
        {"schema": 3},
        {"clock": "many"},
        {"curve": [1.0]},
        {"covariance": [float("nan")] * 10},
        {"covariance": [-1.0] * 10},
        {"groups": {"site": {"x": [0.0, -1.0, 0]}}},
        {"groups": {"site": {"x": [0.0, 0.1, 0, [4, 2.0, 1.0]]}}},
        {"groups": {"site": {"x": [0.0, 0.1, 0, [1, 2.0]]}}},
        {"groups": {"site": {"x": [0.0, 0.1, 0, [], None, False, 1]}}},
        {"surprise": 1},
        {"settings": {"z": 99.0}},
    ],
)
def test_damaged_state_is_refused(damage):
    with pytest.raises(StateError):
        Filter.restore({**Filter().state(), **damage})


def test_state_of_another_kind_is_refused():
    with pytest.raises(StateError):
        RejectionCalibrator.from_state([1, 2])


def test_estimator_restores_and_goes_on():
    model = RejectionCalibrator()
    model.learn_one({"logit": -1.0, "site": "x"}, y=True)
    again = RejectionCalibrator.from_state(model.state())
    for one in (model, again):
        one.learn_one({"logit": -2.0, "site": "x"}, y=False, w=0.5)
    assert again.state() == model.state()


def test_defaults_are_part_of_the_schema():
    """A state names only settings that differ: change a default, and the schema number in `state.py` must rise too."""
    known = {4: "05426dca813e8eee"}
    assert hashlib.sha256(msgspec.json.encode(DEFAULTS)).hexdigest()[:16] == known[SCHEMA]


def test_settings_out_of_range_are_refused():
    with pytest.raises(SettingsError, match="threshold"):
        FilterSettings.read({"threshold": 1.0})


def late(count, seed, rejected_delay, accepted_delay, shift_at=10**9):
    """Labels in order of arrival, after exponential delays of those means, in events."""
    rng = random.Random(seed)
    arrivals = []
    for seen in stream(count, seed, shift_at, 1.2):
        delay = rng.expovariate(1.0) * (rejected_delay if seen.rejected else accepted_delay)
        arrivals.append((seen.at + delay, seen))
    return [seen for _, seen in sorted(arrivals, key=lambda pair: pair[0])]


def found_after(labels, shift_at):
    """Labels of events after the shift that had come when it was found."""
    calibrator, fresh = Filter(), 0
    for seen in labels:
        fresh += seen.at >= shift_at
        jump = calibrator.observe(seen)
        if jump is not None and fresh:
            return fresh
    return math.inf


def test_late_labels_of_events_before_a_shift_do_not_hide_it(monkeypatch):
    logs = [late(9000, seed, 500, 500, shift_at=5000) for seed in range(5)]
    quick = [found_after(labels, 5000) for labels in logs]
    assert median(quick) < 300
    monkeypatch.setattr("models.calibration.filter.accumulate", lambda b, v, at, _: accumulate(b, v, at, passing=False))
    slow = [found_after(labels, 5000) for labels in logs]
    assert median(quick) < 0.8 * median(slow)


def test_rejections_that_come_sooner_are_not_taken_for_a_shift(monkeypatch):
    labels = late(12_000, 7, 150, 1500)
    _, jumps = folded(labels)
    monkeypatch.setattr(Delays, "differ", False)
    _, fooled = folded(labels)
    assert len(jumps) <= 2
    assert len(fooled) > 3 * max(len(jumps), 1)


def test_labels_older_than_a_jump_count_where_one_kind_of_verdict_takes_longer():
    calibrator, _ = folded(late(12_000, 7, 150, 1500, shift_at=8000))
    state = calibrator.state()
    assert state["uneven"]
    calibrator = Filter.restore({**state, "everyone": [0.0, 0.0, 0, [], 1e9]})
    calibrator.observe(Observation(-2.0, (), rejected=False, at=100.0))
    assert calibrator.ignored == state["ignored"]
    calibrator = Filter.restore({**state, "everyone": [0.0, 0.0, 0, [], 1e9], "uneven": False})
    calibrator.observe(Observation(-2.0, (), rejected=False, at=100.0))
    assert calibrator.ignored == state["ignored"] + 1


def test_the_grace_begins_anew_with_the_first_late_label():
    """After years of history that came at once, the first labels of all are the quick ones: no change."""
    history = [msgspec.structs.replace(seen, at=-1.0) for seen in stream(2000, seed=1)]
    streams = [[*history, *late(2000, seed, 150, 1500)[:400]] for seed in range(10)]
    for labels in streams:
        calibrator = Filter()
        assert not any(calibrator.observe(seen) and seen.at < 400 for seen in labels)
    eager = [folded(labels, FilterSettings(grace=0))[1] for labels in streams]
    assert any(eager)


def test_absurd_dates_leave_every_number_finite():
    dates = (1e308, -1e308) * 70
    calibrator, _ = folded(Observation(-2.0, (), i % 3 == 0, at=at) for i, at in enumerate(dates))
    assert Filter.restore(json.loads(json.dumps(calibrator.state(), allow_nan=False))).state() == calibrator.state()
