"""What every stage does alike: read records by contract, and set aside those that break it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, NamedTuple, TypeVar

from models.errors import DeliveryError, EventError, Invalid, UnknownSchema
from models.events import WRITTEN_BY_OTHERS, DeadLetter, Event, decode, digest
from models.partitions import misplaced
from models.signing import Keys
from streams.metrics import Metrics
from streams.wire import Record, Send, outgoing, signature_error

T = TypeVar("T")
YIELD_EVERY: Final = 256
"""Rows or events after which others may use the event loop: some milliseconds' worth."""


class Context(NamedTuple):
    """What stages share: the prefix of topic names, the metrics, where records are signed the keys, and how many
    partitions each topic has.
    """

    prefix: str
    metrics: Metrics
    keys: Keys | None = None
    partitions: int = 1

    def send(self, event: Event) -> Send:
        """Encode an event for its topic, and count it."""
        self.metrics.sent(event)
        return outgoing(self.prefix, event, self.keys)

    def decode(self, types: Any, record: Record) -> Any:
        """Read a record as one of `types`, in the partition of its key. Raises `EventError`; and `DeliveryError` for
        one of ours in a schema that this version does not read: whoever runs another takes over, and nobody sends it
        again.
        """
        if forged := signature_error(record, self.prefix, self.keys):
            raise forged
        try:
            event: Event = decode(types, record.value)
        except UnknownSchema as error:
            if record.topic.removeprefix(self.prefix) in WRITTEN_BY_OTHERS:
                raise
            where = f"records of {record.topic}, partition {record.partition} from offset {record.offset} on"
            raise incompatible(where, error) from None
        if elsewhere := misplaced(event, record.partition, self.partitions):
            raise elsewhere
        return event

    def dead_letter(self, stage: str, record: Record, error: EventError, response_id: str | None = None) -> Send:
        """Send what `letter` says."""
        return self.send(self.letter(stage, record, error, response_id))

    def letter(self, stage: str, record: Record, error: EventError, response_id: str | None = None) -> DeadLetter:
        """Say where a message lies that could not be processed, and why; never what it says."""
        self.metrics.dead_letters.labels(stage=stage, code=error.code).inc()
        return DeadLetter(
            source_topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            stage=stage,
            code=error.code,
            detail=str(error),
            digest=digest(record.value),
            size_bytes=len(record.value),
            response_id=response_id,
        )


async def gently(many: Iterable[T]) -> AsyncIterator[T]:
    """Yield what may be a million, and leave the event loop to others now and then."""
    for n, one in enumerate(many, 1):
        yield one
        if n % YIELD_EVERY == 0:
            await asyncio.sleep(0)


def incompatible(what: str, error: Exception) -> DeliveryError:
    """Return what ends a worker that cannot read what its stages wrote: going on would set it aside for good."""
    return DeliveryError(
        f"{what}: written by another version, or damaged; run the version that wrote them ({type(error).__name__})"
    )


class Internal(Invalid):
    """This version cannot process a valid message: a fault of ours, kept for inquiry."""

    code = "internal"
