"""A stage without Kafka: state in a dict, and a crash wherever a test wants one."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from models.events import Decision, Event, Feedback, encode
from streams.agents.common import Context
from streams.clock import EventClock, LiveClock
from streams.delivery import Plan, Stage
from streams.metrics import Metrics
from streams.wire import Record, Send

START = datetime(2026, 1, 5, 8, tzinfo=UTC)


def context(partitions: int = 1) -> Context:
    return Context("", Metrics(), partitions=partitions)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class Stopwatch(EventClock):
    """A replay on a machine whose seconds a test counts."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


class HospitalClock(LiveClock):
    """Live operation on a machine whose clock and seconds a test sets."""

    def __init__(self, now: datetime = START) -> None:
        super().__init__()
        self.at, self.seconds = now, 500.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.seconds += seconds
        self.at += timedelta(seconds=seconds)


class Published:
    """What LEARN knows of the topic that it publishes to: all of it, unless a test says otherwise."""

    def __init__(self) -> None:
        self.caught_up, self.gone = True, set[str]()

    async def ready(self) -> None:
        return

    def took_away(self, deployment: str) -> bool:
        return deployment in self.gone


class FakeState:
    """What `streams.state.State` is to a stage."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, bytes], bytes] = {}

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get((partition, key))

    def items(self, partition: int, prefix: bytes = b"") -> Any:
        rows = self.rows.items()
        return [(key, value) for (owner, key), value in rows if owner == partition and key.startswith(prefix)]

    def apply(self, partition: int, plan: Plan) -> None:
        for key, value in plan.rows.items():
            if value is None:
                self.rows.pop((partition, key), None)
            else:
                self.rows[partition, key] = value


class Theatre:
    """Runs a stage over batches; `make` builds it anew after a crash, around the state that survived."""

    def __init__(self, make: Callable[[Any], Stage]) -> None:
        self.state = FakeState()
        self._make = make
        self.stage = make(self.state)
        self.sent: list[Send] = []

    def run(self, records: Sequence[Record], *, crash: str = "no") -> None:
        """Deliver a batch of one partition. `crash`: "no", "early" (nothing is durable), "written" (the rows are),
        or "sent" (the outcomes too, only the offset is not). After a crash the same batch is delivered again; with
        several words it crashes again."""
        crash, _, then = crash.partition(" ")
        partition = records[0].partition
        plan = asyncio.run(self.stage.handle(partition, records))
        if crash != "early":
            self.state.apply(partition, plan)
        if crash in {"no", "sent"}:
            self.sent += plan.sends
        if crash == "no":
            self.stage.done(partition)
            self._go_on(partition, plan)
            if plan.left:
                self.run(records[-plan.left :])
        else:
            self.restart()
            self.run(records, crash=then or "no")

    def restart(self) -> None:
        """Let another worker begin, with the rows of this one."""
        self.stage = self._make(self.state)

    def tick(self, **watermarks: datetime) -> None:
        """Let a second pass in partition 0; `watermarks`: by topic, until when nothing is left of it."""
        self._go_on(0, Plan({}, [], more=True), watermarks)

    def _go_on(self, partition: int, plan: Plan, watermarks: dict[str, datetime] | None = None) -> None:
        while plan.more:
            plan = asyncio.run(self.stage.tick(partition, watermarks or {}))
            self.state.apply(partition, plan)
            self.sent += plan.sends
            self.stage.done(partition)

    def outcomes(self, *topics: str) -> dict[str, list[bytes]]:
        """What a reader that knows ids sees: each distinct record once, by topic, in no order."""
        return {t: sorted({s.value or b"" for s in self.sent if s.topic == t}) for t in topics}


def record(event: Event | bytes, offset: int, *, topic: str = "", partition: int = 0, key: bytes = b"k") -> Record:
    value = event if isinstance(event, bytes) else encode(event)
    return Record(topic or getattr(event, "topic", "feedback"), partition, offset, key, value, {}, 0.0)


def decision(response_id: str = "r1", seconds: float = 0.0, **fields: Any) -> Decision:
    known: dict[str, Any] = {
        "response_id": response_id,
        "conversation_id": f"c-{response_id}",
        "deployment": "ward",
        "groups": {"category": "dosing", "site": "north"},
        "logit": -2.0,
        "risk": 0.1,
        "upper": 0.12,
        "tier": "yellow",
        "action": "banner",
        "model_hash": "m",
        "occurred_at": at(seconds),
        "decided_at": at(seconds),
    }
    return Decision(**(known | fields))


def feedback(feedback_id: str, response_id: str = "r1", seconds: float = 10.0, **fields: Any) -> Feedback:
    known: dict[str, Any] = {
        "feedback_id": feedback_id,
        "response_id": response_id,
        "clinician": "ann",
        "action": "accepted",
        "occurred_at": at(seconds),
    }
    return Feedback(**(known | fields))
