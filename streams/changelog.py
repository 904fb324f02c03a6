"""Reading a partition of a changelog to its end, by a consumer of its own."""

from collections.abc import AsyncIterator, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from models.errors import DeliveryError
from streams.connection import kafka_options
from streams.settings import Settings
from streams.state import Change, Reader
from streams.topics import MAX_STATE_BYTES

FETCH_MS = 20
"""How long a fetch waits at the end of the log; see `streams/broker.py` for why it is short."""


def changelog_reader(settings: Settings) -> Reader:
    """Return a reader of changelogs on the broker of `settings`."""

    async def read(topic: str, partition: int, start: int) -> AsyncIterator[Sequence[Change]]:
        place = TopicPartition(topic, partition)
        consumer = AIOKafkaConsumer(
            **kafka_options(settings),
            group_id=None,
            auto_offset_reset="earliest",  # should the log lose its beginning, nothing of the rest is left out
            fetch_max_wait_ms=FETCH_MS,
            max_partition_fetch_bytes=MAX_STATE_BYTES,
        )
        try:
            await consumer.start()
            consumer.assign([place])
            async for changes in _to_end(consumer, place, start):
                yield changes
        except KafkaError as error:
            raise DeliveryError(f"changelog {topic} cannot be read: {type(error).__name__}") from error
        finally:
            await consumer.stop()

    return read


async def _to_end(consumer: AIOKafkaConsumer, place: TopicPartition, start: int) -> AsyncIterator[Sequence[Change]]:
    """Yield changes up to the end that stands now, by what the broker says and by what its fetches say."""
    end = (await consumer.end_offsets([place]))[place]
    first = (await consumer.beginning_offsets([place]))[place]
    consumer.seek(place, max(start, first))
    while True:
        found = (await consumer.getmany(place, timeout_ms=FETCH_MS)).get(place, [])
        end = max(end, consumer.highwater(place) or 0)
        if start > end:
            raise DeliveryError(f"changelog {place.topic} ends at {end}, the state on disk at {start}: a log was lost")
        yield [Change(record.offset, record.key or b"", record.value) for record in found]
        if await consumer.position(place) >= end:
            return
