"""One Faust app per stage: `create_app` has no side effects at import and keeps nothing global.

A stage is a consumer group of its own, so that SCORE scales with its encoder, JOIN with its rows and LEARN with its
deployments, and a slow encoder never delays a label.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import faust
from faust.events import Event
from faust.transport.drivers.aiokafka import Transport as AIOKafkaTransport
from mode.supervisors import CrashingSupervisor
from prometheus_client import Counter

from streams.changelog import changelog_reader
from streams.clock import Clock, WallClock
from streams.connection import faust_credentials
from streams.consumer import Consumer, Lag
from streams.delivery import Delivery, Stage
from streams.producer import Producer
from streams.settings import Settings
from streams.state import State, rows_in
from streams.topics import MAX_STATE_BYTES
from streams.watchdog import PATIENCE_S

IDLE_S: Final = 1.0
"""How often a stage looks at what became due while no events came."""

BATCH_BYTES: Final = 2**19
"""Of records to one partition: a stage's batch goes out whole. Kafka takes 1 MiB; a larger record goes alone."""

GATHER_BYTES: Final = 2**18
"""All but SCORE wait for so much, though not long: one by one, records cost three times as much as by the dozen."""


class Raw(faust.Schema[bytes, bytes]):
    """Bytes in, bytes out: Faust decodes nothing, and looks at no header."""

    def compile(self, app: Any, **_: Any) -> Any:
        """Return what makes an event of a message."""

        async def event(message: Any, **_: Any) -> Event:
            return Event(app, message.key, message.value, None, message)

        return event


RAW: Final[Any] = Raw(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


class Transport(AIOKafkaTransport):
    """Faust's transport with our consumer and producer."""

    Consumer = Consumer
    Producer = Producer


class App(faust.App):
    """A Faust app that settles what is under way before it stops."""

    stage: Stage
    delivery: Delivery
    clock: Clock
    inputs: Mapping[str, str]
    """What it consumes: the topics' names in the broker, and without the prefix."""
    lost: Mapping[str, Counter]
    """By topic (its name in the broker), the count of records that were deleted before it read them."""
    fetch_min_bytes: int
    """What is worth a fetch; less waits for up to `FETCH_WAIT_MS`."""

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def lags(self) -> dict[str, Lag]:
        """Return what this worker has not settled, by topic (without prefix); of those that it has partitions of."""
        if not self.started:
            return {}
        consumer = cast("Consumer", self.consumer)
        now = self.clock.wall_time_at(self.clock.monotonic()) or WallClock().now()
        return {self.inputs[topic]: lag for topic, lag in consumer.lags(now.timestamp()).items()}

    async def on_stop(self) -> None:
        """Finish and commit batches under way: a graceful stop must not lose more than a kill."""
        await self.delivery.drain()
        await super().on_stop()


def create_app(
    settings: Settings, name: str, topics: Sequence[str], build: Callable[[State], Stage], clock: Clock
) -> App:
    """Create the Faust app of one stage.

    Args:
        settings: where the broker is and how to behave.
        name: the stage, which names its consumer group and changelog.
        topics: names (without prefix) of the topics it consumes; all keyed alike and co-partitioned.
        build: makes the stage around its state.
        clock: the stage's, which broker and machine set.
    """
    group = f"{settings.topic_prefix}demur-{name}"
    folder = settings.data_dir / group  # installations may share a disk as they do a cluster
    folder.mkdir(parents=True, exist_ok=True)  # Faust makes no parents
    app = App(group, **_conf(settings, folder))
    app.fetch_min_bytes = 1 if name == "score" else GATHER_BYTES
    app.clock = clock
    app.inputs = {settings.topic_prefix + topic: topic for topic in topics}
    rows = rows_in(settings.store, folder)
    app.stage = build(State(app, "state", rows, changelog_reader(settings)))
    app.delivery = Delivery(app, app.stage)
    for topic in sorted(app.inputs):
        _agent(app, topic, settings.partitions)
    _timer(app)
    return app


def _conf(settings: Settings, folder: Path) -> dict[str, Any]:
    return {
        "broker": [f"aiokafka://{b}" for b in settings.bootstrap.split(",")],
        "broker_credentials": faust_credentials(settings),
        "store": "memory://",  # Faust holds no tables: see `state`
        "datadir": str(folder),
        "topic_partitions": settings.partitions,
        "topic_allow_declare": False,  # topics are made by `demur topics`: workers need no CREATE permission
        "topic_disable_leader": True,
        "web_enabled": False,  # Faust's server listens everywhere, without authentication
        "agent_supervisor": CrashingSupervisor,  # a stage that fails ends the worker, which is restarted whole
        "stream_wait_empty": False,  # `Delivery.drain` does it
        "stream_buffer_maxsize": 65_536,  # four fifths hold what `consumer` lets be under way, even if it comes singly
        "broker_commit_interval": 0.5,
        "broker_session_timeout": settings.session_timeout_s,
        "broker_heartbeat_interval": settings.session_timeout_s / 6,
        "broker_rebalance_timeout": PATIENCE_S,  # Faust's own; `Lease` and `Watchdog` go by it
        "producer_linger": 0.0,  # a stage sends a batch at once, and waits for it
        "producer_max_batch_size": BATCH_BYTES,
        "producer_max_request_size": MAX_STATE_BYTES,
        "producer_acks": -1,
        "processing_guarantee": "at_least_once",  # Faust's transactions are unsound (#323, #517)
    }


def _agent(app: App, topic: str, partitions: int) -> None:
    source = app.topic(topic, schema=RAW, partitions=partitions)

    async def run(stream: Any) -> None:
        await app.delivery.consume(stream)

    app.agent(source, name=f"{app.stage.name}-{topic}", concurrency=1)(run)


def _timer(app: App) -> None:
    async def tick() -> None:
        await app.delivery.tick({tp.partition for tp in app.consumer.assignment() if tp.topic in app.inputs})

    app.timer(IDLE_S)(tick)
