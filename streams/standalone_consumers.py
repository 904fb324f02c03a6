"""Consumers of given partitions, outside any group: what every process reads for itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

log = structlog.get_logger(__name__)


@asynccontextmanager
async def standalone_consumer(
    options: Mapping[str, Any], partitions: Sequence[TopicPartition], **more: Any
) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer that has started and reads these partitions. `options`: of `kafka_options`."""
    consumer = AIOKafkaConsumer(**options, group_id=None, **more)
    try:
        await consumer.start()
        consumer.assign(partitions)
        yield consumer
    finally:
        await consumer.stop()


async def retry_forever(read: Callable[[], Awaitable[None]], lost: str) -> None:
    """Read, and begin again when the broker is lost, which is logged as `lost`."""
    while True:
        try:
            await read()
        except KafkaError as error:
            log.warning(lost, error=type(error).__name__)
            await asyncio.sleep(1)
