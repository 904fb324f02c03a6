"""faust-streaming as its documentation has it: an agent over a stream, a table in RocksDB, sends awaited one by one."""

from typing import Any

import faust

from benchmarks.stream.engines.spec import Began, Spec, read
from benchmarks.stream.feed import PARTITIONS
from benchmarks.stream.rule import OUTCOMES, Join, score

RAW: Any = faust.Schema(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


def create(spec: Spec) -> faust.App:
    """Return the app of a job."""
    app = faust.App(
        f"{spec.prefix}faust",
        broker=f"kafka://{spec.bootstrap}",
        store="rocksdb://",
        datadir=spec.folder,
        topic_partitions=PARTITIONS,
        topic_replication_factor=1,
        web_enabled=False,
    )
    {"pass": passing, "join": joining, "end_to_end": whole}[spec.job](app, spec.prefix, Began(spec.folder))
    return app


def passing(app: faust.App, prefix: str, began: Began) -> None:
    target = app.topic(f"{prefix}passed", schema=RAW)

    async def run(stream: Any) -> None:
        async for event in stream.events():
            began()
            await target.send(key=event.key, value=event.value)

    app.agent(app.topic(f"{prefix}responses", schema=RAW), name="pass")(run)


def joining(app: faust.App, prefix: str, began: Began) -> None:
    table = app.Table("rows", key_type=bytes, value_type=bytes, schema=RAW, partitions=PARTITIONS)
    targets = {prefix + topic: app.topic(prefix + topic, schema=RAW) for topic in OUTCOMES}
    rules: dict[int, Join] = {}

    def get(key: str) -> bytes | None:
        found: bytes | None = table.get(key.encode())
        return found

    def put(key: str, row: bytes) -> None:
        table[key.encode()] = row

    async def run(stream: Any) -> None:
        async for event in stream.events():
            began()
            m = event.message
            rule = rules.setdefault(m.partition, Join(prefix, m.partition, get, put))
            for send in rule.take(m.topic.removeprefix(prefix), m.offset, event.value):
                await targets[send.topic].send(key=send.key, value=send.value, headers=send.headers)

    app.agent(app.topic(f"{prefix}decisions", f"{prefix}feedback", schema=RAW), name="join")(run)


def whole(app: faust.App, prefix: str, began: Began) -> None:
    target = app.topic(f"{prefix}decisions", schema=RAW)

    async def run(stream: Any) -> None:
        async for event in stream.events():
            began()
            send = score(prefix, event.value)
            await target.send(key=send.key, value=send.value, headers=send.headers)

    app.agent(app.topic(f"{prefix}responses", schema=RAW), name="score")(run)
    joining(app, prefix, began)


if __name__ == "__main__":
    faust.Worker(create(read()), loglevel="warn").execute_from_commandline()
