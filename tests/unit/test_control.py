"""Change control: bounded loosening, approval, rollback, difference, and a policy foreseen."""

import random
from datetime import timedelta
from itertools import pairwise

import msgspec
import orjson
import pytest

from models.calibration.basis import LIMIT
from models.calibration.brake import Brake
from models.calibration.control import compare, revise, simulate, simulate_sample
from models.calibration.filter import Filter
from models.calibration.ledger import Ledger, thresholds
from models.calibration.settings import FilterSettings
from models.errors import StateError
from models.events import Calibration, Instruction, decode, encode
from models.oracle.risk import risks
from models.policy import Policy
from tests.stagecraft import decision
from tests.unit.test_ledger import START, fold, label, log

SAMPLE = [(logit / 10.0, {"category": "a", "site": "x"}) for logit in range(-60, 10)]


def easing(count=2600):
    """A month in which the answers become much better on the tenth day: one label in ten minutes."""
    rng = random.Random(2)
    for i in range(count):
        at = START + timedelta(minutes=10 * i)
        logit = rng.gauss(-2.6, 1.8)
        risk = 1.0 / (1.0 + 2.718 ** -(0.8 * logit + (0.7 if i < 1440 else -1.7)))
        one = label(i, rng.random() < risk, logit, tier="yellow")
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


def test_the_allowances_of_two_days_are_not_had_within_minutes_of_midnight(monkeypatch):
    ledger, _ = fold(log(1500))
    midnight = START.replace(hour=0) + timedelta(days=3)
    wanted = {"green": -6.0, "red": 0.0}
    monkeypatch.setattr(Ledger, "_cuts", lambda *_: {"all": wanted})

    def green_at(hours):
        at = midnight + timedelta(hours=hours)
        one = label(10**6, rejected=False, tier="yellow")
        scored = msgspec.structs.replace(one.decision, occurred_at=at)
        ledger.apply(msgspec.structs.replace(one, occurred_at=at, decision=scored))
        return ledger.calibration().cuts["all"]["green"]

    assert green_at(-23.0) == -6.0
    wanted["green"] = 3.0
    seen = [green_at(hours) for hours in (-1 / 60, 1 / 60, 12.0, 11.0, 23.99, 24.01)]
    assert seen == pytest.approx([-5.5, -5.5, -5.25, -5.25, -5.0, -5.0], abs=1e-3)
    ledger = Ledger.restore(orjson.loads(orjson.dumps(ledger.snapshot())), ledger.policy)
    assert green_at(36.0) == pytest.approx(-4.75, abs=1e-3)


def threshold(event, groups):
    """The highest raw logit that is green for a response of these groups, to a hundredth."""
    reading = thresholds(event)
    return max((logit / 100 for logit in range(-600, 300) if reading.risk(logit / 100, groups)[1] < 0.05), default=-6.0)


def test_groups_that_improve_together_loosen_no_more_than_one():
    """Two groups of one response, each better from the third day on: their offsets add up, and so do their brakes."""
    rng, ledger, days = random.Random(4), Ledger("icu", Policy()), {}
    for i in range(17_000):
        at, groups = START + timedelta(minutes=i / 2), {"category": rng.choice("ab"), "site": rng.choice("xy")}
        logit = rng.gauss(-1.5, 1.5)
        better = 0.0 if i < 8000 else 2.0 * (groups["category"] == "a") + 2.0 * (groups["site"] == "x")
        rejected = rng.random() < 1.0 / (1.0 + 2.718 ** -(logit - better))
        one = label(i, rejected, logit, tier="yellow")
        scored = msgspec.structs.replace(one.decision, occurred_at=at, groups=groups)
        ledger.apply(msgspec.structs.replace(one, occurred_at=at + timedelta(minutes=1), decision=scored))
        if i > 6000 and i % 100 == 0:
            both = threshold(ledger.calibration(), {"category": "a", "site": "x"})
            days.setdefault(at.date(), []).append(both)
    rises = [max(today) - yesterday[-1] for yesterday, today in pairwise(days.values())]
    assert max(rises) < 0.53, "the last threshold that was read of a day is up to fifty minutes old"
    first, *_, last = days.values()
    assert last[-1] - first[0] > 1.0, "it gets there in the end"


MORNING = {"all": -3.0, "site=a": -3.0, "site=c": -3.0, "category=b": -3.0}


def cuts(**better):
    return {scope: {"green": better.get(scope[-1], cut)} for scope, cut in MORNING.items()}


@pytest.mark.parametrize(
    ("better", "rises"),
    [
        ({}, {}),
        ({"a": -1.0}, {"site=a": 0.5}),
        ({"a": -1.0, "c": -1.0}, {"site=a": 0.5, "site=c": 0.5}),
        ({"a": -1.0, "b": -1.0}, {"site=a": 0.25, "category=b": 0.25}),
        ({"a": -1.0, "b": -2.9}, {"site=a": 0.25, "category=b": 0.1}),
        ({"l": -2.5}, {"all": 0.5}),
        ({"l": -1.0, "a": -1.0}, {"all": 0.5, "site=a": 0.5, "site=c": -1.5, "category=b": -1.5}),
        ({"a": None}, {"site=a": -7.0}),
    ],
)
def test_names_of_groups_share_the_allowance_of_a_day(better, rises):
    """A response has a group of each name: what all responses rise by, each has; what one adds, the names share.

    Where all are held back further than a group of theirs, that group stood so far back too, and rises from there.
    """
    brake = Brake(allowance=0.5)
    brake.start(1, cuts())
    assert brake.state()["ceilings"] == dict.fromkeys(MORNING, -2.5)
    brake.start(2, cuts(**better))
    assert brake.state()["ceilings"] == pytest.approx({s: -2.5 + rises.get(s, 0.0) for s in MORNING})
    assert [brake.is_new(day) for day in (1, 2, 3)] == [False, False, True]


BOTH, OTHER = (("category", "b"), ("site", "a")), (("category", "b"), ("site", "c"))


def braked(greens, scopes=MORNING):
    """A brake that began with these thresholds of combinations, and what then asks for a logit more."""
    brake = Brake(allowance=0.5)
    for groups in greens:
        brake.know(groups)
    brake.start(1, {scope: {"green": cut} for scope, cut in scopes.items()}, greens)
    return brake, {groups: cut + 1.0 for groups, cut in greens.items()}


def test_what_is_held_back_of_combinations_alone_is_held_back():
    brake, wanted = braked({BOTH: -2.0, OTHER: -2.0})
    assert brake.excess(cuts()) == {}
    excess = brake.excess(cuts(), wanted)
    assert excess == dict.fromkeys(MORNING, -0.5)
    assert brake.beyond(wanted, excess) == {BOTH: 0.5, OTHER: 0.5}


@pytest.mark.parametrize(
    ("approved", "held"),
    [("all", {}), ("category=b", {}), ("site=a", {OTHER: 0.5}), ("site=z", {BOTH: 0.5, OTHER: 0.5})],
)
def test_what_a_person_approved_lets_its_combinations_pass(approved, held):
    brake, wanted = braked({BOTH: -2.0, OTHER: -2.0})
    brake.approve({approved: 3.0})
    assert brake.beyond(wanted, {}) == held


def test_an_earlier_version_put_back_caps_combinations_too():
    brake, _ = braked({BOTH: -2.0})
    brake.cap(cuts(), {BOTH: -4.0})
    assert brake.beyond({BOTH: -2.0}, {}) == {BOTH: 1.5}
    brake.cap(cuts(), {BOTH: 9.0})
    assert brake.beyond({BOTH: -2.0}, {}) == {BOTH: 1.5}, "it only lowers"


def test_of_too_many_combinations_those_longest_without_a_label_are_forgotten(monkeypatch):
    monkeypatch.setattr("models.calibration.brake.KNOWN", 2)
    brake = Brake(allowance=0.5)
    for groups in (BOTH, OTHER, BOTH, (("site", "a"),), (("category", "a"), ("site", "a"))):
        brake.know(groups)
    assert [*brake.known] == [BOTH, (("category", "a"), ("site", "a"))]


def test_the_last_combinations_are_those_of_the_last_labels_and_survive_a_restart():
    ledger, _ = fold(log(1500))
    restored = Ledger.restore(orjson.loads(orjson.dumps(ledger.snapshot())), ledger.policy)
    assert [*ledger._brake.combined] == [*restored._brake.combined]
    assert [dict(groups) for groups in restored._brake.combined][-1] == label(1499, rejected=False).decision.groups
    assert len(restored._brake.combined) == 6
    assert restored.calibration() == ledger.calibration()


def test_a_damaged_brake_is_refused():
    with pytest.raises(StateError, match="brake's state is damaged"):
        Brake.restore({"day": 1}, 0.5)


def test_an_earlier_version_put_back_caps_what_was_approved():
    ledger = Ledger("icu", Policy())
    for one in easing(1300):
        ledger.apply(one)
    tight = ledger.filter.state()
    ledger.apply_instruction(order("approval", 1300, ceilings={"all": 3.0}))
    assert ledger._brake.excess({"all": {"green": 2.5}})["all"] == -0.5
    ledger.apply_instruction(order("rollback", 1300, parameters=tight))
    cut = ledger.filter.thresholds().cuts({"green": 0.05})["all"]["green"]
    assert ledger._brake.excess({"all": {"green": cut + 0.75}})["all"] == pytest.approx(0.25, abs=1e-3)


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


def order(kind, version=0, **rest):
    facts = {
        "instruction_id": f"i-{kind}-{version}",
        "deployment": "icu",
        "order": kind,
        "version": version,
        "by": "dr",
    }
    return Instruction(occurred_at=START + timedelta(days=3), **facts, **rest)


def test_rollback_is_a_new_version_with_the_old_parameters():
    ledger, _ = fold(log(1000))
    old = decode(Calibration, encode(ledger.calibration()))
    for one in list(log(1500))[1000:]:
        ledger.apply(one)
    latest = ledger.as_of
    ledger.apply_instruction(order("rollback", 1000, parameters=old.parameters["filter"]))
    new = ledger.calibration()
    assert (new.version, new.cause) == (1501, "rollback: version 1000")
    assert orjson.dumps(new.parameters["filter"]) == orjson.dumps(old.parameters["filter"])
    assert new.as_of == latest, "an instruction is no news of how responses fare"


@pytest.mark.parametrize("ordered", ["approval", "rebuild"])
def test_what_labels_forced_since_somebody_looked_is_not_undone(ordered):
    ledger, jumps = fold(log(1200, shift_at=600))
    assert jumps
    with pytest.raises(StateError, match=f"labels forced version {ledger.forced} meanwhile"):
        ledger.apply_instruction(order(ordered, ledger.forced - 1, ceilings={}, parameters=ledger.filter.state()))
    restored = Ledger.restore(orjson.loads(orjson.dumps(ledger.snapshot())), ledger.policy)
    restored.apply_instruction(order(ordered, ledger.forced, ceilings={}, parameters=ledger.filter.state()))
    assert restored.version == 1201
    ledger.apply_instruction(order("rollback", ledger.forced - 1, parameters=ledger.filter.state()))
    assert ledger.version == 1201, "that is no order to loosen"


@pytest.mark.parametrize(("told", "counts"), [(START.replace(year=2036), None), (START, START)])
def test_a_workstation_whose_clock_is_ahead_does_not_suspend_the_guarantee(told, counts):
    ledger, _ = fold(log(400))
    ledger.apply_instruction(msgspec.structs.replace(order("approval", 400, ceilings={}), occurred_at=told))
    assert ledger.snapshot()["guarantee"]["since"] == {"all": (counts or ledger.as_of).timestamp()}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"deployment": "other"}, "for deployment other, not icu"),
        ({"parameters": {"schema": 4}}, "damaged"),
        ({"order": "release", "scope": "site=x"}, "site=x is not in quarantine"),
    ],
)
def test_an_instruction_that_cannot_be_followed_changes_nothing(wrong, named):
    ledger, _ = fold(log(100))
    before = ledger.snapshot()
    with pytest.raises(StateError, match=named):
        ledger.apply_instruction(msgspec.structs.replace(order("rollback", 50), **wrong))
    assert ledger.snapshot() == before


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"curve": [1e9, 0.0, 0.0, 0.0]}, "mean or variance"),
        ({"covariance": [0.1, 0.9, 0.0, 0.0, 0.1, 0.0, 0.0, 0.1, 0.0, 0.0]}, "covariance"),
        ({"covariance": [0.0] * 10}, "covariance"),
        ({"newest": 1e300}, "date"),
        ({"late": 10**6}, "date"),
        ({"slope": [1e9, 0.0, 0]}, "mean or variance"),
        ({"everyone": [0.0, 0.0, 0, [0, 1e200, 0.0]]}, "evidence"),
        ({"everyone": [0.0, 0.0, 10**6]}, "date"),
        ({"delays": {"rejected": [60, 1e300, 1.0], "accepted": [60, 1.0, 1.0]}}, "delay"),
        ({"clock": 2**60}, "damaged"),
    ],
)
def test_parameters_that_no_labels_lead_to_are_refused(damage, named):
    """LEARN would stop at one of the next labels, and again at each start."""
    ledger, _ = fold(log(100))
    with pytest.raises(StateError, match=named):
        ledger.apply_instruction(order("rollback", 50, parameters={**ledger.filter.state(), **damage}))


def test_without_approval_nothing_loosens_and_with_it_at_once():
    ledger = Ledger("icu", Policy(max_loosening=0.0))
    for one in easing(2200):
        ledger.apply(one)
    held = ledger.calibration()
    wanted = held.cuts["all"]["green"] + held.parameters["brakes"]["all"]
    ledger.apply_instruction(order("approval", held.version, ceilings={"all": wanted}))
    after = ledger.calibration()
    assert after.cuts["all"]["green"] == pytest.approx(wanted, abs=1e-3)
    assert (after.version, after.cause) == (held.version + 1, f"approval: version {held.version}")


def promise_broken(ledger, count=60):
    """Greens of one category, half of them rejected from now on, while the filter learns nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Filter, "observe", lambda *_: None)
        return break_promise(ledger, count)


def break_promise(ledger, count):
    found = []
    for i in range(count):
        at = ledger.as_of + timedelta(minutes=1)
        one = label(10**6 + i, rejected=i % 2 == 0, logit=-6.0)
        scored = msgspec.structs.replace(one.decision, occurred_at=at, groups={"category": "a"}, audit=False)
        found += ledger.apply(msgspec.structs.replace(one, occurred_at=at, decision=scored, clinician=f"c{i}"))
    return found


def test_a_broken_promise_tightens_whatever_the_filter_believes():
    ledger, _ = fold(log(1500), Policy(calibrator=FilterSettings(grace=10**9)))
    before = ledger.calibration()
    found = promise_broken(ledger)
    assert {jump.kind for jump in found} == {"tightening"}
    after = ledger.calibration()
    assert after.parameters["brakes"].get("category=a", 0.0) >= 1.0
    assert after.cuts["category=a"]["green"] < before.cuts["category=a"]["green"] - 1.0
    assert thresholds(after).risk(before.cuts["category=a"]["green"] - 0.5, {"category": "a"})[1] > 0.05


def test_a_group_that_is_learnt_to_be_safe_at_the_end_of_the_scale_is_tightened_as_far_as_is_published():
    ledger, _ = fold(log(1500), Policy(calibrator=FilterSettings(grace=10**9)))
    learnt = ledger.filter.state()
    learnt["groups"]["category"]["a"] = [-11.0, 0.01, learnt["clock"]]
    ledger.apply_instruction(order("rollback", 1500, parameters=learnt))
    assert ledger.filter.thresholds().cuts({"green": 0.05})["category=a"]["green"] == LIMIT
    assert promise_broken(ledger)
    event = decode(Calibration, encode(ledger.calibration()))
    reading, cut, group = thresholds(event), event.cuts["category=a"]["green"], {"category": "a"}
    assert reading.risk(cut - 0.01, group)[1] < 0.05 < reading.risk(cut + 0.01, group)[1]
    for logit in (-12.0, cut - 0.01, cut + 0.01, 9.0, 12.0):
        assert risks(event.parameters, logit, group) == pytest.approx(reading.risk(logit, group), abs=1e-9)


def without(ledger, name, value):
    """The calibrator as it would be had it never seen a group."""
    known = ledger.filter.state()
    del known["groups"][name][value]
    return known


def test_a_rollback_to_before_a_group_was_known_does_not_set_it_free():
    ledger, _ = fold(log(1500))
    group = {"category": "a"}
    ledger._brake.tighten("category=a", ledger.calibration().cuts, 1.5)
    tightened = threshold(ledger.calibration(), group)
    ledger.apply_instruction(order("rollback", 1500, parameters=without(ledger, "category", "a")))
    event = ledger.calibration()
    assert ("category", "a") not in ledger.filter._offsets.by_key
    assert threshold(event, group) <= tightened < threshold(event, {"category": "b"}) - 0.5
    assert event.cuts["category=a"]["green"] == pytest.approx(tightened, abs=0.02), "people see it, and may approve it"
    held = threshold(event, group)
    for day in (1, 2):
        at = ledger.as_of + timedelta(days=1)
        one = label(2 * 10**6 + day, rejected=False, tier="yellow", occurred_at=at)
        scored = msgspec.structs.replace(one.decision, occurred_at=at, groups={"category": "b"})
        ledger.apply(msgspec.structs.replace(one, decision=scored))
        assert threshold(ledger.calibration(), group) <= held + 0.5 * day + 0.02


def test_of_scopes_that_are_known_no_more_those_held_back_farthest_are_remembered(monkeypatch):
    """Here a free text has a value a response, and whatever is lower than all may never rise."""
    monkeypatch.setattr("models.calibration.brake.ABSENT", 3)
    brake, everyone = Brake(allowance=0.0), {"all": {"green": -3.0}}
    brake.start(1, everyone)
    brake.tighten("site=a", everyone, 1.0)
    for day in range(2, 50):
        brake.start(day, everyone | {f"category={day}{n}": {"green": -3.01 - n / 100} for n in range(5)})
        assert brake.excess(everyone)["site=a"] == 1.0
        assert len(brake.state()["ceilings"]) <= 1 + 5 + 3
    brake.start(50, everyone)
    assert len(brake.state()["ceilings"]) == 1 + 3


def test_a_scope_that_is_known_no_more_is_forgotten_once_it_stands_where_all_do():
    brake, everyone = Brake(allowance=0.5), {"all": {"green": -3.0}}
    brake.start(1, everyone)
    brake.tighten("site=a", everyone, 1.0)
    held = []
    for day in range(2, 7):
        brake.start(day, everyone)
        held.append(brake.excess(everyone).get("site=a"))
    assert held == [1.0, 0.5, None, None, None]
    assert [*brake.state()["ceilings"]] == ["all"]


def test_many_verdicts_on_one_response_are_no_broken_promise():
    """Ten who say the same of one answer are one answer."""
    ledger, _ = fold(log(1500))
    once = label(10**6, rejected=True, logit=-6.0)
    for i in range(10):
        scored = msgspec.structs.replace(once.decision, occurred_at=ledger.as_of)
        again = msgspec.structs.replace(once, weight=0.1, clinician=f"c{i}", occurred_at=ledger.as_of, decision=scored)
        assert not [jump for jump in ledger.apply(again) if jump.kind == "tightening"]


def test_what_all_greens_and_the_audited_show_is_done_once():
    ledger, _ = fold(log(1500))
    cell = ledger._guarantee._cell("all")
    audited = ledger._guarantee._cell("audit")
    for one in (cell, audited):
        one.grown = [999.0] * 3
    one = label(10**6, rejected=True, logit=-6.0, occurred_at=ledger.as_of + timedelta(minutes=9))
    scored = msgspec.structs.replace(one.decision, occurred_at=ledger.as_of + timedelta(minutes=8), audit=True)
    found = ledger.apply(msgspec.structs.replace(one, decision=scored))
    assert [jump.scope for jump in found if jump.kind == "tightening"] == ["all"]


def test_what_is_set_aside_does_not_keep_the_calibration_fresh():
    """Of a quarantined site nothing is learnt; if only it goes on, nobody would notice a change."""
    ledger, _ = fold(log(1500))
    group = ledger.filter._offsets.by_key["site", "x"]
    group.quarantined = True
    before = ledger.as_of
    ledger.apply(label(10**6, rejected=False))
    assert (ledger.version, ledger.as_of) == (1501, before)


def greens_with_a_script(ledger, times):
    """Greens of which one in eight is rejected, and per honest verdict some acceptances of one clinician."""
    rng = random.Random(1)
    for i in range(300):
        at = ledger.as_of + timedelta(minutes=1)
        for n in range(1 + times):
            who, rejected = ("c0", False) if n else (f"c{1 + rng.randrange(5)}", i % 8 == 0)
            one = label(10**6 + 10 * i + n, rejected, logit=-4.5, clinician=who, occurred_at=at)
            scored = msgspec.structs.replace(one.decision, occurred_at=at, groups={"site": "xy"[i % 2]}, audit=False)
            yield msgspec.structs.replace(one, decision=scored)


@pytest.mark.parametrize("times", [0, 3])
def test_acceptances_of_a_clinician_in_quarantine_do_not_vouch_for_greens(times):
    ledger, _ = fold(log(1500), Policy(calibrator=FilterSettings(grace=10**9)))
    ledger.filter._offsets.by_key["clinician", "c0"].quarantined = True
    assert [jump for one in greens_with_a_script(ledger, times) for jump in ledger.apply(one)]


def counted(ledger, scope):
    cell = ledger.snapshot()["guarantee"]["cells"].get(scope, {"labelled": 0.0})
    return cell["labelled"]


def test_a_site_in_quarantine_vouches_for_its_own_greens_alone():
    """For its own it must: else nothing at all would watch them, for the filter learns nothing of them either."""
    ledger, _ = fold(log(1500))
    scopes = ("all", "audit", "category=c", "site=y")
    before = {scope: counted(ledger, scope) for scope in scopes}
    ledger.filter._offsets.by_key["site", "y"].quarantined = True
    one = label(1505, rejected=False)
    assert one.decision.groups == {"category": "c", "site": "y"}
    ledger.apply(one)
    assert {scope: counted(ledger, scope) - before[scope] for scope in scopes} == dict.fromkeys(scopes, 0.0) | {
        "site=y": 1.0
    }
    ledger.filter._offsets.by_key["clinician", "c1"].quarantined = True
    ledger.apply(label(1507, rejected=False))
    assert counted(ledger, "site=y") == before["site=y"] + 1.0


def test_nobody_vouches_for_greens_beyond_their_share():
    ledger, _ = fold(log(1500), Policy(calibrator=FilterSettings(grace=10**9)))
    before = counted(ledger, "all")
    flood = [label(2000 + i, rejected=False, clinician="c0") for i in range(1000)]
    for one in flood:
        ledger.apply(one)
    assert 0.0 < counted(ledger, "all") - before < 700.0
    found = [jump for one in greens_with_a_script(ledger, 3) for jump in ledger.apply(one)]
    assert [jump for jump in found if jump.kind == "tightening"], "one of six, who writes three quarters of the labels"


def test_greens_from_before_the_tightening_do_not_tighten_again():
    ledger, _ = fold(log(1500), Policy(calibrator=FilterSettings(grace=10**9)))
    found = promise_broken(ledger)
    assert {(one.scope, one.delta) for one in found} >= {("category=a", -1.0), ("all", -1.0)}
    before = ledger.as_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Filter, "observe", lambda *_: None)
        late = [label(2 * 10**6 + i, rejected=True, logit=-6.0, shown=0, occurred_at=before) for i in range(60)]
        assert [jump for one in late for jump in ledger.apply(one)] == []


def test_a_person_may_end_a_quarantine():
    ledger, _ = fold(log(100))
    group = ledger.filter._offsets.by_key["site", "x"]
    group.quarantined = True
    ledger.apply_instruction(order("release", 100, scope="site=x"))
    assert (group.quarantined, ledger.version, ledger.cause) == (False, 101, "release: site=x")


def test_a_revision_may_revise_a_revision():
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
    usual, careful = (simulate_sample(SAMPLE, reading, Policy(green=cut, audit_rate=0.1)) for cut in (0.05, 0.02))
    assert sum(usual.tiers.values()) == pytest.approx(1.0)
    assert sum(usual.actions.values()) == pytest.approx(1.0)
    assert careful.tiers["green"] < usual.tiers["green"]
    assert usual.review_load == pytest.approx(usual.tiers["red"] * 0.9 + 0.1)
    only = simulate_sample(SAMPLE, reading, Policy(plan="green-only", audit_rate=0.0))
    assert set(only.actions) == {"show", "withhold"}


def test_decisions_are_made_anew_with_what_spoke_against_them():
    made = [decision(f"r{n}", logit=-5.0, upper=0.01) for n in range(10)]
    made += [
        decision("cut", logit=-5.0, upper=0.01, truncated=True),
        decision("mute", logit=None, upper=None, reasons=("score_missing", "deadline_missed")),
        decision("bad", logit=None, upper=None, reasons=("invalid_input", "invalid")),
    ]
    version = fold(log(3000))[0].calibration()
    for known in (version, None):
        assert simulate(made, known, Policy()).tiers == {"green": 10 / 13, "yellow": 1 / 13, "red": 2 / 13}
    assert simulate(made, version, Policy(warm_up_labels=4000)).tiers == {"yellow": 11 / 13, "red": 2 / 13}
    young = [decision("r", logit=-5.0, upper=0.01, reasons=("warming_up: 12 labels missing",))]
    assert simulate(young, None, Policy()).tiers == {"yellow": 1.0}
    assert simulate(young, version, Policy()).tiers == {"green": 1.0}


@pytest.mark.parametrize("doubt", ["deadline_missed", "model_mismatch", "settings_mismatch", "calibration_stale"])
def test_a_doubt_about_a_scored_response_stays_a_doubt(doubt):
    made = [decision("r", logit=-5.0, upper=0.01, reasons=(doubt,))]
    assert simulate(made, None, Policy(max_calibration_age_s=86_400.0)).tiers == {"yellow": 1.0}


def test_a_response_made_anew_is_as_late_as_before_and_of_its_own_model():
    version = msgspec.structs.replace(fold(log(3000))[0].calibration(), model_hash="m")
    late = [decision("r", logit=-5.0, upper=0.01, reasons=("deadline_missed",))]
    assert simulate(late, version, Policy()).tiers == {"yellow": 1.0}
    mismatched = [decision("r", logit=-5.0, upper=0.01, reasons=("model_mismatch",))]
    assert simulate(mismatched, version, Policy()).tiers == {"green": 1.0}
    assert simulate(mismatched, msgspec.structs.replace(version, model_hash="other"), Policy()).tiers == {"yellow": 1.0}


def test_what_was_learnt_for_another_policy_is_not_green_under_this_one():
    made, version = [decision("r", logit=-5.0, upper=0.01)], fold(log(3000))[0].calibration()
    for known, policy, tiers in (
        (version, Policy(), {"green": 1.0}),
        (version, Policy(target="deep"), {"yellow": 1.0}),
        (msgspec.structs.replace(version, basis=Policy(target="deep").basis), Policy(), {"yellow": 1.0}),
        (msgspec.structs.replace(version, basis=Policy(target="deep").basis), Policy(target="deep"), {"green": 1.0}),
    ):
        assert simulate(made, known, policy).tiers == tiers


@pytest.mark.parametrize("other", [{"target": "deep"}, {"warm_up_labels": 10**6}, {"warm_up_deviation": 0.1}])
def test_without_a_calibration_what_cannot_be_known_is_not_green(other):
    """Decisions do not say how many labels their calibrator had, only that the policy of then had enough."""
    made, now = [decision("r", logit=-5.0, upper=0.01)], Policy()
    assert simulate(made, None, now, now).tiers == {"green": 1.0}
    assert simulate(made, None, Policy(warm_up_labels=10, warm_up_deviation=2.0), now).tiers == {"green": 1.0}
    assert simulate(made, None, Policy(**other), now).tiers == {"yellow": 1.0}
