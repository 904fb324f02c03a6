"""The policy file: what is accepted, what stops the start, and what becomes of a tier."""

import msgspec
import pytest

from models import deciding
from models.calibration.settings import FilterSettings
from models.deciding import History, groups
from models.errors import SettingsError, StateError
from models.events import Response, digest
from models.oracle import tiering
from models.policy import EDITION, Policies, Policy, act, audited, draw
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
        ({"warm_up_labels": 2**53 + 1}, "warm_up_labels"),
        ({"calibrator": {"grace": 2**53 + 1}}, "calibrator.grace"),
        ({"calibrator": {"max_groups": 2**53 + 1}}, "calibrator.max_groups"),
        ({"calibrator": {"guarded": ["sites", "clinician"]}}, "'sites' - at `$.calibrator.guarded[0]`"),
        ({"calibrator": {"raters": ["clinicians"]}}, "'clinicians' - at `$.calibrator.raters[0]`"),
        ({"deployments": {"ICU 1": {}}}, "no deployment can be called `ICU 1`: write"),
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


@pytest.mark.parametrize(
    ("common", "own", "z"),
    [({"z": 1.0}, None, 1.0), (None, {"z": 2.0}, 2.0), ({"z": 1.0}, {}, 1.0), ({"z": 1.0}, {"z": 2.0}, 2.0)],
)
def test_a_deployment_without_a_calibrator_of_its_own_has_the_common_one(common, own, z):
    given = {"calibrator": common} if common is not None else {}
    table = {"calibrator": own} if own is not None else {}
    assert Policies.read({**given, "deployments": {"icu": table}}).of("icu").calibrator.z == z


def test_what_no_policy_says_is_not_taken_for_one():
    with pytest.raises(StateError, match="green must be the smaller"):
        Policy().with_learning({"green": 0.3})


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


def test_any_key_of_the_longest_draws():
    assert 0.0 <= draw("r", "\u00e9" * 64) < 1.0  # 128 bytes: BLAKE2b takes 64


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
    assert list(groups(asked, history, chosen).items()) == list(found.items())  # in one order, whatever the policy's
    first = msgspec.structs.replace(asked, turn=0, response=None)
    assert groups(first, history, chosen) == {**found, "turn": "first", "moment": "pre-response"}
    assert groups(msgspec.structs.replace(asked, turn=1), history, chosen) == {**found, "turn": "second"}


class Later(Policy, frozen=True, kw_only=True, cache_hash=True):
    """A policy of a version to come, which has one key more."""

    new: float = 1.0


@pytest.mark.parametrize("hashed", [deciding.config_hash, tiering.config_hash])
def test_a_key_that_a_later_version_adds_changes_no_hash_of_before(hashed):
    """`demur verify` called every earlier decision one under a policy that it was not given."""
    for own in ({}, {"green": 0.04, "groups": ("site",), "calibrator": FilterSettings(z=1.0)}):
        assert hashed(Later(**own)) == hashed(Policy(**own))
        assert hashed(Later(**own, new=2.0)) != hashed(Policy(**own))


CHANGED = [
    {"green": 0.04}, {"red": 0.3}, {"target": "deep"}, {"groups": ("site",)},
    {"groups": ("site", "category", "history")}, {"plan": "green-only"}, {"audit_rate": 0.0}, {"audit_key": "x"},
    {"warm_up_labels": 1}, {"warm_up_deviation": 0.3}, {"max_calibration_age_s": 1.0}, {"max_loosening": 0.0},
    {"rater_share": 1.0}, {"calibrator": FilterSettings(z=1.0)}, {"calibrator": FilterSettings(z=1.0, noise=0.01)},
]  # fmt: skip


def test_every_key_is_in_the_hash_and_the_oracle_makes_the_same():
    policies = [Policy(), *(Policy(**own) for own in CHANGED)]
    hashes = [deciding.config_hash(one) for one in policies]
    assert {name for own in CHANGED for name in own} == {*Policy.__struct_fields__}
    assert len({*hashes}) == len(policies)
    assert hashes == [tiering.config_hash(one) for one in policies]


def test_a_default_that_changes_needs_a_new_edition():
    """A hash says what differs from the defaults. A new key is entered here; a changed value needs another number."""
    known = {
        2: {
            "green": 0.05, "red": 0.2, "target": "any", "groups": ("category", "history", "site"),
            "plan": "full-access", "audit_rate": 0.03, "audit_key": "demur", "warm_up_labels": 300,
            "warm_up_deviation": 0.35, "max_calibration_age_s": 604800.0, "max_loosening": 0.5, "rater_share": 0.2,
            "calibrator": "05426dca813e8eee",
        },
    }  # fmt: skip
    found = {name: getattr(Policy(), name) for name in Policy.__struct_fields__}
    assert found | {"calibrator": digest(msgspec.json.encode(FilterSettings()))[:16]} == known[EDITION]
