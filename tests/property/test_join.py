"""JOIN under every schedule: duplicates, reordering, redelivery, and crashes before and after each write."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import joining
from models.events import Closure, Label, Watermark, decode, encode
from models.joining import Horizons, Row
from streams.agents.join import Join
from streams.clock import Clock, EventClock
from streams.wire import Record
from tests.stagecraft import Theatre, at, context, decision, feedback, record

HORIZONS = Horizons(settle=timedelta(minutes=2), response=timedelta(days=1), orphan=timedelta(hours=2))
END = [record(Watermark(occurred_at=at(10 * 86_400)), 1000, topic=topic) for topic in Watermark.topics]
ACTIONS = ("accepted", "edited", "disagreed", "flagged", "abandoned", "retracted")
CRASHES = ("no", "no", "no", "early", "written", "sent", "written written", "sent written")

said = st.builds(
    lambda n, response, who, action, seconds: feedback(
        f"f{n}", f"r{response}", clinician=who, action=action, seconds=seconds
    ),
    st.integers(0, 9), st.integers(0, 3), st.sampled_from(["ann", "ben"]), st.sampled_from(ACTIONS), st.integers(0, 90),
)  # fmt: skip
asked = st.builds(lambda n: decision(f"r{n}", seconds=n), st.integers(0, 3))
inputs = st.lists(said | asked, max_size=25)


def theatre(clock: Clock | None = None) -> Theatre:
    watch = clock or EventClock()
    return Theatre(lambda state: Join(context(), state, HORIZONS, watch, (b"",)))


def play(events: list[Any], sizes: random.Random | None = None, crashes: random.Random | None = None) -> Theatre:
    return run([*(record(event, n) for n, event in enumerate(events)), *END], sizes, crashes)


def run(records: list[Record], sizes: random.Random | None = None, crashes: random.Random | None = None) -> Theatre:
    stage = theatre()
    while records:
        size = sizes.randint(1, 6) if sizes else 1
        batch, records = records[:size], records[size:]
        stage.run(batch, crash=crashes.choice(CRASHES) if crashes else "no")
    stage.tick()
    return stage


def labels(stage: Theatre) -> list[Label]:
    return [decode(Label, value) for value in stage.outcomes("labels")["labels"]]


def endings(stage: Theatre) -> list[Closure]:
    return [decode(Closure, value) for value in stage.outcomes("closures")["closures"]]


def verdicts(stage: Theatre) -> set[tuple[str, str, str, float]]:
    """What counts: who said what of which response, however it came."""
    return {(x.response_id, x.clinician, x.feedback_id, x.weight) for x in labels(stage)}


@given(inputs, st.randoms(use_true_random=False))
def test_crashes_and_batches_change_nothing(events: list[Any], rng: random.Random) -> None:
    plain = play(events).outcomes("labels", "closures", "outcomes")
    assert play(events, rng, rng).outcomes("labels", "closures", "outcomes") == plain


@given(inputs)
def test_every_feedback_has_exactly_one_end(events: list[Any]) -> None:
    stage = play(events)
    told = sorted(e.feedback_id for e in events if hasattr(e, "feedback_id"))
    ends = [x.feedback_id for x in labels(stage)] + [x.feedback_id for x in endings(stage) if x.feedback_id]
    assert sorted(ends) == told


@given(inputs)
def test_every_response_is_labelled_or_closed(events: list[Any]) -> None:
    stage = play(events)
    asked = {e.response_id for e in events if not hasattr(e, "feedback_id")}
    labelled = {x.response_id for x in labels(stage)}
    unlabelled = {x.response_id for x in endings(stage) if x.reason == "unlabelled"}
    assert labelled | unlabelled == asked
    assert not labelled & unlabelled


@given(inputs)
def test_a_clinician_counts_once_per_response(events: list[Any]) -> None:
    first = [(x.response_id, x.clinician) for x in labels(play(events)) if x.kind == "verdict"]
    assert len(first) == len(set(first))


HOURS, DAY = HORIZONS.orphan.total_seconds(), HORIZONS.response.total_seconds()
TOLD = st.tuples(
    st.sampled_from(["ann", "ben"]),
    st.sampled_from(ACTIONS),
    st.sampled_from([0, 60, 119, 120, 121, 240, HOURS, DAY - 1, DAY, DAY + 1, DAY + 120, DAY + 121]),
)


@given(st.lists(TOLD, max_size=8), st.booleans())
def test_a_row_knows_what_it_has_led_to_and_when(told: list[Any], known: bool) -> None:  # noqa: FBT001
    """After a crash its outcomes are told again in the order in which they fell due."""
    row, found = Row("r0"), []
    if known:
        row = joining.on_decision(row, joining.stored_decision(decision("r0"), at(0)))
    for n, (who, action, seconds) in enumerate(told):
        said = feedback(f"f{n}", "r0", clinician=who, action=action, seconds=seconds)
        row, now = joining.on_feedback(row, joining.stored_feedback(said, f"0:{n}", b"", at(seconds)), HORIZONS)
        assert now == ()
    while (due := row.due(HORIZONS)) is not None:
        row, effects = joining.on_time(row, due, HORIZONS, 1)
        found += [(due if known else one.closed_at, encode(one)) for one in effects]
    assert sorted((when, encode(one)) for when, one in joining.outcomes(row, HORIZONS)) == sorted(found)


@given(inputs, st.randoms(use_true_random=False))
def test_the_order_of_arrival_within_the_horizon_does_not_matter(events: list[Any], rng: random.Random) -> None:
    """All happens within the settle window; feedback ids are told apart by what they say, so the first of two with one
    id must stay the first."""
    once = list({getattr(e, "feedback_id", e.response_id): e for e in events}.values())
    shuffled = rng.sample(once, len(once))
    assert verdicts(play(once)) == verdicts(play(shuffled))


@pytest.mark.parametrize("seed", range(100))
def test_the_speed_of_either_input_changes_nothing_not_even_the_order(seed: int) -> None:
    """Decisions and feedback in the order of their topics, read side by side or one long before the other, in batches
    that crash or do not: the same labels in the same order, so the same calibrator."""
    rng = random.Random(seed)
    asked = [record(decision(f"r{n}", seconds=n * 600), n) for n in range(12)]
    said = sorted((_any_feedback(n, rng) for n in range(30)), key=lambda event: event.occurred_at)
    told = [record(event, n) for n, event in enumerate(said)]
    decided, answered = [*asked, END[0]], [*told, END[1]]
    plain = run([*decided, *answered])
    merged = run(merge(decided, answered, rng), rng, rng)
    assert merged.outcomes("labels", "closures", "outcomes") == plain.outcomes("labels", "closures", "outcomes")
    assert log(merged) == log(plain)


def log(stage: Theatre) -> list[bytes | None]:
    """The first verdicts in the order in which a reader that knows ids sees them."""
    found = dict.fromkeys(s.value for s in stage.sent if s.topic == "labels")
    return [value for value in found if value and decode(Label, value).kind == "verdict"]


def merge(first: list[Record], second: list[Record], rng: random.Random) -> list[Record]:
    left, right, share = first[::-1], second[::-1], rng.random()
    return [(left if left and (not right or rng.random() < share) else right).pop() for _ in (*first, *second)]


def _any_feedback(n: int, rng: random.Random) -> Any:
    """Within a day, so that some come after the orphans' horizon, some to no response, some to one that is settled."""
    who, action = rng.choice(["ann", "ben"]), rng.choice(ACTIONS)
    response, delay = rng.randint(0, 13), rng.choice([rng.randint(0, 300), rng.randint(0, 80_000)])
    return feedback(f"f{n}", f"r{response}", clinician=who, action=action, seconds=response * 600 + delay)


@pytest.mark.parametrize("seeds", [range(2000), pytest.param(range(2000, 100_000), marks=pytest.mark.slow)])
def test_seeded_schedules(seeds: range) -> None:
    """The same with seeds instead of shrinking: a hundred thousand in the long run."""
    for seed in seeds:
        rng = random.Random(seed)
        events = [_any(rng) for _ in range(rng.randint(0, 12))]
        plain = play(events).outcomes("labels", "closures", "outcomes")
        assert play(events, rng, rng).outcomes("labels", "closures", "outcomes") == plain, seed


@pytest.mark.parametrize("seed", range(200))
def test_it_does_not_matter_how_many_rows_a_plan_may_hold(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """When a long pause ends all rows are due at once; what comes then must find what time has made of them."""
    rng = random.Random(seed)
    asked = [record(decision(f"r{n}", seconds=rng.choice([0, 7 * 86_400])), n) for n in range(14)]
    told = [record(_any_feedback(n, rng), n) for n in range(30)]
    mixed = [*merge(asked, told, rng), *END]
    plain = run(mixed)
    monkeypatch.setattr("streams.agents.join.MAX_ROWS_PER_PLAN", rng.randint(1, 3))
    assert run(mixed, rng).sent == plain.sent
    crashed = run(mixed, rng, rng)
    assert crashed.outcomes("labels", "closures", "outcomes") == plain.outcomes("labels", "closures", "outcomes")


def _any(rng: random.Random) -> Any:
    response = rng.randint(0, 3)
    if rng.random() < 0.3:
        return decision(f"r{response}", seconds=response)
    who, action = rng.choice(["ann", "ben"]), rng.choice(ACTIONS)
    return feedback(f"f{rng.randint(0, 9)}", f"r{response}", clinician=who, action=action, seconds=rng.randint(0, 90))
