"""JOIN: decisions and feedback, both keyed by response_id, become labels, outcomes and closures."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Struct

from models import joining
from models.errors import EventError
from models.events import Decision, Feedback, Watermark
from models.joining import Effect, Horizons, Row
from streams.agents.common import Context, Internal, gently, incompatible
from streams.clock import Clock
from streams.delivery import Plan
from streams.state import State
from streams.timers import EPOCH, DeletionQueue, Timers
from streams.wire import Record, Send

PROGRESS = b"\x00progress/%d"
"""Key of the row that holds a partition's progress; no response_id starts with NUL."""
TYPES: Final[dict[str, Any]] = {t.topic: t | Watermark for t in (Decision, Feedback)}
"""Whoever may write feedback must not be able to decide."""
MAX_ROWS_PER_PLAN: Final = 4096
"""Rows that time changes, or deletes, in one plan: when a long pause ends, millions may be due at once."""


class Progress(Struct, frozen=True, array_like=True):
    """How far event time has come in each input of a partition, and up to which batch all outcomes are sent."""

    decisions: datetime = EPOCH
    feedback: datetime = EPOCH
    sent: int = 0


class PartitionState:
    """What is kept in memory of a partition; rebuilt from its rows after a restart."""

    def __init__(self, progress: Progress, clock: Clock) -> None:
        reached = {Decision.topic: progress.decisions, Feedback.topic: progress.feedback}
        self.reached = {topic: clock.clamped(at) for topic, at in reached.items()}
        self.timers = Timers(min(self.reached.values()))
        self.sent = progress.sent
        """The last batch up to which all outcomes are sent; what a crash kept back is sent with the next one."""
        self.sequence = progress.sent + 1
        self.waiting = 0
        """Rows that time will change."""
        self.deletions = DeletionQueue(clock)
        """Closed rows whose outcomes are sent."""

    def advance(self, topic: str, to: datetime) -> None:
        """Let event time reach `to` in an input; what is due waits for the slower one."""
        self.reached[topic] = max(self.reached[topic], to)
        self.timers.advance(min(self.reached.values()))

    def progress(self) -> Progress:
        """Return what to store with a batch, whose outcomes are not sent yet."""
        return Progress(self.reached[Decision.topic], self.reached[Feedback.topic], self.sent)

    def done(self) -> None:
        """The batch's outcomes are sent, and those that a crash had kept back."""
        self.sent, self.sequence = self.sequence, self.sequence + 1


class Join:
    """The stage. Holds rows of `models.joining`; nothing of patient text."""

    name = "join"
    batch = 256

    def __init__(
        self, context: Context, state: State, horizons: Horizons, clock: Clock, digest_keys: tuple[bytes, ...]
    ) -> None:
        self.context = context
        self.state = state
        self.horizons = horizons
        self.clock = clock
        self._digest_keys = digest_keys
        self._partitions: dict[int, PartitionState] = {}
        self._closed_next = defaultdict[int, list[str]](list)

    async def handle(self, partition: int, records: Sequence[Record]) -> Plan:
        """Join records of one partition, in order; time advances with them."""
        batch, taken = Batch(self, partition, *await self.partition_state(partition)), 0
        batch.fire_timers()
        while taken < len(records) and not batch.has_due:
            batch.take(records[taken])
            taken += 1
        return batch.plan(left=len(records) - taken)

    async def tick(self, partition: int, watermarks: Mapping[str, datetime], /) -> Plan:
        """Let time reach rows while no events come: of an input, not beyond what may still lie there unread."""
        batch = Batch(self, partition, *await self.partition_state(partition))
        batch.fire_timers()
        if self.clock.now() is not None:
            for topic, until in watermarks.items():
                batch.advance(topic.removeprefix(self.context.prefix), until)
        return batch.plan()

    async def poison(self, record: Record) -> Plan:
        """Set aside what cannot be processed."""
        return Plan({}, [self.context.dead_letter(self.name, record, Internal("not processable"))])

    def done(self, partition: int) -> None:
        """The plan is durable. After a batch's last, its closed rows may go when nothing can come again."""
        if partition_state := self._partitions.get(partition):
            partition_state.done()
            if not partition_state.timers.has_due:
                partition_state.deletions.add(self._closed_next.pop(partition, []))
            self.context.metrics.open_rows.labels(partition=str(partition)).set(partition_state.waiting)

    def forget(self, *partitions: int) -> None:
        """Drop what is cached of these partitions, or of all; rows and progress are durable."""
        for partition in partitions or tuple(self._partitions):
            self._partitions.pop(partition, None)
            self._closed_next.pop(partition, None)
            with suppress(KeyError):
                self.context.metrics.open_rows.remove(str(partition))  # whoever has it now counts its rows

    async def partition_state(self, partition: int) -> tuple[PartitionState, list[Effect]]:
        """Return a partition's state; when it is new, with the outcomes that may not have been sent before a crash."""
        if partition_state := self._partitions.get(partition):
            return partition_state, []
        stored = self.state.get(partition, PROGRESS % partition)
        progress = msgspec.json.decode(stored, type=Progress) if stored else Progress()
        partition_state = PartitionState(progress, self.clock)
        try:
            effects = await self._recover(partition, partition_state, progress.sent)
        except ValueError as error:
            raise incompatible(f"rows of partition {partition}", error) from None
        self._partitions[partition] = partition_state
        return partition_state, effects

    async def _recover(self, partition: int, partition_state: PartitionState, sent: int) -> list[Effect]:
        """Set all timers; return what may not have been sent, in the order in which it fell due."""
        found: list[tuple[datetime, str, Effect]] = []
        async for key, value in gently(self.state.items(partition)):
            if key.startswith(b"\x00"):
                continue
            row = read(value)
            partition_state.timers.set(row.response_id, row.due(self.horizons))
            partition_state.waiting += waits(row)
            partition_state.sequence = max(partition_state.sequence, row.sequence + 1)
            if row.closed:
                partition_state.deletions.add([row.response_id])
            if row.sequence > sent:
                found += [(at, row.response_id, effect) for at, effect in joining.outcomes(row, self.horizons)]
        return [effect for *_, effect in sorted(found, key=lambda one: one[:2])]

    def stored_feedback(self, feedback: Feedback, record: Record) -> joining.StoredFeedback:
        """Reduce feedback to what is kept of it."""
        latest = self.clock.clamped(feedback.occurred_at, record.at)
        return joining.stored_feedback(feedback, f"{record.partition}:{record.offset}", self._digest_keys, latest)

    def note_closed(self, partition: int, closed: list[str]) -> None:
        """Note the rows that a plan closes."""
        self._closed_next[partition] += closed


class Batch:
    """The working copy of one batch: rows read and changed, effects in order."""

    def __init__(self, stage: Join, partition: int, partition_state: PartitionState, effects: Iterable[Effect]) -> None:
        self._stage = stage
        self._partition = partition
        self._state = partition_state
        self._rows: dict[str, Row] = {}
        self._sends: list[Send] = [stage.context.send(e) for e in effects]
        self._closed: list[str] = []
        self._touched = False
        self._left = MAX_ROWS_PER_PLAN

    def take(self, record: Record) -> None:
        """Take in one record."""
        self._touched = True
        topic = record.topic.removeprefix(self._stage.context.prefix)
        try:
            event = self._stage.context.decode(TYPES[topic], record)
            self._enter(event, record)
        except EventError as error:
            self._sends.append(self._stage.context.dead_letter(self._stage.name, record, error))
            return
        self.advance(topic, self._stage.clock.clamped(event.occurred_at, record.at))

    def _enter(self, event: Decision | Feedback | Watermark, record: Record) -> None:
        if isinstance(event, Decision):
            before = self._row(event.response_id)
            self._set(before, joining.on_decision(before, joining.stored_decision(event, _at(record))))
        elif isinstance(event, Feedback):
            before = self._row(event.response_id)
            row, effects = joining.on_feedback(before, self._stage.stored_feedback(event, record), self._stage.horizons)
            self._set(before, row)
            self._emit(effects)

    def advance(self, topic: str, to: datetime) -> None:
        """Move the event time of an input and let it reach what is due."""
        self._state.advance(topic, to)
        self.fire_timers()

    def fire_timers(self) -> None:
        """Let time change the rows that are due, in order, until the plan is full."""
        for due, key in islice(self._state.timers.due(), self._left):
            self._left -= 1
            self._fire_timer(key, due)

    @property
    def has_due(self) -> bool:
        """Whether rows are still due: the next record must not come before them."""
        return self._state.timers.has_due

    def plan(self, left: int = 0) -> Plan:
        """Return what to write and to send; `left`: records that were not taken."""
        self._stage.note_closed(self._partition, self._closed)
        # A row may have been opened again by a decision.
        expired = [key for key in self._state.deletions.take_expired(MAX_ROWS_PER_PLAN) if self._row(key).closed]
        if not (self._touched or self._rows or self._sends or expired):
            return Plan({}, [], self.has_due, left)
        rows: dict[bytes, bytes | None] = {key.encode(): None for key in expired if key not in self._rows}
        rows |= {k.encode(): msgspec.json.encode(row) for k, row in self._rows.items()}
        rows[PROGRESS % self._partition] = msgspec.json.encode(self._state.progress())
        return Plan(rows, self._sends, self.has_due, left)

    def _fire_timer(self, key: str, due: datetime) -> None:
        before = self._row(key)
        row, effects = joining.on_time(before, due, self._stage.horizons, self._state.sequence)
        if row is not before:
            self._rows.pop(key, None)  # rows are written as they fell due: a crash in between cuts off the latest
            self._set(before, row)
            self._emit(effects)

    def _row(self, response_id: str) -> Row:
        if (row := self._rows.get(response_id)) is not None:
            return row
        stored = self._stage.state.get(self._partition, response_id.encode())
        return read(stored) if stored else Row(response_id)

    def _set(self, before: Row, row: Row) -> None:
        self._state.waiting += waits(row) - waits(before)
        self._rows[row.response_id] = row
        if row.closed:
            self._closed.append(row.response_id)
        self._state.timers.set(row.response_id, row.due(self._stage.horizons))

    def _emit(self, effects: Iterable[Effect]) -> None:
        self._sends += [self._stage.context.send(e) for e in effects]


def _at(record: Record) -> datetime:
    """When the broker took it; long ago, if that is not known."""
    return datetime.fromtimestamp(record.at, UTC)


def waits(row: Row) -> bool:
    """Whether time will change a row: it is open, and there is something in it."""
    return not row.closed and bool(row.decision or row.feedback)


def read(value: bytes) -> Row:
    """Read a row."""
    return msgspec.json.decode(value, type=Row)
