"""LEARN and WATCH: each label once, whatever is delivered again, and wherever the worker dies."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.calibration.succession import MIN_LABELS
from models.errors import MAX_DETAIL, DeliveryError, Invalid
from models.events import Alarm, Calibration, Change, Closure, DeadLetter, Instruction, Label, Scored, decode
from models.policy import Policies, Policy
from streams.agents import fold
from streams.agents.common import YIELD_EVERY
from streams.agents.expiry import Expiry
from streams.agents.learn import Learn
from streams.agents.watch import Watch
from streams.clock import LiveClock
from streams.timers import GRACE_S
from streams.wire import Record
from tests.rehearsal import HandClock
from tests.stagecraft import FakeState, Published, Stopwatch, Theatre, at, context, decision, record

CRASHES = ("no", "no", "early", "written", "sent", "written written", "sent written")


def label(
    n: int, *, rejected: bool = False, tier: Any = "yellow", seconds: float | None = None, **decided: Any
) -> Label:
    when, upper = n if seconds is None else seconds, 0.04 if tier == "green" else 0.12
    known = decision(f"r{n}", seconds=when, **{"tier": tier, "upper": upper} | decided)
    scored = msgspec.convert(known, Scored, from_attributes=True)
    return Label(
        label_id=f"l{n}", feedback_id=f"f{n}", response_id=f"r{n}", deployment="ward", clinician="ann", delay_s=1.0,
        action="flagged" if rejected else "accepted", rejected=rejected, depth="deep" if rejected else "none",
        weight=1.0,
        occurred_at=at(when + 1), decision=scored,
    )  # fmt: skip


def make(kind: Any, state: Any, clock: Stopwatch) -> fold.Fold:
    expiry = Expiry(timedelta(days=14), fold.read_time, clock)
    return fold.Fold(kind(Policies(Policy())), context(), state, expiry, clock)


def learn(policies: Policies, published: Any = None) -> Learn:
    return Learn(policies, published or Published())


def theatre(kind: Any = learn, clock: Stopwatch | None = None) -> Theatre:
    watch = clock or Stopwatch()
    return Theatre(lambda state: make(kind, state, watch))


def newest(stage: Theatre) -> Calibration:
    return decode(Calibration, [s.value for s in stage.sent if s.topic == "calibrations"][-1])


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_duplicates_crashes_and_batches_change_nothing(ids: list[int], rng: Any) -> None:
    plain, rough = theatre(), theatre()
    plain.run([record(label(n, rejected=n % 3 == 0), offset) for offset, n in enumerate(dict.fromkeys(ids))])
    records = [record(label(n, rejected=n % 3 == 0), offset) for offset, n in enumerate(ids)]
    while records:
        size = rng.randint(1, 5)
        rough.run(records[:size], crash=rng.choice(CRASHES))
        records = records[size:]
    assert newest(rough) == newest(plain)
    assert newest(plain).version == len(set(ids))


@pytest.mark.parametrize("written", range(7))
def test_a_write_that_is_cut_short_loses_nothing_and_repeats_nothing(written: int) -> None:
    """The broker takes the rows of a batch in their order, and a crash may leave any beginning of them."""
    stage, batch = theatre(), [record(label(n), n) for n in range(5)]
    cut_short(stage, batch, written)
    for size in (2, 3):
        stage.run(batch[:size])
        batch = batch[size:]
    assert newest(stage).version == 5


def cut_short(stage: Theatre, batch: list[Record], written: int) -> None:
    """Let a worker die when the broker has taken so many rows of a batch."""
    plan = asyncio.run(stage.stage.handle(0, batch))
    stage.state.apply(0, plan._replace(rows=dict(list(plan.rows.items())[:written])))
    stage.restart()


@pytest.mark.parametrize("crash", CRASHES[1:])
@pytest.mark.parametrize("written", range(7))
@pytest.mark.parametrize("pause_s", [0, 20 * 86_400])
def test_ids_that_a_crash_cut_off_are_known_when_others_stand_in_their_place(
    written: int, crash: str, pause_s: float
) -> None:
    """A batch after it, a second crash, JOIN that sends its labels again at later offsets, grace over by then."""
    clock = Stopwatch()
    stage = theatre(clock=clock)
    stage.run([record(label(9), 0)])
    batch = [record(label(n, seconds=pause_s + n), n) for n in range(1, 6)]
    cut_short(stage, batch, written)
    stage.run([*batch, record(label(6, seconds=pause_s + 6), 6)], crash=crash)
    clock.seconds += GRACE_S
    stage.tick()
    stage.run([one._replace(offset=one.offset + 6) for one in batch])
    assert newest(stage).version == 7


@pytest.mark.parametrize("written", range(7))
def test_ids_that_a_crash_cut_off_are_known_when_another_topic_comes_first(written: int) -> None:
    """WATCH folds three of them."""
    rough, plain = theatre(Watch), theatre(Watch)
    labels = [record(label(n, tier="green", rejected=True), n) for n in range(5)]
    other = [record(decision("r9"), 0)]
    cut_short(rough, labels, written)
    for stage, batches in ((rough, (other, labels) if written else (labels, other)), (plain, (labels, other))):
        for batch in batches:
            stage.run(batch)
    assert _counted(rough) == _counted(plain)


def _counted(stage: Theatre) -> Any:
    return msgspec.json.decode(stage.state.rows[0, b"d/ward"])["snapshot"]["guarantee"]


def test_what_others_make_us_forget_in_the_middle_of_a_batch_loses_nothing() -> None:
    """A long batch leaves the event loop to others; one may lose its lease, and all that is cached is dropped."""
    stage, batch = theatre(), [record(label(n), n) for n in range(3 * YIELD_EVERY)]

    async def forgotten() -> Any:
        folding = asyncio.create_task(stage.stage.handle(0, batch))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not folding.done()
        stage.stage.forget()
        return await folding

    stage.run(batch[:1])
    stage.state.apply(0, asyncio.run(forgotten()))
    stage.run([record(label(len(batch)), len(batch))])
    assert newest(stage).version == len(batch) + 1


def test_labels_of_one_deployment_are_folded_in_their_order_among_those_of_others() -> None:
    labels = [label(n, rejected=n % 3 == 0) for n in range(40)]
    mixed = [msgspec.structs.replace(one, deployment=f"w{n % 3}") for n, one in enumerate(labels)]
    together, alone = theatre(), theatre()
    together.run([record(one, n)._replace(key=one.deployment.encode()) for n, one in enumerate(mixed)])
    alone.run([record(one, n) for n, one in enumerate(mixed) if one.deployment == "w1"])
    assert newest(alone).parameters in [
        decode(Calibration, s.value).parameters for s in together.sent if s.topic == "calibrations"
    ]


@pytest.mark.parametrize("restart", [True, False])
def test_a_label_dated_long_ago_counts_once_too(*, restart: bool) -> None:
    """A verdict that an offline device reports weeks late: its id is kept from when it was seen."""
    stage = theatre()
    for offset, n in enumerate([1, 2, 3, 4, 2]):
        stage.run([record(label(n, seconds=(0 if n == 2 else 60) * 86_400 + n), offset)])
        if restart:
            stage.stage.forget()
            stage.tick()
    assert newest(stage).version == 4


def test_ids_are_forgotten_after_the_horizon_also_after_a_restart() -> None:
    clock = Stopwatch()
    stage = theatre(clock=clock)
    stage.run([record(label(1), 0)])
    stage.restart()
    for offset, days in enumerate((2, 20, 21), 1):
        stage.run([record(label(days, seconds=days * 86_400), offset)])
    assert len(stage.state.rows) == 5  # two weeks may pass in a second: what led here may still come again
    clock.seconds += GRACE_S
    stage.tick()
    assert sorted(key for _, key in stage.state.rows) == [b"d/ward", b"i/l20", b"i/l21"]


@pytest.mark.parametrize("latest", ["ward", "icu"])
@pytest.mark.parametrize("restart", [True, False])
def test_labels_of_long_ago_count_once_also_when_all_is_read_again(latest: str, *, restart: bool) -> None:
    """Its place is set by hand where Kafka forgot it (see `start_offsets`), and their ids may be forgotten by then."""
    clock = Stopwatch()
    stage = theatre(clock=clock)
    days = (0, 1, 2, 40)
    labels = [label(n, seconds=day * 86_400) for n, day in enumerate(days)]
    labels[-1] = msgspec.structs.replace(labels[-1], deployment=latest)
    log = [record(one, n) for n, one in enumerate(labels)]
    for one in log:
        stage.run([one])
    stage.tick()
    clock.seconds += GRACE_S
    stage.tick()
    assert {key for _, key in stage.state.rows} == {b"d/ward", f"d/{latest}".encode(), b"i/l3"}
    if restart:
        stage.restart()
    stage.run(log)
    stage.run([record(label(9, seconds=86_400), len(log))])  # an offline device told of it late: it is new
    assert newest(stage).version == len([one for one in labels if one.deployment == "ward"]) + 1


def test_a_label_of_long_ago_is_new_where_none_was_folded() -> None:
    stage = theatre()
    stage.run([record(msgspec.structs.replace(label(1, seconds=40 * 86_400), deployment="icu"), 0)])
    stage.run([record(label(2), 1)])
    assert (newest(stage).deployment, newest(stage).version) == ("ward", 1)


def test_where_a_topic_begins_anew_its_labels_count() -> None:
    """It was made again, and its offsets begin at 0: only what is forgotten is known by its place."""
    stage = theatre()
    for n, offset in ((1, 50), (2, 0), (3, 1)):
        stage.run([record(label(n), offset)])
    assert newest(stage).version == 3


def test_whoever_takes_a_partition_up_again_goes_on_where_others_left_it() -> None:
    stage = theatre()
    stage.run([record(label(1), 0)])
    first = stage.stage
    first.forget()
    stage.restart()
    stage.run([record(label(2), 1)])
    stage.stage = first
    stage.run([record(label(2), 1), record(label(3), 2)])
    assert newest(stage).version == 3


@pytest.mark.parametrize("kind", [learn, Watch])
@pytest.mark.parametrize("row", [b"{}", b'{"snapshot":{"shares":{}},"recent":[]}', b"\xff"])
def test_a_state_of_another_version_ends_the_worker(kind: Any, row: bytes) -> None:
    """It must not set aside, one by one, every label that waits."""
    stage = theatre(kind)
    stage.state.rows[0, b"d/ward"] = row
    with pytest.raises(DeliveryError, match="another version"):
        stage.run([record(label(1), 0)])


def test_a_date_far_ahead_ends_nothing_after_a_restart() -> None:
    """Rows keep the dates that were told; what moves time is cut, when they are read again too."""
    clock = HandClock(at(60))
    stage = theatre(clock=clock)
    stage.run([record(label(1), 0), record(label(2, seconds=10 * 365 * 86_400), 1)])
    stage.state.rows[0, b"i/l2"] = msgspec.json.encode(at(10 * 365 * 86_400))
    stage.restart()
    stage.tick()
    clock.seconds += GRACE_S
    stage.tick()
    assert (0, b"i/l1") in stage.state.rows


def test_what_is_noted_after_a_partition_went_hides_no_older_row() -> None:
    clock, state = Stopwatch(), FakeState()
    expiry: Any = Expiry(timedelta(days=14), fold.read_time, clock)
    state.rows[0, b"i/old"] = msgspec.json.encode(at(0))
    asyncio.run(expiry.take(0, state))
    expiry.forget()
    assert expiry.set(0, b"i/new", at(20 * 86_400)) == at(20 * 86_400)
    state.rows[0, b"i/new"] = msgspec.json.encode(at(20 * 86_400))
    asyncio.run(expiry.take(0, state))
    clock.seconds += GRACE_S
    assert list(asyncio.run(expiry.take(0, state))) == [b"i/old"]


def closures(*reasons: Any) -> list[Any]:
    return [
        record(Closure(closure_id=f"c{n}", response_id=f"r{n}", reason=reason, closed_at=at(n), deployment=ward), n)
        for n, reason in enumerate(reasons)
        for ward in [None if reason == "orphan" else "ward"]
    ]


@pytest.mark.parametrize(("one_in", "alarms"), [(20, 0), (2, 1)])
def test_orphans_are_a_share_of_all_endings(one_in: int, alarms: int) -> None:
    """They name no deployment, and the others do: counted apart, all were orphans."""
    stage = theatre(Watch)
    stage.run(closures(*("unlabelled" if n % one_in else "orphan" for n in range(400))))
    assert len([s for s in stage.sent if s.topic == "alarms"]) == alarms


def test_after_a_long_pause_ids_are_forgotten_a_batch_at_a_time() -> None:
    """All are over at once when the first event after it comes: deleting a million rows would hold up the stage."""
    clock = Stopwatch()
    stage = theatre(clock=clock)
    for first in range(0, 10_000, 1_000):
        stage.run([record(label(n), n) for n in range(first, first + 1_000)])
    stage.run([record(label(10_000, seconds=30 * 86_400), 10_000)])
    stage.tick()
    clock.seconds += GRACE_S
    left = []
    for _ in range(4):
        stage.tick()
        left.append(len(stage.state.rows))
    assert left == [5_906, 1_810, 2, 2]


def test_another_model_begins_the_calibrator_anew() -> None:
    stage = theatre()
    stage.run([record(label(n, model_hash="old"), n) for n in range(5)])
    stage.run([record(label(n, model_hash="new"), n) for n in range(10, 12 + MIN_LABELS)])
    stage.run([record(label(99, seconds=3, model_hash="old"), 40)])
    stage.run([record(ahead(label(98, seconds=20, model_hash="old")), 41)])
    found = newest(stage)
    assert (found.version, found.labels, found.model_hash) == (8, 3, "new")


def ahead(one: Label) -> Label:
    """The same, of a response that a gateway dated a year ahead."""
    scored = msgspec.structs.replace(one.decision, occurred_at=one.decision.occurred_at + timedelta(days=365))
    return msgspec.structs.replace(one, occurred_at=at(12), decision=scored)


@pytest.mark.parametrize("crash", ["no", "written"])
def test_greens_that_are_rejected_raise_an_alarm_even_if_the_worker_dies(crash: str) -> None:
    stage = theatre(Watch)
    stage.run([record(label(n, rejected=n % 3 == 0, tier="green"), n) for n in range(100)], crash=crash)
    kinds = {decode(Alarm, s.value).kind for s in stage.sent if s.topic == "alarms"}
    assert "breach" in kinds


def test_a_deployment_that_was_silent_for_a_year_is_counted_on() -> None:
    """A promise is held over all time: whoever pauses must not begin anew."""
    year = 365 * 86_400
    greens = [label(n, tier="green", rejected=n % 6 == 0, seconds=n + year * (n >= 30)) for n in range(60)]
    clock = Stopwatch()
    unbroken, paused = theatre(Watch), theatre(Watch, clock)
    unbroken.run([record(one, n) for n, one in enumerate(greens)])
    paused.run([record(one, n) for n, one in enumerate(greens[:30])])
    others = (msgspec.structs.replace(label(n, seconds=n * 86_400), deployment="other") for n in range(100, 400))
    paused.run([record(one, n, key=b"other") for n, one in enumerate(others, 30)])
    paused.restart()
    paused.tick()
    clock.seconds += GRACE_S
    paused.tick()
    assert not {(0, f"i/l/l{n}".encode()) for n in range(30)} & paused.state.rows.keys(), "all but the state is over"
    paused.run([record(one, n) for n, one in enumerate(greens[30:], 400)])
    alarms = [[s.value for s in stage.sent if s.topic == "alarms"] for stage in (unbroken, paused)]
    assert alarms[0] == alarms[1] != []


def test_news_is_told_once() -> None:
    stage = theatre(Watch)
    stage.run([record(label(n, rejected=n % 3 == 0, tier="green"), n) for n in range(100)])
    told = len(stage.sent)
    stage.run([record(label(100), 100)])
    assert told
    assert stage.sent[told:] == []


def test_the_lag_of_every_label_is_measured_while_partitions_take_turns() -> None:
    shown = context()
    clock = LiveClock()
    clock.synchronise(None)
    expiry = Expiry(timedelta(days=14), fold.read_time, clock)
    stage = fold.Fold(learn(Policies()), shown, FakeState(), expiry, clock)  # type: ignore[arg-type]
    for partition, numbers in enumerate((range(3), range(3, 5))):
        asyncio.run(stage.handle(partition, [record(label(n), n, partition=partition) for n in numbers]))
    for partition in (0, 1):
        stage.done(partition)
    assert shown.metrics.registry.get_sample_value("demur_label_to_threshold_seconds_count") == 5


@pytest.mark.parametrize("crash", ["no", "written", "sent"])
def test_the_log_tells_the_first_version_of_a_day_even_if_the_worker_dies(crash: str) -> None:
    stage = theatre()
    days = (0, 0, 0, 86_400, 86_400, 3 * 86_400)
    for n, day in enumerate(days):
        stage.run([record(label(n, seconds=day + n), n)], crash=crash)
    found = [decode(Change, value) for value in stage.outcomes("changes")["changes"]]
    found.sort(key=lambda one: one.after.version)
    assert [one.after.version for one in found] == [1, 4, 6]
    assert [one.before and one.before.version for one in found] == [None, 1, 4]


def test_an_instruction_is_followed_once_and_a_wrong_one_is_set_aside() -> None:
    stage = theatre()
    stage.run([record(label(n), n) for n in range(5)])
    old = newest(stage)
    stage.run([record(label(n), n) for n in range(5, 9)])
    back = Instruction(
        instruction_id="i1", deployment="ward", order="rollback", version=5, model_hash="m", by="dr",
        parameters=old.parameters["filter"], occurred_at=at(100),
    )  # fmt: skip
    stage.run([record(back, 9), record(back, 10), record(msgspec.structs.replace(back, model_hash="n"), 11)])
    assert newest(stage).version == 10
    stage.run([record(msgspec.structs.replace(back, model_hash="n", instruction_id="i2"), 12)])
    found = newest(stage)
    assert (found.version, found.cause) == (10, "rollback: version 5")
    assert found.parameters["filter"] == old.parameters["filter"]
    assert [s.topic for s in stage.sent].count("dead-letters") == 1
    entry = [decode(Change, s.value) for s in stage.sent if s.topic == "changes"][-1]
    assert (entry.evidence["by"], entry.before and entry.before.version, entry.after.version) == ("dr", 1, 10)
    assert (entry.at, entry.after.as_of) == (at(100), at(9)), "labels may have dried up long before"


@pytest.mark.parametrize("crash", CRASHES[1:])
def test_an_instruction_that_was_set_aside_is_not_followed_when_it_comes_again(crash: str) -> None:
    """Set aside for want of labels, it came again after a crash, when there were some."""
    early = Instruction(
        instruction_id="i1", deployment="ward", order="approval", version=1, model_hash="m", by="dr", occurred_at=at(0)
    )
    stage = theatre()
    stage.run([record(early, 0), *(record(label(n), n + 1) for n in range(3))], crash=crash)
    stage.run([record(label(3), 4)])
    assert newest(stage).version == 4
    [letter] = {s.value for s in stage.sent if s.topic == "dead-letters"}
    assert "before the first label" in decode(DeadLetter, letter).detail


@pytest.mark.parametrize("parameters", [{"schema": "Zebulon" * 1000}, {"schema": 4, "Zebulon": 1}])
def test_what_is_wrong_with_an_instruction_is_said_without_its_words(parameters: dict[str, Any]) -> None:
    wrong = Instruction(
        instruction_id="i1", deployment="ward", order="rollback", version=1, model_hash="m", by="dr",
        parameters=parameters, occurred_at=at(9),
    )  # fmt: skip
    stage = theatre()
    stage.run([record(label(1), 0), record(wrong, 1)])
    [letter] = [s.value for s in stage.sent if s.topic == "dead-letters"]
    assert "the instruction cannot be followed: calibrator state" in decode(DeadLetter, letter).detail
    assert b"Zebulon" not in letter


def test_a_letter_has_its_bounds_whatever_it_is_about() -> None:
    assert len(context().letter("learn", record(b"{}", 0), Invalid("x" * 960_000)).detail) == MAX_DETAIL


def test_watch_passes_instructions_over() -> None:
    stage = theatre(Watch)
    event = Instruction(
        instruction_id="i1", deployment="ward", order="approval", version=5, by="dr", occurred_at=at(100)
    )
    stage.run([record(event, 9)])
    assert stage.sent == []


def test_a_stream_without_scores_raises_an_alarm() -> None:
    stage = theatre(Watch)
    stage.run([record(decision(f"r{n}", logit=None, tier="red"), n) for n in range(30)])
    assert [decode(Alarm, s.value).kind for s in stage.sent] == ["unscored"]


def test_what_cannot_be_processed_is_a_dead_letter() -> None:
    [sent] = asyncio.run(theatre().stage.poison(record(label(1), 7))).sends
    letter = decode(DeadLetter, sent.value)
    assert (letter.code, letter.stage, letter.source_topic, letter.offset) == ("internal", "learn", "labels", 7)


def test_what_is_no_label_is_a_dead_letter() -> None:
    stage = theatre()
    stage.run([record(b"{}", 0, topic="labels"), record(label(1), 1)])
    assert [s.topic for s in stage.sent] == ["dead-letters", "changes", "calibrations"]


def test_learn_publishes_what_stands_when_it_starts_for_what_was_published_may_be_lost() -> None:
    """A topic that was made anew: scorers lacked a quiet deployment's calibrator until its next label."""
    stage = theatre()
    stage.run([record(label(n), n) for n in range(4)])
    quiet = msgspec.structs.replace(label(9), deployment="icu")
    stage.run([record(quiet, 4)])
    before = stage.outcomes("calibrations", "changes", "alarms")
    stage.sent.clear()
    stage.tick()
    assert stage.sent == [], "not what it has just published"
    stage.restart()
    stage.state.rows[0, b"d/old"] = b"{}"  # of another version: that is for its next label to say
    stage.tick()
    assert stage.outcomes("calibrations", "changes", "alarms") == {**before, "changes": [], "alarms": []}
    told = len(stage.sent)
    stage.stage.forget()
    stage.tick()
    assert len(stage.sent) == told, "not at every rebalance"


@pytest.mark.parametrize("crash", ["no", "sent"])
def test_a_calibrator_that_was_taken_away_stays_away_until_its_next_version(crash: str) -> None:
    """LEARN put it back when it was started again, or was given a label twice; scorers that began then took it."""
    published = Published()
    stage = theatre(lambda policies: learn(policies, published))
    stage.run([record(label(n), n) for n in range(4)])
    published.gone.add("ward")
    stage.restart()
    stage.sent.clear()
    stage.tick()
    stage.run([record(label(3), 3)], crash=crash)
    stage.run([record(label(3), 4)])
    correction = msgspec.structs.replace(label(3, rejected=True), label_id="l3b", kind="correction", revises="l3")
    stage.run([record(correction, 5)], crash=crash)
    assert stage.outcomes("calibrations") == {"calibrations": []}
    assert {s.topic for s in stage.sent} <= {"changes"}
    stage.run([record(label(3), 6), record(label(4), 7)], crash=crash)
    assert newest(stage).version == 5


def test_what_stands_is_published_when_it_is_known_what_was_taken_away() -> None:
    published = Published()
    stage = theatre(lambda policies: learn(policies, published))
    stage.run([record(label(n), n) for n in range(4)])
    published.caught_up = False
    stage.restart()
    stage.sent.clear()
    stage.tick()
    assert stage.sent == []
    published.caught_up = True
    stage.tick()
    stage.tick()
    assert [s.topic for s in stage.sent] == ["calibrations"]


def test_what_stands_is_published_as_it_was_though_the_policy_is_another_by_now() -> None:
    stage, watch = theatre(), Stopwatch()
    stage.run([record(label(n), n) for n in range(4)])
    known = newest(stage)
    expiry = Expiry(timedelta(days=14), fold.read_time, watch)
    other = learn(Policies(Policy(green=0.1, target="deep")))
    stage.stage = fold.Fold(other, context(), stage.state, expiry, watch)  # type: ignore[arg-type]
    stage.sent.clear()
    stage.tick()
    assert [decode(Calibration, s.value or b"") for s in stage.sent] == [known]


def test_watch_publishes_nothing_when_it_starts() -> None:
    stage = theatre(Watch)
    stage.run([record(label(n, rejected=n % 3 == 0, tier="green"), n) for n in range(100)])
    stage.sent.clear()
    stage.restart()
    stage.tick()
    assert stage.sent == []
