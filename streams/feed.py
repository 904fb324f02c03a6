"""Feeding a stream: events in order of arrival onto their topics, never far ahead of what is decided.

A replay runs a week in a minute. What keeps it true to life is that nothing is sent that would arrive more than `LEAD`
after a response that is still undecided: calibrators learn between one hour of the week and the next, and feedback
does not overtake its response by a day.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import product
from typing import Any, Final, NamedTuple

import orjson
from kafka import KafkaProducer

from models.events import MAX_MESSAGE_BYTES, Feedback, Response, Watermark, encode
from models.training.reactions import Arrival
from streams.connection import kafka_options
from streams.settings import Settings
from streams.stages import keys_in
from streams.wire import headers, signature

WINDOW: Final = 64
"""Most responses under way at a time."""
LEAD: Final = timedelta(hours=3)
"""In event time; far below the horizon of orphans."""


class Item(NamedTuple):
    """One message to send. `response_id`: it will be decided on."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    response_id: str | None
    arrives_at: datetime


def items(arrivals: Iterable[Arrival]) -> Iterator[Item]:
    """Put arrivals on their topics, with the keys of the contract."""
    for arrives_at, event in arrivals:
        response_id = event.response_id if isinstance(event, Response) else None
        key = event.conversation_id if isinstance(event, Response) else event.response_id
        id_ = event.response_id if isinstance(event, Response) else event.feedback_id
        yield Item(event.topic, key.encode(), encode(event), headers(event, id_), response_id, arrives_at)


def broken(response: Response, feedback: Feedback) -> list[Item]:
    """Return messages that break the contract in every way that the issue of bad input names."""
    good, verdict = orjson.loads(encode(response)), orjson.loads(encode(feedback))
    spoilt: list[tuple[str, Any]] = [
        ("responses", {**good, "turn": "first"}),
        ("responses", {k: v for k, v in good.items() if k != "query"}),
        ("responses", {**good, "schema": 99}),
        ("responses", {**good, "response": "x" * (MAX_MESSAGE_BYTES + 10_000)}),
        ("responses", b"\xff\xfe not JSON"),
        ("responses", orjson.dumps(good).replace(b'"query":', b'"context":{"history":NaN},"query":')),
        ("feedback", {**verdict, "action": "shrugged"}),
        ("feedback", {k: v for k, v in verdict.items() if k != "clinician"}),
        ("feedback", {**verdict, "schema": 99}),
        ("feedback", b"\x00\x01"),
    ]
    return [_broken(n, topic, value, response.occurred_at) for n, (topic, value) in enumerate(spoilt)]


def _broken(n: int, topic: str, value: Any, at: datetime) -> Item:
    name = f"broken-{n}"
    if isinstance(value, bytes):
        return Item(topic, name.encode(), value, [], None, at)
    named = value | ({"response_id": name, "conversation_id": name} if topic == "responses" else {"feedback_id": name})
    return Item(topic, name.encode(), orjson.dumps(named), [], name if topic == "responses" else None, at)


class Feed(threading.Thread):
    """Sends items in a thread of its own; `decided` opens the window again."""

    def __init__(self, settings: Settings, what: Sequence[Item], end: datetime) -> None:
        super().__init__(name="feed", daemon=True)
        self._settings = settings
        self._what = what
        self._end = end
        self._moved = threading.Condition()
        self._open: dict[str, datetime] = {}
        self._asked: set[str] = set()
        self.finished = False
        self.error: Exception | None = None

    def decided(self, response_id: str) -> None:
        """A response has its decision."""
        with self._moved:
            self._open.pop(response_id, None)
            self._moved.notify()

    def run(self) -> None:
        """Send everything, then the watermarks that end the stream."""
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 (shown by whoever started the thread)
            self.error = error

    def _run(self) -> None:
        producer = KafkaProducer(**kafka_options(self._settings), linger_ms=2, max_request_size=2 * MAX_MESSAGE_BYTES)
        for item in self._what:
            self._wait(item.arrives_at)
            if item.response_id is not None and item.response_id not in self._asked:  # another text under it has none
                self._asked.add(item.response_id)
                self._open[item.response_id] = item.arrives_at
            send(producer, self._settings, item).add_errback(self._failed)
        producer.flush()
        self._wait(self._end)
        for sent in send_end(producer, self._settings, self._end):
            sent.add_errback(self._failed)
        producer.close()
        self.finished = True

    def _failed(self, error: Exception) -> None:
        self.error = error

    def _wait(self, until: datetime) -> None:
        """Wait until what arrives at `until` may be sent."""
        with self._moved:
            self._moved.wait_for(lambda: len(self._open) < WINDOW and self._oldest(until) >= until - LEAD)

    def _oldest(self, default: datetime) -> datetime:
        return next(iter(self._open.values()), default)


def send(producer: KafkaProducer, settings: Settings, item: Item) -> Any:
    """Send one item to its topic and return the future of the broker's answer."""
    signed = signature(keys_in(settings.keys), item.topic, item.key, item.value, item.headers)
    topic = settings.topic_prefix + item.topic
    return producer.send(topic, key=item.key, value=item.value, headers=item.headers + signed)


def send_end(producer: KafkaProducer, settings: Settings, at: datetime) -> list[Any]:
    """Mark everywhere that no event older than `at` will follow. Not before every response is decided."""
    sent, end = [], encode(Watermark(occurred_at=at))
    for topic, partition in product(Watermark.topics, range(settings.partitions)):
        signed = signature(keys_in(settings.keys), topic, None, end, [])
        sent.append(producer.send(settings.topic_prefix + topic, value=end, headers=signed, partition=partition))
    return sent


def end_of(arrivals: Sequence[Arrival], settings: Settings) -> datetime:
    """Return an event time by which every horizon has passed."""
    last = max(max(arrives_at, event.occurred_at) for arrives_at, event in arrivals)
    return last + timedelta(seconds=settings.horizon_s + settings.orphan_s + settings.settle_s)
