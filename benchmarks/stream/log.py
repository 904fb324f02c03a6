"""Filling and reading topics fast, with aiokafka: what measures must not cost as much as what is measured."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.stream.feed import PARTITIONS, Item
from models.errors import DemurError
from streams.clock import WallClock

LINGER_MS = 5
FETCH_MS = 50
ACKS_S = 60
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # topics just made have no leader yet: it tries again


class Written(NamedTuple):
    """One record read back. `at`: when it was written, in seconds since the epoch."""

    topic: str
    partition: int
    at: float
    value: bytes


def now() -> float:
    """Return the machine's time, as brokers stamp it."""
    return WallClock().now().timestamp()


def fill(bootstrap: str, prefix: str, items: Iterable[Item], rate: float | None = None) -> None:
    """Write items to their places and wait until the broker has them; `rate`: so many a second, evenly."""
    asyncio.run(_fill(bootstrap, prefix, items, rate))


async def _fill(bootstrap: str, prefix: str, items: Iterable[Item], rate: float | None) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=LINGER_MS, acks="all")
    await producer.start()
    try:
        began, acks = now(), deque[Any]()
        for n, item in enumerate(items):
            if rate and (early := began + n / rate - now()) > 0:
                await asyncio.sleep(early)
            acks.append(await producer.send(prefix + item.topic, item.value, item.key, item.partition))
            while acks and acks[0].done():
                acks.popleft().result()
        await asyncio.wait_for(asyncio.gather(*acks), ACKS_S)
    finally:
        await producer.stop()


def read(bootstrap: str, prefix: str, topics: Sequence[str]) -> list[Written]:
    """Return every record of topics at rest; topic names without prefix."""
    return asyncio.run(_read(bootstrap, prefix, topics))


async def _read(bootstrap: str, prefix: str, topics: Sequence[str]) -> list[Written]:
    async with _consumer(bootstrap, prefix, topics) as (consumer, places):
        ends = await consumer.end_offsets(places)
        found: list[Written] = []
        while [p for p in places if await consumer.position(p) < max(ends[p], consumer.highwater(p) or 0)]:
            for records in (await consumer.getmany(timeout_ms=FETCH_MS, max_records=5000)).values():
                found += [_written(record, prefix) for record in records]
        return found


def _written(record: Any, prefix: str) -> Written:
    return Written(record.topic.removeprefix(prefix), record.partition, record.timestamp / 1e3, record.value or b"")


@asynccontextmanager
async def _consumer(
    bootstrap: str, prefix: str, topics: Sequence[str]
) -> AsyncIterator[tuple[AIOKafkaConsumer, list[TopicPartition]]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, fetch_max_wait_ms=FETCH_MS)
    await consumer.start()
    try:
        places = [TopicPartition(prefix + topic, n) for topic in topics for n in range(PARTITIONS)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        yield consumer, places
    finally:
        await consumer.stop()


def count(bootstrap: str, prefix: str, topics: Sequence[str]) -> int:
    """Return how many records topics hold, as the broker says; the embedded one forgets most of the last batch."""
    return asyncio.run(_count(bootstrap, prefix, topics))


async def _count(bootstrap: str, prefix: str, topics: Sequence[str]) -> int:
    async with _consumer(bootstrap, prefix, topics) as (consumer, places):
        ends = await consumer.end_offsets(places)
        if not ends:
            raise DemurError("the broker names no ends of topics")
        return sum(ends.values())
