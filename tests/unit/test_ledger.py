"""Labels become versions: gapless, reproducible, and restorable at any point."""

import math
import random
from datetime import UTC, datetime, timedelta

import msgspec
import orjson
import pytest

from models.calibration.ledger import Ledger, alarm, observation, thresholds
from models.errors import StateError
from models.events import Calibration, Label, Scored, decode, encode
from models.policy import Policy

START = datetime(2026, 1, 5, 8, tzinfo=UTC)


def label(i, rejected, logit=-2.6, shown=None, tier="green", **other):
    """Label number i of one clinician among six, on a response of minute i."""
    scored = Scored(
        conversation_id=f"v{i}", turn=0, groups={"category": "abc"[i % 3], "site": "xy"[i % 2]}, logit=logit,
        risk=0.04, upper=0.04, tier=tier, action="show", audit=i % 20 == 0, propensity=0.05,
        calibrator_version=0, occurred_at=START + timedelta(minutes=i if shown is None else shown),
    )  # fmt: skip
    facts = {
        "label_id": f"l{i}", "feedback_id": f"f{i}", "response_id": f"r{i}", "deployment": "icu",
        "clinician": f"c{i % 6}", "action": "disagreed" if rejected else "accepted", "rejected": rejected,
        "depth": "surface" if rejected else "none", "weight": 1.0, "delay_s": 60.0,
        "occurred_at": START + timedelta(minutes=i + 1), "decision": scored,
    }  # fmt: skip
    return Label(**{**facts, **other})


def test_a_response_dated_ahead_is_no_later_than_its_verdict():
    """Else every later label would be older than the jump whose evidence it began."""
    assert (
        observation(label(1, rejected=True, shown=10**6), Policy(), 1.0).at
        == label(1, rejected=True).occurred_at.timestamp()
    )


def test_groups_that_the_policy_does_not_tell_apart_are_not_learnt():
    """No response is served by them: what they explain must stay in the curve."""
    seen = observation(label(1, rejected=True), Policy(groups=("site",)), 1.0)
    assert [name for name, _ in seen.groups] == ["site", "clinician"]


def log(count, seed=1, shift_at=10**9):
    rng = random.Random(seed)
    for i in range(count):
        logit = rng.gauss(-2.6, 1.8)
        eta = 0.8 * logit - 0.3 + (1.6 if i >= shift_at else 0.0)
        yield label(i, rng.random() < 1.0 / (1.0 + math.exp(-eta)), logit, tier="yellow")


def fold(labels, policy=Policy()):  # noqa: B008  # frozen
    ledger = Ledger("icu", policy)
    return ledger, [(jump, one) for one in labels for jump in ledger.apply(one)]


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "correction", "revises": "l0"},
        {"kind": "revocation", "revises": "l0"},
        {"weight": 0.0},
        {"logit": None},
    ],
)
def test_what_carries_no_evidence_changes_nothing(other):
    ledger, _ = fold(log(50))
    before = ledger.snapshot()
    assert ledger.apply(label(50, rejected=True, **other)) == ()
    assert ledger.snapshot() == before


def test_versions_are_gapless():
    ledger = Ledger("icu", Policy())
    for n, one in enumerate(log(30), start=1):
        ledger.apply(one)
        assert ledger.version == n


def test_a_version_is_as_of_its_latest_label_in_whatever_order_they_come():
    ledger = Ledger("icu", Policy())
    seen = [(one, ledger.apply(one), ledger.as_of) for one in (label(5, rejected=False), label(2, rejected=False))]
    assert [as_of for *_, as_of in seen] == [seen[0][0].occurred_at] * 2


def test_there_is_no_calibration_before_the_first_label():
    assert Ledger("icu", Policy()).calibration() is None


def test_the_gate_counts_down_and_opens():
    ledger = Ledger("icu", Policy(warm_up_labels=200))
    missing = []
    for one in log(600):
        ledger.apply(one)
        missing.append(ledger.missing_labels())
    assert missing[0] >= 199
    assert missing[-1] == 0
    assert all(gap >= 200 - n for n, gap in enumerate(missing, start=1))


@pytest.mark.parametrize(("depth", "counts"), [("surface", False), ("deep", True)])
def test_depth_can_be_the_target(depth, counts):
    labels = [msgspec.structs.replace(one, depth=depth if one.rejected else "none") for one in log(300)]
    any_, _ = fold(labels)
    deep, _ = fold(labels, Policy(target="deep"))
    if counts:
        assert deep.filter.state() == any_.filter.state()
    else:
        assert deep.filter.risk(-1.0, ())[0] < any_.filter.risk(-1.0, ())[0]


def test_a_jump_becomes_an_alarm_that_replays_byte_for_byte():
    _, found = fold(log(4000, shift_at=2500))
    _, again = fold(log(4000, shift_at=2500))
    (jump, one), *_ = found
    event = alarm(jump, one)
    assert (event.kind, event.scope, event.deployment) == ("jump", "all", "icu")
    assert event.evidence == {"delta_logits": jump.delta, "label": one.label_id}
    assert START + timedelta(minutes=2400) <= event.since <= event.raised_at
    assert encode(event) == encode(alarm(*again[0]))


def test_the_published_version_reads_the_same_at_the_scorer():
    ledger, _ = fold(log(1000))
    event = ledger.calibration()
    reading = thresholds(decode(Calibration, encode(event)))
    for groups in ({"category": "a", "site": "x"}, {"site": "new"}, {}, {"clinician": "c1"}):
        assert reading.risk(-3.0, groups) == ledger.filter.risk(-3.0, groups.items())
    assert event.version == event.labels == 1000
    assert set(event.cuts) >= {"all", "category=a", "site=x"}
    assert event.cuts["all"]["green"] < event.cuts["all"]["red"]
    upper = reading.risk(event.cuts["category=a"]["green"], {"category": "a"})[1]
    assert upper == pytest.approx(0.05, abs=0.002)


def test_what_is_published_names_no_clinician():
    """Nor would it serve: who judges a response is not known when it is tiered, and they are most of the groups."""
    ledger, _ = fold(log(1000))
    clinicians = {label.clinician for label in log(1000)}
    assert clinicians <= set(ledger.snapshot()["filter"]["groups"]["clinician"])
    assert set(ledger.calibration().parameters["filter"]["groups"]) == {"category", "site"}
    assert not [name for name in clinicians if f'"{name}"'.encode() in encode(ledger.calibration())]


def test_a_crash_anywhere_changes_nothing():
    labels = list(log(4100, shift_at=3000))
    whole, _ = fold(labels)
    part, rng = Ledger("icu", Policy()), random.Random(3)
    crashes = set(rng.sample(range(4100), 41))
    for i, one in enumerate(labels):
        if i in crashes:
            part = Ledger.restore(orjson.loads(orjson.dumps(part.snapshot())), Policy())
        part.apply(one)
    assert orjson.dumps(part.snapshot()) == orjson.dumps(whole.snapshot())
    assert encode(part.calibration()) == encode(whole.calibration())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"schema": 1, "counts": {}}, "another version.*schema"),
        ({"version": "x"}, "`\\$.version`"),
        ({"filter": {}}, "only the labels lead to it again"),
        ({"extra": 1}, "unknown field `extra`"),
    ],
)
def test_a_damaged_snapshot_is_refused(damage, said):
    with pytest.raises(StateError, match=said):
        Ledger.restore({**Ledger("icu", Policy()).snapshot(), **damage}, Policy())
