"""A live worker comes back after a pause: what was said in time counts, though by the clock its time is long over."""

from datetime import timedelta
from pathlib import Path

import pytest
from kafka import KafkaProducer

from models.events import encode
from streams import topics
from streams.clock import WallClock
from streams.connection import kafka_options
from streams.settings import Settings
from streams.stages import changelogs
from tests.integration.test_restart import Theatre
from tests.stagecraft import decision, feedback

WAITING = 150_000
"""Feedback that lies before the one in question: reading it takes longer than the clock's next tick."""


@pytest.mark.slow
def test_what_was_said_in_time_counts_though_it_was_read_late(settings: Settings, tmp_path: Path) -> None:
    waits = {"horizon_s": 60.0, "orphan_s": 60.0, "settle_s": 1.0}
    mine = settings.model_copy(update={"stages": ("join",), "partitions": 1, "data_dir": tmp_path / "data"} | waits)
    topics.create(mine, changelogs(mine))
    then = WallClock().now() - timedelta(hours=1)
    said = [feedback(f"f{n}", f"of-another-{n}", occurred_at=then) for n in range(WAITING)]
    producer = KafkaProducer(**kafka_options(mine))
    for event in (decision(occurred_at=then, decided_at=then), *said, feedback("f", occurred_at=then)):
        producer.send(mine.topic_prefix + event.topic, key=event.response_id.encode(), value=encode(event))
    producer.close()
    stage = Theatre(mine, tmp_path)
    try:
        stage.until(lambda: len(stage.distinct("labels")) + len(stage.distinct("closures")) > WAITING, "all endings")
    finally:
        stage.worker.end(grace_s=30.0)
    assert len(stage.distinct("labels")) == 1
