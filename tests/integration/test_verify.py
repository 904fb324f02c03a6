"""`demur verify` on the topics of a real worker: while it works, when it rests, and when they were tampered with."""

import subprocess
import sys
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaProducer

from models.events import Decision, Feedback, Label, Response, decode
from models.oracle.logs import CONTRACT, INPUTS
from models.training.reactions import Arrival
from streams.clock import WallClock
from streams.connection import kafka_options
from streams.feed import Item, items
from streams.reading import read_all
from streams.settings import Settings, environment
from streams.stages import changelogs
from streams.verify import read, verify
from streams.wire import outgoing
from tests.integration.test_restart import WEEK, Theatre, theatre
from tests.property.test_canary import leaks, messages


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
        (msgspec.structs.replace(label, rejected=not label.rejected), label.deployment),
        (msgspec.structs.replace(decision, tier="green", action="show"), decision.response_id),
    )
    producer = KafkaProducer(**kafka_options(stage.settings))
    sends = [outgoing(stage.settings.topic_prefix, event, key) for event, key in forged]
    places = [producer.send(s.topic, key=s.key, value=s.value, headers=s.headers).get(10) for s in sends]
    producer.close()
    one, other = (f"{p.topic.removeprefix(stage.settings.topic_prefix)}/{p.partition}/{p.offset}" for p in places)
    return one, other


def canaries(at: datetime) -> list[Item]:
    """Messages that name a patient, every seventh of those that the unit tests go through; all in one partition."""
    chosen = islice(messages(), 0, None, 7)
    return [Item(topic, b"k", value, [*headers], None, at) for topic, value, headers in chosen]


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
            stage.send(part, end=part is told)
            live = verify(stage.settings)
            assert live.differences == []
        stage.until(lambda: len(stage.distinct("decisions")) == len(asked), "decisions")
        assert live.pending.total() > 0
        stage.send(canaries(told[0].arrives_at))
        stage.until(lambda: read(stage.settings).until_ms is None, "rest")
    resting = verify(stage.settings)
    assert resting.differences == []
    assert resting.checked["labels"] > 20
    assert resting.checked["decisions"] > len(asked)
    names = [topic for topic in CONTRACT if topic not in INPUTS]
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
