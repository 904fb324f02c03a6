"""The clock of a worker's machine is wrong for a while: nothing is closed early, then or later."""

import re
import signal
from pathlib import Path
from urllib.request import urlopen

import pytest
from kafka import KafkaProducer

from models.events import Decision, Feedback, encode
from streams import topics
from streams.broker import Child
from streams.clock import WallClock
from streams.connection import kafka_options
from streams.drive import await_ready
from streams.settings import Settings
from streams.stages import changelogs
from tests.integration.test_restart import Theatre
from tests.stagecraft import decision, feedback
from tests.wrong_clock import AHEAD_S, launch


class Wrong(Theatre):
    """A worker whose clock can be set 400 days ahead."""

    def _start(self) -> Child:
        worker = launch(self.settings, self._log)
        await_ready(worker, self.settings)
        return worker

    def put(self, *events: Decision | Feedback) -> None:
        producer = KafkaProducer(**kafka_options(self.settings))
        for event in events:
            producer.send(self.settings.topic_prefix + event.topic, encode(event), event.response_id.encode())
        producer.close()

    def ahead_s(self) -> float:
        """What it tells of its clock."""
        with urlopen(f"http://127.0.0.1:{self.settings.http_port}/metrics", timeout=10) as page:
            told = page.read().decode()
        return float(re.findall(r'^demur_clock_ahead_seconds\{stage="join"\} (\S+)$', told, re.MULTILINE)[0])

    def ends(self) -> tuple[int, int]:
        """Labels, and other endings."""
        return len(self.distinct("labels")), len(self.distinct("closures"))


@pytest.mark.kafka  # it is the broker that knows the time; the embedded one dates nothing
def test_a_clock_that_is_ahead_for_a_moment_ends_no_response(settings: Settings, tmp_path: Path) -> None:
    changes = {"stages": ("join",), "partitions": 1, "settle_s": 1.0, "data_dir": tmp_path / "data"}
    mine = settings.model_copy(update=changes)
    topics.create(mine, changelogs(mine))
    stage, now = Wrong(mine, tmp_path), WallClock().now
    try:
        stage.put(*(decision(f"r{n}", occurred_at=now(), decided_at=now()) for n in range(10)))
        for n, turns in enumerate((0, 1, 1)):
            if turns:
                stage.worker.signal(signal.SIGUSR1)
            stage.put(feedback(f"f{n}", f"r{n}", occurred_at=now()))
            stage.until(lambda: sum(stage.ends()) > n, "a label")  # noqa: B023 (asked at once)
            assert (stage.ahead_s() > AHEAD_S / 2) == (n == 1)
        stage.replace(signal.SIGTERM)
        stage.put(*(feedback(f"f{n}", f"r{n}", occurred_at=now()) for n in range(3, 10)))
        stage.until(lambda: sum(stage.ends()) >= 10, "all labels")
        assert stage.ends() == (10, 0)
        assert "clocks of this machine and of the broker differ" in (tmp_path / "worker.log").read_text()
    finally:
        stage.worker.end(grace_s=30.0)
