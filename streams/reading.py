"""Plain readers of topics, without a consumer group: for tests, inspection and the live view."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError

from models.errors import SettingsError
from streams.connection import CONNECT_MS, kafka_options, permitted, reach, refused
from streams.settings import Settings

FETCH_MS: Final = 50
"""The embedded broker sleeps for up to half of it; Apache Kafka answers as soon as there is a record."""


def read_all(settings: Settings, topic: str, newest: int | None = None) -> list[ConsumerRecord]:
    """Return a topic's records (name without prefix) from the earliest to the end, at least to what is the end now.

    They come by partition and, within it, by offset. `newest`: at most about so many of the last in each partition.
    Raises `SettingsError` if the topic does not exist.
    """
    with reader(settings, [topic]) as (consumer, partitions):
        ends = consumer.end_offsets(partitions)
        for partition, begin in consumer.beginning_offsets(partitions).items() if newest is not None else ():
            consumer.seek(partition, max(begin, ends[partition] - newest))
        records = list(read_to(consumer, ends))
    return sorted(records, key=lambda record: (record.partition, record.offset))


def read_each(settings: Settings, topic: str, first_ms: int | None = None) -> Iterator[ConsumerRecord]:
    """Yield a topic's records as `read_all` would return them, but for their order among partitions, and hold none.

    `first_ms`: all that the broker dates then (milliseconds since the epoch) or later, and of the rest as few as it can
    tell. Raises `SettingsError` if the topic does not exist.
    """
    with reader(settings, [topic]) as (consumer, partitions):
        ends = consumer.end_offsets(partitions)
        if first_ms is not None:
            begin_at(consumer, first_ms, ends)
        yield from read_to(consumer, ends)


def begin_at(consumer: KafkaConsumer, at_ms: int, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Let a consumer begin where the broker dates records `at_ms` or later; return where that is.

    `ends`, asked for before: where nothing is of that time yet, what comes meanwhile is read.
    """
    found = consumer.offsets_for_times(dict.fromkeys(ends, at_ms))
    starts = {partition: at.offset if at else ends[partition] for partition, at in found.items()}
    for partition, start in starts.items():
        consumer.seek(partition, start)
    return starts


def read_to(consumer: KafkaConsumer, ends: dict[TopicPartition, int]) -> Iterator[ConsumerRecord]:
    """Yield records until every partition has been read at least to its end."""
    while any(consumer.position(partition) < _end(consumer, partition, end) for partition, end in ends.items()):
        yield from poll(consumer, FETCH_MS)


def tail(settings: Settings, *topics: str, wait_ms: int = 200) -> Iterator[list[ConsumerRecord]]:
    """Yield what is new on topics (names without prefix), from the earliest record on, for ever.

    Yields at least every `wait_ms`, an empty list if nothing came, so that the caller can redraw or leave.
    """
    with reader(settings, topics) as (consumer, _):
        while True:
            yield poll(consumer, wait_ms)


def partitions_of(settings: Settings, *topics: str) -> int:
    """Return how many partitions each of these topics (names without prefix) has, whatever the settings say.

    Raises `SettingsError` if one does not exist.
    """
    with reader(settings, topics) as (_, partitions):
        return len({one.partition for one in partitions})


def _end(consumer: KafkaConsumer, partition: TopicPartition, asked: int) -> int:
    """What a fetch says counts too: asked for its end, the embedded broker forgets most of the last batch."""
    return max(asked, consumer.highwater(partition) or 0)


def poll(consumer: KafkaConsumer, wait_ms: int) -> list[ConsumerRecord]:
    """Return what is new to a consumer, within `wait_ms` milliseconds at most; an empty list if nothing came."""
    return [record for batch in consumer.poll(wait_ms, max_records=10_000).values() for record in batch]


@contextmanager
def reader(settings: Settings, topics: Iterable[str]) -> Iterator[tuple[KafkaConsumer, list[TopicPartition]]]:
    """Yield a consumer at the beginning of topics (names without prefix), and their partitions.

    Raises `SettingsError` if no broker answers, a topic does not exist, or we may not read it: then, or when read.
    """
    names = [settings.topic_prefix + topic for topic in topics]
    reach(settings)
    try:
        consumer = KafkaConsumer(
            **kafka_options(settings),
            bootstrap_timeout_ms=CONNECT_MS,
            fetch_max_wait_ms=FETCH_MS,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
        )
    except KafkaError:
        raise refused(settings) from None
    try:
        with permitted("Read", names):
            partitions = [partition for name in names for partition in _partitions(consumer, name)]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            yield consumer, partitions
    finally:
        consumer.close()


def _partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise SettingsError(f"topic {topic} does not exist: run `demur topics`")
    return [TopicPartition(topic, number) for number in sorted(numbers)]
