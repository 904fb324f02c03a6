"""A calibrator's log, replayed: the running state bit for bit, any version, and the log as corrected."""

import random
from datetime import timedelta

import msgspec
import orjson
import pytest

from models.calibration.history import History, differences, fold, gaps
from models.calibration.learning import Learning, identity
from models.calibration.ledger import Ledger
from models.calibration.settings import FilterSettings
from models.errors import EventError, StateError
from models.events import Change, decode, encode
from models.policy import Policy
from tests.unit.test_control import order
from tests.unit.test_ledger import label, log

POLICY = Policy()


def empty():
    return Learning(Ledger("icu", POLICY))


def run(events):
    """LEARN's fold of a log: where it ends, and the entries that it wrote, as they come off the wire."""
    learning, changes = empty(), []
    for event in events:
        changes += [decode(Change, encode(one)) for one in learning.apply(event) if isinstance(one, Change)]
    return learning, changes


def course():
    """Four days of labels with a jump; a rollback, an approval, and corrections on the way."""
    labels = list(log(5600, shift_at=3000))
    at_2000, _ = run(labels[:2000])
    back = order("rollback", 2000, parameters=at_2000.ledger.filter.state())
    return [
        *labels[:2500],
        label(7000, rejected=True, kind="correction", revises="l10"),
        back,
        *labels[2500:4000],
        order("approval", 4001, ceilings={"all": -1.0}),
        label(7001, rejected=False, kind="revocation", revises="l3999"),
        *labels[4000:],
    ]


def same(first, second):
    return orjson.dumps(first.snapshot()) == orjson.dumps(second.snapshot())


def test_the_log_reproduces_the_running_state_bit_for_bit_whatever_is_repeated():
    events = course()
    running, changes = run(events)
    repeated = [one for n, event in enumerate(events) for one in ([event, events[n // 2]] if n % 7 == 0 else [event])]
    rebuilt = History("icu", POLICY, repeated, changes).after(events[-1].label_id)
    assert same(rebuilt, running)
    assert differences(rebuilt.snapshot(), running.snapshot()) == []


def test_a_crash_anywhere_changes_nothing():
    events = course()
    whole, entries = run(events)
    part, told, rng = empty(), [], random.Random(4)
    crashes = set(rng.sample(range(len(events)), 41))
    for n, event in enumerate(events):
        if n in crashes:
            part = Learning.restore(orjson.loads(orjson.dumps(part.snapshot())), POLICY)
        told += [decode(Change, encode(one)) for one in part.apply(event) if isinstance(one, Change)]
    assert same(part, whole)
    assert told == entries


def test_entries_tell_the_whole_course_without_a_gap():
    _, changes = run(course())
    assert gaps(changes) == []
    causes = [one.cause.partition(":")[0] for one in changes]
    assert {"labels", "jump", "rollback", "approval"} <= set(causes)
    jump = next(one for one in changes if one.cause.startswith("jump: all"))
    assert jump.evidence["statistic"] > jump.evidence["threshold"]
    assert jump.after.parameters["intercept"] > jump.before.parameters["intercept"] + 0.5
    assert jump.after.cuts["all"]["green"] < jump.before.cuts["all"]["green"] - 0.5
    assert jump.after.shares["green"] < jump.before.shares["green"]
    assert gaps([*changes[:2], *changes[3:]]) == [changes[1].after.version]


@pytest.mark.parametrize("version", [1, 1999, 2501, 4001, 4002, 5602])
def test_any_version_can_be_had_again_from_the_nearest_entry(version):
    events = course()
    _, changes = run(events)
    plain = empty()
    for event in events:
        if plain.ledger.version < version:
            fold(plain, event)
    assert same(History("icu", POLICY, events, changes).at(version), plain)
    assert same(History("icu", POLICY, events).at(version), plain)


def test_what_was_learnt_under_another_policy_can_be_had_again_under_todays():
    """Until now it was folded by today's, so that `rebuild` found differences that were none."""
    labels, today = list(log(4000, shift_at=1000)), Policy(green=0.1, max_loosening=0.1)
    running, changes = run(labels[:2500])
    version_2000, _ = run(labels[:2000])
    running = Learning.restore(orjson.loads(orjson.dumps(running.snapshot())), today)
    for event in labels[2500:]:
        changes += [one for one in running.apply(event) if isinstance(one, Change)]
    entry = next(one for one in changes if one.after.version == 2502)
    assert entry.cause == "policy: green 0.05 → 0.1; policy: max_loosening 0.5 → 0.1; labels"
    assert entry.after.policy["green"] == 0.1
    assert gaps(changes) == []
    for known, whole in (labels, True), (labels[900:], False):
        history = History("icu", today, known, changes, whole=whole)
        assert differences(history.after(labels[-1].label_id).snapshot(), running.snapshot()) == []
        assert history.at(2000).calibration() == version_2000.calibration()


def test_when_the_beginning_has_expired_the_log_goes_on_from_an_entry():
    events = course()
    running, changes = run(events)
    kept = History("icu", POLICY, events[2300:], changes, whole=False)
    assert same(kept.after(events[-1].label_id), running)
    with pytest.raises(StateError, match="version 100 can no longer be had"):
        kept.at(100)
    with pytest.raises(StateError, match="beginning"):
        kept.corrected()
    with pytest.raises(StateError, match="it has expired"):
        kept.after("l1")
    with pytest.raises(StateError, match="no entry to start from"):
        History("icu", POLICY, events[2300:], whole=False).after(events[-1].label_id)


def test_a_version_that_never_was_is_refused():
    with pytest.raises(StateError, match="there is no version 51; the newest is 50"):
        History("icu", POLICY, log(50)).at(51)


def correction(id_, one):
    return msgspec.structs.replace(
        one, label_id=id_, kind="correction", revises=one.label_id, rejected=not one.rejected
    )


def test_corrections_are_honoured_and_what_a_rollback_dismissed_stays_dismissed():
    labels = list(log(300))
    at_100, _ = run(labels[:100])
    events = [
        *labels[:200],
        correction("l900", labels[150]),  # dismissed with its label
        correction("l901", labels[50]),
        order("rollback", 100, parameters=at_100.ledger.filter.state()),
        *labels[200:],
    ]
    found, revisions, last = History("icu", POLICY, events).corrected()
    flipped = msgspec.structs.replace(labels[50], rejected=not labels[50].rejected)
    expected, _ = run([*labels[:50], flipped, *labels[51:100], *labels[200:]])
    assert (revisions, last) == (2, labels[-1].label_id)
    assert found.ledger.filter.state() == expected.ledger.filter.state()


CHANGED = [{"target": "deep"}, {"groups": ("site",)}, {"calibrator": FilterSettings(z=1.0)}]


@pytest.mark.parametrize("changed", CHANGED)
def test_a_changed_policy_is_learnt_for_by_a_rebuild(changed):
    """Until then the calibrator goes on with what it was begun for, and says so; versions of then are out of reach."""
    labels, policy = list(log(900)), Policy(**changed)
    running, changes = run(labels[:600])
    running = Learning.restore(orjson.loads(orjson.dumps(running.snapshot())), policy)
    changes += [one for event in labels[600:700] for one in running.apply(event) if isinstance(one, Change)]
    before, _ = run(labels[:700])
    assert running.calibration() == before.calibration()
    assert running.calibration().basis == POLICY.basis != policy.basis

    then, *_ = History("icu", policy, labels[:700], changes).corrected()
    whole = {"parameters": then.ledger.filter.state(), "target": policy.target, "groups": policy.groups}
    rebuild = order("rebuild", 700, **whole)
    fold(running, rebuild)
    running = Learning.restore(orjson.loads(orjson.dumps(running.snapshot())), policy)
    for event in labels[700:]:
        fold(running, event)
    straight = Learning(Ledger("icu", policy))
    for event in labels:
        fold(straight, event)
    assert running.calibration().basis == policy.basis
    assert running.ledger.filter.state() == straight.ledger.filter.state()
    events = [*labels[:700], rebuild, *labels[700:]]
    assert same(History("icu", policy, events, changes).after(labels[-1].label_id), running)
    assert History("icu", policy, events, changes).at(500).ledger.policy.basis == POLICY.basis

    at_500, _ = run(labels[:500])
    for said in ({"target": POLICY.target, "groups": POLICY.groups}, {}):
        back = order("rollback", 500, parameters=at_500.ledger.filter.state(), **said)
        if said or "calibrator" in changed:
            with pytest.raises(EventError, match="other settings"):
                running.apply(back)


def of_another_version(changes, until):
    """Entries up to a version as an earlier version of demur left them."""
    state = {"model": "", "ledger": {"schema": 0}, "recorded": None}
    return [msgspec.structs.replace(one, state=state) if one.after.version <= until else one for one in changes]


def test_entries_that_this_version_cannot_restore_neither_hide_the_log_nor_the_way_out():
    """Those of an earlier version stand in the log for as long as it is kept; a rebuild from the labels needs none."""
    labels = list(log(300))
    _, changes = run(labels)
    history = History("icu", POLICY, labels, of_another_version(changes, 300))
    plain = History("icu", POLICY, labels)
    assert [one.after.version for one in history.changes] == [one.after.version for one in changes]
    assert same(history.corrected()[0], plain.corrected()[0])


def test_entries_that_this_version_cannot_restore_are_passed_over_and_named():
    """`rollback`, `diff` and `rebuild` ended at the first of them, for as long as the log of changes is kept."""
    events = course()
    running, changes = run(events)
    old = of_another_version(changes, 4000)
    unread = {one.after.version for one in changes if one.after.version <= 4000}
    plain = History("icu", POLICY, events)
    for version in (3000, 5000):
        history = History("icu", POLICY, events, old)
        assert same(history.at(version), plain.at(version))
        assert history.passed_over == ({v for v in unread if v <= version} if version < 4000 else set())

    kept = History("icu", POLICY, events[2300:], old, whole=False)
    assert same(kept.after(events[-1].label_id), running)
    left = {one.after.version for one in changes if one.last in {identity(event) for event in events[2300:]}}
    assert kept.passed_over == unread & left
    assert same(kept.at(5000), plain.at(5000))
    with pytest.raises(StateError, match="version 3000 can no longer be had") as refused:
        kept.at(3000)
    assert "written by another version of demur" in str(refused.value)
    corrected = History("icu", Policy(target="deep"), events[2300:], old, whole=False)
    assert corrected.corrected()[0].ledger.labels > 0


def test_where_nothing_learnt_holds_any_more_what_is_left_of_the_log_is_a_beginning():
    labels, policy = list(log(2000)), Policy(target="deep")  # over midnight, which makes an entry
    _, changes = run(labels)
    left, *_ = History("icu", policy, labels[200:], changes, whole=False).corrected()
    expected = Learning(Ledger("icu", policy))
    for event in labels[200:]:
        fold(expected, event)
    assert left.ledger.filter.state() == expected.ledger.filter.state()


def test_where_states_differ_is_said():
    first, second = (run(log(n))[0].snapshot() for n in (50, 51))
    found = differences(first, second)
    assert "ledger.version: 50, 51" in found


def test_an_entry_holds_no_state_that_would_not_fit_into_a_message(monkeypatch):
    learning, _ = run(log(50))
    monkeypatch.setattr("models.calibration.learning.MAX_RECORDED_BYTES", 100)
    tomorrow = label(60, rejected=False, occurred_at=learning.ledger.as_of + timedelta(days=1))
    (entry,) = learning.apply(tomorrow)
    assert entry.state is None


def cited(one, version):
    return msgspec.structs.replace(one, decision=msgspec.structs.replace(one.decision, calibrator_version=version))


def begun_anew():
    """Labels whose decisions cite the version of ten labels before; LEARN lost its state when 500 had expired."""
    labels = [cited(one, max(0, n - 10)) for n, one in enumerate(log(2400))]  # over midnight, which makes an entry
    _, before = run(labels[:2000])
    running, after = run(labels[500:])
    return labels[500:], running, [*before, *after]


def test_a_fold_begun_anew_on_a_cut_log_goes_on_above_all_that_was_published():
    """Scorers take versions only upwards: counted from 1 again, none of the next 500 would have served."""
    labels, running, changes = begun_anew()
    assert running.calibration().version == 10**9 + len(labels)
    first = changes[[one.last for one in changes].index(labels[0].label_id)]
    assert first.after.version == 10**9 + 1
    assert first.cause == "counted anew above version 490, to which this log does not lead"


def test_what_was_begun_anew_is_replayed_from_its_own_entries():
    labels, running, changes = begun_anew()
    history = History("icu", POLICY, labels, changes, whole=False)
    assert differences(history.after(labels[-1].label_id).snapshot(), running.snapshot()) == []
    straight, _ = run(labels[:700])
    assert same(history.at(10**9 + 700), straight)
    old = next(one for one in changes if one.after.version < 10**9 and one.last in {label.label_id for label in labels})
    assert history.at(old.after.version + 5).ledger.labels == old.after.labels + 5
    with pytest.raises(StateError, match="there is no version 900000"):
        history.at(900_000)


def test_a_corrected_fold_is_no_new_beginning():
    labels = [cited(one, n) for n, one in enumerate(log(60))]
    events = [*labels, label(900, rejected=False, kind="revocation", revises="l5")]
    found, *_ = History("icu", POLICY, events).corrected()
    assert found.ledger.version == 59


def rebuilding(history, then):
    whole = {"parameters": then.learning.ledger.filter.state(), "target": POLICY.target, "groups": POLICY.groups}
    return order("rebuild", history.changes[-1].after.version, last=then.last, **whole)


def test_labels_folded_between_a_rebuilds_reading_and_its_order_are_not_lost():
    labels = list(log(420))
    read = [*labels[:400], correction("l900", labels[50])]
    running, changes = run([*read, *labels[400:410]])
    before = running.snapshot()
    history = History("icu", POLICY, read, changes)
    then = history.corrected()
    overtaken = rebuilding(history, then)
    with pytest.raises(EventError, match="what came since would be lost"):
        running.apply(overtaken)
    assert running.snapshot() == before

    then = history.follow(then, [read[-1], *labels[400:410], overtaken], [overtaken.instruction_id])
    by = msgspec.structs.replace(rebuilding(history, then), instruction_id="second")
    fold(running, by)
    for event in labels[410:]:
        fold(running, event)
    flipped = msgspec.structs.replace(labels[50], rejected=not labels[50].rejected)
    straight, _ = run([*labels[:50], flipped, *labels[51:]])
    assert running.ledger.filter.state() == straight.ledger.filter.state()
    events = [*read, *labels[400:410], overtaken, by, *labels[410:]]
    assert same(History("icu", POLICY, events, changes).after(labels[-1].label_id), running)


@pytest.mark.parametrize("since", [order("approval", 400), correction("l901", label(20, rejected=False))])
def test_a_rebuild_that_something_else_overtakes_is_computed_anew(since):
    history = History("icu", POLICY, log(400))
    then = history.corrected()
    with pytest.raises(StateError, match="order this anew"):
        history.follow(then, [since])


def test_a_rebuild_that_says_nothing_of_what_it_was_computed_from_is_followed():
    """Those in the logs from before: a replay repeats them."""
    running, changes = run(log(400))
    history = History("icu", POLICY, log(300), changes)
    running.apply(msgspec.structs.replace(rebuilding(history, history.corrected()), last=None))
    assert running.ledger.cause.startswith("rebuild")
