"""bytewax: a dataflow keyed by partition, rows in memory.

Its state is kept per key and its timers know the machine's time only; this join's time is that of the events of a whole
partition. So a partition is one key, and recovery, which would store it whole each time, is left off: less is promised
than by the others.
"""

from collections.abc import Sequence
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main

from benchmarks.stream.engines.spec import Began, Spec, read
from benchmarks.stream.rule import Join, score

BATCH = 1000
AS_KAFKA = {"partitioner": "murmur2_random"}
"""librdkafka's own puts keys elsewhere than Kafka's clients do, and decisions must lie where their feedback does."""


def create(spec: Spec) -> Dataflow:
    """Return the flow of a job."""
    flow = Dataflow(spec.job)
    {"pass": passing, "join": joining, "end_to_end": whole}[spec.job](flow, spec, Began(spec.folder))
    return flow


def source(flow: Dataflow, spec: Spec, *topics: str) -> Any:
    names = [spec.prefix + topic for topic in topics]
    return op.input(f"read {topics[0]}", flow, KafkaSource([spec.bootstrap], names, tail=True, batch_size=BATCH))


def passing(flow: Dataflow, spec: Spec, began: Began) -> None:
    def write(m: Any) -> KafkaSinkMessage[Any, Any]:
        began()
        return KafkaSinkMessage(m.key, m.value)

    out = op.map("write", source(flow, spec, "responses"), write)
    op.output("out", out, KafkaSink([spec.bootstrap], f"{spec.prefix}passed"))


def joining(flow: Dataflow, spec: Spec, began: Began) -> None:
    keyed = op.key_on("partition", source(flow, spec, "decisions", "feedback"), lambda m: str(m.partition))
    joined = op.stateful_batch("join", keyed, lambda _: Partition(spec.prefix, began))
    out = op.map("write", joined, lambda pair: message(pair[1]))
    op.output("out", out, KafkaSink([spec.bootstrap], None))


def whole(flow: Dataflow, spec: Spec, began: Began) -> None:
    def decide(m: Any) -> KafkaSinkMessage[Any, Any]:
        began()
        return message(score(spec.prefix, m.value))

    decided = op.map("score", source(flow, spec, "responses"), decide)
    op.output("decisions", decided, KafkaSink([spec.bootstrap], None, add_config=AS_KAFKA))
    joining(flow, spec, began)


def message(send: Any) -> KafkaSinkMessage[Any, Any]:
    return KafkaSinkMessage(send.key, send.value, topic=send.topic, headers=send.headers)


class Partition(op.StatefulBatchLogic[Any, Any, Any]):
    """The join of one partition."""

    def __init__(self, prefix: str, began: Began) -> None:
        self._prefix, self._began = prefix, began
        self._rows: dict[str, bytes] = {}
        self._rule: Join | None = None

    def on_batch(self, values: Sequence[Any]) -> tuple[list[Any], bool]:
        self._began()
        self._rule = rule = self._rule or Join(
            self._prefix, values[0].partition, self._rows.get, self._rows.__setitem__
        )
        found = [send for m in values for send in rule.take(m.topic.removeprefix(self._prefix), m.offset, m.value)]
        return found, self.RETAIN

    def snapshot(self) -> None:
        return None


if __name__ == "__main__":
    cli_main(create(read()))
