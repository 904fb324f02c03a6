"""A stage's place in its inputs: there before anything is processed, and nowhere else without a word."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import CoordinatorNotAvailableError

from models.events import encode
from streams import topics
from streams.broker import Child, free_port
from streams.connection import kafka_options
from streams.drive import launch
from streams.reading import read_all
from streams.settings import Settings
from streams.stages import changelogs
from tests.integration.test_hang import until
from tests.stagecraft import feedback


@pytest.fixture
def mine(settings: Settings, tmp_path: Path) -> Settings:
    changes = {"stages": ("join",), "partitions": 1, "orphan_s": 1.0, "http_port": free_port(), "data_dir": tmp_path}
    made = settings.model_copy(update=changes)
    topics.create(made, changelogs(made))
    return made


@contextmanager
def join(settings: Settings, folder: Path) -> Iterator[Child]:
    worker = launch(settings, folder / "worker.log")
    try:
        yield worker
    finally:
        worker.end(grace_s=30.0)


def put(settings: Settings, topic: str, *values: bytes) -> None:
    with closing(KafkaProducer(**kafka_options(settings))) as producer:
        for value in values:
            producer.send(settings.topic_prefix + topic, key=b"r1", value=value).get(10)


def say(settings: Settings, first: int, end: int) -> None:
    put(settings, "feedback", *(encode(feedback(f"f{n}", "r1")) for n in range(first, end)))


def committed(settings: Settings) -> dict[str, OffsetAndMetadata]:
    group = f"{settings.topic_prefix}demur-join"
    with topics.administrator(settings) as admin, suppress(CoordinatorNotAvailableError):  # a broker's first group
        found = admin.list_group_offsets(group)[group]
        return {place.topic.removeprefix(settings.topic_prefix): at for place, at in found.items()}
    return {}


def places(settings: Settings) -> dict[str, int]:
    return {topic: at.offset for topic, at in committed(settings).items()}


def put_at(settings: Settings, offset: int, metadata: str = "") -> None:
    where, at = TopicPartition(f"{settings.topic_prefix}feedback", 0), OffsetAndMetadata(offset, metadata, -1)
    with topics.administrator(settings) as admin:
        while places(settings).get("feedback") != offset:  # a member that died is missed after its session only
            admin.alter_group_offsets(f"{settings.topic_prefix}demur-join", {where: at})
            time.sleep(0.2)


def ends(settings: Settings, folder: Path) -> str:
    """Return what a worker says that ends by itself."""
    with join(settings, folder) as worker:
        until(lambda: not worker.running, "the end of the worker")
        return worker.last_words(50)


def test_a_stage_has_a_place_before_it_has_rows(mine: Settings, tmp_path: Path) -> None:
    with join(mine, tmp_path):
        until(lambda: places(mine) == {"decisions": 0, "feedback": 0}, "a place in each empty input")


def test_a_stage_that_has_rows_and_no_place_does_not_read_all_again(mine: Settings, tmp_path: Path) -> None:
    put(mine, "demur-join-state-changelog", b"{}")
    say(mine, 0, 1)
    said = ends(mine, tmp_path)
    assert f"the group {mine.topic_prefix}demur-join has no place in {mine.topic_prefix}feedback," in said
    assert "docs/runbook.md#lost-place" in said
    assert "feedback" not in places(mine)


@pytest.mark.kafka
def test_what_was_deleted_before_it_was_read_is_counted_and_a_cut_log_is_refused(
    mine: Settings, tmp_path: Path
) -> None:
    say(mine, 0, 10)
    with join(mine, tmp_path):
        until(lambda: places(mine).get("feedback") == 10, "all is settled")
    say(mine, 10, 20)
    where = TopicPartition(f"{mine.topic_prefix}feedback", 0)
    with topics.administrator(mine) as admin:
        admin.delete_records({where: 16})
    with join(mine, tmp_path):
        until(lambda: places(mine).get("feedback") == 20, "the rest is settled")
        with urlopen(f"http://127.0.0.1:{mine.http_port}/metrics", timeout=10) as answer:
            told = answer.read().decode()
    assert 'demur_records_lost_total{stage="join",topic="feedback"} 6.0' in told
    assert 'demur_records_lost_total{stage="join",topic="decisions"} 0.0' in told
    assert '"records": 6' in (tmp_path / "worker.log").read_text()
    assert len(read_all(mine, "feedback")) == 4
    put_at(mine, 99)
    assert f"{mine.topic_prefix}demur-join has its place in {where.topic}/0 at 99" in ends(mine, tmp_path)


@pytest.mark.kafka
def test_a_stage_whose_place_was_forgotten_goes_on_where_a_person_says(mine: Settings, tmp_path: Path) -> None:
    say(mine, 0, 10)
    with join(mine, tmp_path):
        until(lambda: places(mine).get("feedback") == 10 and read_all(mine, "closures"), "all is settled and closed")
    closed = {record.value for record in read_all(mine, "closures")}
    with topics.administrator(mine) as admin:
        while admin.delete_groups([group := f"{mine.topic_prefix}demur-join"]) != {group: "OK"}:
            time.sleep(0.2)
    assert "has no place in" in ends(mine, tmp_path)
    put_at(mine, 9)
    say(mine, 10, 11)
    with join(mine, tmp_path):
        until(lambda: places(mine).get("feedback") == 11, "what is new is settled")
    assert {record.value for record in read_all(mine, "closures")} >= closed
    assert read_all(mine, "dead-letters") == []


@pytest.mark.kafka
def test_a_log_that_was_cut_and_written_on_is_refused(mine: Settings, tmp_path: Path) -> None:
    """As after an election of a broker that was not in step; here the topic is made anew under the place that was."""
    say(mine, 0, 10)
    with join(mine, tmp_path):
        until(lambda: places(mine).get("feedback") == 10, "all is settled")
    with join(mine, tmp_path):
        say(mine, 10, 12)
        until(lambda: places(mine).get("feedback") == 12, "the same log is known again")
    metadata = committed(mine)["feedback"].metadata
    with topics.administrator(mine) as admin:
        admin.delete_topics([f"{mine.topic_prefix}feedback"])
    topics.create(mine, changelogs(mine))
    say(mine, 0, 20)
    put_at(mine, 12, metadata)
    assert f"has settled {mine.topic_prefix}feedback/0 up to 12, and another record is at 11" in ends(mine, tmp_path)
    put_at(mine, 11)
    with join(mine, tmp_path):
        until(lambda: places(mine).get("feedback") == 20, "it goes on where a person says")
