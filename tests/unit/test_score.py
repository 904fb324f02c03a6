"""SCORE as a table: a response, what the encoder and the calibrator do, and the decision that must follow."""

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, NamedTuple

import msgspec
import orjson
import pytest
from structlog.testing import capture_logs

from models.calibration.filter import Filter
from models.calibration.ledger import Ledger
from models.deciding import MAX_REST, MAX_TURNS, Calibrated, DecisionContext, History, config_hash, input_digest
from models.deciding import decide as decided_by
from models.encoder.base import Score as RawScore
from models.events import MAX_MESSAGE_BYTES, DeadLetter, Decision, Label, Outcome, Response, Scored, decode, encode
from models.partitions import home
from models.policy import Policies, Policy
from models.salience import digest
from streams.agents import score
from streams.agents.expiry import Expiry
from streams.clock import Clock, EventClock, LiveClock
from streams.metrics import Metrics
from streams.scorer import Scorer
from streams.timers import EPOCH, GRACE_S
from tests.rehearsal import HandClock
from tests.stagecraft import HospitalClock, Stopwatch, Theatre, at, context, decision, record

REPLAY = EventClock()
EAGER = Policy(warm_up_labels=10, warm_up_deviation=2.0, audit_rate=0.0)
DEFAULTS = Policies(EAGER)


class Prepared(NamedTuple):
    response: Response
    size: int


class Stub:
    """An encoder that answers what a test wants."""

    model_hash = "m"
    rounding = 0.0

    def __init__(self, answer: Any = -5.0) -> None:
        self.answer = answer
        self.batches: list[int] = []

    def prepare(self, responses: Sequence[Response]) -> list[Prepared]:
        return [Prepared(r, (len(r.query) + len(r.response or "")) // 4) for r in responses]

    def infer(self, prepared: Sequence[Prepared]) -> list[RawScore]:
        responses = [found.response for found in prepared]
        self.batches.append(len(responses))
        if isinstance(self.answer, Exception) and any("poison" in r.query for r in responses):
            raise self.answer
        logit = -5.0 if isinstance(self.answer, Exception) else self.answer
        return [
            RawScore(logit, truncated="long" in r.query, unknown=0.9 if "alien" in r.query else 0.0) for r in responses
        ]


class Known:
    """Calibrations of one deployment that is warm, and sure of itself."""

    def __init__(self, *, current: bool = True, **changed: Any) -> None:
        ledger = Ledger("ward", EAGER)
        for n in range(400):
            ledger.apply(_label(n))
        found = ledger.calibration()
        assert found is not None
        found = msgspec.structs.replace(found, **({"model_hash": "m"} | changed))
        self._held = Calibrated(found, ledger.filter.thresholds(), current)

    def of(self, deployment: str) -> Calibrated:
        return self._held if deployment == "ward" else Calibrated()

    async def ready(self) -> None:
        return


def _label(n: int) -> Label:
    logit = -5.0 if n % 4 else 1.0
    decided = decision(
        f"x{n}", seconds=n, logit=logit, groups={"category": "unknown", "history": "none", "site": "north"}
    )
    scored = msgspec.convert(decided, Scored, from_attributes=True)
    rejected = logit > 0
    return Label(
        label_id=f"l{n}", feedback_id=f"f{n}", response_id=f"x{n}", deployment="ward", clinician="ann", delay_s=1.0,
        action="flagged" if rejected else "accepted", rejected=rejected, depth="deep" if rejected else "none",
        weight=1.0,
        occurred_at=at(n), decision=scored,
    )  # fmt: skip


def response(response_id: str = "r1", **fields: Any) -> Response:
    known: dict[str, Any] = {
        "response_id": response_id, "conversation_id": "c1", "deployment": "ward", "site": "north", "query": "Dose?",
        "response": "Take 5 mg.", "occurred_at": at(500),
    }  # fmt: skip
    return Response(**(known | fields))


GOOD = orjson.loads(encode(response()))


def outcome(label_id: str = "l", occurred_at: datetime | None = None) -> Outcome:
    return Outcome(
        label_id=label_id, conversation_id="c1", response_id="r0", turn=0, rejected=True, depth="deep",
        occurred_at=occurred_at or at(10),
    )  # fmt: skip


DIGEST_KEYS = (b"key",)


def theatre(  # noqa: PLR0913 (what a test changes of a scorer)
    encoder: Stub | None = None,
    calibrations: Any = None,
    *,
    deadline_s: float = 5.0,
    clock: Clock = REPLAY,
    policies: Policies = DEFAULTS,
    digest_keys: tuple[bytes, ...] = DIGEST_KEYS,
) -> Theatre:
    metrics = Metrics()
    scorer = Scorer(encoder or Stub(), metrics, deadline_s=deadline_s)
    parts = score.Parts(scorer, calibrations or Known(), policies, clock, digest_keys)
    expiry = Expiry(timedelta(days=1), score.read_time, clock)
    return Theatre(lambda state: score.Score(context(), state, expiry, parts))


def decided(stage: Theatre) -> list[Decision]:
    return [decode(Decision, s.value) for s in stage.sent if s.topic == "decisions"]


def decide(message: Any, encoder: Stub | None = None, calibrations: Any = None, **how: Any) -> Decision:
    stage = theatre(encoder, calibrations, **how)
    stage.run([record(message, 0, topic="responses")])
    [found] = decided(stage)
    return found


def warned(policies: Policies, *deployments: str) -> list[Any]:
    """Of which deployments a worker warns; each sends two responses, one batch after the other."""
    stage = theatre(policies=policies)
    with capture_logs() as logs:
        for half in (0, 1):
            responses = [response(f"{half}-{n}", deployment=name) for n, name in enumerate(deployments)]
            stage.run([record(one, n) for n, one in enumerate(responses)])
    assert len(decided(stage)) == 2 * len(deployments), "they are decided on by the defaults"
    return [line["deployment"] for line in logs if "is not in the policy file" in line["event"]]


def test_a_deployment_that_a_file_of_deployments_leaves_out_is_told_once() -> None:
    """A renamed one has the defaults, which may be looser than what was meant for it."""
    named = Policies(EAGER, {"icu": Policy(plan="green-only")})
    assert warned(named, "icu", "ICU", "icu", "ward") == ["ICU", "ward"]
    assert warned(DEFAULTS, "icu", "ward") == [], "a file without tables is for all"


def test_a_gateway_that_makes_up_deployments_does_not_fill_the_log() -> None:
    named = Policies(EAGER, {"icu": Policy()})
    assert len(warned(named, *(f"d{n}" for n in range(score.MAX_UNNAMED + 50)))) == score.MAX_UNNAMED


def test_a_sure_answer_of_a_warm_deployment_is_green() -> None:
    found = decide(response())
    assert (found.tier, found.action) == ("green", "show")
    assert found.calibrator_version == 400
    assert found.groups == {"category": "unknown", "history": "none", "site": "north"}


@pytest.mark.parametrize("audit_rate", [0.0, 0.9999])
@pytest.mark.parametrize("known", [True, False])
def test_a_decision_says_all_that_it_rests_on(audit_rate: float, *, known: bool) -> None:
    policy = msgspec.structs.replace(EAGER, audit_rate=audit_rate)
    by = Known().of("ward" if known else "icu")
    asked = response("r7", conversation_id="c7", turn=3, occurred_at=at(501))
    decision_context = DecisionContext(policy, "m", b"key", at(502))
    found = decided_by(asked, RawScore(-5.0, truncated=True, unknown=0.0), by, History(), decision_context)
    groups = {"category": "unknown", "history": "none", "site": "north"}
    thresholds = by.thresholds or Filter(EAGER.calibrator).thresholds()
    risk, upper = thresholds.risk(-5.0, groups)
    audited = audit_rate > 0
    assert found == Decision(
        response_id="r7", conversation_id="c7", turn=3, deployment="ward", groups=groups, logit=-5.0, risk=risk,
        upper=upper, tier="yellow", action="review" if audited else "banner", reasons=found.reasons, audit=audited,
        propensity=audit_rate if audited else 1.0, calibrator_version=400 if known else 0, model_hash="m",
        config_hash=decision_context.config_hash, input_digest=input_digest(asked, b"key"),
        salience_digest=digest("Take 5 mg.", b"key"), truncated=True, occurred_at=at(501), decided_at=at(502),
    )  # fmt: skip
    assert found.config_hash != DecisionContext(EAGER, "m", b"key", at(502)).config_hash or not audited


def test_before_the_model_has_answered_the_same_path_scores() -> None:
    found = decide(response(response=None))
    assert found.logit == -5.0
    assert found.groups["moment"] == "pre-response"


class Rounding(Stub):
    """Is off by what it says; exactly scored, a response lies on the other side of the cut."""

    rounding = 0.02
    exact = 0.0

    def infer_exactly(self, prepared: Sequence[Prepared]) -> list[RawScore]:
        self.batches.append(-len(prepared))
        if isinstance(self.exact, Exception):
            raise self.exact
        return [RawScore(self.exact, truncated=False, unknown=0.0) for _ in prepared]


@pytest.mark.parametrize(("off", "batches"), [(-0.05, [1]), (-0.01, [1, -1]), (0.01, [1, -1]), (0.05, [1])])
def test_what_hangs_on_rounding_is_scored_again_exactly(off: float, batches: list[int]) -> None:
    cut = cut_of_green()
    encoder = Rounding(cut + off)
    encoder.exact = cut - math.copysign(0.001, off)
    found = decide(response(), encoder)
    assert encoder.batches == batches
    assert found.logit == (encoder.exact if len(batches) > 1 else cut + off)
    assert found.tier == ("green" if found.logit < cut else "yellow")


def test_what_has_no_score_is_red_and_not_scored_again() -> None:
    encoder = Rounding(math.nan)
    found = decide(response(), encoder)
    assert (found.tier, found.reasons, encoder.batches) == ("red", ("score_missing",), [1])


def test_what_cannot_be_scored_again_is_red() -> None:
    encoder = Rounding(cut_of_green() - 0.01)
    encoder.exact = MemoryError()
    found = decide(response(), encoder)
    assert (found.tier, found.reasons) == ("red", ("score_missing", "model_error: MemoryError"))


def test_scoring_again_has_no_more_time_than_is_left() -> None:
    class Slower(Rounding):
        def infer_exactly(self, prepared: Sequence[Prepared]) -> list[RawScore]:
            gate.wait(30)
            return super().infer_exactly(prepared)

    gate = Event()
    found = decide(response(), Slower(cut_of_green() - 0.01), deadline_s=0.2)
    gate.set()
    assert (found.tier, found.reasons) == ("red", ("score_missing", "deadline_missed"))


def cut_of_green() -> float:
    """The logit at which the warm deployment's answers stop being green."""
    known = Known().of("ward")
    groups, green = decide(response()).groups, EAGER.green
    low, high = -10.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if known.thresholds.risk(middle, groups)[1] < green else (low, middle)
    return high


class Slow(Stub):
    def infer(self, prepared: Sequence[Prepared]) -> list[RawScore]:
        import time

        time.sleep(0.3)
        return super().infer(prepared)


DOUBTS: dict[str, tuple[Response, Stub, Any, str, str]] = {
    "truncated": (response(query="long text"), Stub(), None, "yellow", "truncated"),
    "unlike the training texts": (response(query="alien text"), Stub(), None, "yellow", "out_of_distribution"),
    "another model's calibrator": (response(), Stub(), Known(model_hash="old"), "yellow", "model_mismatch"),
    "learnt for other settings": (response(), Stub(), Known(basis="old"), "yellow", "settings_mismatch"),
    "LEARN asks for fewer labels": (
        response(),
        Stub(),
        Known(labels=EAGER.warm_up_labels - 7),
        "yellow",
        "warming_up: 7 labels missing",
    ),
    "no calibrator": (response(deployment="icu"), Stub(), None, "yellow", "calibration_missing"),
    "newer ones may exist": (response(), Stub(), Known(current=False), "yellow", "calibration_missing"),
    "warming up": (response(), Stub(), Known(missing_labels=7), "yellow", "warming_up: 7 labels missing"),
    "stale": (response(occurred_at=at(30 * 86_400)), Stub(), None, "yellow", "calibration_stale"),
    "not a number": (response(), Stub(float("nan")), None, "red", "score_missing"),
    "infinite": (response(), Stub(float("inf")), None, "red", "score_missing"),
    "encoder fails": (response(query="poison"), Stub(MemoryError()), None, "red", "model_error: MemoryError"),
    "too late": (response(), Slow(), None, "red", "deadline_missed"),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_in_doubt_never_green(name: str) -> None:
    message, encoder, calibrations, tier, reason = DOUBTS[name]
    found = decide(message, encoder, calibrations, deadline_s=0.05 if name == "too late" else 5.0)
    assert (found.tier, reason in found.reasons) == (tier, True), found.reasons


@pytest.mark.parametrize(
    ("waited_s", "tier", "reason"), [(300, "green", "risk_below"), (301, "yellow", "deadline_missed")]
)
def test_what_waited_in_the_topic_is_not_green(waited_s: int, tier: str, reason: str) -> None:
    """After a pause of the stage; the score stands, so that a label still teaches."""
    found = decide(response(), clock=HandClock(at(500 + waited_s)))
    assert (found.tier, found.reasons[0][: len(reason)], found.logit) == (tier, reason, -5.0)


@pytest.mark.parametrize(("machine_s", "broker_s", "tier"), [(0, 0, "green"), (0, 1200, "yellow"), (1200, 0, "yellow")])
def test_what_waited_is_not_green_when_either_clock_says_so(machine_s: int, broker_s: int, tier: str) -> None:
    """A machine whose clock is 20 minutes behind, with a backlog of 20 minutes: by its own, all of it is prompt."""
    clock = HospitalClock(at(500 + machine_s))
    clock.observe_broker_time(at(500).timestamp())  # when it took the response
    clock.synchronise(at(500 + broker_s).timestamp())  # in answer to a first write
    found = decide(response(), clock=clock)
    late = at(500 + max(machine_s, broker_s))
    assert (found.tier, "deadline_missed" in found.reasons, found.decided_at) == (tier, tier == "yellow", late)


DAY = 86_400.0


@pytest.mark.parametrize(("clock", "spared"), [(HospitalClock(at(DAY + 600)), True), (REPLAY, False)])
def test_what_is_over_before_its_turn_costs_the_encoder_nothing(clock: Clock, *, spared: bool) -> None:
    """A gateway sends a year of old data, and live responses wait behind it. JOIN closes the old ones at once."""
    encoder = Stub()
    clock.synchronise(None)
    stage = theatre(encoder, clock=clock)
    ages = {"r1": DAY + 1, "r2": 0.0, "r3": 400 * DAY, "r4": DAY}
    came = [response(name, conversation_id=name, occurred_at=at(DAY + 600 - age)) for name, age in ages.items()]
    stage.run([record(one, n) for n, one in enumerate(came)])
    assert encoder.batches == [2 if spared else 4]
    found = {one.response_id: one for one in decided(stage)}
    assert list(found) == list(ages)
    for name, one in found.items():
        over = spared and name in {"r1", "r3"}
        assert (one.logit is None) == over
        assert not over or (one.tier, one.reasons) == ("red", ("score_missing", "deadline_missed"))


def test_a_date_ahead_is_not_green() -> None:
    assert decide(response(), clock=HandClock(at(500 - 301))).tier == "yellow"


def test_where_nobody_waits_a_response_may_be_of_any_age() -> None:
    """`demur score` reads files of years."""
    decision_context = DecisionContext(EAGER, "m", b"", at(10**7), is_live=False)
    assert (
        decided_by(
            response(), RawScore(-5.0, truncated=False, unknown=0.0), Known().of("ward"), History(), decision_context
        ).tier
        == "green"
    )


BROKEN: dict[str, tuple[bytes, str]] = {
    "wrong type": (orjson.dumps({**GOOD, "turn": "first"}), "invalid"),
    "missing field": (orjson.dumps({k: v for k, v in GOOD.items() if k != "query"}), "invalid"),
    "unknown schema": (orjson.dumps({**GOOD, "schema": 99}), "unknown_schema"),
    "schema of another type": (orjson.dumps({**GOOD, "schema": "CANARY"}), "invalid"),
    "oversized": (orjson.dumps({**GOOD, "response": "x" * MAX_MESSAGE_BYTES}), "oversized"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_response_is_a_dead_letter_and_red(name: str) -> None:
    value, code = BROKEN[name]
    stage = theatre()
    stage.run([record(value, 5, topic="responses")])
    [found], [letter] = decided(stage), [decode(DeadLetter, s.value) for s in stage.sent if s.topic == "dead-letters"]
    assert (found.response_id, found.tier, found.action, found.reasons) == (
        "r1",
        "red",
        "review",
        ("invalid_input", code),
    )
    assert (found.conversation_id, found.deployment, found.model_hash) == ("c1", "ward", "m")
    assert found.config_hash == config_hash(Policy())
    assert (letter.code, letter.source_topic, letter.offset, letter.response_id) == (code, "responses", 5, "r1")
    assert b"CANARY" not in b"".join(s.value for s in stage.sent)


@pytest.mark.parametrize("value", [b"\xff\xfe", b"", b"[]", b'{"query": NaN}', b'{"response_id": 7}'])
def test_what_belongs_to_nobody_is_a_dead_letter_alone(value: bytes) -> None:
    stage = theatre()
    stage.run([record(value, 0, topic="responses"), record(response(), 1)])
    assert [d.response_id for d in decided(stage)] == ["r1"]
    assert sum(s.topic == "dead-letters" for s in stage.sent) == 1


def test_of_what_unpacks_to_more_than_any_message_only_the_header_is_read() -> None:
    value = orjson.dumps({**GOOD, "response": "x" * MAX_REST})
    stage = theatre()
    stage.run([record(value, 0, topic="responses")])
    assert decided(stage) == []
    stage.run([record(value, 1, topic="responses")._replace(headers={"ce_id": b"r7"})])
    [found] = decided(stage)
    assert (found.response_id, found.tier, found.reasons) == ("r7", "red", ("invalid_input", "oversized"))
    assert (found.conversation_id, found.deployment) == ("unknown", "unknown")


def test_one_text_that_breaks_the_encoder_does_not_spoil_its_batch() -> None:
    stage = theatre(Stub(RuntimeError("CUDA")))
    stage.run([record(response(f"r{n}", query="poison" if n == 1 else "fine"), n) for n in range(3)])
    assert [d.tier for d in decided(stage)] == ["green", "red", "green"]


@pytest.mark.parametrize("crash", ["early", "written", "sent"])
def test_a_repeated_response_gets_the_same_decision_byte_for_byte(crash: str) -> None:
    encoder = Stub()
    stage = theatre(encoder)
    stage.run([record(response(), 0)], crash=crash)
    encoder.answer, scored = 3.0, len(encoder.batches)
    otherwise = orjson.dumps(dict(reversed(GOOD.items())), option=orjson.OPT_INDENT_2)
    stage.run([record(response(), 1), record(otherwise, 2, topic="responses")])
    values = {s.value for s in stage.sent if s.topic == "decisions"}
    assert len(values) == 1
    assert {s.topic for s in stage.sent} == {"decisions"}
    assert len(encoder.batches) == scored


def test_the_same_response_twice_in_a_batch_has_one_decision() -> None:
    """Each is scored, and time passes between the two."""
    stage = theatre(clock=LiveClock())
    stage.run([record(response(), 0), record(response(), 1)])
    assert [s.topic for s in stage.sent] == ["decisions", "decisions"]
    assert len({s.value for s in stage.sent}) == 1


FIRST: dict[str, tuple[Any, int]] = {
    "a query before its answer": (response(response=None), 1),
    "another answer": (response(response="Take 50 mg."), 1),
    "another history": (response(earlier=("Asked before.",)), 1),
    "another conversation": (response(conversation_id="c2"), 1),
    "another turn": (response(turn=1), 1),
    "another deployment": (response(deployment="another"), 1),
    "another site": (response(site="another"), 1),
    "another category": (response(category="another"), 1),
    "what could not be read": (orjson.dumps({**GOOD, "schema": 99}), 2),
}


@pytest.mark.parametrize("crash", ["no", "early", "written", "sent"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("name", FIRST)
def test_another_text_under_a_known_id_is_set_aside_and_told_nothing(name: str, crash: str, *, together: bool) -> None:
    """It was not scored, and must not be taken for the first one; where that was red, it stays so."""
    first, letters_due = FIRST[name]
    records = [record(first, 0, topic="responses"), record(response(), 1)]
    stage = theatre()
    for batch in [records] if together else [records[:1], records[1:]]:
        stage.run(batch, crash=crash)
    made = decided(stage)
    assert {one.tier == "red" for one in made} == {letters_due == 2}
    assert len({encode(one) for one in made}) == 1
    letters = {s.value for s in stage.sent if s.topic == "dead-letters"}
    last = {letter.offset: letter for letter in (decode(DeadLetter, value or b"") for value in letters)}
    assert (last[1].code, last[1].response_id, len(letters)) == ("id_reused", "r1", letters_due)
    if crash == "no":
        assert len(made) == 1


def test_a_response_is_known_again_whatever_became_of_its_conversation_meanwhile() -> None:
    stage = theatre()
    stage.run([record(response(), 0)])
    stage.run([record(outcome(), 0)])
    stage.run([record(response(), 1), record(response(category=" "), 2)])
    assert {s.topic for s in stage.sent} == {"decisions"}
    assert len({s.value for s in stage.sent}) == 1


@pytest.mark.parametrize("former", [b"former", b""])
def test_a_text_is_known_again_though_the_key_of_the_digests_was_changed(former: bytes) -> None:
    """It was taken for another text under its id: a dead letter, and no decision."""
    stage = theatre(digest_keys=(former,))
    stage.run([record(response(), 0)])
    stage.stage = theatre(digest_keys=(b"key", former)).stage
    stage.stage.state = stage.state  # type: ignore[assignment]
    other = response(response="Another.")
    stage.run([record(response(), 1), record(other, 2), record(response("r2"), 3), record(other, 4)])
    first, again, fresh = decided(stage)
    assert first == again
    assert first.input_digest == input_digest(response(), former)
    assert fresh.input_digest == input_digest(response("r2"), b"key")
    letters = [decode(DeadLetter, s.value or b"") for s in stage.sent if s.topic == "dead-letters"]
    assert [(letter.offset, letter.code) for letter in letters] == [(2, "id_reused"), (4, "id_reused")]


@pytest.mark.parametrize("first", ["good", "broken"])
@pytest.mark.parametrize("together", [True, False])
def test_what_was_decided_first_stands_also_against_a_broken_message(first: str, *, together: bool) -> None:
    """Else whoever knows an id could publish a second decision on it, and a redelivery another time of refusal."""
    records = [record(response(), 0), record(BROKEN["unknown schema"][0], 1, topic="responses")]
    records = records if first == "good" else records[::-1]
    stage = theatre()
    for batch in [records] if together else [records[:1], records[1:], records[1:]]:
        stage.run(batch)
    assert {one.tier for one in decided(stage)} == {"green" if first == "good" else "red"}
    assert len({s.value for s in stage.sent if s.topic == "decisions"}) == 1
    assert {s.topic for s in stage.sent} == {"decisions", "dead-letters"}


@pytest.mark.parametrize("how", ["reused", "failed"])
def test_a_dead_letter_names_the_response_also_where_no_other_reader_takes_its_bytes(how: str) -> None:
    """In a field that nobody knows is what is no UTF-8: who reads by the contract skips it."""
    odd = encode(response()).replace(b'"query":', b'"unknown":"\xff","query":')
    stage = theatre()
    if how == "reused":
        stage.run([record(response(response="Another."), 0), record(odd, 1, topic="responses")])
    else:
        stage.sent += asyncio.run(stage.stage.poison(record(odd, 1, topic="responses"))).sends
    [letter] = [decode(DeadLetter, s.value or b"") for s in stage.sent if s.topic == "dead-letters"]
    assert letter.response_id == "r1"


def test_a_broken_message_under_a_known_id_is_not_told_green() -> None:
    stage = theatre()
    stage.run([record(response(), 0)])
    stage.run([record(BROKEN["unknown schema"][0], 1, topic="responses")])
    assert [s.topic for s in stage.sent] == ["decisions", "dead-letters"]


def test_what_we_failed_on_is_red_whenever_it_comes_and_has_one_dead_letter() -> None:
    """Its refusal tells nothing of its text: what comes again may be what we failed on."""
    stage = theatre()
    failed = record(response(), 0)
    plan = asyncio.run(stage.stage.poison(failed))
    stage.state.apply(0, plan)
    stage.sent += plan.sends
    stage.run([failed])
    assert [one.tier for one in decided(stage)] == ["red", "red"]
    assert len({s.value for s in stage.sent}) == 2


@pytest.mark.parametrize("crash", ["early", "written", "sent"])
def test_a_repeated_refusal_is_the_same_byte_for_byte(crash: str) -> None:
    stage = theatre(clock=LiveClock())
    stage.run([record(BROKEN["missing field"][0], 0, topic="responses")], crash=crash)
    stage.run([record(BROKEN["missing field"][0], 0, topic="responses")])
    assert len({s.value for s in stage.sent if s.topic == "decisions"}) == 1


@pytest.mark.parametrize("together", [True, False])
def test_a_conversation_remembers_how_its_turns_were_received(*, together: bool) -> None:
    """Of an outcome that breaks the contract only the place is told; those around it count."""
    accepted = msgspec.structs.replace(outcome("l2"), response_id="r2", rejected=False, depth="none")
    came = [record(one, n, topic="outcomes") for n, one in enumerate((outcome(), b"{}", accepted))]
    stage = theatre()
    for batch in [came] if together else [[one] for one in came]:
        stage.run(batch)
    stage.run([record(response(), 3), record(response("r3", conversation_id="c3"), 4)])
    assert [one.groups["history"] for one in decided(stage)] == ["rejected", "none"]
    [letter] = [decode(DeadLetter, s.value) for s in stage.sent if s.topic == "dead-letters"]
    assert (letter.source_topic, letter.offset, letter.stage) == ("outcomes", 1, "score")


def test_nothing_is_decided_before_the_calibrations_are_read() -> None:
    class Late(Known):
        read = False

        def of(self, deployment: str) -> Calibrated:
            return super().of(deployment) if self.read else Calibrated()

        async def ready(self) -> None:
            self.read = True

    assert decide(response(), calibrations=Late()).tier == "green"


def test_what_is_no_longer_ours_is_forgotten() -> None:
    stage = theatre()
    stage.run([record(response(), 0)])
    held: Any = stage.stage
    held.forget()
    assert held._expiry.watermark == EPOCH


@pytest.mark.parametrize(
    ("came", "word", "last"),
    [
        ([], "none", None),
        ([("r0", False, 10)], "accepted", 10),
        ([("r0", True, 10), ("r1", False, 20)], "rejected", 20),
        ([("r0", True, 20), ("r0", False, 10)], "rejected", 20),
        ([("r0", False, 20), ("r0", True, 10)], "rejected", 20),
        ([("r0", True, 0), *((f"r{n}", False, n) for n in range(1, MAX_TURNS + 1))], "accepted", MAX_TURNS),
    ],
)
def test_any_rejection_among_the_last_turns_is_remembered(came: Any, word: str, last: int | None) -> None:
    """Whatever the order in which outcomes come; the row lives on from the latest."""
    history = History()
    for response_id, rejected, seconds in came:
        history = history.after(response_id, rejected=rejected, at=at(seconds))
    assert (history.word(), history.last) == (word, None if last is None else at(last))


@pytest.mark.parametrize("restart", [True, False])
def test_rows_are_gone_after_the_horizon(*, restart: bool) -> None:
    clock = Stopwatch()
    stage = theatre(clock=clock)
    stage.run([record(response(), 0)])
    stage.run([record(outcome(), 0)])
    if restart:
        stage.restart()
        stage.stage.forget()
        stage.tick()
    stage.run([record(response("r2", occurred_at=at(3 * 86_400)), 1)])
    stage.tick()
    clock.seconds += GRACE_S
    stage.tick()
    assert [key for _, key in stage.state.rows] == [b"r/r2"]


@pytest.mark.parametrize("first", ["a quiet second", "a record"])
def test_a_machine_that_starts_with_its_clock_in_the_past_forgets_nothing(first: str) -> None:
    """It has no battery: the clock is put right half a minute later. Rows are an hour old, and are kept a day."""
    before, behind = theatre(clock=HospitalClock(at(600))), HospitalClock(datetime(2020, 1, 1, tzinfo=UTC))
    before.run([record(response(), 0)])
    before.run([record(outcome(), 0)])
    after = theatre(clock=behind)
    after.state.rows |= before.state.rows
    behind.synchronise(at(3590).timestamp())
    if first == "a quiet second":
        after.tick()
    for n, seconds in enumerate((3600, 3630)):
        behind.observe_broker_time(at(seconds).timestamp())
        late = response(f"late{n}", conversation_id="c9", occurred_at=at(seconds))
        after.run([record(late, n)._replace(at=at(seconds).timestamp())])
        after.tick()
        behind.at = at(3630)
    for _ in range(3):
        behind.wait(GRACE_S)
        after.tick()
    assert sorted(key for _, key in after.state.rows) == [b"c/c1", b"r/late0", b"r/late1", b"r/r1"]


BROKEN_ROW = record(BROKEN["missing field"][0], 0, topic="responses")
USED: dict[str, tuple[Any, Any, bytes]] = {
    "response": (record(response(), 0), record(response(), 0), b"r/r1"),
    "refusal": (BROKEN_ROW, BROKEN_ROW, b"r/r1"),
    "outcome": (record(outcome(), 0), record(outcome("l2", at(0.9 * 86_400)), 0), b"c/c1"),
}


@pytest.mark.parametrize("again", USED)
def test_a_row_that_is_used_again_lives_on_from_then(again: str) -> None:
    """Until the last use is over; and then it goes, though it was noted twice."""
    clock = Stopwatch()
    stage = theatre(clock=clock)
    first, second, key = USED[again]
    stage.run([record(response("r0"), 0)])
    stage.run([first])
    stage.run([record(response("r2", occurred_at=at(0.9 * 86_400)), 1)])
    stage.run([second])
    for day, stands in ((1.5, True), (2.5, False)):
        stage.run([record(response(f"r{day}", occurred_at=at(day * 86_400)), 3)])
        clock.seconds += GRACE_S
        stage.tick()
        clock.seconds += GRACE_S
        stage.tick()
        assert ((0, key) in stage.state.rows) == stands


def test_the_batcher_takes_what_is_queued_up_to_its_budget() -> None:
    encoder = Stub()

    async def run() -> None:
        scorer = Scorer(encoder, Metrics(), budget=20, deadline_s=5.0)
        await asyncio.gather(*(scorer.score(response(f"r{n}", query="x" * 40, response="")) for n in range(5)))
        scorer.close()

    asyncio.run(run())
    assert encoder.batches == [2, 2, 1]


@pytest.mark.parametrize(("a_second", "batch"), [(0.1, 1), (15.0, 7), (75.0, 37), (1e6, 256)])
def test_no_more_is_taken_than_the_encoder_soon_answers(a_second: float, batch: int) -> None:
    """After a pause the topic is full. A large encoder would answer the last of a large batch when it is too late."""
    stage: Any = theatre(deadline_s=2.0).stage
    stage._parts.scorer._rate = a_second
    assert stage.batch == batch


@pytest.mark.parametrize(
    ("told", "known"),
    [("pe\u0301diatrie", "p\u00e9diatrie"), (" dosing\t", "dosing"), ("do\x1b]0;x\x07sing", "do]0;xsing"),
     ("\u200b", "unknown"), ("5\u00a0\u00b5g", "5 \u03bcg")],
)  # fmt: skip
def test_a_group_has_one_name_however_it_is_spelt(told: str, known: str) -> None:
    """A calibrator that brakes one would know nothing of the other, which could be green."""
    stage = theatre()
    stage.run([record(response(category=told), 0)])
    assert decided(stage)[0].groups["category"] == known


def many(size: int, count: int, partition: int = 0, of: int = 1) -> list[Any]:
    talk = next(name for name in map("c{}".format, range(99)) if home(name.encode(), of) == partition)
    asked = [response(f"p{partition}-{n}-{size}", conversation_id=talk, response="x" * size) for n in range(count)]
    return [record(one, n, topic="responses", partition=partition) for n, one in enumerate(asked)]


def short_ones_are_known(**how: Any) -> Any:
    """Of short texts, the encoder was quick to answer any number; 4,000 tokens it answers in a second."""
    stage = theatre(deadline_s=2.0, **how)
    scorer: Any = stage.stage._parts.scorer  # type: ignore[attr-defined]
    scorer._rate, scorer._pace = 1e6, 4000.0
    return stage


@pytest.mark.parametrize(("size", "taken"), [(10, 40), (5000, 2), (50_000, 1)])
def test_long_texts_after_short_ones_are_taken_by_their_length(size: int, taken: int) -> None:
    """A quarter of a deadline is 2,000 tokens; the speed at which short ones were answered tells nothing of these."""
    stage: Any = short_ones_are_known().stage
    for _ in range(3):  # what is answered makes room again
        stage._parts.scorer._rate, stage._parts.scorer._pace = 1e6, 4000.0
        plan = asyncio.run(stage.handle(0, many(size, 40)))
        assert (len(plan.sends), plan.left, plan.more) == (taken, 40 - taken, taken < 40)


def test_long_texts_of_several_partitions_share_what_is_left_of_the_deadline() -> None:
    stage: Any = short_ones_are_known().stage
    stage.context = context(partitions=4)

    async def run() -> list[int]:
        plans = await asyncio.gather(*(stage.handle(p, many(5000, 40, p, of=4)) for p in range(4)))
        return [len(plan.sends) for plan in plans]

    assert asyncio.run(run()) == [2, 2, 1, 1]


def test_where_a_batch_is_cut_changes_no_decision() -> None:
    whole, cut = theatre(), short_ones_are_known()
    for stage in (whole, cut):
        stage.run(many(5000, 10))
    assert whole.outcomes("decisions") == cut.outcomes("decisions")
