"""A worker that is stopped or killed in the middle, and another that goes on: the same outcome, byte for byte."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import KafkaProducer

from models.events import Calibration, Feedback, Response, decode
from models.training import synth
from streams import topics
from streams.broker import Child, free_port
from streams.connection import kafka_options
from streams.drive import await_ready, launch
from streams.feed import Item, items, send, send_end
from streams.reading import read_all
from streams.settings import Settings
from streams.stages import changelogs

WEEK = synth.generate(synth.Config(responses=120, seed=3, orphans=0.02, duplicated=0.1, contradicted=0.1, late=0.0))
END = max(a.arrives_at for a in WEEK.arrivals).replace(year=2027)
COMPARED = ("decisions", "labels", "closures", "outcomes")


class Theatre:
    """A worker process on real topics."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings.model_copy(update={"http_port": free_port()})
        self._log = folder / "worker.log"
        self.worker = self._start()

    def _start(self) -> Child:
        worker = launch(self.settings, self._log)
        await_ready(worker, self.settings)
        return worker

    def replace(self, how: signal.Signals) -> None:
        """End the worker and start another on the same state."""
        self.worker.signal(how)
        self.worker.end(grace_s=30.0)
        self.worker = self._start()

    def send(self, what: Sequence[Item], *, end: bool = False) -> None:
        producer = KafkaProducer(**kafka_options(self.settings))
        for item in what:
            send(producer, self.settings, item)
        if end:
            send_end(producer, self.settings, END)
        producer.close()

    def distinct(self, topic: str) -> set[bytes]:
        return set(self.log(topic))

    def log(self, topic: str) -> list[bytes]:
        """Each record where it stands first: what a reader sees that knows ids."""
        found = dict.fromkeys(r.value for r in read_all(self.settings, topic))
        return [value for value in found if b'"type":"watermark"' not in value]

    def until(self, holds: Callable[[], bool], what: str) -> None:
        for _ in range(250):
            if holds():
                return
            assert self.worker.running, self.worker.last_words(10)
            time.sleep(0.2)
        counts = {topic: len(self.distinct(topic)) for topic in (*COMPARED, "dead-letters")}
        missing = {i.key for i in items(WEEK.arrivals) if i.topic == Feedback.topic} - self.ended_responses()
        raise AssertionError(f"in vain: {what}: {counts}, without an end: {missing}; {self.worker.last_words(5)}")

    def ended_responses(self) -> set[bytes]:
        ended = (orjson.loads(value) for topic in ("labels", "closures") for value in self.distinct(topic))
        return {found["response_id"].encode() for found in ended}


def play(stage: Theatre, interrupt: Callable[[], None]) -> dict[str, Any]:
    """All responses, then all feedback, each in two halves with `interrupt` while the first is under way."""
    asked = [i for i in items(WEEK.arrivals) if i.topic == Response.topic]
    told = [i for i in items(WEEK.arrivals) if i.topic == Feedback.topic]
    for what, ends in ((asked, False), (told, True)):
        stage.send(what[: len(what) // 2])
        interrupt()
        stage.send(what[len(what) // 2 :], end=ends)
        if not ends:
            stage.until(lambda: len(stage.distinct("decisions")) == len(asked), "decisions")
    expected, responses = len(told), {i.response_id.encode() for i in asked if i.response_id}
    stage.until(lambda: _ended(stage) >= expected, f"{expected} endings of feedback")
    stage.until(lambda: responses <= stage.ended_responses(), "an end of every response")
    labels = sum(1 for value in stage.distinct("labels") if b'"kind"' not in value and b'"weight":0.0' not in value)
    stage.until(lambda: any(c.version >= labels for c in _calibrations(stage)), f"version {labels}")
    found = {topic: stage.distinct(topic) for topic in COMPARED}
    return found | {"log": stage.log("labels"), "calibration": _calibrations(stage)[-1]}


def _ended(stage: Theatre) -> int:
    closures = [value for value in stage.distinct("closures") if b'"feedback_id"' in value]
    return len(stage.distinct("labels")) + len(closures)


def _calibrations(stage: Theatre) -> list[Calibration]:
    return [decode(Calibration, r.value) for r in read_all(stage.settings, Calibration.topic)]


@contextmanager
def theatre(settings: Settings, folder: Path, **changes: Any) -> Iterator[Theatre]:
    folder.mkdir()
    alone = 16  # tokens a call: batch mates move a logit in its last digits, and here bytes are compared
    patient = 60.0  # on a busy machine too, no score may come too late
    fixed = {"data_dir": folder / "data", "time_source": "event", "batch_tokens": alone, "deadline_s": patient}
    mine = settings.model_copy(update=fixed | changes)
    topics.create(mine, changelogs(mine))
    stage = Theatre(mine, folder)
    try:
        yield stage
    finally:
        stage.worker.end(grace_s=30.0)


@pytest.mark.parametrize(("partitions", "store"), [(1, "memory"), (4, "rocksdb")])
def test_a_restart_changes_nothing(
    settings: Settings, tmp_path: Path, tiny_model: Path, partitions: int, store: str
) -> None:
    outcomes = []
    ways: dict[str, Callable[[Theatre], None]] = {
        "plain": lambda _: None,
        "stopped": lambda stage: stage.replace(signal.SIGTERM),
        "killed": lambda stage: stage.replace(signal.SIGKILL),
    }
    for name, interrupt in ways.items():
        changes = {"partitions": partitions, "store": store, "topic_prefix": f"{settings.topic_prefix}{name}."}
        with theatre(settings, tmp_path / name, model=str(tiny_model), **changes) as stage:
            outcomes.append(play(stage, partial(interrupt, stage)))
    plain, stopped, killed = outcomes
    if partitions > 1:  # labels of several partitions reach the calibrator in any order: only their number is the same
        for found in outcomes:
            found["log"], found["calibration"] = len(found["log"]), found["calibration"].version
    assert stopped == plain
    assert killed == plain
