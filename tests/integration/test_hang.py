"""An encoder that hangs, in a real worker: red within the deadline, then the worker ends, and another goes on."""

import sys
import time
from collections import defaultdict
from pathlib import Path
from urllib.request import urlopen

from kafka import KafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from models.events import Decision, Response, decode, encode
from streams import topics
from streams.broker import Child, free_port
from streams.clock import WallClock
from streams.connection import kafka_options
from streams.drive import await_ready, launch
from streams.reading import read_all
from streams.settings import Settings, environment
from streams.stages import changelogs

HANGING = """
import threading
from models.encoder.cross import CrossEncoder
CrossEncoder.infer = lambda *_: threading.Event().wait()
from streams.cli import main
main()
"""


def asked(n: int) -> Response:
    known = {"conversation_id": "c", "deployment": "d", "site": "s", "query": "Dose?", "response": "5 mg"}
    return Response(response_id=f"r{n}", occurred_at=WallClock().now(), **known)


def test_a_worker_whose_encoder_hangs_is_replaced(settings: Settings, tmp_path: Path, tiny_model: Path) -> None:
    changes = {"data_dir": tmp_path, "model": str(tiny_model), "deadline_s": 0.5, "stages": ("score",)}
    mine = settings.model_copy(update=changes | {"http_port": free_port(), "session_timeout_s": 6.0})
    topics.create(mine, changelogs(mine))
    hanging = Child([sys.executable, "-P", "-c", HANGING, "worker"], tmp_path / "hanging.log", environment(mine))
    try:
        await_ready(hanging, mine)
        send(mine, 0, 3)
        assert {d.reasons[-1] for d in decisions(mine, 3)} == {"deadline_missed"}
        until(lambda: not hanging.running, "the end of the worker")
        assert "EncoderHung" in hanging.last_words(50)
    finally:
        hanging.end(grace_s=1.0)
    other = launch(mine, tmp_path / "other.log")
    try:
        send(mine, 3, 6)
        found = {d.response_id: d.logit for d in decisions(mine, 6)}
        assert [found[f"r{n}"] is None for n in range(6)] == [True] * 3 + [False] * 3
    finally:
        other.end(grace_s=30.0)


def test_what_waits_for_the_encoder_is_seen(settings: Settings, tmp_path: Path, tiny_model: Path) -> None:
    changes = {"data_dir": tmp_path, "model": str(tiny_model), "deadline_s": 60.0, "stages": ("score",)}
    mine = settings.model_copy(update=changes | {"http_port": free_port()})
    topics.create(mine, changelogs(mine))
    hanging = Child([sys.executable, "-P", "-c", HANGING, "worker"], tmp_path / "hanging.log", environment(mine))
    try:
        await_ready(hanging, mine)
        until(lambda: lags(mine)["demur_lag_records"] == {"responses": 0.0, "outcomes": 0.0}, "both topics' lags")
        send(mine, 0, 3)
        until(lambda: lags(mine)["demur_lag_records"] == {"responses": 3.0, "outcomes": 0.0}, "three responses wait")
        waited = lags(mine)["demur_lag_seconds"]["responses"]
        until(lambda: lags(mine)["demur_lag_seconds"]["responses"] > waited > 0.0, "the oldest waits longer and longer")
    finally:
        hanging.end(grace_s=1.0)
    other = launch(mine, tmp_path / "other.log")
    try:
        await_ready(other, mine)
        decisions(mine, 3)
        until(lambda: lags(mine)["demur_lag_records"].get("responses") == 0.0, "nothing waits")
    finally:
        other.end(grace_s=30.0)


def lags(settings: Settings) -> dict[str, dict[str, float]]:
    """By metric and topic."""
    with urlopen(f"http://127.0.0.1:{settings.http_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.name.startswith("demur_lag_"):
                assert sample.labels["stage"] == "score"
                found[family.name][sample.labels["topic"]] = sample.value
    return found


def send(settings: Settings, first: int, end: int) -> None:
    producer = KafkaProducer(**kafka_options(settings))
    for n in range(first, end):
        producer.send(settings.topic_prefix + Response.topic, key=b"c", value=encode(asked(n)))
    producer.close()


def decisions(settings: Settings, count: int) -> list[Decision]:
    found: list[Decision] = []

    def arrived() -> bool:
        found[:] = [decode(Decision, value) for value in {r.value for r in read_all(settings, Decision.topic)}]
        return len(found) >= count

    until(arrived, f"{count} decisions")
    return found


def until(holds, what: str) -> None:
    for _ in range(300):
        if holds():
            return
        time.sleep(0.2)
    raise AssertionError(f"in vain: {what}")
