"""Faust's producer, for many records at once: those of one partition go as batches that are acknowledged whole."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from faust.transport.drivers.aiokafka import Producer as AIOKafkaProducer

from models.partitions import home
from streams.wire import Send

Row = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
"""Key, value and headers of a record."""


class Producer(AIOKafkaProducer):
    """Sends past Faust's own `send`, which looks at every record alone. The broker's answers tell the time."""

    app: Any

    async def send_all(self, sends: Sequence[Send]) -> None:
        """Send records and wait until the broker has acknowledged every one.

        They go where our readers look, by the settings: a topic may be made larger while workers run.
        """
        parts, partitions = defaultdict[tuple[str, int], list[Row]](list), self.app.conf.topic_partitions
        for send in sends:
            parts[send.topic, home(send.key or b"", partitions)].append((send.key, send.value, send.headers or []))
        await asyncio.gather(*(self._send(*part, rows) for part, rows in parts.items()))

    async def send_rows(
        self, topic: str, partition: int, rows: Iterable[tuple[bytes, bytes | None]]
    ) -> tuple[int, int]:
        """Send rows to a partition, in order; return the last one's offset and time when the broker has them.

        The time is the broker's, in ms since the epoch; -1 where it does not date records.
        """
        return await self._send(topic, partition, ((key, value, []) for key, value in rows))

    async def _send(self, topic: str, partition: int, rows: Iterable[Row]) -> tuple[int, int]:
        producer, sent = self._ensure_producer(), []
        for batch in _batches(producer, rows):
            done = await producer.send_batch(batch, topic, partition=partition)
            sent.append((done, batch.record_count()))
        places = await asyncio.gather(*(done for done, _ in sent))
        last = places[-1]
        self.app.clock.synchronise(last.timestamp / 1e3 if last.timestamp_type else None)
        return int(last.offset) + sent[-1][1] - 1, int(last.timestamp)


def _batches(producer: Any, rows: Iterable[Row]) -> Iterable[Any]:
    """Fill batches; a record that is larger than one goes alone."""
    batch = producer.create_batch()
    for key, value, headers in rows:
        if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
            yield batch
            batch = producer.create_batch()
            batch.append(timestamp=None, key=key, value=value, headers=headers)
    batch.close()
    yield batch
