"""What comes in and what goes out: records with CloudEvents headers, sent together and awaited together.

Headers follow the CloudEvents 1.0 Kafka binding, binary mode: https://github.com/cloudevents/spec (kafka binding).
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final, NamedTuple

from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBase
from faust.exceptions import ProducerSendError

from models.errors import DeliveryError, Forged
from models.events import Event, Feedback, Response, digest, encode
from models.signing import OURS, Keys, Signed

SOURCE: Final = b"/demur"
TRACE: Final = "traceparent"
"""The header of W3C's Trace Context (https://www.w3.org/TR/trace-context/). Its companion, `tracestate`, may hold any
text, and goes no further."""
TRACES: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
DELIVERY_TIMEOUT_S: Final = 30.0
"""As long as a broker may take over after losing its leader; then the worker ends and another takes over."""


class Record(NamedTuple):
    """One consumed message, raw."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes]
    at: float
    """When the broker took it, in seconds since the epoch; what its producer says of that, if not `by_broker`. Nought:
    not known."""
    by_broker: bool = False


class Send(NamedTuple):
    """One record on its way out."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None = None


def headers(event: Event, id_: str) -> list[tuple[str, bytes]]:
    """Return the CloudEvents attributes of an event; never anything of its content."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", id_.encode()),
        ("ce_type", _ce_type(type(event), event.schema)),
        ("ce_source", SOURCE),
        ("content-type", b"application/json"),
    ]


@cache
def _ce_type(type_: type[Event], schema: int) -> bytes:
    return f"org.demur.{type_.__struct_config__.tag}.v{schema}".encode()


def outgoing(prefix: str, event: Event, keys: Keys | None = None) -> Send:
    """Encode an event for its topic. Its id is the digest of its bytes, so that a repeat has the same.

    Of what a gateway sends it is the event's own, as we ask of every gateway: what cannot be read is named by it.
    """
    key, value = (event.key or "").encode(), encode(event)
    match event:
        case Response():
            id_ = event.response_id
        case Feedback():
            id_ = event.feedback_id
        case _:
            id_ = digest(value)[:32]
    said = headers(event, id_)
    said += signature(keys, event.topic, key, value, said)
    return Send(prefix + event.topic, key, value, said)


def with_trace(headers: Mapping[str, bytes], send: Send) -> Send:
    """Let what is sent go on with the trace of what came. What is no trace may be any text, and is dropped."""
    trace = headers.get(TRACE)
    if trace is None or not TRACES.fullmatch(trace):
        return send
    return send._replace(headers=[*(send.headers or ()), (TRACE, trace)])


def signature(
    keys: Keys | None, topic: str, key: bytes | None, value: bytes, said: Sequence[tuple[str, bytes]]
) -> list[tuple[str, bytes]]:
    """Return the headers that sign a record as ours, where records are signed. `topic` is the name without prefix."""
    return keys.sign(OURS, Signed.of(topic, key, value, dict(said))) if keys else []


def header_map(headers: Any) -> dict[str, bytes]:
    """Return the headers of a record, by name. Kafka knows headers without a value, and records without headers."""
    return {name: value or b"" for name, value in dict(headers or ()).items()}


def by_broker(record: Any) -> bool:
    """Whether it was the broker that dated a record of a client's, not its producer, who may write any date."""
    return bool(record.timestamp_type == DefaultRecordBase.LOG_APPEND_TIME)


def signature_error(record: Any, prefix: str, keys: Keys | None) -> Forged | None:
    """Return what is wrong with the signature of a consumed record, where records are signed."""
    if keys is None:
        return None
    found = header_map(record.headers)
    signed = Signed.of(record.topic.removeprefix(prefix), record.key, record.value or b"", found)
    return keys.signature_error(signed, found, _taken_at(record))


def _taken_at(record: Any) -> float:
    """When the broker took it, in seconds since the epoch; 0: nobody knows."""
    if isinstance(record, Record):
        return record.at if record.by_broker else 0.0
    return record.timestamp / 1000 if record.timestamp and by_broker(record) else 0.0


async def send_all(app: Any, sends: Sequence[Send]) -> None:
    """Send records and wait until the broker has acknowledged every one. Raises `DeliveryError`."""
    async with _in_time(f"{len(sends)} records to {sends[0].topic}"):
        await app.producer.send_all(sends)


async def send_rows(app: Any, topic: str, partition: int, rows: Mapping[bytes, bytes | None]) -> tuple[int, int]:
    """Send rows; when the broker has them all, return the last one's offset and time, as `Producer` does.

    Raises `DeliveryError`.
    """
    async with _in_time(f"{len(rows)} rows to {topic}"):
        last: tuple[int, int] = await app.producer.send_rows(topic, partition, rows.items())
        return last


@asynccontextmanager
async def _in_time(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(DELIVERY_TIMEOUT_S):
            yield
    except (ProducerSendError, KafkaError, TimeoutError, OSError) as error:
        raise DeliveryError(f"{what}: {type(error).__name__}") from error
