"""Invariant I6 as a table: any doubt, never green."""

import itertools

import pytest

from models.policy import Policy
from models.tiers import Facts, doubted, doubts, missing_labels, tier

POLICY = Policy()
DOUBTS = {
    "truncated": {"truncated": True},
    "out_of_distribution": {"in_distribution": False},
    "model_mismatch": {"same_model": False},
    "settings_mismatch": {"same_basis": False},
    "calibration_missing": {"calibrated": False},
    "warming_up: 7 labels missing": {"missing_labels": 7},
    "calibration_stale": {"calibration_age_s": POLICY.max_calibration_age_s + 1.0},
    "deadline_missed": {"on_time": False},
}


@pytest.mark.parametrize(
    ("upper", "expected"),
    [(0.0, "green"), (0.0499, "green"), (0.05, "yellow"), (0.1999, "yellow"), (0.20, "red"), (1.0, "red")],
)
def test_by_risk(upper, expected):
    found, reasons = tier(Facts(upper=upper), POLICY)
    assert found == expected
    assert len(reasons) == 1


@pytest.mark.parametrize(("reason", "doubt"), DOUBTS.items(), ids=lambda value: str(value)[:20])
@pytest.mark.parametrize(("upper", "expected"), [(0.01, "yellow"), (0.1, "yellow"), (0.5, "red")])
def test_one_doubt(reason, doubt, upper, expected):
    found, reasons = tier(Facts(upper=upper, **doubt), POLICY)
    assert found == expected
    assert reason in reasons


def test_each_doubt_can_be_read_from_the_reasons_again():
    every = [facts | {"upper": upper} for facts in ({}, *DOUBTS.values()) for upper in (0.01, 0.5)]
    for facts in [*every, dict(itertools.chain(*(one.items() for one in every)))]:
        _, reasons = tier(Facts(**facts), POLICY)
        again = Facts(upper=facts["upper"], **doubted(reasons))
        assert [one.partition(":")[0] for one in doubts(again, POLICY)] == [
            one.partition(":")[0] for one in doubts(Facts(**facts), POLICY)
        ]


def test_no_combination_of_doubts_is_green():
    for chosen in itertools.product([False, True], repeat=len(DOUBTS)):
        facts = Facts(
            upper=0.001, **{k: v for on, d in zip(chosen, DOUBTS.values(), strict=True) if on for k, v in d.items()}
        )
        assert (tier(facts, POLICY)[0] == "green") == (not any(chosen))


@pytest.mark.parametrize("upper", [None, float("nan"), float("inf"), float("-inf")])
def test_no_finite_score_is_red(upper):
    assert tier(Facts(upper=upper), POLICY) == ("red", ("score_missing",))


def test_invalid_input_is_red_whatever_the_score():
    assert tier(Facts(upper=0.001, valid=False), POLICY) == ("red", ("invalid_input",))


def test_a_calibration_serves_until_its_greatest_age():
    assert tier(Facts(upper=0.001, calibration_age_s=POLICY.max_calibration_age_s), POLICY)[0] == "green"


def test_an_age_that_is_not_a_number_is_stale():
    assert tier(Facts(upper=0.001, calibration_age_s=float("nan")), POLICY)[0] == "yellow"


@pytest.mark.parametrize(
    ("labels", "deviation", "expected"),
    [(0, 1.0, 300), (299, 0.1, 1), (300, 0.1, 0), (300, 0.35, 0), (300, 0.36, 18), (1000, 0.7, 3000)],
)
def test_warm_up_names_the_missing_labels(labels, deviation, expected):
    assert missing_labels(labels, deviation, POLICY) == expected


def test_a_policy_that_asks_for_no_labels_still_asks_for_a_known_curve():
    assert missing_labels(0, 0.36, Policy(warm_up_labels=0)) == 1
