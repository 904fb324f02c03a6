"""Topics are created once, cut alike, and read back whole; on whichever broker the run has."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pytest
from kafka import KafkaProducer

from models.errors import DemurError, SettingsError
from models.events import Event
from streams.connection import kafka_options
from streams.reading import read_all, tail
from streams.settings import Settings, load
from streams.topics import administrator, check, create, describe, plan
from tests.apache_kafka import ApacheKafka
from tests.integration.test_hang import until

DAY_MS = 86_400_000


@pytest.fixture
def producer(settings: Settings) -> Iterator[KafkaProducer]:
    with closing(KafkaProducer(**kafka_options(settings))) as producer:
        yield producer


def test_creation_is_idempotent_and_says_what_it_did(settings: Settings) -> None:
    changelog = f"{settings.topic_prefix}demur-join-state-changelog"
    created = create(settings, [changelog])
    assert set(created) == {topic.name for topic in plan(settings, [changelog])}
    assert create(settings, [changelog]) == []
    found = describe(settings, [changelog])
    assert {topic.partitions for topic in found} == {settings.partitions}
    assert {t.topic.name for t in found if t.configs["cleanup.policy"] == "compact"} == {
        changelog,
        f"{settings.topic_prefix}calibrations",
    }


def test_what_is_missing_is_added(settings: Settings) -> None:
    create(settings)
    assert create(settings, [f"{settings.topic_prefix}more"]) == [f"{settings.topic_prefix}more"]


def test_text_is_kept_for_a_month_and_records_for_half_a_year(settings: Settings) -> None:
    create(settings)
    kept = {t.topic.name.removeprefix(settings.topic_prefix): t.configs.get("retention.ms") for t in describe(settings)}
    assert {name for name, ms in kept.items() if ms == str(30 * DAY_MS)} == {"responses", "feedback"}
    assert all(
        int(kept[name]) >= 184 * DAY_MS for name in ("decisions", "labels", "closures", "alarms", "dead-letters")
    )


def test_topics_that_are_cut_otherwise_are_refused(settings: Settings) -> None:
    create(settings)
    other = settings.model_copy(update={"partitions": settings.partitions + 2})
    with pytest.raises(SettingsError, match=r"has 4 partitions, not 6: .* set DEMUR_PARTITIONS=4"):
        create(other)


def test_topics_that_would_lose_rows_are_put_right(settings: Settings) -> None:
    """A platform team made them, by its own rules; longer retention is its own affair."""
    year = str(366 * DAY_MS)
    rules = {"cleanup.policy": "delete", "retention.ms": year, "retention.bytes": "1000000"}
    with administrator(settings) as admin:
        asked = {t.name: {"num_partitions": t.partitions, "replication_factor": 1} for t in plan(settings)}
        admin.create_topics({name: how | {"configs": rules} for name, how in asked.items()})
        admin.wait_for_topics(list(asked))
    with pytest.raises(
        SettingsError, match=r"topic .*calibrations has cleanup\.policy=delete, not compact: .*run `demur"
    ):
        check(describe(settings))
    assert create(settings) == []
    until(lambda: not any(one.wrong for one in describe(settings)), "topics put right")
    found = describe(settings)
    check(found)
    assert {one.configs["retention.ms"] for one in found} == {year}


def test_a_topic_that_is_not_there_is_named(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"topic .*decisions does not exist: run `demur topics`"):
        read_all(settings, "decisions")
    assert {found.partitions for found in describe(settings)} == {0}


def test_every_record_is_read_once_in_the_order_of_its_partition(settings: Settings, producer: KafkaProducer) -> None:
    create(settings)
    assert read_all(settings, "responses") == []
    topic = f"{settings.topic_prefix}responses"
    for i in range(1000):
        producer.send(topic, key=b"%d" % (i % 50), value=b"%d" % i if i % 9 else None, headers=[("ce_id", b"%d" % i)])
    producer.flush()
    records = read_all(settings, "responses")
    assert sorted(int(record.headers[0][1]) for record in records) == list(range(1000))
    assert [(r.partition, r.offset) for r in records] == sorted((r.partition, r.offset) for r in records)
    assert all((record.value is None) == (int(record.headers[0][1]) % 9 == 0) for record in records)


def test_a_tail_sees_what_was_and_what_comes(settings: Settings, producer: KafkaProducer) -> None:
    create(settings)
    prefix = settings.topic_prefix
    producer.send(f"{prefix}alarms", b"before").get(10)
    batches = tail(settings, "alarms", "labels", wait_ms=20)
    seen = [r.value for batch in islice(batches, 25) for r in batch]
    producer.send(f"{prefix}labels", b"after").get(10)
    seen += [r.value for batch in islice(batches, 25) for r in batch]
    batches.close()
    assert seen == [b"before", b"after"]


def test_every_event_has_a_topic_in_the_plan() -> None:
    assert {type_.topic for type_ in Event.__subclasses__()} == {topic.name for topic in plan(Settings())}


def test_no_broker_is_one_clear_sentence() -> None:
    with pytest.raises(SettingsError, match=r"DEMUR_BOOTSTRAP: no broker listens at 127\.0\.0\.1:1: "):
        create(load(bootstrap="127.0.0.1:1"))


@pytest.mark.kafka
def test_a_topic_that_the_broker_refuses_is_reported(settings: Settings) -> None:
    with pytest.raises(DemurError, match=r"could not be created: .*replication factor"):
        create(settings.model_copy(update={"replication": 3}))


@pytest.mark.kafka
def test_kafka_keeps_its_log_when_it_is_killed_and_brought_back(own_kafka: ApacheKafka) -> None:
    settings = load(bootstrap=own_kafka.bootstrap)
    create(settings)
    with closing(KafkaProducer(**kafka_options(settings))) as producer:
        producer.send("decisions", b"one").get(10)
        own_kafka.restart()
        with own_kafka.paused():
            sent = producer.send("decisions", b"two")
            assert not sent.is_done
        sent.get(30)
    assert {record.value for record in read_all(settings, "decisions")} == {b"one", b"two"}
