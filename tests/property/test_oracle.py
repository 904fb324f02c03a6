"""The oracle finds nothing in what the stages leave, whatever the interleaving, and every change of it."""

import random
import zlib
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import product
from typing import Any, get_args

import msgspec
import orjson
import pytest

from models.calibration.history import History
from models.calibration.ledger import Ledger
from models.errors import IdReused
from models.events import (
    CONTRACT,
    Calibration,
    Change,
    Closure,
    DeadLetter,
    Decision,
    Feedback,
    FeedbackAction,
    Instruction,
    Label,
    Response,
    Watermark,
    decode,
    digest,
    encode,
)
from models.joining import MAX_SKEW
from models.labels import REASONS, reason_of, verdict
from models.oracle import Entry, Logs, Rules, check, join_rules
from models.oracle.logs import Found
from models.oracle.retention import SKEW
from models.partitions import home
from models.policy import Policies, Policy
from models.salience import digest as salience
from streams.agents.join import Join
from streams.feed import Item, broken, items
from streams.wire import Record, outgoing
from tests.rehearsal import DIGEST_KEYS, HORIZONS, POLICIES, RULES, HandClock, Rehearsal, crowded, rehearsed, week
from tests.stagecraft import START, Theatre, context, feedback
from tests.tampering import Forger
from tests.unit.test_control import order
from tests.unit.test_fold import label, theatre
from tests.unit.test_history import course
from tests.unit.test_succession import swapped

LOST = "a response without a decision, though its offset is committed"


def run(seed: int, *, responses: int = 60, crashes: bool = True, partitions: int = 2, **how: Any) -> Rehearsal:
    told = week(responses, seed)
    what = list(items(told.arrivals))
    for n, item in enumerate(broken(told.responses[0], told.feedback[0])):
        if len(item.value) < 10_000:
            what.insert(7 * n, item._replace(arrives_at=what[7 * n].arrives_at))
    stages = Rehearsal(seed, crashes=crashes, partitions=partitions)
    return stages.play(
        crowded(what), **{name: partial(do, stages) for name, do in ({"meanwhile": orders} | how).items()}
    )


def said(stages: Rehearsal) -> list[Entry]:
    return [entry for log in stages.logs["labels"] for entry in log if b'"instruction"' in entry.value]


def stood(stages: Rehearsal, then: Calibration) -> dict[str, Any]:
    """The filter's whole state at a version: what is published of it is what scorers need."""
    log = [decode(CONTRACT["labels"], entry.value) for log in stages.logs["labels"] for entry in log]
    mine = [event for event in log if event.deployment == then.deployment]
    changes = [decode(Change, entry.value) for log in stages.logs["changes"] for entry in log]
    policy = stages.policies.of(then.deployment)
    return History(then.deployment, policy, mine, changes).at(then.version).ledger.filter.state()


def say(stages: Rehearsal, order: Any, *, model: str = "") -> None:
    """Instruct a calibrator that has a version; `model`: another than its own, so that it cannot be followed."""
    then = stages.rng.choice(stages.published())
    rest: dict[str, dict[str, Any]] = {
        "rollback": {"parameters": stood(stages, then)} if order == "rollback" else {},
        "approval": {"ceilings": {"all": stages.rng.uniform(-4.0, 0.0)}},
        "release": {"scope": "site=north"},
    }
    by = Instruction(
        instruction_id=f"i{len(said(stages))}", deployment=then.deployment, order=order, version=then.version,
        model_hash=model or then.model_hash, by="dr", why="drill", occurred_at=then.as_of, **rest[order],
    )  # fmt: skip
    send = outgoing("", by)
    stages.put(send.topic, send.key, send.value or b"", send.headers)


def orders(stages: Rehearsal) -> None:
    """Now and then a person says something; some of it twice, and some of it cannot be followed."""
    rng, before = stages.rng, said(stages)
    if before and rng.random() < 0.3:
        again = rng.choice(before)
        stages.put(again.topic, again.key, again.value, again.headers)
    elif stages.published() and rng.random() < 0.8:
        say(stages, rng.choice(("rollback", "approval", "release")), model=rng.choice(("", "", "another")))


def one_of_each(stages: Rehearsal) -> None:
    if stages.published():
        order, model = (("rollback", ""), ("approval", ""), ("release", ""), ("rollback", "another"))[
            len(said(stages)) % 4
        ]
        say(stages, order, model=model)


@cache
def whole() -> Logs:
    """A run without crashes, so that nothing is there twice: what is dropped is gone."""
    return run(7, responses=45, crashes=False, meanwhile=one_of_each).left()


@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(8, 2000), marks=pytest.mark.slow)])
def test_what_the_stages_leave_is_what_it_must_be(seeds: range) -> None:
    for seed in seeds:
        report = check(run(seed, partitions=1 + seed % 3).left(), RULES)
        assert report.differences == [], seed
        assert not report.pending + report.beyond
        assert report.checked["labels"] > 10


@pytest.mark.parametrize("changed", [{"green": 0.04}, {"target": "deep"}])
def test_a_policy_that_changed_since_makes_no_difference_of_what_was_right(changed: dict[str, Any]) -> None:
    """The calibrators' logs say by which they were folded; where those have expired, versions are believed."""
    other = Policies(msgspec.structs.replace(POLICIES.default, **changed))
    rules = RULES._replace(policies=(POLICIES, other))
    report = check(whole(), rules)
    assert not [*report.differences, *report.beyond]
    assert report.checked == check(whole(), RULES).checked
    report = check(whole()._replace(starts={("changes", 0): 1}), rules)
    assert report.differences == []
    assert report.beyond["calibrations"] > 0


@pytest.mark.parametrize("changed", [{"green": 0.1}, {"rater_share": 0.5}, {"max_loosening": 0.0, "green": 0.04}])
def test_a_policy_that_changes_on_the_way_is_followed_from_where_the_log_says(changed: dict[str, Any]) -> None:
    other = Policies(msgspec.structs.replace(POLICIES.default, **changed))
    arrivals = list(items(week(150, 5).arrivals))
    stages = Rehearsal(2, crashes=False)
    stages.play(arrivals[: len(arrivals) // 2], ended=False)
    stages.follow(other)
    logs = stages.play(arrivals[len(arrivals) // 2 :]).left()
    entries = [decode(Change, entry.value) for entry in logs.entries["changes"]]
    causes = [one.cause for one in entries if one.cause.startswith("policy: ")]
    assert len(causes) == len({one.deployment for one in entries})
    for name, value in changed.items():
        assert all(f"policy: {name} {getattr(POLICIES.default, name)} → {value}" in cause for cause in causes)
    report = check(logs, RULES._replace(policies=(POLICIES, other)))
    assert not [*report.differences, *report.beyond]
    alone = check(logs, RULES._replace(policies=(other,)))
    assert any("pass every policy" in one.what and one.invariant == "I8" for one in alone.differences)
    unlearnt = Policies(msgspec.structs.replace(POLICIES.default, plan="green-only", audit_rate=0.5))
    report = check(whole(), RULES._replace(policies=(POLICIES, unlearnt)))
    assert not [*report.differences, *report.beyond]


@pytest.mark.parametrize("other", [b"another key of digests", b""])
def test_whichever_of_two_keys_makes_the_digests_nothing_else_changes(other: bytes) -> None:
    """So a key can be changed: the new one is known everywhere before it is used, and the former one after it was."""
    told, keys = week(120, 5), [*DIGEST_KEYS, other]
    texts = {one.response_id: one.response for one in told.responses}
    arrivals = crowded([reworded(item, texts) for item in items(told.arrivals)])
    stages = Rehearsal(2, crashes=False)

    def swap() -> None:
        keys.reverse()
        stages.rekey(*keys)

    logs = stages.play(arrivals, meanwhile=swap).left()
    report = check(logs, RULES._replace(digest_keys=tuple(keys)))
    assert not [*report.differences, *report.beyond]
    assert depths(logs) == depths(Rehearsal(2, crashes=False).play(arrivals).left())
    assert [*depths(logs).values()].count("surface") > 50
    for key in keys:
        alone = {one.what.partition(" is ")[0] for one in check(logs, RULES._replace(digest_keys=(key,))).differences}
        assert {"`input_digest`", "`salience_digest`"} <= alone


def reworded(item: Item, texts: dict[str, str | None]) -> Item:
    """Let who accepts edit instead, and change nothing that matters."""
    if b'"accepted"' not in item.value:
        return item
    event = decode(Feedback, item.value)
    edit = f"{texts.get(event.response_id)} So be it."
    return item._replace(value=encode(msgspec.structs.replace(event, action="edited", edited_response=edit)))


@pytest.mark.parametrize("action", get_args(FeedbackAction))
def test_what_feedback_says_is_the_same_by_both_codes(action: FeedbackAction) -> None:
    dose, key = "Give 5 mg of amlodipine.", b"key"
    edits = {None: None, False: f"Please: {dose}", True: "Give 10 mg of amlodipine."}
    for code, (changed, edit) in product((None, "unknown", *REASONS), edits.items()):
        said = feedback("f1", action=action, reason_code=code, edited_response=edit)
        found = join_rules.ruling(said, salience(dose, key), [key])
        told = verdict(action, reason=reason_of(code), edit_changed=changed)
        assert found == (told.rejected, told.depth, told.weight > 0)


def depths(logs: Logs) -> dict[str, str]:
    labels = [decode(CONTRACT["labels"], entry.value) for entry in logs.entries["labels"]]
    return {label.label_id: label.depth for label in labels if isinstance(label, Label)}


def test_both_digests_of_a_decision_are_by_one_key() -> None:
    entry, decision = next(one for one in decided(whole()) if one[1].logit is not None)
    texts = [e.value for e in whole().entries["responses"] if decision.response_id.encode() in e.value]
    mixed = salience(decode(Response, texts[0]).response or "", b"former")
    logs = rewritten(whole(), entry, msgspec.structs.replace(decision, salience_digest=mixed))
    found = check(logs, RULES._replace(digest_keys=(*DIGEST_KEYS, b"former"))).differences
    assert any(one.what.startswith("`salience_digest`") for one in found)


@pytest.mark.parametrize("seed", range(3))
def test_while_workers_differ_in_their_model_and_after_a_swap_all_is_as_it_must_be(seed: int) -> None:
    """A stray worker has a fifth of the batches; then another model has all of them."""

    def swap(stages: Rehearsal) -> None:
        swapped = sum(map(len, stages.logs["responses"])) > 80
        stages.reader.model_hash = ("n" if swapped or stages.rng.random() < 0.2 else "m") * 64
        orders(stages)

    logs = run(seed, responses=200, meanwhile=swap).left()
    report = check(logs, RULES)
    assert report.differences == []
    assert not report.pending + report.beyond
    causes = [one.cause for one in (decode(Change, entry.value) for entry in logs.entries["changes"])]
    assert sum(cause == f"another model: {12 * 'n'}" for cause in causes) > 0
    assert f"another model: {12 * 'm'}" not in causes


@pytest.mark.parametrize("seed", range(3))
def test_at_no_moment_is_anything_taken_for_lost_that_is_still_under_way(seed: int) -> None:
    pending = []

    def look(stages: Rehearsal) -> None:
        report = check(stages.left(at_rest=False), RULES)
        assert report.differences == []
        pending.append(report.pending.total())

    run(seed, meanwhile=look)
    assert max(pending) > 0


def test_each_text_under_the_id_of_another_has_its_dead_letter_and_no_other_has_one() -> None:
    logs = whole()
    letters = [(entry, decode(DeadLetter, entry.value)) for entry in logs.entries["dead-letters"]]
    reused = [entry for entry, letter in letters if letter.code == "id_reused"]
    assert len(reused) > 5
    for entry in reused:
        left = [one for one in logs.entries["dead-letters"] if one is not entry]
        [lost] = check(logs._replace(entries={**logs.entries, "dead-letters": left}), RULES).differences
        assert lost.what.startswith("cannot be processed, and score wrote no dead letter: field `response_id` is that")
    told = {letter.offset: letter.partition for _, letter in letters if letter.source_topic == "responses"}
    asked = next(e for e in logs.entries["responses"] if told.get(e.offset) != e.partition)
    false = DeadLetter(
        source_topic="responses", partition=asked.partition, offset=asked.offset, stage="score", code="id_reused",
        detail=str(IdReused()), digest=digest(asked.value), size_bytes=len(asked.value),
        response_id=decode(Response, asked.value).response_id,
    )  # fmt: skip
    more, _ = added(logs, false, reused[0].at_ms)
    assert any("`code` or `detail` is not what is wrong" in one.what for one in check(more, RULES).differences)


@pytest.mark.parametrize("elsewhere", [{"deployment": "d9"}, {"site": "s9"}, {"category": "c9"}, {"turn": 9}])
def test_the_same_text_elsewhere_is_another_under_its_id(elsewhere: dict[str, Any]) -> None:
    stages, item = Rehearsal(crashes=False), next(items(week().arrivals))
    for value in (item.value, orjson.dumps(orjson.loads(item.value) | elsewhere), item.value):
        stages.put(item.topic, item.key, value, item.headers)
        stages.run()
    logs = stages.finish(item.arrives_at + timedelta(days=30)).left()
    assert check(logs, RULES).differences == []
    [letter] = [decode(DeadLetter, entry.value) for entry in logs.entries["dead-letters"]]
    assert (letter.code, letter.offset) == ("id_reused", 1)
    [lost] = check(logs._replace(entries={**logs.entries, "dead-letters": []}), RULES).differences
    assert lost.what.startswith("cannot be processed, and score wrote no dead letter")


def test_what_is_committed_must_have_its_outcome() -> None:
    """I2: an input that nobody has touched is pending; with its offset committed it is lost."""
    stages, item = Rehearsal(), next(items(week().arrivals))
    stages.put(item.topic, item.key, item.value, item.headers)
    waiting = stages.left(at_rest=False)
    assert check(waiting, RULES).differences == []
    [entry] = waiting.entries["responses"]
    committed = {("score", entry.topic, entry.partition): 1}
    [lost] = check(waiting._replace(committed=committed), RULES).differences
    assert str(lost) == f"responses/{entry.partition}/0: {LOST} (I1)"


@cache
def loop() -> Logs:
    stages, [item, *_] = Rehearsal(crashes=False), items(week().arrivals)
    stages.put(item.topic, item.key, item.value, item.headers)
    for n in range(1010):
        said = feedback(f"f{n}", str(item.response_id), occurred_at=item.arrives_at + timedelta(seconds=n % 90))
        stages.put("feedback", said.response_id.encode(), encode(said), [])
    return stages.run().finish(item.arrives_at + timedelta(days=30)).left()


def test_a_client_that_sends_in_a_loop_is_set_aside_and_nothing_is_lost() -> None:
    report = check(loop(), RULES)
    assert report.differences == []
    assert (report.checked["dead letters"], report.checked["labels"]) == (10, 1)
    less = [entry for entry in loop().entries["feedback"] if entry.offset != 500]
    wrong = check(loop()._replace(entries={**loop().entries, "feedback": less}), RULES).differences
    assert [one[:2] for one in wrong if one.topic == "dead-letters"] == [("I1", "dead-letters")]


def test_within_a_loop_the_log_may_begin_anywhere() -> None:
    for start in (1, 600, 1005):
        report = check(cut(loop(), {("feedback", p): start for p in (0, 1)}), RULES)
        assert report.differences == [], start


def test_what_is_beyond_retention_is_no_difference() -> None:
    starts = {("responses", 0): 10, ("responses", 1): 10, ("feedback", 0): 9, ("feedback", 1): 9}
    report = check(cut(whole(), starts), RULES)
    assert report.differences == []
    assert {"decisions", "labels"} <= set(report.beyond)


def cut(logs: Logs, starts: dict[tuple[str, int], int]) -> Logs:
    """Let the beginnings of logs expire."""
    kept = {
        topic: [e for e in entries if e.offset >= starts.get((topic, e.partition), 0)]
        for topic, entries in logs.entries.items()
    }
    return logs._replace(entries=kept, starts={**logs.starts, **starts})


def rewritten(logs: Logs, old: Entry, event: Any) -> Logs:
    """Say something else in a record's place, well-formed and with a digest that fits."""
    send = outgoing("", event)
    new = old._replace(value=send.value or b"", headers=tuple(send.headers or ()))
    entries = [new if entry is old else entry for entry in logs.entries[old.topic]]
    return logs._replace(entries={**logs.entries, old.topic: entries})


def decided(logs: Logs) -> list[tuple[Entry, Decision]]:
    found = [(entry, decode(CONTRACT["decisions"], entry.value)) for entry in logs.entries["decisions"]]
    return [(entry, event) for entry, event in found if isinstance(event, Decision)]


def wrong_of(logs: Logs, entry: Entry) -> list[str]:
    """The differences in one record."""
    place = entry.topic, entry.partition, entry.offset
    return [one.invariant for one in check(logs, RULES).differences if one[1:4] == place]


class LiveClock(HandClock):
    """A wall clock moved by hand, which events from the future outrun as they do the real one."""

    def clamped(self, occurred_at: datetime, came_at: float = 0.0) -> datetime:
        return min(occurred_at, self.at + MAX_SKEW)

    def wall_time_at(self, _: float) -> Any:
        return self.at


LIVE = RULES._replace(replayed=False)


def lived(  # noqa: PLR0913 (one parameter per way in which it may go)
    seed: int,
    *,
    jump: timedelta = timedelta(0),
    ahead_of: str = "",
    said_ahead: bool = False,
    behind: timedelta = timedelta(0),
    often: float = 0.05,
    marked: bool = False,
    **told: Any,
) -> Logs:
    """What the stages leave in live operation. `jump`: how far JOIN's clock is ahead of the others'.

    `ahead_of`: ids that end so are of responses dated ten years ahead. `said_ahead`: so is a third of the feedback, and
    of a third the response never comes. `behind`: how far SCORE's clock is behind. `often`: how often, of 1, everything
    is worked off after an input. `marked`: leave the watermarks in, which no live log has; else there are gaps.
    `told`: of the week.
    """
    told = {"responses": 60, "seed": seed, **({"orphans": 0.3} if said_ahead else {}), **told}
    what = crowded(list(items(week(**told).arrivals)))
    clock, ahead = LiveClock(what[0].arrives_at), LiveClock(what[0].arrives_at)
    stages = Rehearsal(seed, clock=clock, late=behind)
    if jump:
        stages.stages["join"] = Theatre(lambda s: Join(context(2), s, HORIZONS, ahead, DIGEST_KEYS))
    for item in what:
        clock.at = max(clock.at, item.arrives_at)
        ahead.at = clock.at + jump
        value = item.value
        if ahead_of and item.response_id and item.response_id.endswith(ahead_of):
            asked = decode(Response, value)
            value = encode(msgspec.structs.replace(asked, occurred_at=asked.occurred_at + timedelta(days=3650)))
        if said_ahead and item.topic == Feedback.topic and zlib.crc32(value) % 3 == 0:
            said = decode(Feedback, value)
            value = encode(msgspec.structs.replace(said, occurred_at=said.occurred_at + timedelta(days=3650)))
        stages.put(item.topic, item.key, value, item.headers)
        if stages.rng.random() < often:
            stages.finish(clock.at + jump)
    for horizons in (0, 1, 2):
        clock.at += horizons * HORIZONS.response
        ahead.at = clock.at + jump
        stages.finish(clock.at + jump)
    logs = stages.left()
    return (
        logs
        if marked
        else logs._replace(
            entries={t: [e for e in es if b'"watermark"' not in e.value] for t, es in logs.entries.items()}
        )
    )


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 500), marks=pytest.mark.slow)])
def test_live_the_wall_clock_bounds_how_early_anything_may_end(seeds: Iterable[int]) -> None:
    assert SKEW == MAX_SKEW
    wrong: set[str] = set()
    for seed in seeds:
        report = check(lived(seed), LIVE)
        assert report.differences == [], seed
        assert report.checked["labels"] > 10
        wrong |= {one.what for one in check(lived(seed, jump=timedelta(days=30)), LIVE).differences}
    assert "closed as unlabelled before its horizon" in wrong
    assert any(what.startswith("an orphan before its time") for what in wrong)


def test_responses_dated_years_ahead_end_like_all_others() -> None:
    logs = lived(1, ahead_of="t1")
    assert check(logs, LIVE).differences == []
    decisions = [decode(Decision, one.value) for one in logs.entries["decisions"]]
    assert any(one.occurred_at > one.decided_at + timedelta(days=3000) for one in decisions)
    decided = {one.response_id for one in decisions}
    labelled = {decode(Label, one.value).response_id for one in logs.entries["labels"]}
    closed = {decode(Closure, one.value).response_id for one in logs.entries["closures"]}
    assert decided <= labelled | closed


def test_feedback_dated_years_ahead_ends_like_all_other() -> None:
    for seed in range(8):
        logs = lived(seed, said_ahead=True)
        assert check(logs, LIVE).differences == [], seed
        told = [decode(Feedback, one.value) for one in logs.entries["feedback"]]
        closed = {decode(Closure, one.value).feedback_id for one in logs.entries["closures"]}
        ended = closed | {decode(Label, one.value).feedback_id for one in logs.entries["labels"]}
        ahead = {one.feedback_id for one in told if one.occurred_at.year > 2030}
        assert ahead <= ended, seed
        decided = {decode(Decision, one.value).response_id for one in logs.entries["decisions"]}
        strays = {one.response_id for one in told if one.feedback_id in ahead} - decided
        kept = [one for one in logs.entries["closures"] if decode(Closure, one.value).response_id not in strays]
        found = check(logs._replace(entries={**logs.entries, "closures": kept}), LIVE).differences
        assert {one.what for one in found} == {"feedback without an end, though its time has come"}
        assert 0 < len(found) <= len(strays)  # those of the last day may be ended later


@pytest.mark.parametrize("seed", range(3))
def test_decisions_by_a_clock_that_is_years_behind_are_labelled_like_all_others(seed: int) -> None:
    logs, right = lived(seed, behind=timedelta(days=2000)), lived(seed)
    assert check(logs, LIVE).differences == []
    labels, wanted = ({decode(Label, one.value).label_id for one in of.entries["labels"]} for of in (logs, right))
    assert labels == wanted
    unlabelled, wanted = (
        {decode(Closure, one.value).response_id for one in of.entries["closures"] if b'"unlabelled"' in one.value}
        for of in (logs, right)
    )
    assert unlabelled == wanted


def test_old_data_is_decided_on_without_a_score() -> None:
    what = [item for item in items(week(20, 5).arrivals) if item.topic == "responses"]
    stages = Rehearsal(clock=LiveClock(what[-1].arrives_at + HORIZONS.response))
    for item in what:
        stages.put(item.topic, item.key, item.value, item.headers)
    logs = stages.run().left(at_rest=False)
    assert check(logs, LIVE).differences == []
    found = {one.response_id: (one.logit, one.reasons) for _, one in decided(logs)}
    old = [reasons for logit, reasons in found.values() if logit is None]
    assert len(old) >= len(what) - 2
    assert {*old} == {("score_missing", "deadline_missed")}


@cache
def alive(seed: int = 0, ahead_of: str = "") -> Logs:
    return lived(seed, ahead_of=ahead_of)


def any_cut(logs: Logs, rng: random.Random) -> Logs:
    """Let any beginning of any partition of any topic expire; of a compacted one, the newest of a key never does."""
    ends = {(e.topic, e.partition): e.offset + 1 for entries in logs.entries.values() for e in entries}
    topics = {topic for topic in logs.entries if topic != "calibrations" and rng.random() < 0.5}
    return cut(logs, {place: rng.randint(0, end) for place, end in ends.items() if place[0] in topics})


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 2000), marks=pytest.mark.slow)])
def test_wherever_the_logs_begin_nothing_is_taken_for_wrong_that_is_only_too_old(seeds: Iterable[int]) -> None:
    for seed in seeds:
        for logs, rules in ((alive(), LIVE), (alive(1, "t1"), LIVE), (whole(), RULES)):
            left = any_cut(logs, random.Random(seed))
            assert check(left, rules).differences == [], (seed, rules.replayed)


def test_a_calibrator_that_was_taken_away_from_the_scorers_need_not_stand() -> None:
    """Scorers honour a record without a value, and Kafka compacts away what lies before it."""
    entries = list(whole().entries["calibrations"])
    gone = entries[-1]._replace(offset=entries[-1].offset + 1, value=b"", headers=())
    for left in ([*entries, gone], [gone]):
        logs = whole()._replace(entries={**whole().entries, "calibrations": left})
        assert check(logs, RULES).differences == []
    without = whole()._replace(entries={**whole().entries, "calibrations": []})
    assert "the newest that was published is 0" in str(check(without, RULES).differences)


def test_a_calibrator_that_was_taken_away_must_not_be_put_back() -> None:
    entries = list(whole().entries["calibrations"])
    newest = entries[-1]
    before = next(one for one in reversed(entries[:-1]) if one.key == newest.key)
    for again, found in ((newest, 1), (before, 1), (None, 0)):
        gone = newest._replace(offset=newest.offset + 1, value=b"", headers=())
        more = [again._replace(offset=newest.offset + 2)] if again else []
        differences = check(
            whole()._replace(entries={**whole().entries, "calibrations": [*entries, gone, *more]}), RULES
        ).differences
        assert ["put back" in one.what for one in differences] == [True] * found
    early = [one._replace(offset=one.offset + (one.offset >= newest.offset)) for one in entries]
    gone = newest._replace(value=b"", headers=())
    calibrations = sorted([*early, gone], key=lambda one: one.place)
    logs = whole()._replace(entries={**whole().entries, "calibrations": calibrations})
    assert check(logs, RULES).differences == [], "a newer one may stand"


def test_between_a_feedback_and_its_repeat_a_log_may_begin_anywhere() -> None:
    for partition in (0, 1):
        for start in range(25):
            assert check(cut(whole(), {("feedback", partition): start}), RULES).differences == []


def added(logs: Logs, event: Any, at_ms: int) -> tuple[Logs, Entry]:
    """Write one more record at the end of its partition."""
    send, place = outgoing("", event), home(event.key.encode(), 2)
    last = max(e.offset for e in logs.entries[send.topic] if e.partition == place)
    new = Entry(send.topic, place, last + 1, send.key, send.value or b"", tuple(send.headers or ()), at_ms)
    entries = sorted([*logs.entries[send.topic], new], key=lambda e: e.place)
    return logs._replace(entries={**logs.entries, send.topic: entries}), new


def test_though_the_oldest_has_expired_what_is_forged_now_is_seen() -> None:
    """An end without its input is too old only if its input can be."""
    logs = cut(alive(), {(topic, p): 1 for topic in ("responses", "decisions", "feedback", "labels") for p in (0, 1)})
    assert check(logs, LIVE).differences == []
    assert check(logs, LIVE).beyond.total() > 0
    entry, one = decided(logs)[-1]
    never = msgspec.structs.replace(one, response_id="never-asked")
    found = [(e, decode(CONTRACT["labels"], e.value)) for e in logs.entries["labels"]]
    le, label = found[-1]
    other = msgspec.structs.replace(label, label_id="x", clinician="mallory", feedback_id="invented", kind="verdict")
    stray = msgspec.structs.replace(other, response_id="never-asked")
    said = feedback("f", "never-asked", occurred_at=one.occurred_at)
    lost, stray_end = (
        "decides on a response that is not in the log",
        "follows from no feedback and no decision in the log",
    )
    forged: list[tuple[Any, int, str]] = [
        (never, entry.at_ms, lost),
        (other, le.at_ms, "a label that does not follow from the feedback on its response"),
        (stray, le.at_ms, stray_end),
        (join_rules.duplicate(said, "f@0:99"), entry.at_ms, stray_end),
        (join_rules.unlabelled(Found(entry, never), HORIZONS.response), entry.at_ms, stray_end),
    ]
    for event, at_ms, what in forged:
        more, new = added(logs, event, at_ms)
        assert what in {d.what for d in check(more, LIVE).differences if d[1:4] == (new.topic, *new.place)}


@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(days=9000)])
def test_the_date_of_a_fast_clock_does_not_make_what_has_expired_younger(ahead: timedelta) -> None:
    stages = Rehearsal(crashes=False, partitions=1, clock=LiveClock(START))
    clock, asked = stages.clock, [i for i in items(week(10, 5).arrivals) if i.topic == "responses"]
    for n, item in enumerate(asked):
        one = decode(CONTRACT["responses"], item.value)
        dated = msgspec.structs.replace(one, occurred_at=clock.now() + (ahead if n == 4 else timedelta(0)))
        stages.put(item.topic, item.key, encode(dated), item.headers)
        stages.run()
        clock.at += timedelta(minutes=20)
    logs = stages.left(at_rest=False)
    for start in range(len(asked)):
        assert check(cut(logs, {("responses", 0): start}), LIVE).differences == [], start


def test_an_old_response_takes_no_label_of_today_without_its_feedback() -> None:
    """Its row is too old to be judged, but whoever judged it now would be in the log."""
    logs = cut(alive(), {("feedback", p): 8 for p in (0, 1)})
    assert check(logs, LIVE).differences == []
    labels = [(e, decode(CONTRACT["labels"], e.value)) for e in logs.entries["labels"]]
    last = max(label.occurred_at for _, label in labels) + HORIZONS.response + MAX_SKEW
    label = labels[0][1]
    later = msgspec.structs.replace(label, label_id="x", clinician="m", feedback_id="invented", occurred_at=last)
    more, new = added(logs, later, int(last.timestamp() * 1000))
    what = "a label that does not follow from the feedback on its response"
    assert what in {d.what for d in check(more, LIVE).differences if d[1:4] == (new.topic, *new.place)}


HALF_A_YEAR = {("labels", 0): 1, ("labels", 1): 1}
GREEN: dict[str, Any] = {"tier": "green", "action": "show", "audit": False, "propensity": 1.0}


def test_when_the_label_log_begins_late_no_green_goes_unchecked() -> None:
    """Not the version, but what the decision itself says must still give its tier."""
    logs = cut(whole(), HALF_A_YEAR)
    without = logs._replace(entries={**logs.entries, "calibrations": []})
    versioned = [(entry, one) for entry, one in decided(logs) if one.calibrator_version and one.tier != "green"]
    assert len(versioned) > 30
    assert {bool(one.truncated) for _, one in versioned} == {False, True}
    for entry, one in versioned:
        assert not wrong_of(without, entry)
        reason = f"risk_below_green: {one.upper or 0.0:.4f} < 0.05"
        forged = msgspec.structs.replace(one, **GREEN, reasons=(reason,))
        certain = (one.upper or 1.0) >= 0.05 or one.truncated or one.logit is None
        assert bool(wrong_of(rewritten(without, entry, forged), entry)) == certain, one
        assert wrong_of(
            rewritten(without, entry, msgspec.structs.replace(one, action="show", audit=not one.audit)), entry
        )


def test_a_version_that_still_stands_is_held_against_who_cites_it() -> None:
    logs = cut(whole(), HALF_A_YEAR)
    report = check(logs, RULES)
    assert report.beyond["calibrations"] == len(logs.entries["calibrations"])
    for entry, one in decided(logs):
        if one.calibrator_version and one.logit is not None:
            assert not wrong_of(logs, entry)
            forged = msgspec.structs.replace(
                one, **GREEN, risk=0.01, upper=0.01, reasons=("risk_below_green: 0.0100 < 0.05",)
            )
            assert wrong_of(rewritten(logs, entry, forged), entry)


def test_a_deployment_whose_labels_are_all_there_is_recomputed_though_others_have_expired() -> None:
    logs = cut(learnt(), {("labels", 1): 5})
    assert check(logs, Rules()).checked["labels folded"] == 5602
    at = place(logs, b'"approval"')
    assert complaints(changed(logs, "labels", at, ceilings={"all": 2.0}))


def strayed(topic: str) -> Logs:
    """What is left where a gateway partitions a topic by another hash than everyone else."""
    stages = Rehearsal(7, crashes=False)
    what = list(items(week(45, 7).arrivals))
    for item in what:
        wrong = zlib.crc32(item.key) % 2 if item.topic == topic else None
        stages.put(item.topic, item.key, item.value, item.headers, wrong)
        stages.run(some=True)
    stages.run()
    return stages.finish(what[-1].arrives_at + 2 * HORIZONS.response).left()


@pytest.mark.parametrize(("topic", "stage"), [("feedback", "join"), ("responses", "score")])
def test_inputs_that_lie_in_another_partition_than_their_keys_are_set_aside(topic: str, stage: str) -> None:
    logs = strayed(topic)
    assert check(logs, RULES).differences == []
    letters = [decode(DeadLetter, entry.value) for entry in logs.entries["dead-letters"]]
    assert {(letter.stage, letter.code) for letter in letters} == {(stage, "misplaced")}
    assert len(letters) > 15
    silent = logs._replace(entries={**logs.entries, "dead-letters": []})
    assert {one.topic for one in check(silent, RULES).differences} >= {topic}


def test_a_label_log_that_is_copied_into_another_partition_changes_nothing() -> None:
    """Whoever may write there can copy what is signed, in an order of his choice."""
    stages = rehearsed(3, crashes=False)
    published, aside = stages.published(), len(stages.logs["dead-letters"][0] + stages.logs["dead-letters"][1])
    labels = [(1 - entry.partition, entry) for log in stages.logs["labels"] for entry in log]
    for elsewhere, entry in reversed(labels):
        stages.put("labels", entry.key, entry.value, entry.headers, elsewhere)
    logs = stages.run().left()
    assert stages.published() == published
    assert len(logs.entries["dead-letters"]) == aside + 2 * len(labels)
    wrong = check(logs, RULES).differences
    assert {one.topic for one in wrong} == {"labels"}
    assert all(one.what.startswith("not a record that a stage of this version writes: by field") for one in wrong)
    assert len(wrong) == len(labels)


def patient(horizon: timedelta) -> Logs:
    """What JOIN leaves under a response horizon, when one clinician judges after six days and another after ten."""
    stages, asked = Rehearsal(5, crashes=False), [i for i in items(week(10, 5).arrivals) if i.topic == "responses"]
    horizons = HORIZONS._replace(response=horizon)
    stages.stages["join"] = Theatre(lambda s: Join(context(2), s, horizons, stages.clock, DIGEST_KEYS))
    for n, item in enumerate(asked):
        stages.put(item.topic, item.key, item.value, item.headers)
        for day in (6, 10):
            when = item.arrives_at + timedelta(days=day)
            said = feedback(f"{n}-{day}", str(item.response_id), clinician=f"c{day}", occurred_at=when)
            stages.put("feedback", said.response_id.encode(), encode(said), [])
    return stages.run().finish(asked[-1].arrives_at + timedelta(days=90)).left()


@pytest.mark.parametrize("rules", [RULES, LIVE])
def test_a_verdict_after_its_responses_horizon_does_not_count(rules: Rules) -> None:
    assert check(patient(HORIZONS.response), rules).differences == []
    wrong = check(patient(timedelta(days=30)), rules).differences
    what = [one.what for one in wrong if one.topic == "labels"]
    assert what.count("a label that does not follow from the feedback on its response") == 10


VERBS = ("accepted", "edited", "disagreed", "retracted", "abandoned")


def disputed(verdicts: Iterable[tuple[float, float, str, Any]]) -> Logs:
    """What is left of one response and verdicts on it: arrival and occurrence in seconds, by whom, and what."""
    stages, [item, *_] = Rehearsal(crashes=False), items(week().arrivals)
    stages.put(item.topic, item.key, item.value, item.headers)
    stages.run()
    for n, (arrives, occurred, who, what) in enumerate(sorted(verdicts)):
        for topic in Watermark.topics:
            reached = item.arrives_at + timedelta(seconds=arrives)
            stages.put(topic, None, encode(Watermark(occurred_at=reached)), [], home(str(item.response_id).encode(), 2))
        stages.run()
        when = item.arrives_at + timedelta(seconds=occurred)
        said = feedback(f"f{n}", str(item.response_id), occurred_at=when, clinician=who, action=what)
        stages.put("feedback", said.response_id.encode(), encode(said), [])
        stages.run()
    return stages.finish(item.arrives_at + timedelta(days=30)).left()


def dispute(seed: int) -> Logs:
    rng = random.Random(seed)
    span, delay = rng.choice((300, 600, 1200)), rng.choice((60, 300, 600))
    occurred = [rng.uniform(1, span) for _ in range(rng.randint(6, 20))]
    return disputed([(at + rng.uniform(0, delay), at, f"c{rng.randint(0, 4)}", rng.choice(VERBS)) for at in occurred])


@pytest.mark.parametrize(
    "seeds", [(*range(5), 10, 48, 103, 105, 106, 110), pytest.param(range(15, 3000), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("rules", [RULES, LIVE])
def test_a_response_on_which_many_differ_and_late_is_judged_all_the_same(seeds: Iterable[int], rules: Rules) -> None:
    for seed in seeds:
        logs = dispute(seed)
        report = check(logs, rules)
        assert report.differences == [], seed
        assert not report.beyond
        entry = logs.entries["labels"][-1]
        one = decode(CONTRACT["labels"], entry.value)
        assert check(rewritten(logs, entry, msgspec.structs.replace(one, weight=0.77)), rules).differences


@pytest.mark.parametrize("rules", [RULES, LIVE])
def test_what_is_too_much_to_be_looked_into_is_not_called_a_difference(rules: Rules) -> None:
    in_time = [(10.0 * n - 1.0, 10.0 * n, "c1", "accepted") for n in range(1, 160)]
    assert check(disputed(in_time), rules).beyond.total() == 0
    logs = disputed([*in_time, (2000.0, 31.0, "c2", "accepted")])
    report = check(logs, rules)
    assert report.differences == []
    assert report.beyond["rows of many verdicts"] == 1
    entry = logs.entries["labels"][-1]
    label = decode(CONTRACT["labels"], entry.value)
    more, new = added(logs, msgspec.structs.replace(label, label_id="x", feedback_id="invented"), entry.at_ms)
    assert "a label that does not follow from the feedback on its response" in {
        one.what for one in check(more, rules).differences if one[1:4] == (new.topic, *new.place)
    }


NO_EFFECT = (8033,)
"""The ceiling of an approval that let nothing through."""


@pytest.mark.parametrize("seeds", [(*range(120), *NO_EFFECT), pytest.param(range(120, 10_000), marks=pytest.mark.slow)])
def test_every_change_is_found(seeds: Iterable[int]) -> None:
    forger = Forger(whole())
    assert check(whole(), RULES).differences == []
    missed = [made.what for seed in seeds if not check((made := forger.forge(seed)).logs, RULES).differences]
    assert missed == []


@cache
def learnt() -> Logs:
    """What LEARN leaves of four days with a jump, a rollback, an approval and corrections."""
    return left_by(course())


def left_by(events: Iterable[Any]) -> Logs:
    """What LEARN leaves of a label log."""
    stage, sends = theatre(), [outgoing("", event) for event in events]
    records = [Record("labels", 0, n, send.key or b"", send.value or b"", {}, 0.0) for n, send in enumerate(sends)]
    for n in range(0, len(records), 200):
        stage.run(records[n : n + 200])
    entries: dict[str, list[Entry]] = defaultdict(list)
    for send in (*sends, *stage.sent):
        log = entries[send.topic]
        log.append(Entry(send.topic, 0, len(log), send.key, send.value or b"", tuple(send.headers or ())))
    return Logs(dict(entries))


def complaints(logs: Logs) -> list[str]:
    """The differences in what LEARN leaves: the labels themselves follow from nothing here."""
    return [str(one) for one in check(logs, Rules()).differences if one.topic != "labels" or one.invariant == "I8"]


def changed(logs: Logs, topic: str, where: int, **fields: Any) -> Logs:
    """Change a record as a careless repair would: well-formed, with a digest that fits."""
    entries = list(logs.entries[topic])
    event = msgspec.structs.replace(decode(CONTRACT[topic], entries[where].value), **fields)
    send = outgoing("", event)
    entries[where] = entries[where]._replace(value=send.value or b"", headers=tuple(send.headers or ()))
    return logs._replace(entries={**logs.entries, topic: entries})


def test_no_decision_cites_a_version_that_its_own_label_made() -> None:
    labels = [label(n) for n in range(30)]
    own = "labels/0/20: its decision cites version 21, which did not exist before it (I8)"
    for version, wrong in ((20, []), (21, [own])):
        scored = msgspec.structs.replace(labels[20].decision, calibrator_version=version)
        told = [*labels[:20], msgspec.structs.replace(labels[20], decision=scored), *labels[21:]]
        assert complaints(left_by(told)) == wrong


def test_an_alarm_that_is_missing_is_missed_on_a_stream_that_flows_too() -> None:
    logs = learnt()
    silent = logs._replace(entries={**logs.entries, "alarms": []}, until_ms=1)
    what = "this label raises an alarm that was not published"
    for read, missed in ((len(logs.entries["labels"]), True), (0, False)):
        report = check(silent._replace(committed={("learn", "labels", 0): read}), Rules())
        assert (what in {one.what for one in report.differences}) == missed
        assert bool(report.pending["alarms of LEARN"]) != missed


def test_a_calibrator_that_people_instructed_is_recomputed_bit_for_bit() -> None:
    logs = learnt()
    assert complaints(logs) == []
    report = check(logs, Rules())
    assert (report.checked["instructions"], report.checked["labels folded"]) == (2, 5602)
    assert report.checked["changes"] > 5
    assert report.checked["alarms of LEARN"] > 0


def test_a_rebuild_that_labels_overtook_changes_nothing_and_one_that_they_did_not_is_recomputed() -> None:
    labels = [label(n, rejected=n % 7 == 0) for n in range(400)]
    then = History("ward", Policy(), labels[:300]).corrected()
    by = order("rebuild", 300, parameters=then.learning.ledger.filter.state(), last=then.last)
    first, second = (
        msgspec.structs.replace(by, instruction_id=id_, deployment="ward", model_hash="m") for id_ in ("i1", "i2")
    )
    logs = left_by([*labels[:300], first, *labels[300:399], second, labels[399]])
    assert complaints(logs) == []
    told = [decode(Change, entry.value) for entry in logs.entries["changes"]]
    assert [one.last for one in told if one.cause.startswith("rebuild")] == ["i1"]
    [letter] = logs.entries["dead-letters"]
    assert "what came since would be lost" in decode(DeadLetter, letter.value).detail


def place(logs: Logs, kind: bytes) -> int:
    return next(n for n, entry in enumerate(logs.entries["labels"]) if kind in entry.value)


def test_a_tampered_instruction_is_named() -> None:
    logs = learnt()
    at = place(logs, b'"rollback"')
    found = decode(CONTRACT["labels"], logs.entries["labels"][at].value)
    parameters = {**found.parameters, "curve": [n + 0.1 for n in found.parameters["curve"]]}
    wrong = complaints(changed(logs, "labels", at, parameters=parameters))
    assert f"labels/0/{at}: a rollback to other parameters than version 2000 had (I8)" in wrong
    assert any(line.startswith("calibrations/") for line in wrong)
    [who] = complaints(changed(logs, "labels", at, by="somebody"))
    assert who.endswith("not the entry that its event makes: evidence (I8)")
    approval = place(logs, b'"approval"')
    assert complaints(changed(logs, "labels", approval, ceilings={"all": 2.0}))
    [more] = complaints(changed(logs, "labels", approval, scope="", parameters={"x": 1}))
    assert more == f"labels/0/{approval}: carries what approval does not need: parameters (I8)"


def test_a_rollback_over_a_change_of_model_is_named() -> None:
    """Its parameters were learnt, but of other scores."""
    labels = [label(n, model_hash="old" if n < 30 else "new") for n in range(60)]
    ledger = Ledger("ward", Policy())
    for one in labels[:20]:
        ledger.apply(one)
    by = Instruction(
        instruction_id="i1", deployment="ward", order="rollback", version=20, model_hash="new", by="dr",
        parameters=ledger.filter.state(), occurred_at=labels[-1].occurred_at,
    )  # fmt: skip
    wrong = complaints(left_by([*labels, by]))
    assert "labels/0/60: a rollback to other parameters than version 20 had (I8)" in wrong
    assert complaints(left_by([*labels[:30], msgspec.structs.replace(by, model_hash="old")])) == []


def test_a_swap_of_the_model_with_strays_and_late_labels_is_recomputed() -> None:
    """Entries on the way hold how many of its labels there were; an instruction neither adds to them nor takes any."""
    at_5 = Ledger("ward", Policy())
    for one in swapped()[:5]:
        at_5.apply(one)
    by = Instruction(
        instruction_id="i1", deployment="ward", order="rollback", version=5, model_hash="old", by="dr",
        parameters=at_5.filter.state(), occurred_at=START,
    )  # fmt: skip
    events = [*swapped()[:33], by, *swapped()[33:]]
    logs = left_by(events)
    assert complaints(logs) == []
    entries = [decode(Change, entry.value) for entry in logs.entries["changes"]]
    assert [one.state and one.state["succession"]["labels"] for one in entries] == [0, 3, 5, 0]
    fewer = [entry for entry in logs.entries["labels"] if entry.offset != 40]
    [version, *_] = complaints(logs._replace(entries={**logs.entries, "labels": fewer}))
    assert version.endswith("no beginning of the label log leads to it (I8)")


def test_a_tampered_calibration_and_a_tampered_entry_are_named() -> None:
    logs = learnt()
    version = decode(CONTRACT["calibrations"], logs.entries["calibrations"][9].value)
    cuts = {**version.cuts, "all": {**version.cuts["all"], "green": 0.0}}
    [one] = complaints(changed(logs, "calibrations", 9, cuts=cuts))
    assert one == f"calibrations/0/9: version {version.version} is not the fold of the labels before it: cuts (I8)"
    [two] = complaints(changed(logs, "changes", 2, cause="labels were kind"))
    assert two == "changes/0/2: not the entry that its event makes: cause (I8)"
    kept = [entry for entry in logs.entries["changes"] if entry.offset != 3]
    [three] = complaints(logs._replace(entries={**logs.entries, "changes": kept}))
    assert three.endswith("makes an entry of the calibrator's log, and it is not there (I8)")
