"""Clinicians: severity, capped influence, poisoned labels; and how long their labels take."""

import math
import random
from collections import Counter
from statistics import median

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.calibration.delays import Delays
from models.calibration.filter import Filter, Observation
from models.calibration.influence import BASE, DECAY, Influence
from models.calibration.ledger import Ledger
from models.calibration.settings import FilterSettings
from models.errors import StateError
from models.policy import Policy
from tests.unit.test_ledger import label, log


def poisoned(share, seed=5, honest=6000, day=1440):
    """Twenty clinicians, then a day on which one of them answers a share of everything and flips each verdict."""
    rng = random.Random(seed)
    for i, one in enumerate(log(honest + day, seed)):
        bad = i >= honest and rng.random() < share
        others = 20 if i < honest else 19
        true = msgspec.structs.replace(one, clinician="c19" if bad else f"c{rng.randrange(others)}")
        yield true, msgspec.structs.replace(true, rejected=one.rejected != bad)


def movement(share, policy, seed=5):
    """By how much the poison moves the upper risk at the green threshold, and what was found."""
    honest, attacked, found = Ledger("icu", policy), Ledger("icu", policy), []
    for true, told in poisoned(share, seed):
        known = honest.apply(true)
        found += [jump for jump in attacked.apply(told) if jump not in known]
    cut = honest.calibration().cuts["all"]["green"]
    return abs(attacked.filter.risk(cut, [])[1] - honest.filter.risk(cut, [])[1]), found


def test_one_poisoned_clinician_of_twenty_moves_the_threshold_by_less_than_a_point_in_a_day():
    assert median(movement(0.05, Policy(), seed)[0] for seed in (6, 7, 8)) <= 0.01


def test_a_poisoned_flood_is_put_down_to_its_clinician_not_to_everybody():
    moved, found = movement(0.2, Policy())
    assert {jump.scope for jump in found} == {"clinician=c19"}
    assert moved <= 0.05


def stamped(seed, honest=3000, stamped=600, share=0.7):
    """Four clinicians, then one of them answers a share of everything, and accepts it."""
    rng = random.Random(seed)
    for i in range(honest + stamped):
        logit = rng.gauss(-0.5, 1.8)
        who = 0 if i >= honest and rng.random() < share else rng.randrange(4)
        rejected = rng.random() < 1.0 / (1.0 + math.exp(0.3 - 0.8 * logit))
        yield label(i, rejected and (i < honest or who > 0), logit, tier="yellow", clinician=f"c{who}")


def test_what_one_clinician_stamped_is_not_blamed_on_everybody_once_they_are_quarantined():
    """Their acceptances are in the evidence of all; with them set aside, no rater's evidence explained it any more."""
    for seed in (2, 4, 5):
        ledger = Ledger("icu", Policy())
        found = [(i, jump) for i, one in enumerate(stamped(seed)) for jump in ledger.apply(one) if i >= 3000]
        at = next(i for i, jump in found if (jump.kind, jump.scope) == ("quarantine", "clinician=c0"))
        assert [jump for i, jump in found if at < i < at + 20] == []


def test_flipped_verdicts_are_not_taken_for_scores_that_say_less():
    assert {jump.scope for seed in (6, 8) for jump in movement(0.4, Policy(), seed)[1]} == {"clinician=c19"}


def test_the_cap_keeps_one_clinician_from_outvoting_the_rest():
    """Without rater effects and without the detector, so that nothing else stands in the way of nine labels in ten."""
    deaf = FilterSettings(grace=10**9, raters=(), guarded=())
    labels, moved = list(poisoned(0.9, honest=3000)), {}
    for share in (0.1, 1.0):
        policy = Policy(rater_share=share, calibrator=deaf)
        honest, attacked = Ledger("icu", policy), Ledger("icu", policy)
        for true, told in labels:
            honest.apply(true)
            attacked.apply(told)
        moved[share] = attacked.filter.risk(-2.6, [])[0] - honest.filter.risk(-2.6, [])[0]
    assert 0.0 < moved[0.1] < 0.6 * moved[1.0]


def hospital(seed, offset, clinicians, severity=0.0, *, nested=True):
    """Eight sites; one is riskier by `offset`, and the first of its clinicians more severe than the answers deserve."""
    rng, calibrator = random.Random(seed), Filter()
    for _ in range(6000):
        site, logit = rng.choice("abcdefgy"), rng.gauss(-2.6, 1.8)
        home = site if nested else rng.choice("abcdefgy")
        clinician = f"{home}{rng.randrange(clinicians)}"
        eta = 0.8 * logit - 0.6 + offset * (site == "y") + severity * (clinician == "y0")
        rejected = rng.random() < 1.0 / (1.0 + math.exp(-eta))
        calibrator.observe(Observation(logit, (("site", site), ("clinician", clinician)), rejected))
    return calibrator


def found(calibrator, logit=-2.6):
    """By how many logits the site is served as riskier than the others on average."""
    odds = [math.log(p / (1.0 - p)) for p in (calibrator.risk(logit, [("site", site)])[0] for site in "abcdefgy")]
    return odds[-1] - sum(odds[:-1]) / 7.0


@pytest.mark.parametrize("clinicians", [1, 3, 6])
@pytest.mark.parametrize("offset", [1.0, 1.5])
def test_what_all_clinicians_of_a_site_find_is_the_sites_risk(offset, clinicians):
    """Where they judge there alone, nothing tells severity from risk: what cannot be told apart is served."""
    assert median(found(hospital(seed, offset, clinicians)) for seed in (1, 2, 3)) > 0.6 * offset


@pytest.mark.parametrize("clinicians", [3, 6])
def test_one_severe_clinician_is_not_the_sites_risk(clinicians):
    calm = [found(hospital(seed, 0.0, clinicians)) for seed in (1, 2, 3)]
    assert abs(median(calm)) < 0.15
    moved = [found(hospital(seed, 0.0, clinicians, severity=2.0)) for seed in (1, 2, 3)]
    assert median(moved) - median(calm) < 1.2 / clinicians


def test_who_works_everywhere_is_told_apart_from_the_site():
    assert median(found(hospital(seed, 1.5, 3, nested=False)) for seed in (1, 2, 3)) == pytest.approx(1.3, abs=0.3)


def test_with_two_clinicians_a_change_counts_as_one_of_the_answers():
    ledger = Ledger("icu", Policy())
    labels = [msgspec.structs.replace(one, clinician="ab"[i % 2]) for i, one in enumerate(log(5000, shift_at=3000))]
    found = [jump for one in labels for jump in ledger.apply(one)]
    assert found[0].scope == "all"


@pytest.mark.parametrize(("clinicians", "cap"), [(1, 1.0), (2, 1.0), (5, 0.4), (20, 0.2)])
def test_no_clinician_exceeds_their_share(clinicians, cap):
    influence, rng = Influence(0.2), random.Random(1)
    granted = dict.fromkeys(range(clinicians), 0.0)
    for _ in range(3000):
        who = 0 if rng.random() < 0.7 else rng.randrange(clinicians)
        granted[who] += influence.grant(f"c{who}", 1.0)
    assert granted[0] <= cap * (sum(granted.values()) + 100.0) * 1.25  # granted weight does not decay, shares do
    assert all(weight > 0.0 for weight in granted.values())


def test_equal_clinicians_are_never_cut():
    influence = Influence(0.2)
    assert all(influence.grant(f"c{i % 12}", 0.5) == 0.5 for i in range(5000))


def test_the_forgotten_take_no_room():
    influence = Influence(0.2)
    for i in range(12_000):
        influence.grant("new" if i > 100 else f"old{i}", 1.0)
    assert list(influence.state()["weights"]) == ["new"]


def test_influence_restores_exactly():
    whole, part = Influence(0.2), Influence(0.2)
    for i in range(300):
        assert whole.grant(f"c{i % 3}", 1.0) == part.grant(f"c{i % 3}", 1.0)
        part = Influence.restore(orjson.loads(orjson.dumps(part.state())), 0.2)
    with pytest.raises(StateError):
        Influence.restore({"clock": 1}, 0.2)


@pytest.mark.parametrize("damage", [{}, {"rejected": {}}, {"rejected": 1, "accepted": 2}])
def test_damaged_delays_are_refused(damage):
    with pytest.raises(StateError):
        Delays.restore(damage)


OTHERS = [(who, 1.0, 1) for who in range(1, 6)]


@example(0.2, [(0, 1.0, 100), *OTHERS, (0, 1.0, 9)])  # has more than is allowed since others came
@example(0.2, [*OTHERS, (0, 1.0, 100)])  # comes to the bound
@given(
    st.sampled_from([0.05, 0.2, 0.7, 1.0]),
    st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 1.0), st.integers(1, 100)), max_size=9),
)
def test_nobody_carries_more_than_a_share_of_the_evidence(share, said):
    """And who is held back is given exactly what is left of it."""
    influence, own, total = Influence(share), Counter(), 0.0
    for clinician, weight, times in said:
        for _ in range(times):
            granted = influence.grant(f"c{clinician}", weight)
            own, total = Counter({who: held * DECAY for who, held in own.items()}), total * DECAY + granted
            own[clinician] += granted
            cap = max(share, 2.0 / len(own))
            assert 0.0 <= granted <= weight
            if cap >= 1.0 or own[clinician] < (cap - 1e-9) * (BASE + total):
                assert granted == weight
            if 0.0 < granted < weight:
                assert own[clinician] == pytest.approx(cap * (BASE + total))


def test_who_has_long_been_silent_is_forgotten():
    influence = Influence(0.2)
    influence.grant("silent", 1.0)
    for held in (8_000, 9_000):
        for _ in range(held - influence.state()["clock"]):
            influence.grant("loud", 1.0)
        assert ("silent" in influence.state()["weights"]) == (held == 8_000)
