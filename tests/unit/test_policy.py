"""The policy file: what is accepted, what stops the start, and what becomes of a tier."""

import msgspec
import pytest

from models.deciding import History, groups
from models.errors import SettingsError
from models.events import Response
from models.policy import Policies, Policy, act, audited, draw
from tests.stagecraft import START


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"green": 0.2, "red": 0.2}, "green"),
        ({"green": 0.0}, "green"),
        ({"red": 1.0}, "red"),
        ({"red": "high"}, "red"),
        ({"greeen": 0.04}, "greeen"),
        ({"target": "severe"}, "target"),
        ({"plan": "all"}, "plan"),
        ({"groups": ["site", "weekday"]}, "groups"),
        ({"audit_rate": 1.5}, "audit_rate"),
        ({"warm_up_labels": -1}, "warm_up_labels"),
        ({"max_calibration_age_s": 0.0}, "max_calibration_age_s"),
        ({"calibrator": {"z": -1.0}}, "calibrator.z"),
        ({"calibrator": {"zed": 1.0}}, "zed"),
        ({"deployments": {"icu": {"greeen": 0.1}}}, "icu"),
        ({"deployments": {"icu": {"red": 0.04}}}, "icu"),
        ({"deployments": []}, "deployments"),
        ({"deployments": {"icu": 3}}, "deployments"),
    ],
)
def test_bad_policies_are_refused_in_one_sentence_naming_the_field(given, named):
    with pytest.raises(SettingsError) as caught:
        Policies.read(given)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_merge_key_by_key():
    policies = Policies.read(
        {"green": 0.04, "calibrator": {"z": 1.0, "noise": 0.02}, "deployments": {"icu": {"calibrator": {"z": 2.0}}}}
    )
    icu, other = policies.of("icu"), policies.of("ward")
    assert (icu.green, icu.calibrator.z, icu.calibrator.noise) == (0.04, 2.0, 0.02)
    assert (other.green, other.calibrator.z) == (0.04, 1.0)


@pytest.mark.parametrize(
    ("plan", "tier", "audit", "action"),
    [
        ("full-access", "green", False, "show"),
        ("full-access", "yellow", False, "banner"),
        ("full-access", "red", False, "review"),
        ("green-only", "green", False, "show"),
        ("green-only", "yellow", False, "withhold"),
        ("green-only", "red", False, "withhold"),
        *[
            (plan, tier, True, "review")
            for plan in ("full-access", "green-only")
            for tier in ("green", "yellow", "red")
        ],
    ],
)
def test_action(plan, tier, audit, action):
    assert act(tier, plan, audit=audit) == action


def test_the_audit_sample_is_uniform_repeatable_and_keyed():
    draws = [draw(f"response-{i}", "key") for i in range(20_000)]
    assert draws == [draw(f"response-{i}", "key") for i in range(20_000)]
    assert all(0.0 <= one < 1.0 for one in draws)
    for tenth in range(10):
        share = sum(tenth / 10 <= one < (tenth + 1) / 10 for one in draws) / len(draws)
        assert share == pytest.approx(0.1, abs=0.01)
    other = sum(draw(f"response-{i}", "other") < 0.03 for i in range(20_000) if draws[i] < 0.03)
    assert other < 60  # 18 expected if keys are independent; 600 if they were not


def test_audit_rates_at_the_ends():
    assert not audited("r", Policy(audit_rate=0.0))
    assert audited("r", Policy(audit_rate=1.0))


def test_the_calibrator_tells_apart_what_the_policy_chooses():
    asked = Response(
        response_id="r1", conversation_id="c1", turn=2, deployment="icu", site="north", specialty="renal",
        query="Dose?", response="5 mg", occurred_at=START,
    )  # fmt: skip
    history = History({"r0": True})
    usual = {"category": "unknown", "history": "rejected", "site": "north"}
    assert groups(asked, history, Policy().groups) == usual
    chosen = Policies.read({"groups": ["turn", "specialty", "site", "department"]}).default.groups
    found = {"department": "unknown", "site": "north", "specialty": "renal", "turn": "later"}
    assert groups(asked, history, chosen) == found
    first = msgspec.structs.replace(asked, turn=0, response=None)
    assert groups(first, history, chosen) == {**found, "turn": "first", "moment": "pre-response"}
