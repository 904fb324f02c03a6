"""The oracle finds nothing in what the stages leave, whatever the interleaving, and every change of it."""

from datetime import timedelta
from functools import cache, partial
from typing import Any

import pytest

from models.events import encode
from models.oracle import Logs, check
from streams.feed import broken, items
from tests.rehearsal import RULES, Rehearsal, week
from tests.stagecraft import feedback
from tests.tampering import Forger

LOST = "a response without a decision, though its offset is committed"


def run(seed: int, *, responses: int = 60, crashes: bool = True, partitions: int = 2, **how: Any) -> Rehearsal:
    told = week(responses, seed)
    what = list(items(told.arrivals))
    for n, item in enumerate(broken(told.responses[0], told.feedback[0])):
        if len(item.value) < 10_000:
            what.insert(7 * n, item._replace(arrives_at=what[7 * n].arrives_at))
    stages = Rehearsal(seed, crashes=crashes, partitions=partitions)
    return stages.play(what, **{name: partial(do, stages) for name, do in how.items()})


@cache
def whole() -> Logs:
    """A run without crashes, so that nothing is there twice: what is dropped is gone."""
    return run(7, responses=45, crashes=False).left()


@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(8, 2000), marks=pytest.mark.slow)])
def test_what_the_stages_leave_is_what_it_must_be(seeds: range) -> None:
    for seed in seeds:
        report = check(run(seed, partitions=1 + seed % 3).left(), RULES)
        assert report.differences == [], seed
        assert not report.pending + report.beyond
        assert report.checked["labels"] > 10


@pytest.mark.parametrize("seed", range(3))
def test_at_no_moment_is_anything_taken_for_lost_that_is_still_under_way(seed: int) -> None:
    pending = []

    def look(stages: Rehearsal) -> None:
        report = check(stages.left(at_rest=False), RULES)
        assert report.differences == []
        pending.append(report.pending.total())

    run(seed, meanwhile=look)
    assert max(pending) > 0


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


def test_a_client_that_sends_in_a_loop_is_set_aside_and_nothing_is_lost() -> None:
    stages, [item, *_] = Rehearsal(crashes=False), items(week().arrivals)
    stages.put(item.topic, item.key, item.value, item.headers)
    for n in range(1010):
        said = feedback(f"f{n}", str(item.response_id), occurred_at=item.arrives_at + timedelta(seconds=n % 90))
        stages.put("feedback", said.response_id.encode(), encode(said), [])
    report = check(stages.run().finish(item.arrives_at + timedelta(days=30)).left(), RULES)
    assert report.differences == []
    assert (report.checked["dead letters"], report.checked["labels"]) == (10, 1)


def test_what_is_beyond_retention_is_no_difference() -> None:
    logs = whole()
    starts = {("responses", 0): 10, ("responses", 1): 10, ("feedback", 0): 9, ("feedback", 1): 9}
    kept = {
        topic: [e for e in entries if e.offset >= starts.get((topic, e.partition), 0)]
        for topic, entries in logs.entries.items()
    }
    report = check(Logs(kept, starts=starts), RULES)
    assert report.differences == []
    assert {"decisions", "labels"} <= set(report.beyond)


@pytest.mark.parametrize("seeds", [range(120), pytest.param(range(120, 10_000), marks=pytest.mark.slow)])
def test_every_change_is_found(seeds: range) -> None:
    forger = Forger(whole())
    assert check(whole(), RULES).differences == []
    missed = [made.what for seed in seeds if not check((made := forger.forge(seed)).logs, RULES).differences]
    assert missed == []
