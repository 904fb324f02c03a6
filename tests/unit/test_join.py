"""JOIN as a table: what arrives, beside what it must lead to."""

import asyncio
import hashlib
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from models.errors import DeliveryError
from models.events import Closure, DeadLetter, Label, Outcome, Watermark, decode, encode
from models.joining import Horizons
from models.salience import digest
from streams.agents.join import Join, Progress
from streams.timers import GRACE_S
from streams.wire import Record
from tests.stagecraft import HospitalClock, Stopwatch, Theatre, at, context, decision, feedback, record

DIGEST_KEYS = (b"key", b"former")
HORIZONS = Horizons(settle=timedelta(minutes=2), response=timedelta(days=1), orphan=timedelta(hours=2))


def passed(seconds: float) -> list[Record]:
    """Both inputs have come that far."""
    return [record(Watermark(occurred_at=at(seconds)), 1000, topic=topic) for topic in Watermark.topics]


LATER, END = passed(5 * 60), passed(10 * 86_400)


def theatre(clock: Stopwatch | None = None) -> Theatre:
    watch = clock or Stopwatch()
    return Theatre(lambda state: Join(context(), state, HORIZONS, watch, DIGEST_KEYS))


def sequence(*events: Any) -> list[Record]:
    """Put events behind one another; `LATER` and the like are two records each."""
    return [r for n, e in enumerate(events) for r in (e if isinstance(e, list) else [record(e, n)])]


def told(*events: Any, batch: int = 100) -> list[str]:
    """Deliver events in this order; return what followed, in words."""
    stage = theatre()
    records = sequence(*events)
    for start in range(0, len(records), batch):
        stage.run(records[start : start + batch])
    return [word for send in stage.sent if (word := say(send.topic, send.value))]


def waiting(stage: Theatre) -> float:
    stage_: Any = stage.stage
    [sample] = stage_.context.metrics.open_rows.collect()[0].samples
    return float(sample.value)


def test_the_gauge_counts_rows_that_wait_and_no_timers() -> None:
    stage = theatre()
    steps: list[tuple[list[Any], float]] = [
        ([decision(), decision("r2"), feedback("f1"), feedback("f2", seconds=60, clinician="bob")], 2),
        ([LATER], 2),
        ([feedback("f3", "r3", seconds=300)], 3),
        ([passed(3 * 3600)], 2),
        ([decision("r3", 300)], 3),
        ([END], 0),
    ]
    for n, (events, expected) in enumerate(steps):
        records = sequence(*events)
        stage.run(records, crash="written" if n == 2 else "no")
        assert waiting(stage) == expected, n


def say(topic: str, value: bytes) -> str:
    if topic == "labels":
        label = decode(Label, value)
        verdict = "rejects" if label.rejected else "accepts"
        return f"{label.kind} {label.feedback_id}: {label.clinician} {verdict} {label.depth} x{label.weight:g}"
    if topic == "closures":
        closure = decode(Closure, value)
        return f"{closure.reason} {closure.feedback_id or closure.response_id}"
    return "" if topic == "outcomes" else topic


DAY = 86_400
FORGED = encode(decision(tier="green"))  # arrives on `feedback`
EDIT = "Give 5 mg of amlodipine."
CASES: dict[str, tuple[list[Any], list[str]]] = {
    "accepted": ([decision(), feedback("f1"), LATER], ["verdict f1: ann accepts none x1"]),
    "feedback first": ([feedback("f1"), decision(), LATER], ["verdict f1: ann accepts none x1"]),
    "not settled yet": ([decision(), feedback("f1")], []),
    "never": ([decision(), END], ["unlabelled r1"]),
    "no response": ([feedback("f1"), END], ["orphan f1"]),
    "each feedback waits for itself": (
        [
            feedback("f1"),
            feedback("f2", clinician="ben", seconds=2 * 3600 - 60, action="disagreed"),
            passed(2 * 3600 + 30),
            decision(),
            END,
        ],
        ["orphan f1", "verdict f2: ben rejects deep x1"],
    ),
    "each feedback waits for itself, in vain": (
        [feedback("f1"), feedback("f2", seconds=3600), passed(2 * 3600 + 30), passed(3 * 3600 + 30), decision(), END],
        ["orphan f1", "orphan f2", "unlabelled r1"],
    ),
    "twice": ([decision(), feedback("f1"), feedback("f1"), LATER], ["duplicate f1", "verdict f1: ann accepts none x1"]),
    "changed mind in time": (
        [decision(), feedback("f1", action="disagreed"), feedback("f2", seconds=60), LATER],
        ["superseded f1", "verdict f2: ann accepts none x1"],
    ),
    "changed mind in time, delivered backwards": (
        [decision(), feedback("f2", seconds=60), feedback("f1", action="disagreed"), LATER],
        ["superseded f1", "verdict f2: ann accepts none x1"],
    ),
    "changed mind late": (
        [decision(), feedback("f1"), LATER, feedback("f2", seconds=600, action="flagged"), END],
        ["verdict f1: ann accepts none x1", "correction f2: ann rejects deep x1"],
    ),
    "changed mind after the window, both before anyone looked": (
        [feedback("f2", seconds=600, action="flagged"), feedback("f1"), decision(), END],
        ["verdict f1: ann accepts none x1", "correction f2: ann rejects deep x1"],
    ),
    "the decision comes last by far": (
        [feedback("f1"), passed(3 * 86_400)[1:], decision(), END],
        ["verdict f1: ann accepts none x1"],
    ),
    "after the horizon, though nothing was closed yet": (
        [decision(), feedback("f1", seconds=90_000), END],
        ["orphan f1", "unlabelled r1"],
    ),
    "in the last moment of the horizon": (
        [decision(), feedback("f1", seconds=DAY), END],
        ["verdict f1: ann accepts none x1"],
    ),
    "a moment after": ([decision(), feedback("f1", seconds=DAY + 1), END], ["orphan f1", "unlabelled r1"]),
    "in the last moment of a response that a clock dates ahead": (
        [decision(occurred_at=at(240)), feedback("f1", seconds=DAY + 240), END],
        ["verdict f1: ann accepts none x1"],
    ),
    "changed mind in the last moment of the window": (
        [decision(), feedback("f1", action="disagreed"), feedback("f2", seconds=130), LATER],
        ["superseded f1", "verdict f2: ann accepts none x1"],
    ),
    "the decision comes again after the end": (
        [decision(), passed(2 * DAY), decision(), feedback("f1"), END],
        ["unlabelled r1", "orphan f1"],
    ),
    "older verdict late": (
        [decision(), feedback("f2", seconds=60), LATER, feedback("f1", action="flagged")],
        ["verdict f2: ann accepts none x1", "superseded f1"],
    ),
    "retracted in time": (
        [decision(), feedback("f1", action="flagged"), feedback("f2", seconds=60, action="retracted"), LATER],
        ["superseded f1", "verdict f2: ann accepts none x0"],
    ),
    "retracted late": (
        [decision(), feedback("f1", action="flagged"), LATER, feedback("f2", seconds=900, action="retracted"), END],
        ["verdict f1: ann rejects deep x1", "revocation f2: ann accepts none x0"],
    ),
    "two clinicians share": (
        [decision(), feedback("f1"), feedback("f2", clinician="ben", action="disagreed"), LATER],
        ["verdict f1: ann accepts none x0.5", "verdict f2: ben rejects deep x0.5"],
    ),
    "who walked away has said nothing yet": (
        [
            decision(),
            feedback("f1", action="abandoned"),
            LATER,
            feedback("f2", seconds=600, action="disagreed"),
            passed(1000),
            feedback("f3", seconds=1200),
            END,
        ],
        ["verdict f1: ann accepts none x0", "verdict f2: ann rejects deep x1", "correction f3: ann accepts none x1"],
    ),
    "who walked away speaks as one more": (
        [
            decision(),
            feedback("f1"),
            feedback("f2", clinician="ben", action="abandoned"),
            LATER,
            feedback("f3", clinician="ben", seconds=600, action="disagreed"),
            END,
        ],
        ["verdict f1: ann accepts none x1", "verdict f2: ben accepts none x0", "verdict f3: ben rejects deep x0.5"],
    ),
    "who walks away again takes nothing back": (
        [decision(), feedback("f1"), LATER, feedback("f2", seconds=600, action="abandoned"), END],
        ["verdict f1: ann accepts none x1", "correction f2: ann accepts none x0"],
    ),
    "a clinician who was silent takes no share of later ones": (
        [
            decision(),
            feedback("f1", action="abandoned"),
            LATER,
            feedback("f2", clinician="ben", seconds=600, action="disagreed"),
            END,
        ],
        ["verdict f1: ann accepts none x0", "verdict f2: ben rejects deep x1"],
    ),
    "nor one who is silent later": (
        [
            decision(),
            feedback("f1"),
            LATER,
            feedback("f2", clinician="ben", seconds=600, action="abandoned"),
            passed(1000),
            feedback("f3", clinician="cem", seconds=1200, action="disagreed"),
            END,
        ],
        ["verdict f1: ann accepts none x1", "verdict f2: ben accepts none x0", "verdict f3: cem rejects deep x0.5"],
    ),
    "a silent clinician takes no share": (
        [decision(), feedback("f1"), feedback("f2", clinician="ben", action="abandoned"), LATER],
        ["verdict f1: ann accepts none x1", "verdict f2: ben accepts none x0"],
    ),
    "a second clinician later": (
        [decision(), feedback("f1"), LATER, feedback("f2", clinician="ben", seconds=900), END],
        ["verdict f1: ann accepts none x1", "verdict f2: ben accepts none x0.5"],
    ),
    "a third clinician later still": (
        [
            decision(),
            feedback("f1"),
            LATER,
            feedback("f2", clinician="ben", seconds=900),
            feedback("f3", clinician="cem", seconds=1800),
            END,
        ],
        [
            "verdict f1: ann accepts none x1",
            "verdict f2: ben accepts none x0.5",
            "verdict f3: cem accepts none x0.333333",
        ],
    ),
    "an older verdict of a second clinician, late": (
        [decision(), feedback("f1", clinician="ben", seconds=60), LATER, feedback("f2", seconds=20, action="flagged")],
        ["verdict f1: ben accepts none x1", "verdict f2: ann rejects deep x0.5"],
    ),
    "an older verdict late, of one of two": (
        [
            decision(),
            feedback("f2", seconds=60),
            feedback("f3", clinician="ben", seconds=60),
            LATER,
            feedback("f1", seconds=20, action="flagged"),
        ],
        ["superseded f1", "verdict f2: ann accepts none x0.5", "verdict f3: ben accepts none x0.5"],
    ),
    "edit that nobody shows": (
        [decision(), feedback("f1", action="edited"), LATER],
        ["verdict f1: ann rejects surface x1"],
    ),
    "after the end": (
        [decision(), passed(2 * 86_400), feedback("f1"), END],
        ["unlabelled r1", "orphan f1"],
    ),
    "response after its feedback was given up": (
        [feedback("f1"), passed(3 * 3600), decision(), END],
        ["orphan f1", "unlabelled r1"],
    ),
    "edit of wording": (
        [
            decision(salience_digest=digest(EDIT, b"key")),
            feedback("f1", action="edited", edited_response=f"Please: {EDIT}"),
            LATER,
        ],
        ["verdict f1: ann rejects surface x1"],
    ),
    "edit of a dose": (
        [
            decision(salience_digest=digest(EDIT, b"key")),
            feedback("f1", action="edited", edited_response="Give 10 mg of amlodipine."),
            LATER,
        ],
        ["verdict f1: ann rejects deep x1"],
    ),
    "edit of wording, of a response that was decided on before the key was changed": (
        [
            feedback("f1", action="edited", edited_response=f"Please: {EDIT}"),
            decision(salience_digest=digest(EDIT, b"former")),
            LATER,
        ],
        ["verdict f1: ann rejects surface x1"],
    ),
    "edit of a dose, of a response that was decided on before the key was changed": (
        [
            decision(salience_digest=digest(EDIT, b"former")),
            feedback("f1", action="edited", edited_response="Give 10 mg of amlodipine."),
            LATER,
        ],
        ["verdict f1: ann rejects deep x1"],
    ),
    "a flag with an edit of wording": (
        [
            decision(salience_digest=digest(EDIT, b"key")),
            feedback("f1", action="flagged", edited_response=f"Please: {EDIT}"),
            LATER,
        ],
        ["verdict f1: ann rejects deep x1"],
    ),
    "reason before edit": (
        [
            decision(salience_digest=digest(EDIT, b"key")),
            feedback("f1", action="edited", edited_response=EDIT, reason_code="recipient-concerns-outcomes"),
            LATER,
        ],
        ["verdict f1: ann rejects deep x1"],
    ),
    "a decision where feedback belongs": ([FORGED, decision(), END], ["dead-letters", "unlabelled r1"]),
    "broken": ([decision(), b"\xff", feedback("f1"), LATER], ["dead-letters", "verdict f1: ann accepts none x1"]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [1, 100])
def test_join(name: str, batch: int) -> None:
    events, expected = CASES[name]
    assert sorted(told(*events, batch=batch)) == sorted(expected)


def test_a_rejection_reaches_the_conversation() -> None:
    stage = theatre()
    stage.run(sequence(decision(turn=2), feedback("f1", action="flagged"), LATER))
    [outcome] = [decode(Outcome, s.value) for s in stage.sent if s.topic == "outcomes"]
    assert (outcome.conversation_id, outcome.turn, outcome.rejected, outcome.depth) == ("c-r1", 2, True, "deep")


def test_who_says_nothing_tells_the_conversation_nothing() -> None:
    stage = theatre()
    stage.run(sequence(decision(), feedback("f1", action="abandoned"), LATER))
    assert [s.topic for s in stage.sent] == ["labels"]


def test_a_correction_names_the_label_that_it_replaces() -> None:
    """The first has one id whatever it says, in every version of this program: so it counts once."""
    stage = theatre()
    for one in sequence(
        decision(), feedback("f1", seconds=-5), LATER, feedback("f2", seconds=600), feedback("f3", seconds=900), END
    ):
        stage.run([one])
    labels = [decode(Label, s.value) for s in stage.sent if s.topic == "labels"]
    ids = [hashlib.sha256(f"r1\x1fann\x1f{last}".encode()).hexdigest()[:32] for last in ("", "f2", "f3")]
    assert [one.label_id for one in labels] == ids
    assert [one.revises for one in labels] == [None, *ids[:2]]
    assert [one.delay_s for one in labels] == [0.0, 600.0, 900.0]


def test_a_response_dated_years_ahead_comes_to_its_end_all_the_same() -> None:
    years = decision(occurred_at=at(10 * 365 * 86_400))
    assert told(years, END) == ["unlabelled r1"]
    assert told(years, feedback("f"), END) == ["verdict f: ann accepts none x1"]
    late = feedback("f", seconds=2 * 86_400)
    assert told(years, late, END) == ["orphan f", "unlabelled r1"]


@pytest.mark.parametrize("clock", [-6 * 365 * DAY, -301.0, 0.0, 400.0 * DAY])
def test_a_scorer_whose_clock_is_wrong_shortens_no_horizon(clock: float) -> None:
    """The broker took the decision a second after the response: that is not dated ahead, whatever `decided_at` says."""
    stage = theatre()
    stage.run([record(decision(decided_at=at(clock)), 0)._replace(at=at(1).timestamp())])
    stage.run(sequence(feedback("f", seconds=3600), END))
    assert [say(s.topic, s.value) for s in stage.sent if s.topic != "outcomes"] == ["verdict f: ann accepts none x1"]


@pytest.mark.parametrize("grace", [0.0, GRACE_S])
@pytest.mark.parametrize("together", [True, False])
def test_a_row_that_is_closed_and_opens_again_is_kept(grace: float, *, together: bool) -> None:
    clock = Stopwatch()
    stage = theatre(clock)
    stage.run([record(feedback("f1"), 0)])
    batch = [*passed(3 * 3600), record(decision(), 2)]
    for part in [batch] if together else [batch[:2], batch[2:]]:
        stage.run(part)
    for later in (passed(4 * 3600), END):
        clock.seconds += grace
        stage.run(later)
    assert [say(s.topic, s.value) for s in stage.sent] == ["orphan f1", "unlabelled r1"]


@pytest.mark.parametrize("grace", [0.0, GRACE_S])
def test_a_timer_of_a_row_that_is_gone_wakes_nobody(grace: float) -> None:
    """A clinician's clock is days ahead: the row ends before its feedback would have been given up as an orphan."""
    clock = Stopwatch()
    stage = theatre(clock)
    times = (0, 5 * 86_400 + 180, 5 * 86_400 + 240, 5 * 86_400 + 2 * 3600 + 1)
    for one in sequence(feedback("f1", seconds=5 * 86_400), decision(), *map(passed, times)):
        stage.run([one])
        clock.seconds += grace
    assert [say(s.topic, s.value) for s in stage.sent if s.topic != "outcomes"] == ["orphan f1", "unlabelled r1"]


@pytest.fixture
def clock() -> HospitalClock:
    return HospitalClock(at(60))


@pytest.fixture
def live(clock: HospitalClock) -> Theatre:
    return Theatre(lambda state: Join(context(), state, HORIZONS, clock, DIGEST_KEYS))


def test_events_dated_a_day_ahead_end_nothing_early(live: Theatre) -> None:
    ahead = 86_400 + 600
    live.run(sequence(decision(), decision("r2", seconds=ahead), feedback("f2", "r2", seconds=ahead + 10)))
    live.run(sequence(feedback("f0", "r0")))
    live.tick(decisions=at(60), feedback=at(60))
    assert live.sent == []


def test_time_that_ran_ahead_before_a_restart_is_right_after_it(live: Theatre, clock: HospitalClock) -> None:
    """Rows of a version that believed one clock: what came next was over before it was heard."""
    clock.synchronise(at(60).timestamp())
    live.state.rows[0, b"\x00progress/0"] = msgspec.json.encode(Progress(at(400 * DAY), at(400 * DAY), 7))
    live.run(sequence(decision(), feedback("f1")))
    clock.wait(600)
    live.tick(decisions=clock.at, feedback=clock.at)
    assert [say(s.topic, s.value) for s in live.sent if s.topic != "outcomes"] == ["verdict f1: ann accepts none x1"]


def test_in_a_replay_no_time_passes_but_that_of_the_events() -> None:
    stage = theatre()
    stage.run(sequence(decision()))
    stage.tick(decisions=at(10 * DAY), feedback=at(10 * DAY))
    assert stage.sent == []


def test_what_cannot_be_processed_is_a_dead_letter() -> None:
    [sent] = asyncio.run(theatre().stage.poison(record(feedback("f1"), 7))).sends
    letter = decode(DeadLetter, sent.value)
    assert (letter.code, letter.stage, letter.source_topic, letter.offset) == ("internal", "join", "feedback", 7)


def test_dates_ahead_of_their_arrival_are_cut_also_when_they_are_read_days_later(
    live: Theatre, clock: HospitalClock
) -> None:
    clock.at = at(3 * 86_400)
    came = [at(60).timestamp()] * 3
    ahead = sequence(decision(), decision("r2", seconds=2 * 86_400), feedback("f2", "r2", seconds=2 * 86_400))
    live.run([one._replace(at=when) for one, when in zip(ahead, came, strict=True)])
    live.run(sequence(feedback("f1", seconds=3600)))
    assert live.sent == []


@pytest.mark.parametrize("restart", [False, True])
def test_feedback_dated_years_ahead_waits_no_longer_for_its_response_than_other_feedback(
    live: Theatre, clock: HospitalClock, *, restart: bool
) -> None:
    """A client's year is wrong, and its ids are: its rows would stand, and its feedback have no end, for as long."""
    years, orphan = 10 * 365 * 86_400.0, HORIZONS.orphan.total_seconds()
    ahead = record(feedback("f", seconds=years), 0)
    live.run([ahead._replace(at=at(60).timestamp())])
    if restart:
        live.restart()
    for seconds, ends in ((60 + 300 + orphan - 1, []), (60 + 300 + orphan, ["orphan f"])):
        clock.at = at(seconds)
        live.tick(decisions=clock.at, feedback=clock.at)
        assert [say(s.topic, s.value) for s in live.sent] == ends
    assert decode(Closure, live.sent[0].value).closed_at == at(years + orphan), "it says the same whenever it came"
    live.run([ahead._replace(at=at(60).timestamp())], crash="sent")
    assert len({s.value for s in live.sent}) == 1


def test_a_clock_that_is_set_back_a_day_takes_nothing_back(live: Theatre, clock: HospitalClock) -> None:
    live.run(sequence(decision(), feedback("f1")))
    for seconds in (-86_400, 120, 200):
        clock.at = at(seconds)
        live.tick(decisions=clock.at, feedback=clock.at)
    assert [say(s.topic, s.value) for s in live.sent if s.topic == "labels"] == ["verdict f1: ann accepts none x1"]
    clock.at = at(-86_400)
    live.run(sequence(decision("r2", seconds=-3600)))
    live.tick(decisions=clock.at, feedback=clock.at)
    assert len(live.sent) == 2


def test_after_a_pause_no_time_passes_over_what_waits_to_be_read(live: Theatre) -> None:
    """Feedback came in time, while the worker was down: now the topic is full, and it lies at its end."""
    after = HORIZONS.response.total_seconds() + 600
    live.run(sequence(decision(), feedback("f1", "r0")))
    live.tick(decisions=at(after))
    assert live.sent == []
    live.run([record(feedback("f2", seconds=3600), 2)])
    live.tick(decisions=at(after), feedback=at(after))
    assert [say(s.topic, s.value) for s in live.sent if s.topic != "outcomes"] == [
        "verdict f2: ann accepts none x1",
        "orphan f1",
    ]


def test_a_client_in_a_loop_cannot_grow_a_row_beyond_what_a_broker_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.joining.MAX_FEEDBACK", 2)
    said = [feedback(f"f{n}", clinician=f"c{n}") for n in range(3)]
    assert told(decision(), *said, said[0], LATER, batch=1) == [
        "dead-letters",
        "duplicate f0",
        "verdict f0: c0 accepts none x0.5",
        "verdict f1: c1 accepts none x0.5",
    ]
    assert told(decision(), passed(2 * DAY), *said, batch=1) == [
        "unlabelled r1",
        "orphan f0",
        "orphan f1",
        "dead-letters",
    ]


@pytest.mark.parametrize("came", [[decision(), feedback("f1")], [decision()], [feedback("f1")]])
@pytest.mark.parametrize("restart", [True, False])
def test_rows_are_gone_when_all_is_over(came: list[Any], *, restart: bool) -> None:
    clock = Stopwatch()
    stage = theatre(clock)
    for one in sequence(*came, LATER, END):
        stage.run([one])
    if restart:
        stage.restart()
        stage.tick()
    clock.seconds += GRACE_S
    stage.tick()
    assert [key for _, key in stage.state.rows] == [b"\x00progress/0"]


def test_no_row_goes_while_its_batch_is_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long pause there may be minutes between the first of its plans and the last."""
    monkeypatch.setattr("streams.agents.join.MAX_ROWS_PER_PLAN", 1)
    clock = Stopwatch()
    stage = theatre(clock)
    stage.run(sequence(*(decision(f"r{n}") for n in range(4))))
    carry_out = stage.stage.done

    def slowly(partition: int) -> None:
        clock.seconds += GRACE_S
        carry_out(partition)

    stage.stage.done = slowly  # type: ignore[method-assign]
    stage.run([*passed(40 * 86_400)])
    assert sorted(key for _, key in stage.state.rows if key.startswith(b"r")) == [b"r0", b"r1", b"r2", b"r3"]
    for _ in range(5):
        stage.tick()
    assert [key for _, key in stage.state.rows] == [b"\x00progress/0"]


@pytest.mark.parametrize("restart", [True, False])
def test_a_write_that_is_cut_short_loses_no_label(*, restart: bool) -> None:
    """The broker has the row that was settled, and not how far its batch had come: its label is sent all the same."""
    stage, last = theatre(), passed(900)
    before = (decision(), feedback("f1"), LATER, decision("r2", 400), feedback("f2", "r2", 410), last[:1])
    for one in sequence(*before):
        stage.run([one])
    if restart:
        stage.restart()
    plan = asyncio.run(stage.stage.handle(0, last[1:]))
    stage.state.apply(0, plan._replace(rows={b"r2": plan.rows[b"r2"]}))
    stage.restart()
    stage.run(last[1:])
    labels = [decode(Label, s.value).feedback_id for s in stage.sent if s.topic == "labels"]
    assert labels == ["f1", "f2"]


@pytest.mark.parametrize("crash", ["written", "written written", "written early written", "written sent written"])
def test_crashes_in_a_row_lose_no_label(crash: str) -> None:
    """Who takes over sends what may not have been sent; until that is done, whoever is next must do so too."""
    stage, last = theatre(), passed(900)
    for one in sequence(decision(), feedback("f1"), last[:1]):
        stage.run([one])
    stage.run(last[1:], crash=crash)
    assert {decode(Label, s.value).feedback_id for s in stage.sent if s.topic == "labels"} == {"f1"}


def test_whoever_takes_a_partition_over_repeats_the_last_batch_and_no_other() -> None:
    stage = theatre()
    for one in sequence(decision(), feedback("f1"), LATER, decision("r2", 400), feedback("f2", "r2", 410), passed(900)):
        stage.run([one])
    told = len(stage.sent)
    stage.restart()
    stage.tick()
    assert [say(s.topic, s.value) for s in stage.sent[told:] if s.topic == "labels"] == [
        "verdict f2: ann accepts none x1"
    ]


def test_whoever_takes_a_partition_up_again_goes_on_where_others_left_it() -> None:
    stage = theatre()
    stage.run(sequence(decision()))
    first = stage.stage
    first.forget()
    stage.restart()
    stage.run(sequence(decision("r2", 30), feedback("f1", seconds=40), feedback("f2", "r2", 40)))
    stage.stage = first
    stage.run(LATER)
    assert [say(s.topic, s.value) for s in stage.sent if s.topic == "labels"] == [
        "verdict f1: ann accepts none x1",
        "verdict f2: ann accepts none x1",
    ]


def test_rows_of_another_version_end_the_worker() -> None:
    """Going on would leave the other rows of the partition without timers."""
    stage = theatre()
    stage.run(sequence(decision()))
    stage.state.rows[0, b"r1"] = b"[1]"
    stage.restart()
    for _ in range(2):
        with pytest.raises(DeliveryError, match="another version"):
            stage.run(sequence(decision("r2")))


def test_what_comes_again_after_the_end_changes_nothing() -> None:
    """A worker died before it committed: its successor reads again what was over, and so does the stage before it."""
    stage = theatre()
    for one in sequence(decision(), feedback("f1"), decision("r2"), END):
        stage.run([one])
    stage.tick()
    stage.tick()
    before = stage.outcomes("labels", "closures")
    for one in sequence(decision(), feedback("f1"), decision("r2"), END):
        stage.run([one])
    stage.tick()
    assert stage.outcomes("labels", "closures") == before
    assert [len(values) for values in before.values()] == [1, 1]


def test_patient_text_stays_out_of_the_state_and_of_what_is_sent() -> None:
    stage = theatre()
    canary = "CANARY-4711"
    said = feedback("f1", action="edited", edited_response=f"{canary} 5 mg", comment=canary)
    stage.run(sequence(decision(), said, f"{{{canary}".encode(), LATER))
    written = b"".join(stage.state.rows.values()) + b"".join(s.value + str(s.headers).encode() for s in stage.sent)
    assert canary.encode() not in written
