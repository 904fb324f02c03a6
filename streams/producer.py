"""Faust's producer, for many records at once: those of one partition go as batches that are acknowledged whole."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from faust.transport.drivers.aiokafka import Producer as AIOKafkaProducer

from streams.wire import Send


class Producer(AIOKafkaProducer):
    """Sends past Faust's own `send`, which looks at every record alone."""

    async def send_all(self, sends: Sequence[Send]) -> None:
        """Send records and wait until the broker has acknowledged every one."""
        producer = self._ensure_producer()
        await asyncio.gather(*[await producer.send(s.topic, s.value, s.key, headers=s.headers) for s in sends])

    async def send_rows(self, topic: str, partition: int, rows: Iterable[tuple[bytes, bytes | None]]) -> int:
        """Send rows to a partition, in order; return the offset after the last when the broker has them all."""
        producer, sent = self._ensure_producer(), []
        for batch in _batches(producer, rows):
            done = await producer.send_batch(batch, topic, partition=partition)
            sent.append((done, batch.record_count()))
        places = await asyncio.gather(*(done for done, _ in sent))
        return int(places[-1].offset + sent[-1][1])


def _batches(producer: Any, rows: Iterable[tuple[bytes, bytes | None]]) -> Iterable[Any]:
    """Fill batches; a row that is larger than one goes alone."""
    batch = producer.create_batch()
    for key, value in rows:
        if batch.append(timestamp=None, key=key, value=value) is None:
            yield batch
            batch = producer.create_batch()
            batch.append(timestamp=None, key=key, value=value)
    batch.close()
    yield batch
