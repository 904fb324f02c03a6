"""Change control: bounded loosening, rollback, rebuild, difference, and a policy foreseen."""

import random
from datetime import timedelta
from itertools import pairwise

import msgspec
import orjson
import pytest

from models.calibration.control import compare, foresee, rebuild, revise
from models.calibration.ledger import Ledger, thresholds
from models.errors import StateError
from models.events import Calibration, decode, encode
from models.policy import Policy
from tests.unit.test_ledger import START, fold, label, log

SAMPLE = [(logit / 10.0, {"category": "a", "site": "x"}) for logit in range(-60, 10)]


def easing(count=2600):
    """A month in which the answers become much better on the tenth day: one label in ten minutes."""
    rng = random.Random(2)
    for i in range(count):
        at = START + timedelta(minutes=10 * i)
        logit = rng.gauss(-2.6, 1.8)
        risk = 1.0 / (1.0 + 2.718 ** -(0.8 * logit + (0.7 if i < 1440 else -1.7)))
        one = label(i, rng.random() < risk, logit)
        scored = msgspec.structs.replace(one.decision, occurred_at=at)
        yield msgspec.structs.replace(one, occurred_at=at + timedelta(minutes=1), decision=scored)


def green_by_day(policy):
    ledger, cuts, unbraked = Ledger("icu", policy), {}, []
    for one in easing():
        ledger.apply(one)
        if ledger.version >= 1200:
            event = ledger.calibration()
            cuts.setdefault(one.occurred_at.date(), []).append(event.cuts["all"]["green"])
            unbraked.append(ledger.filter.thresholds().cuts({"green": 0.05})["all"]["green"])
    return list(cuts.values()), unbraked


def test_loosening_is_bounded_per_day_and_gets_there_in_the_end():
    days, unbraked = green_by_day(Policy(max_loosening=0.25))
    rises = [max(today) - yesterday[-1] for yesterday, today in pairwise(days)]
    assert max(rises) <= 0.25 + 1e-3
    assert days[-1][-1] == pytest.approx(unbraked[-1], abs=1e-3)
    free, _ = green_by_day(Policy(max_loosening=20.0))
    assert max(max(today) - yesterday[-1] for yesterday, today in pairwise(free)) > 0.5


def test_the_scorer_keeps_to_the_braked_threshold():
    ledger = Ledger("icu", Policy(max_loosening=0.0))
    for one in easing(2200):
        ledger.apply(one)
    event = decode(Calibration, encode(ledger.calibration()))
    reading, cut = thresholds(event), event.cuts["all"]["green"]
    assert event.parameters["brakes"]["all"] > 0.3
    assert reading.risk(cut - 0.01, {})[1] < 0.05 < reading.risk(cut + 0.01, {})[1]
    assert ledger.filter.risk(cut + 0.01, [])[1] < 0.05


def test_tightening_is_immediate():
    ledger, _ = fold(log(4000, shift_at=3000))
    assert ledger.calibration().parameters["brakes"] == {}


def test_rollback_is_a_new_version_with_the_old_parameters():
    ledger, _ = fold(log(1000))
    old = decode(Calibration, encode(ledger.calibration()))
    for one in list(log(1500))[1000:]:
        ledger.apply(one)
    ledger.rollback(old, START + timedelta(days=3))
    new = ledger.calibration()
    assert (new.version, new.cause) == (1501, "rollback: to version 1000")
    assert orjson.dumps(new.parameters["filter"]) == orjson.dumps(old.parameters["filter"])
    assert new.as_of == START + timedelta(days=3)
    with pytest.raises(StateError, match="other"):
        ledger.rollback(msgspec.structs.replace(old, deployment="other"), START)


def test_rebuild_reproduces_the_running_state_bit_for_bit():
    labels = [*log(800), label(800, rejected=True, kind="correction", revises="l3")]
    ledger, _ = fold(labels)
    assert orjson.dumps(rebuild("icu", Policy(), labels).snapshot()) == orjson.dumps(ledger.snapshot())


def test_a_corrected_rebuild_honours_revisions_of_revisions():
    labels = [
        label(0, rejected=False),
        label(1, rejected=False),
        label(2, rejected=True, kind="correction", revises="l0"),
        label(3, rejected=False, kind="correction", revises="l2"),
        label(4, rejected=False, kind="revocation", revises="l1"),
        label(5, rejected=True, kind="correction", revises="unknown"),
    ]
    (one,) = revise(labels)
    assert (one.label_id, one.kind, one.revises, one.rejected) == ("l3", "verdict", None, False)
    assert rebuild("icu", Policy(), labels, corrected=True).version == 1


def test_a_difference_names_what_moved_and_what_it_does():
    labels = list(log(4000, shift_at=3000))
    before, after = (fold(labels[:count])[0].calibration() for count in (3000, 4000))
    found = compare(before, after, SAMPLE, Policy())
    assert (found.before, found.after, found.labels <= 1000) == (3000, 4000, True)
    old, new = found.cuts["all"]["green"]
    assert new < old - 0.5
    assert found.effect_after.tiers["green"] < found.effect_before.tiers["green"]
    assert compare(before, before, SAMPLE, Policy()).cuts == {}


def test_a_policy_is_foreseen_before_it_is_applied():
    reading = fold(log(3000))[0].filter.thresholds()
    usual, careful = (foresee(SAMPLE, reading, Policy(green=cut, audit_rate=0.1)) for cut in (0.05, 0.02))
    assert sum(usual.tiers.values()) == pytest.approx(1.0)
    assert sum(usual.actions.values()) == pytest.approx(1.0)
    assert careful.tiers["green"] < usual.tiers["green"]
    assert usual.review_load == pytest.approx(usual.tiers["red"] * 0.9 + 0.1)
    only = foresee(SAMPLE, reading, Policy(plan="green-only", audit_rate=0.0))
    assert set(only.actions) == {"show", "withhold"}
