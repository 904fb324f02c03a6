"""The oracle of a period: what lies before it is not read, and nothing that was written in it goes unchecked."""

import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import msgspec
import pytest

from models.events import CONTRACT, Decision, Instruction, Label, decode
from models.oracle import Entry, Logs, Period, check
from models.oracle.period import IN_PART, reach
from models.oracle.retention import moment
from streams.verify import is_proof, sentence
from tests.property.test_oracle import GREEN, LIVE, added, lived, rewritten
from tests.rehearsal import HORIZONS

DAY = timedelta(days=1)
JUDGED = ("decisions", "labels", "closures")


@cache
def month(seed: int = 0, often: float = 0.05, *, marked: bool = False) -> Logs:
    """Four weeks of live operation, and three until all is closed; `often` 1.0: no stage is ever behind."""
    return lived(seed, often=often, marked=marked, responses=200, days=28.0)


def part(logs: Logs, since: datetime, read: datetime | None = None) -> Logs:
    """Leave out what lies before a period; `read`: since when topics are read, by default as `demur verify` does."""
    read_ms = ms(read or reach(since, HORIZONS))
    starts: dict[tuple[str, int], int] = {}
    for topic, entries in logs.entries.items():
        for entry in entries:
            earlier = topic in IN_PART and entry.at_ms < read_ms
            starts[topic, entry.partition] = max(starts.get((topic, entry.partition), 0), (entry.offset + 1) * earlier)
    kept = {t: [e for e in entries if e.offset >= starts[t, e.partition]] for t, entries in logs.entries.items()}
    before = [e for e in logs.entries["labels"] if e.offset < starts["labels", e.partition]]
    return logs._replace(entries=kept, starts=starts, period=Period(ms(since), read_ms, {}, before))


def written(logs: Logs, topic: str, since: datetime) -> int:
    """How many records were written in a period, repeats and instructions aside."""
    first = {entry.value: entry for entry in reversed(logs.entries[topic])}
    return sum(entry.at_ms >= ms(since) and b'"instruction"' not in entry.value for entry in first.values())


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def times(logs: Logs) -> tuple[datetime, datetime]:
    """When the first and the last record were written."""
    found = [moment(entry) for entries in logs.entries.values() for entry in entries]
    return min(found), max(found)


def middle(logs: Logs) -> datetime:
    """A time at which rows are open, and before which much lies that is not read."""
    return times(logs)[0] + timedelta(days=18)


def events(logs: Logs, topic: str) -> list[tuple[Entry, Any]]:
    return [(entry, decode(CONTRACT[topic], entry.value)) for entry in logs.entries[topic]]


def complaints(logs: Logs) -> set[str]:
    return {str(one) for one in check(logs, LIVE).differences}


@pytest.mark.parametrize("seeds", [range(24), pytest.param(range(24, 2000), marks=pytest.mark.slow)])
def test_wherever_a_period_begins_nothing_is_taken_for_wrong_that_was_only_not_read(seeds: Iterable[int]) -> None:
    for seed in seeds:
        rng, logs = random.Random(seed), month(seed % 3)
        first, last = times(logs)
        read = first + rng.random() * (last - first)
        report = check(part(logs, read + rng.random() * (last - read), read), LIVE)
        assert report.differences == [], seed


@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(6, 500), marks=pytest.mark.slow)])
def test_all_that_was_written_in_a_period_is_checked_and_no_more_read_than_that_needs(seeds: Iterable[int]) -> None:
    for seed in seeds:
        logs = month(seed % 2, often=1.0)
        since = times(logs)[0] + random.Random(seed).uniform(12, 27) * DAY
        read = part(logs, since)
        report = check(read, LIVE)
        assert (report.differences, report.pending.total(), report.beyond.total()) == ([], 0, 0), seed
        for topic in JUDGED:
            assert report.checked[topic] == written(logs, topic, since) > 0, (seed, topic)
            assert len(read.entries[topic]) < len(logs.entries[topic])


def test_what_a_stage_that_was_behind_wrote_about_older_things_is_counted_as_unchecked() -> None:
    unchecked = 0
    for seed, days in enumerate((20, 28, 32)):
        logs = month(seed)
        since = times(logs)[0] + days * DAY
        report = check(part(logs, since), LIVE)
        checked, beyond = report.checked, report.beyond
        assert (report.differences, report.pending.total()) == ([], 0)
        ends = sum(checked[kind] + beyond[kind] for kind in ("closures", "labels")) + beyond["ends"]
        assert ends == written(logs, "closures", since) + written(logs, "labels", since)
        assert checked["decisions"] + beyond["decisions"] == written(logs, "decisions", since)
        unchecked += beyond["ends"]
    assert unchecked > 0


def test_a_forged_green_is_found_in_the_period_and_not_looked_for_before_it() -> None:
    logs = month(often=1.0)
    since = middle(logs)
    looked = {True: 0, False: 0}
    for entry, one in events(logs, "decisions"):
        if one.logit is None or one.tier == "green" or one.audit:
            continue
        inside = entry.at_ms >= ms(since)
        if looked[inside] == 5:
            continue
        looked[inside] += 1
        reasons = ("risk_below_green: 0.0100 < 0.05",)
        forged = msgspec.structs.replace(one, **GREEN, risk=0.01, upper=0.01, reasons=reasons)
        found = complaints(part(rewritten(logs, entry, forged), since))
        here = f"decisions/{entry.partition}/{entry.offset}: "
        assert any(line.startswith(here) and "(I7)" in line for line in found) == inside
    assert looked == {True: 5, False: 5}


def test_a_label_that_counts_on_both_sides_of_the_border_is_found() -> None:
    logs = month(often=1.0)
    since, (_, last) = middle(logs), times(logs)
    read = part(logs, since)
    assert read.period is not None
    old = next(decode(Label, e.value) for e in read.period.labels if b'"instruction"' not in e.value)
    again, place = added(logs, old, ms(last))
    assert check(part(again, since), LIVE).differences == []  # a repeat is none
    twice, place = added(logs, msgspec.structs.replace(old, label_id="another"), ms(last))
    line = f"labels/{place.partition}/{place.offset}: its feedback id is counted before what was read, too (I4)"
    assert line in complaints(part(twice, since))
    other, place = added(logs, msgspec.structs.replace(old, weight=old.weight / 2), ms(last))
    line = f"labels/{place.partition}/{place.offset}: has the id of one before what was read and other bytes (I4)"
    assert line in complaints(part(other, since))


def test_what_a_dropped_label_would_have_changed_is_found_though_it_lies_before_the_period() -> None:
    logs = month(often=1.0)
    since = middle(logs)
    before = part(logs, since).period
    assert before is not None
    gone = next(e for e in before.labels if (found := decode(CONTRACT["labels"], e.value)) and counts(found))
    left = [e for e in logs.entries["labels"] if e.value != gone.value]
    found = complaints(part(logs._replace(entries={**logs.entries, "labels": left}), since))
    assert any(line.startswith("calibrations/") for line in found)


def counts(found: Label | Instruction) -> bool:
    return isinstance(found, Label) and found.weight > 0 and found.decision.logit is not None


def test_a_decision_or_an_end_that_is_missing_in_the_period_is_found() -> None:
    logs = month(often=1.0)
    since = middle(logs)
    for topic in JUDGED:
        last: dict[Any, Entry] = {e.value: e for e in logs.entries[topic]}
        once = [e for e in last.values() if sum(e.value == o.value for o in logs.entries[topic]) == 1]
        gone = next(e for e in once if e.at_ms >= ms(since))
        less = logs._replace(entries={**logs.entries, topic: [e for e in logs.entries[topic] if e is not gone]})
        assert any("(I1)" in line for line in complaints(part(less, since))), topic


def test_where_nothing_could_be_checked_it_is_no_success() -> None:
    logs = month(often=1.0)
    since = times(logs)[1] + timedelta(days=30)
    report = check(part(logs, since), LIVE)
    assert (report.differences, is_proof(report)) == ([], False)
    assert sentence(report, since).startswith("nothing proven, for no decision, label or closure could be checked: 0 ")
    report = check(part(logs, middle(logs)), LIVE)
    assert is_proof(report)
    assert sentence(report, middle(logs)).startswith("0 differences in what was written since 2026-01-")


def test_decisions_that_retention_took_the_text_of_are_counted_as_unchecked() -> None:
    logs = part(month(often=1.0), middle(month(often=1.0)))
    assert logs.period is not None
    ends = {(e.topic, e.partition): e.offset + 1 for e in logs.entries["responses"]}
    gone = logs._replace(entries={**logs.entries, "responses": []}, starts={**logs.starts, **ends})
    gone = gone._replace(period=logs.period._replace(begins=ends))
    report = check(gone, LIVE)
    written = {e.value for e in logs.entries["decisions"] if e.at_ms >= logs.period.since_ms}
    assert report.differences == []
    assert report.beyond["decisions"] == len({decode(Decision, value).response_id for value in written})
    assert report.checked["decisions"] == 0
