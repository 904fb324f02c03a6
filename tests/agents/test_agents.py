"""The agents in Faust's test context: real app, real agent, real table; only broker and clock are doubles."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError
from aiokafka.partitioner import murmur2
from faust.types import TP

from models.errors import DeliveryError
from models.events import Label, Watermark, decode, encode
from models.joining import Horizons
from streams.agents.join import Join
from streams.app import App, create_app
from streams.clock import EventClock, since_boot
from streams.lease import Lease
from streams.producer import Producer
from streams.settings import Settings, load
from streams.wire import Record, Send, send_all, send_rows
from tests.stagecraft import HospitalClock, at, context, decision, feedback

HORIZONS = Horizons(timedelta(minutes=2), timedelta(days=1), timedelta(hours=2))


class Broker:
    """What the app sends, and which messages it settles."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.taken = 0
        self.settled: list[int] = []
        self.down = False
        self.losing = False
        self.dates = -1
        """When it says that it took a record, in milliseconds since the epoch; -1: it does not say."""
        self.lease = Lease(session_s=60.0, rebalance_s=60.0)
        self.lease.renew(since_boot())
        self._unacked_messages: set[Any] = set()

    async def partitions_for(self, topic: str) -> set[int]:
        """As of a topic that was made larger than the settings say."""
        return set(range(8))

    async def send_batch(self, batch: "Batch", topic: str, *, partition: int) -> Any:
        return self._take([SimpleNamespace(topic=topic, partition=partition, **row) for row in batch.rows])

    def create_batch(self) -> "Batch":
        return Batch()

    def _take(self, records: Any) -> Any:
        if self.down:
            raise OSError("the broker is gone")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.losing:
            done.set_exception(KafkaTimeoutError())
        else:
            done.set_result(
                SimpleNamespace(offset=self.taken, timestamp=self.dates, timestamp_type=int(self.dates > 0))
            )
        self.taken += len(records)
        self.sent += records
        return done

    def still_assigned(self, tp: TP, records: list[Record]) -> list[Record]:
        return records

    def is_next(self, tp: TP, records: list[Record]) -> bool:
        return True

    def mark_processed(self, tp: TP, records: list[Record]) -> None:
        self.settled += [r.offset for r in records]


class Batch:
    """What aiokafka fills with records of one partition."""

    def __init__(self, room: int = 2) -> None:
        self.rows: list[dict[str, Any]] = []
        self._room = room

    def append(self, *, timestamp: None, **row: Any) -> object | None:
        if len(self.rows) == self._room:
            return None
        self.rows.append(row)
        return self

    def record_count(self) -> int:
        return len(self.rows)

    def close(self) -> None:
        self._room = len(self.rows)


@pytest.fixture
def double() -> Broker:
    return Broker()


async def nothing(*_: Any) -> AsyncIterator[list[Any]]:
    """An empty changelog."""
    yield []


@pytest.fixture
async def app(double: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setattr("streams.app.changelog_reader", lambda _: nothing)
    settings: Settings = load(data_dir=tmp_path)
    clock = EventClock()

    def join(state: Any) -> Join:
        return Join(context(), state, HORIZONS, clock, (b"",))

    made = create_app(settings, "join", ["decisions", "feedback"], join, clock)
    made.finalize()
    made._producer = Producer.__new__(Producer)
    made._producer._ensure_producer = lambda: double
    made._producer.app = made
    made._consumer = double
    return made


async def tell(app: App, topic: str, *values: bytes) -> None:
    agent = app.agents[f"join-{topic}"]
    async with agent.test_context() as running:
        for offset, value in enumerate(values):
            await running.put([Record(topic, 0, offset, b"r1", value, {}, 0.0)], partition=0, wait=False)
        for _ in range(100):
            await asyncio.sleep(0.01)
            if len(app.consumer.settled) >= len(values):
                return


async def test_an_agent_joins_writes_its_changelog_first_and_settles_last(app: App, double: Broker) -> None:
    await tell(app, "decisions", encode(decision()), encode(Watermark(occurred_at=at(900))))
    double.settled.clear()
    double.sent.clear()
    await tell(app, "feedback", encode(feedback("f1")), encode(Watermark(occurred_at=at(900))))
    topics = [s.topic for s in double.sent]
    [label] = [decode(Label, s.value) for s in double.sent if s.topic == "labels"]
    assert label.feedback_id == "f1"
    assert topics.index("demur-join-state-changelog") < topics.index("labels")
    assert double.settled == [0, 1]


@pytest.mark.parametrize(("dates", "told"), [(-1, at(600)), (int(at(0).timestamp() * 1e3), at(0))])
async def test_the_answer_to_a_write_tells_the_time(app: App, double: Broker, dates: int, told: datetime) -> None:
    app.clock, double.dates = HospitalClock(at(600)), dates
    await send_rows(app, "rows", 0, {b"k": b"v"})
    assert app.clock.wall_time_at(app.clock.monotonic()) == told


async def test_undecodable_bytes_do_not_stop_the_agent(app: App, double: Broker) -> None:
    await tell(app, "feedback", b"\xff", encode(feedback("f1")))
    assert double.settled == [0, 1]
    assert [s.topic for s in double.sent if "changelog" not in s.topic] == ["dead-letters"]


@pytest.mark.parametrize("how", ["down", "losing"])
async def test_nothing_is_settled_when_the_broker_does_not_take_it(app: App, double: Broker, how: str) -> None:
    """It refuses at once, or takes a record and never acknowledges it."""
    setattr(double, how, True)
    crashed: list[BaseException] = []

    async def crash(reason: BaseException) -> None:
        crashed.append(reason)

    app.crash = crash
    await tell(app, "decisions", encode(decision()))
    assert double.settled == []
    assert [type(reason).__name__ for reason in crashed] == ["DeliveryError"]


@pytest.mark.parametrize("number", range(1, 8))
async def test_rows_go_in_order_in_as_many_batches_as_they_need(app: App, double: Broker, number: int) -> None:
    double.sent.clear()
    double.dates = 1_767_600_000_000
    rows = {b"%d" % n: b"x" if n % 3 else None for n in range(number)}
    assert await app.producer.send_rows("changelog", 0, rows.items()) == (number - 1, 1_767_600_000_000)
    assert [(s.key, s.value) for s in double.sent] == list(rows.items())


async def test_records_go_in_order_to_the_partitions_of_their_keys(app: App, double: Broker) -> None:
    """Where whoever reads them looks, by the same settings: also in a topic that has grown meanwhile."""
    double.sent.clear()
    sends = [Send(f"topic-{n % 2}", b"%d" % (n % 5), b"%d" % n, [("ce_id", b"%d" % n)]) for n in range(40)]
    await send_all(app, sends)
    assert sorted((s.topic, s.key, s.value, s.headers) for s in double.sent) == sorted(sends)
    for topic in ("topic-0", "topic-1"):
        for partition in range(4):
            mine = [s for s in sends if s.topic == topic and (murmur2(s.key or b"") & 0x7FFFFFFF) % 4 == partition]
            there = [s.value for s in double.sent if (s.topic, s.partition) == (topic, partition)]
            assert there == [s.value for s in mine]


async def test_what_is_not_acknowledged_is_an_error(app: App, double: Broker) -> None:
    double.losing = True
    with pytest.raises(DeliveryError):
        await send_all(app, [Send("labels", b"k", b"v", [("ce_id", b"1")])])
    with pytest.raises(DeliveryError):
        await send_rows(app, "changelog", 0, {b"k": b"v"})
