"""LEARN and WATCH fold events by deployment: each event once, whatever is delivered again.

Rows of a partition: `d/<deployment>` holds the fold's state with the ids and the news of the last batch; `i/<id>`
says that an event was folded. The state is written before the ids, and a partition's log keeps its order: an id that
stands was folded, and one that a crash cut off stands in the state. After a crash the redelivered events are known,
and what followed from them is sent again from the state, byte for byte. Once the broker has it, it is sent no more:
but for what stands, which each worker publishes when it begins.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
import structlog
from msgspec import Struct

from models.errors import DeliveryError, EventError, StateError
from models.events import Alarm, Change, DeadLetter, Event, Watermark
from streams.agents.common import Context, Internal, gently, incompatible
from streams.agents.expiry import Expiry
from streams.clock import Clock
from streams.delivery import Plan
from streams.settings import Stage
from streams.state import State
from streams.wire import Record, Send

ROW: Final = b"d/"
"""What the key of a deployment's row begins with."""

News = Alarm | Change | DeadLetter
"""What is told once, when it is found. Dead letters are of events that could not be folded: later, they might be."""

log = structlog.get_logger(__name__)


class Folded(Protocol):
    """The state of one deployment."""

    def apply(self, event: Any) -> Iterable[Alarm | Change]:
        """Fold one event; return what it revealed. Raises `EventError`, having changed nothing."""

    def show(self) -> tuple[Any, Sequence[Event]]:
        """Return the state as JSON types, and the events that show it; equal states give equal bytes."""


class Kind(Protocol):
    """What is folded, and into what."""

    name: Stage

    @property
    def types(self) -> Any:
        """The types of event that are folded."""

    @property
    def published(self) -> "Published | None":
        """What stands where its states are published; None: they are not."""

    def identify(self, event: Any) -> tuple[str, str, datetime]:
        """Return an event's id, its deployment, and its event time."""

    def arrange(self, records: Sequence[Record], /) -> Iterable[Record]:
        """Return a batch in the order in which it is folded: within a deployment, that of the log."""

    def create(self, deployment: str) -> Folded:
        """Return the empty state."""

    def restore(self, deployment: str, snapshot: Any) -> Folded:
        """Continue from a snapshot. Raises `StateError`."""


class Published(Protocol):
    """What is known of the topic that states are published to. A record without a value takes one away: until a new
    one is published, for where the last one stands again, Kafka forgets that it was taken away.
    """

    @property
    def caught_up(self) -> bool:
        """Whether what stood there at the start is read."""

    async def ready(self) -> None:
        """Wait for that, but not for ever."""

    def took_away(self, deployment: str) -> bool:
        """Whether the newest of a deployment was taken away."""


class Row(Struct, frozen=True):
    """What is stored of a deployment."""

    snapshot: Any
    recent: tuple[str, ...]
    """Ids of the last batch."""
    news: tuple[News, ...] = ()
    """What they led to, until it is known to be told."""
    places: dict[str, int] = {}
    """By topic, the offset of the last event that was folded."""


class Held(Struct):
    """A deployment's fold in memory. `recent` has only keys: it is asked for each event."""

    folded: Folded
    shown: Sequence[Event]
    recent: dict[str, Any]
    news: tuple[News, ...]
    places: dict[str, int]


class Batch(Struct, frozen=True):
    """What waits until it is durable: the folds that were touched, and when the broker took the events."""

    held: Sequence[Held] = ()
    taken_at: Sequence[float] = ()


class Taken(Struct):
    """What a batch brings to a deployment's fold: ids with their times, and news."""

    held: Held
    ids: dict[str, datetime] = {}
    news: list[News] = []


class Fold:
    """The stage."""

    batch = 8192
    """Many: a state is stored and published once a deployment and batch."""

    def __init__(self, kind: Kind, context: Context, state: State, expiry: Expiry, clock: Clock) -> None:
        self.name = kind.name
        self.kind = kind
        self.context = context
        self.state = state
        self._expiry = expiry
        self._clock = clock
        self._held: dict[tuple[int, str], Held] = {}
        self._shown: set[int] = set()
        self._batches: dict[int, Batch] = {}

    async def handle(self, partition: int, records: Sequence[Record]) -> Plan:
        """Fold a batch; publish each deployment it touches once."""
        plan = Plan(await self._expiry.take(partition, self.state), [])
        touched: dict[str, Taken] = {}
        async for record in gently(self.kind.arrange(records)):
            try:
                event = self.context.decode(self.kind.types, record)
            except EventError as error:
                plan.sends.append(self.context.dead_letter(self.name, record, error))
                continue
            if not isinstance(event, Watermark):
                self._take(record, event, touched)
        for deployment, taken in touched.items():
            await self._publish(deployment, taken, plan)
            await asyncio.sleep(0)
        for taken in touched.values():
            plan.rows.update((_id(id_), msgspec.json.encode(at)) for id_, at in taken.ids.items())
        self._batches[partition] = Batch([taken.held for taken in touched.values()], [record.at for record in records])
        return plan

    async def tick(self, partition: int, _: Mapping[str, datetime], /) -> Plan:
        """Forget ids that are long past; publish once what stands and was not taken away: it may be lost.

        Once in a worker's life: at every rebalance, a thousand deployments would be four megabytes. What it has folded
        itself it has published.
        """
        plan = Plan(await self._expiry.take(partition, self.state), [])
        published = self.kind.published
        if published and published.caught_up and partition not in self._shown:
            self._shown.add(partition)
            for key, stored in self.state.items(partition, ROW):
                deployment = key.removeprefix(ROW).decode()
                if (partition, deployment) not in self._held and not published.took_away(deployment):
                    plan.sends.extend(self._stands(deployment, stored))
                    await asyncio.sleep(0)
        return plan

    def _stands(self, deployment: str, stored: bytes) -> list[Send]:
        """Return what shows a deployment's state; nothing if it cannot be read: its next event will say so."""
        try:
            held = self._load(deployment, stored)
        except DeliveryError as error:
            log.warning("what stands cannot be published again", deployment=deployment, error=str(error))
            return []
        return [self.context.send(event) for event in held.shown]

    async def poison(self, record: Record) -> Plan:
        """Set aside what cannot be processed."""
        return Plan({}, [self.context.dead_letter(self.name, record, Internal("not processable"))])

    def done(self, partition: int) -> None:
        """What was folded is published: say how long that took, and tell no news twice."""
        batch = self._batches.pop(partition, Batch())
        for held in batch.held:
            held.news = ()
        if (now := self._clock.wall_time_at(self._clock.monotonic())) and self.kind.published:
            for at in batch.taken_at:
                self.context.metrics.threshold_seconds.observe(max(0.0, now.timestamp() - at))

    def forget(self, *partitions: int) -> None:
        """Drop what is cached of these partitions, or of all."""
        for place in [place for place in self._held if not partitions or place[0] in partitions]:
            del self._held[place]
        for partition in partitions or tuple(self._batches):
            self._batches.pop(partition, None)
        self._expiry.forget(*partitions)

    def _take(self, record: Record, event: Any, touched: dict[str, Taken]) -> None:
        """Fold an event that is new. One that cannot be is taken too: when it comes again, it might.

        What a batch has touched is its own until it is stored: in the pauses between, another may make us forget.
        """
        partition, (id_, deployment, at) = record.partition, self.kind.identify(event)
        seen = self._clock.clamped(at, record.at)
        if (taken := touched.get(deployment)) is None:
            taken = touched[deployment] = self._begin(partition, deployment, seen)
        held, key = taken.held, _id(id_)
        if id_ in taken.ids or id_ in held.recent or self.state.get(partition, key):
            return
        if record.offset <= held.places.get(record.topic, -1) and self._expiry.is_expired(partition, at):
            return  # the group's place was set back by hand, and what it read is read again
        try:
            taken.news += held.folded.apply(event)
        except EventError as error:
            taken.news.append(self.context.letter(self.name, record, error))
        held.places[record.topic] = record.offset
        taken.ids[id_] = self._expiry.set(partition, key, seen)

    def _begin(self, partition: int, deployment: str, at: datetime) -> Taken:
        """Begin a batch of a deployment. Its ids will stand where those of the last one do: of these, the rows that a
        crash cut off are kept with it, from `at`.
        """
        if held := self._held.get((partition, deployment)):
            return Taken(held)
        held = self._load(deployment, self.state.get(partition, row_of(deployment)))
        self._held[partition, deployment] = held
        cut_off = [id_ for id_ in held.recent if not self.state.get(partition, _id(id_))]
        return Taken(held, {id_: self._expiry.set(partition, _id(id_), at) for id_ in cut_off})

    def _load(self, deployment: str, stored: bytes | None) -> Held:
        if stored is None:
            return Held(self.kind.create(deployment), (), {}, (), {})
        try:
            row = msgspec.json.decode(stored, type=Row)
            folded = self.kind.restore(deployment, row.snapshot)
        except (ValueError, StateError, LookupError) as error:
            raise self._unreadable(deployment, error) from None
        return Held(folded, folded.show()[1], dict.fromkeys(row.recent), row.news, row.places)

    def _unreadable(self, deployment: str, error: Exception) -> DeliveryError:
        """Say which way leads out: what the rows hold follows from the topics that were folded."""
        what, name = incompatible(f"rows of deployment {deployment}", error), f"{self.context.prefix}demur-{self.name}"
        return DeliveryError(
            f"{what}, or let this one read all from the beginning: stop {self.name.upper()}, delete the consumer "
            f"group {name}, the topic {name}-state-changelog and, if the store is rocksdb, what is in DEMUR_DATA_DIR; "
            "then `demur topics`, and start it"
        )

    async def _took_away(self, deployment: str) -> bool:
        """Whether what stands of a deployment must not be published again."""
        if (published := self.kind.published) is None:
            return False
        await published.ready()
        return published.took_away(deployment)

    async def _publish(self, deployment: str, taken: Taken, plan: Plan) -> None:
        held = taken.held
        held.recent = taken.ids or held.recent
        held.news += tuple(taken.news)
        snapshot, shown = held.folded.show()
        row = Row(snapshot, tuple(held.recent), held.news, held.places)
        plan.rows[row_of(deployment)] = msgspec.json.encode(row)
        stands, held.shown = shown == held.shown, shown
        if stands and await self._took_away(deployment):
            shown = ()
        plan.sends.extend(self.context.send(event) for event in (*held.news, *shown))


def row_of(deployment: str) -> bytes:
    """Return the key of a deployment's row."""
    return ROW + deployment.encode()


def read_time(key: bytes, value: bytes) -> datetime | None:
    """Return the event time of an id's row.

    A deployment's state does not expire: its calibrator, and what was counted over all time (`breach`), must be there
    when it returns. There are as many as names; of WATCH's, one with thirty groups takes 80 kB.
    """
    return msgspec.json.decode(value, type=datetime) if key.startswith(b"i/") else None


def _id(id_: str) -> bytes:
    return f"i/{id_}".encode()
