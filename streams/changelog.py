"""Reading a partition of a changelog to its end, by a consumer of its own."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from models.errors import DeliveryError
from streams.checkpoint import UNDATED, ChangelogRecord
from streams.connection import kafka_options
from streams.settings import Settings
from streams.standalone_consumers import standalone_consumer
from streams.state import Reader
from streams.topics import MAX_STATE_BYTES

FETCH_MS = 20
"""How long a fetch waits at the end of the log; see `streams/broker.py` for why it is short."""


def changelog_reader(settings: Settings) -> Reader:
    """Return a reader of changelogs on the broker of `settings`."""

    async def read(topic: str, partition: int, start: int) -> AsyncGenerator[Sequence[ChangelogRecord], None]:
        place = TopicPartition(topic, partition)
        how = {
            "auto_offset_reset": "earliest",  # should the log lose its beginning, nothing of the rest is left out
            "fetch_max_wait_ms": FETCH_MS,
            "max_partition_fetch_bytes": MAX_STATE_BYTES,
        }
        try:
            async with standalone_consumer(kafka_options(settings), [place], **how) as consumer:
                async for changes in _to_end(consumer, place, start):
                    yield changes
        except KafkaError as error:
            raise DeliveryError(f"changelog {topic} cannot be read: {type(error).__name__}") from error

    return read


async def _to_end(
    consumer: AIOKafkaConsumer, place: TopicPartition, start: int
) -> AsyncGenerator[Sequence[ChangelogRecord], None]:
    """Yield changes up to the end that stands now, by what the broker says and by what its fetches say.

    Where the log ends before `start`, the broker may have all fetched from the beginning, or nothing.
    """
    end = (await consumer.end_offsets([place]))[place]
    first = (await consumer.beginning_offsets([place]))[place]
    consumer.seek(place, max(start, first))
    while True:
        found = (await consumer.getmany(place, timeout_ms=FETCH_MS)).get(place, [])
        highwater = consumer.highwater(place)
        yield [_change(record) for record in found]
        if highwater is not None and await consumer.position(place) >= max(end, highwater):
            return


def _change(record: Any) -> ChangelogRecord:
    """A producer's own date (`timestamp_type` 0) is none of the broker's."""
    return ChangelogRecord(
        record.offset, record.timestamp if record.timestamp_type else UNDATED, record.key or b"", record.value
    )
