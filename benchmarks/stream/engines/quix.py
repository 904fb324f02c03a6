"""quix-streams: two topics concatenated, one store in RocksDB with its changelog, checkpoints as it ships."""

from collections.abc import Iterator
from typing import Any

from quixstreams import Application, message_context
from quixstreams.models import Serializer

from benchmarks.stream.engines.spec import Began, Spec, read
from benchmarks.stream.feed import PARTITIONS
from benchmarks.stream.rule import OUTCOMES, Join, score
from streams.clock import WallClock
from streams.wire import Send

ROW = "row"


class Sent(Serializer):
    """Writes the value of what is sent."""

    def __call__(self, value: Any, ctx: Any) -> Any:  # noqa: ARG002 (its interface)
        return value.value if isinstance(value, Send) else value


def now_ms(*_: Any) -> int:
    """An output would carry its input's time; what is measured is when it is written."""
    return int(WallClock().now().timestamp() * 1000)


def create(spec: Spec) -> Application:
    """Return the application of a job."""
    app = Application(
        broker_address=spec.bootstrap,
        consumer_group=f"{spec.prefix}quix",
        auto_offset_reset="earliest",
        state_dir=spec.folder,
        loglevel="WARNING",
    )
    {"pass": passing, "join": joining, "end_to_end": whole}[spec.job](app, spec.prefix, Began(spec.folder))
    return app


def source(app: Application, name: str) -> Any:
    return app.dataframe(app.topic(name, key_deserializer="bytes", value_deserializer="bytes"))


def target(app: Application, name: str) -> Any:
    return app.topic(name, key_serializer="bytes", value_serializer=Sent())


def passing(app: Application, prefix: str, began: Began) -> None:
    def now(*_: Any) -> int:
        began()
        return now_ms()

    source(app, f"{prefix}responses").set_timestamp(now).to_topic(target(app, f"{prefix}passed"))


def joining(app: Application, prefix: str, began: Began) -> None:
    frame = source(app, f"{prefix}decisions").concat(source(app, f"{prefix}feedback"))
    frame.register_store()
    targets = {prefix + topic: target(app, prefix + topic) for topic in OUTCOMES}
    rules = {n: Join(prefix, n, *rows(frame, n)) for n in range(PARTITIONS)}

    def take(value: bytes, *_: Any) -> Iterator[Send]:
        began()
        at = message_context()
        return rules[at.partition].take(at.topic.removeprefix(prefix), at.offset, value)

    write(frame.apply(take, metadata=True, expand=True), lambda send, *_: targets[send.topic])


def whole(app: Application, prefix: str, began: Began) -> None:
    def take(value: bytes) -> Send:
        began()
        return score(prefix, value)

    write(source(app, f"{prefix}responses").apply(take), target(app, f"{prefix}decisions"))
    joining(app, prefix, began)


def write(sent: Any, to: Any) -> None:
    """Write what is sent, as it is."""
    sent = sent.set_headers(lambda send, *_: send.headers).set_timestamp(now_ms)
    sent.to_topic(to, key=lambda send: send.key)


def rows(frame: Any, partition: int) -> tuple[Any, Any]:
    """Reach the rows of a partition by any key: a timer wakes others than the message's own."""

    def state(key: str) -> Any:
        checkpoint = frame.processing_context.checkpoint
        transaction = checkpoint.get_store_transaction(stream_id=frame.stream_id, partition=partition)
        return transaction.as_state(prefix=key.encode())

    return lambda key: state(key).get_bytes(ROW), lambda key, row: state(key).set_bytes(ROW, row)


if __name__ == "__main__":
    create(read()).run()
