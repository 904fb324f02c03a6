"""`demur verify` on the topics of a real worker: while it works, when it rests, and when they were tampered with."""

import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaProducer

from models.errors import EventError, SettingsError
from models.events import (
    CONTRACT,
    WRITTEN_BY_OTHERS,
    Calibration,
    Change,
    Decision,
    Feedback,
    Instruction,
    Label,
    Response,
    decode,
    parse,
)
from models.oracle import check
from models.oracle.period import IN_PART
from models.training.reactions import Arrival
from streams.clock import WallClock
from streams.connection import kafka_options
from streams.feed import Item, items
from streams.logbook import instructing, newest
from streams.reading import read_all
from streams.settings import Settings, environment
from streams.stages import changelogs
from streams.verify import read, verify
from streams.wire import outgoing
from tests.fuzz.nasty import GOOD
from tests.integration.test_cli import demur
from tests.integration.test_restart import WEEK, Theatre, theatre
from tests.integration.test_survey import put_dated
from tests.property.test_canary import leaks, messages
from tests.property.test_oracle import LIVE
from tests.property.test_period import middle, month, part


def said(settings: Settings, *words: str) -> tuple[int, list[str]]:
    command = [sys.executable, "-P", "-m", "streams", "verify", *words]
    done = subprocess.run(command, capture_output=True, env=environment(settings), check=False, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def lately() -> list[Arrival]:
    """The same events, the last of them now."""
    shift = WallClock().now() - max(a.arrives_at for a in WEEK.arrivals)
    return [
        Arrival(a.arrives_at, msgspec.structs.replace(a.event, occurred_at=a.event.occurred_at + shift))
        for a in WEEK.arrivals
    ]


def forge(stage: Theatre) -> tuple[str, str]:
    """Write a changed copy of a label and of a decision, as a careless repair of the topics would; return where."""
    label = decode(Label, read_all(stage.settings, "labels")[3].value)
    decision = decode(Decision, read_all(stage.settings, "decisions")[5].value)
    forged = (
        msgspec.structs.replace(label, rejected=not label.rejected),
        msgspec.structs.replace(decision, tier="green", action="show"),
    )
    producer = KafkaProducer(**kafka_options(stage.settings))
    sends = [outgoing(stage.settings.topic_prefix, event) for event in forged]
    places = [producer.send(s.topic, key=s.key, value=s.value, headers=s.headers).get(10) for s in sends]
    producer.close()
    one, other = (f"{p.topic.removeprefix(stage.settings.topic_prefix)}/{p.partition}/{p.offset}" for p in places)
    return one, other


def canaries(at: datetime) -> list[Item]:
    """Messages that name a patient, every seventh of those that the unit tests go through; in one conversation."""
    chosen = islice(messages(), 0, None, 7)
    return [Item(topic, home(topic, value), value, [*headers], None, at) for topic, value, headers in chosen]


def home(topic: str, value: bytes) -> bytes:
    """What a message is keyed by, so that it meets what it is joined with; the conversation also if it is broken."""
    with suppress(EventError):
        if topic == Feedback.topic:
            return str(parse(value).get("response_id")).encode()
    return str(next(event["conversation_id"] for event in GOOD if event["type"] == "response")).encode()


def forge_control(stage: Theatre, rolled: Calibration) -> list[str]:
    """Change what a rollback led to, its entry in the calibrator's log, and what it said; return where."""
    version = msgspec.structs.replace(rolled, missing_labels=0)
    entry = decode(Change, read_all(stage.settings, "changes")[-1].value)
    entry = msgspec.structs.replace(entry, evidence={**entry.evidence, "by": "nobody"})
    [said, *_] = [r.value for r in read_all(stage.settings, "labels") if b'"instruction"' in r.value]
    order = msgspec.structs.replace(decode(Instruction, said), instruction_id="forged", version=1)
    producer = KafkaProducer(**kafka_options(stage.settings))
    sends = [outgoing(stage.settings.topic_prefix, event) for event in (version, entry, order)]
    places = [producer.send(s.topic, key=s.key, value=s.value, headers=s.headers).get(10) for s in sends]
    producer.close()
    return [f"{p.topic.removeprefix(stage.settings.topic_prefix)}/{p.partition}/{p.offset}: " for p in places]


def test_what_people_say_to_a_calibrator_is_recomputed_and_tampering_with_it_named(
    settings: Settings, tmp_path: Path, tiny_model: Path
) -> None:
    what = list(items(WEEK.arrivals))
    asked = [item for item in what if item.topic == Response.topic]
    with theatre(settings, tmp_path / "run", model=str(tiny_model), partitions=2, horizon_s=3 * 86_400.0) as stage:
        stage.send(asked)
        stage.until(lambda: len(stage.distinct("decisions")) == len(asked), "decisions")
        stage.send([item for item in what if item.topic == Feedback.topic], end=True)
        stage.until(lambda: read(stage.settings).until_ms is None, "rest")
        before = max(newest(stage.settings).values(), key=lambda version: version.version)
        back = before.deployment, str(before.version // 2), "--by", "dr.who", "--why", "drill"
        assert demur("calibrator", "rollback", *back, settings=stage.settings).returncode == 0
        with instructing(stage.settings) as instruct:
            instruct(Instruction(
                instruction_id="i2", deployment=before.deployment, order="approval", version=1, model_hash="another",
                ceilings={"all": 0.0}, by="dr.who", occurred_at=before.as_of,
            ))  # fmt: skip
        stage.until(lambda: newest(stage.settings)[before.deployment].version > before.version, "the rollback")
        stage.until(lambda: read(stage.settings).until_ms is None, "rest")
    report = verify(stage.settings)
    assert report.differences == []
    assert (report.checked["instructions"], report.checked["dead letters"]) == (2, 1)
    assert report.checked["labels folded"] > 20
    assert report.checked["changes"] > 2
    rolled = newest(stage.settings)[before.deployment]
    assert rolled.cause == f"rollback: version {before.version // 2}"
    version, entry, order = forge_control(stage, rolled)
    tampered = [str(one) for one in verify(stage.settings, at_rest=True).differences]
    assert any(line.startswith(version) and "is not the fold of the labels" in line for line in tampered), tampered
    assert any(line.startswith(entry) and "has the id of" in line for line in tampered), tampered
    assert any(line.startswith(order) and "other parameters than version 1 had" in line for line in tampered), tampered


DAYS = {"event": 3, "wall": 20}
"""Of horizon: as every replay, and beyond the oldest response."""


@pytest.mark.parametrize("source", ["event", pytest.param("wall", marks=pytest.mark.slow)])
def test_a_real_stream_while_it_flows_at_rest_and_tampered_with(
    settings: Settings, tmp_path: Path, tiny_model: Path, source: str
) -> None:
    what = list(items(WEEK.arrivals if source == "event" else lately()))
    changes: dict[str, Any] = {"partitions": 2, "time_source": source, "horizon_s": DAYS[source] * 86_400.0}
    asked = [i for i in what if i.topic == Response.topic]
    told = [i for i in what if i.topic == Feedback.topic]
    with theatre(settings, tmp_path / "run", model=str(tiny_model), **changes) as stage:
        for part in (asked[:70], asked[70:], told):
            if part is told:  # the end of the stream overtakes no decision
                stage.until(lambda: len(stage.distinct("decisions")) == len(asked), "decisions")
            stage.send(part, end=part is told)
            live = verify(stage.settings)
            assert live.differences == []
        assert live.pending.total() > 0
        stage.send(canaries(told[0].arrives_at))
        stage.until(lambda: len(stage.distinct("labels")) > 20, "labels")  # live, time passes when all is read
        stage.until(lambda: read(stage.settings).until_ms is None, "rest")
    resting = verify(stage.settings)
    assert resting.differences == []
    assert resting.checked["labels"] > 20
    assert resting.checked["decisions"] > len(asked)
    names = [topic for topic in CONTRACT if topic not in WRITTEN_BY_OTHERS]
    names += [name.removeprefix(stage.settings.topic_prefix) for name in changelogs(stage.settings)]
    written = [(r.key, r.value, r.headers) for name in names for r in read_all(stage.settings, name)]
    assert leaks(*written, (tmp_path / "run" / "worker.log").read_bytes()) == []
    given = ("--prefix", stage.settings.topic_prefix, "--bootstrap", settings.bootstrap, "--replayed")
    if source == "event":
        status, lines = said(settings, *given)
        assert (status, len(lines), lines[0].partition(";")[0]) == (0, 1, "0 differences"), lines
        policy = tmp_path / "policy.toml"
        policy.write_text("green = 0.01\n")
        status, lines = said(settings, *given, "--policy", str(policy))
        assert status == 1
        assert lines[-1].startswith(f"{len(lines) - 1} differences; checked: ")
        assert any("pass every policy that was in force" in line for line in lines)
    label, decision = forge(stage)
    tampered = [str(one) for one in verify(stage.settings, at_rest=True).differences]
    assert any(line.startswith(f"{label}: has the id of ") and line.endswith("(I4)") for line in tampered), tampered
    assert any(line.startswith(f"{decision}: has the id of ") and line.endswith("(I3)") for line in tampered), tampered


@pytest.mark.kafka
def test_of_a_period_no_more_is_read_than_its_check_needs(settings: Settings) -> None:
    logs = month(often=1.0, marked=True)
    mine, since = put_dated(settings, logs), middle(logs)
    found, wanted = read(mine, at_rest=True, since=since), part(logs, since)
    assert found.period is not None
    assert wanted.period is not None
    assert found.starts == {place: wanted.starts.get(place, 0) for place in found.starts}
    for topic in IN_PART:
        values = [e.value for e in sorted(wanted.entries[topic], key=attrgetter("place"))]
        assert [e.value for e in found.entries[topic]] == values, topic
    before = sorted(found.period.labels, key=attrgetter("place"))
    assert [e.value for e in before] == [e.value for e in wanted.period.labels]
    again = read(mine, at_rest=True, since=since)._replace(prefix="")  # as its dead letters were written
    report, expected = check(again, LIVE), check(wanted, LIVE)
    assert report.differences == []
    for name in ("decisions", "labels", "closures", "responses joined"):
        assert report.checked[name] == expected.checked[name] > 10, name


def test_a_replay_is_checked_whole(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="check the replay whole"):
        verify(settings.model_copy(update={"time_source": "event"}), since=datetime(2026, 1, 1, tzinfo=UTC))
