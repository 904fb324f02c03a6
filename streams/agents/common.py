"""What every stage does alike: read records by contract, and set aside those that break it."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from models.errors import EventError, Invalid
from models.events import DeadLetter, Event, digest
from models.events import decode as _decode
from streams.delivery import Record
from streams.metrics import Metrics
from streams.wire import Send, outgoing

E = TypeVar("E", bound=Event)


class Context(NamedTuple):
    """What stages share: the prefix of topic names, and the metrics."""

    prefix: str
    metrics: Metrics

    def send(self, event: Event, key: str) -> Send:
        """Encode an event for its topic."""
        return outgoing(self.prefix, event, key)

    def dead_letter(self, stage: str, record: Record, error: EventError, response_id: str | None = None) -> Send:
        """Say where a message lies that could not be processed, and why; never what it says."""
        self.metrics.dead_letters.labels(stage=stage, code=error.code).inc()
        letter = DeadLetter(
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
        return self.send(letter, f"{record.topic}/{record.partition}/{record.offset}")


class Internal(Invalid):
    """This version cannot process a valid message: a fault of ours, kept for inquiry."""

    code = "internal"


def decode(types: object, record: Record) -> Event:
    """Read a record by contract. Raises `EventError`."""
    return _decode(types, record.value)  # type: ignore[arg-type, return-value] # a union of events is no type[E]


Reader = Callable[[Record], Event]
