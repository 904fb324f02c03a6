"""One run: a fed stream is struck, heals, comes to rest; then its logs are counted and the oracle is asked."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import orjson
from kafka import KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError
from msgspec import Struct

from models.errors import DemurError, EventError
from models.events import CONTRACT, Feedback, Response, decode, encode
from models.training import synth
from streams import topics
from streams.clock import WallClock
from streams.connection import kafka_options
from streams.feed import Item, broken, end_of, items, send, send_end
from streams.reading import read_all
from streams.settings import Settings
from streams.stages import INPUTS
from streams.verify import all_read, committed_by, verify
from tests.chaos.faults import FAULTS, Scene

RATE = 25.0
"""Events a second: all five workers and the broker share two cores."""
RECOVERY_S = 90.0
REST_S = 180.0
ENDINGS = ("superseded", "orphan")


class Row(Struct):
    """What a run under one fault showed. `lost`: inputs without an end; `duplicated`: ends that contradict."""

    fault: str
    runs: int = 0
    strikes: int = 0
    events: int = 0
    lost: int = 0
    duplicated: int = 0
    oracle_differences: int = 0
    green: int = 0
    green_in_doubt: int = 0
    recoveries_s: list[float] = []
    differences: list[str] = []

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, counted twice, different, or green in doubt."""
        return not (self.lost or self.duplicated or self.oracle_differences or self.green_in_doubt)


class Feeding(threading.Thread):
    """Sends items at a steady rate, whatever happens to the broker."""

    def __init__(self, settings: Settings, what: Sequence[Item]) -> None:
        super().__init__(name="feed", daemon=True)
        self._settings, self._what = settings, what
        self.error: Exception | None = None
        self.started = threading.Event()

    def run(self) -> None:
        """Send everything; `error` says what went wrong."""
        try:
            self._send()
        except Exception as error:  # noqa: BLE001 (shown by whoever joins)
            self.error = error

    def _send(self) -> None:
        patient = {"max_block_ms": 600_000, "delivery_timeout_ms": 600_000}
        producer = KafkaProducer(**kafka_options(self._settings), max_request_size=2**21, **patient)
        began = time.monotonic()
        for n, item in enumerate(self._what):
            time.sleep(max(0.0, began + n / RATE - time.monotonic()))
            send(producer, self._settings, item if self._settings.time_source == "event" else dated(item))
            self.started.set()
        producer.flush()
        producer.close()


def dated(item: Item) -> Item:
    """Let it occur as it is sent, if it is an event."""
    try:
        event: Any = decode(CONTRACT[item.topic], item.value)
    except EventError:
        return item
    return item._replace(value=encode(msgspec.structs.replace(event, occurred_at=WallClock().now())))


def run(row: Row, settings: Settings, scene: Scene, *, seed: int, responses: int) -> None:
    """Run once under the row's fault and add to the row what was found. `settings` reach the broker directly."""
    week = synth.generate(
        synth.Config(responses=responses, seed=seed, orphans=0.02, duplicated=0.1, contradicted=0.1, late=0.0)
    )
    good = list(items(week.arrivals))
    feed = Feeding(settings, [*good, *broken(week.responses[0], week.feedback[0])])
    feed.start()
    feed.started.wait(RECOVERY_S)
    while feed.is_alive():
        row.strikes += 1
        row.recoveries_s.append(strike(row.fault, settings, scene))
        feed.join(scene.rng.uniform(1.0, 4.0))
    if feed.error:
        raise DemurError(f"the feed failed: {feed.error}")
    asked = {item.response_id for item in good if item.topic == Response.topic}
    until(lambda: asked <= set(decisions(settings)), REST_S)
    finish(settings, end_of(week.arrivals, settings))
    until(lambda: all_read(committed_by(settings), ends(settings)), REST_S)
    until(lambda: asked <= closed(settings), REST_S)
    row.runs += 1
    row.events += len(good)
    count(row, settings, good)
    report = verify(settings, at_rest=True)
    row.oracle_differences += len(report.differences)
    row.differences += [str(difference) for difference in report.differences[:5]]


def strike(fault: str, settings: Settings, scene: Scene) -> float:
    """Let the fault strike; return the seconds until all that lay in the inputs by then, or by its end, is settled.

    A fault that heals itself, such as a broker that comes back, is measured from its end.
    """
    FAULTS[fault](scene)
    began = time.monotonic()
    wanted = ends(settings)
    until(lambda: all_read(committed_by(settings), wanted), RECOVERY_S)
    return time.monotonic() - began


def count(row: Row, settings: Settings, sent: Sequence[Item]) -> None:
    """Count by ids alone, without the oracle: each input has one end."""
    decided = decisions(settings)
    labels, closures = distinct(settings, "labels"), distinct(settings, "closures")
    asked = {item.response_id for item in sent if item.topic == Response.topic}
    told = {orjson.loads(item.value)["feedback_id"] for item in sent if item.topic == Feedback.topic}
    ends = Counter(x["feedback_id"] for x in (*labels, *(c for c in closures if c["reason"] in ENDINGS)))
    open_ = asked - closed(settings)
    missing = {"decision of": asked - set(decided), "end of": told - set(ends), "label or closure of": open_}
    if settings.time_source == "wall":  # all that is said is said in time, and the oracle allows for minutes
        missing["label of"] = asked & {x["response_id"] for x in closures if x["reason"] == "orphan"}
    row.lost += sum(map(len, missing.values()))
    row.differences += [f"no {what} {name}" for what, names in missing.items() for name in sorted(names)[:3]]
    row.duplicated += sum(len(values) > 1 for values in decided.values()) + sum(n > 1 for n in ends.values())
    row.duplicated += max(0, newest_version(settings) - sum(evidence(label) for label in labels))
    greens = [orjson.loads(v) for values in decided.values() for v in values if b'"tier":"green"' in v]
    row.green += len(greens)
    row.green_in_doubt += sum(doubtful(decision) for decision in greens)


def decisions(settings: Settings) -> dict[str, set[bytes]]:
    """Return the distinct decisions of each response."""
    found: dict[str, set[bytes]] = {}
    for record in read_all(settings, "decisions"):
        if record.key:
            found.setdefault(record.key.decode(), set()).add(record.value)
    return found


def distinct(settings: Settings, topic: str) -> list[dict[str, Any]]:
    """Return what a reader sees that knows ids."""
    return [orjson.loads(value) for value in {record.value for record in read_all(settings, topic)}]


def closed(settings: Settings) -> set[str]:
    """Return the responses that have a label or ended without one."""
    unlabelled = [x for x in distinct(settings, "closures") if x["reason"] == "unlabelled"]
    return {x["response_id"] for x in (*distinct(settings, "labels"), *unlabelled)}


def evidence(label: dict[str, Any]) -> bool:
    """Whether a label is a change of the calibrator."""
    return label.get("kind", "verdict") == "verdict" and label["weight"] > 0 and label["decision"]["logit"] is not None


def newest_version(settings: Settings) -> int:
    """Return the number of changes that the calibrator says it has folded."""
    return max((orjson.loads(r.value)["version"] for r in read_all(settings, "calibrations")), default=0)


def doubtful(decision: dict[str, Any]) -> bool:
    """Whether a green decision shows any of what forbids it."""
    sound = decision.get("logit") is not None and decision.get("calibrator_version", 0) > 0
    return not sound or decision.get("truncated", False) or len(decision["reasons"]) != 1


def finish(settings: Settings, at: Any) -> None:
    """Let every horizon pass."""
    producer = KafkaProducer(**kafka_options(settings))
    send_end(producer, settings, at)
    producer.flush()
    producer.close()


def until(holds: Callable[[], bool], limit_s: float) -> bool:
    """Wait; return whether it came true. A broker that does not answer counts as not yet."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with suppress(KafkaError, DemurError, OSError):
            if holds():
                return True
        time.sleep(0.2)
    return False


Places = dict[tuple[str, int], int]


def ends(settings: Settings) -> Places:
    """Return the end of every input, by topic without prefix and partition, once the broker answers."""
    found: Places = {}

    def ask() -> bool:
        with topics.administrator(settings) as admin:
            found.update(_ends(admin, settings))
        return True

    until(ask, RECOVERY_S)
    return found


def _ends(admin: Any, settings: Settings) -> Iterator[tuple[tuple[str, int], int]]:
    prefix = settings.topic_prefix
    names = {prefix + topic for inputs in INPUTS.values() for topic in inputs}
    places = [TopicPartition(name, number) for name in names for number in range(settings.partitions)]
    for place, at in admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST)).items():
        yield (place.topic.removeprefix(prefix), place.partition), at.offset
