"""What the oracle is given, what it returns, and the reading of records by contract."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from models.errors import EventError
from models.events import (
    CONTRACT,
    WRITTEN_BY_OTHERS,
    Alarm,
    Calibration,
    Change,
    Closure,
    Decision,
    Event,
    Feedback,
    Instruction,
    Label,
    Outcome,
    Response,
    Watermark,
    decode,
    digest,
    encode,
)
from models.joining import Horizons
from models.partitions import misplaced
from models.policy import Policies
from models.signing import KEY_ID, SIGNATURE, Keys, Signed

E = TypeVar("E", bound=Event)

READERS: Final[dict[str, tuple[str, ...]]] = {
    Response.topic: ("score",),
    Outcome.topic: ("score",),
    Decision.topic: ("join", "watch"),
    Feedback.topic: ("join",),
    Label.topic: ("learn", "watch"),
    Closure.topic: ("watch",),
}
"""Which stages consume a topic."""
RECOMPUTED: Final = (Calibration, Change, Alarm)
"""What is held against bytes of the oracle's own."""
ALIKE: Final = ("deployment", "site", "category", "clinician", "groups", "reasons", "model_hash", "config_hash")
"""Fields that say the same in many events."""
HEADERS: Final = ("ce_id", KEY_ID, SIGNATURE)
"""What is looked at of a record's headers. The others need not be kept: of millions of records they fill gigabytes."""


class Entry(NamedTuple):
    """One record of a log. `topic` without its prefix; `at_ms`: its timestamp, which is its producer's unless
    `by_broker`; `digest`, `size`: the value's.

    Of what is read, digest and size are noted; value and headers are kept only where they are needed (see `Topics`).
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    at_ms: int = 0
    by_broker: bool = False
    digest: bytes = b""
    size: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset."""
        return self[1:3]


class Period(NamedTuple):
    """What is checked of logs that began before: what was written since `since_ms`, milliseconds since the epoch.

    Some of what lies before is read, too (see `period`), and the rest is as if it had expired; but calibrators are
    folded from their beginning.
    """

    since_ms: int
    read_ms: int
    """Since when all was read that still stands; what is not written of each response is read whole."""
    begins: Mapping[tuple[str, int], int]
    """First offsets that still stand, by topic and partition: `Logs.starts` are later where something was left out."""
    labels: Iterable[Entry]
    """From there to `Logs.starts`, each partition in its order: folded, and not kept."""


class Logs(NamedTuple):
    """The topics' records, each topic's by partition and offset, and what is known of how far the stages have come.

    Each topic is iterated over once.
    """

    entries: Mapping[str, Iterable[Entry]]
    prefix: str = ""
    committed: Mapping[tuple[str, str, int], int] | None = None
    """Per (stage, topic, partition), asked *before* the logs' ends. None: the stages have consumed everything."""
    until_ms: int | None = None
    """What is younger may be half of a batch: evidence, but not judged. None: the stream is at rest."""
    starts: Mapping[tuple[str, int], int] = {}
    """First offsets above 0: what lay before them is beyond retention, or was left out (see `Period`)."""
    partitions: int = 1
    """Of each topic."""
    period: Period | None = None
    """None: all that still stands is checked."""

    def consumed(self, stage: str, entry: Entry) -> bool:
        """Whether the stage has committed past this record, so that its outcomes must be durable (I2)."""
        if self.committed is None:
            return True
        return entry.offset < self.committed.get((stage, entry.topic, entry.partition), 0)

    def judged(self, entry: Entry) -> bool:
        """Whether the batch that this record of ours belongs to must be complete."""
        return self.until_ms is None or entry.at_ms <= self.until_ms

    def is_truncated(self, topic: str, partition: int | None = None) -> bool:
        """Whether records of a topic, or of one partition of it, are lost to the check: labels, even to the fold."""
        starts = self.period.begins if self.period and topic == Label.topic else self.starts
        if partition is not None:
            return starts.get((topic, partition), 0) > 0
        return any(start > 0 for (name, _), start in starts.items() if name == topic)

    def is_before(self, topic: str, partition: int, offset: int) -> bool:
        """Whether a place lies before what is read."""
        return offset < self.starts.get((topic, partition), 0)


class Rules(NamedTuple):
    """What the stages were told: policies, horizons, the keys of the digests, and whose clock lets time pass."""

    policies: tuple[Policies, ...] = (Policies(),)
    """Every policy that was in force; the calibrators' logs say when which was."""
    horizons: Horizons = Horizons(timedelta(minutes=2), timedelta(days=7), timedelta(days=1))
    digest_keys: tuple[bytes, ...] = (b"",)
    """By which decisions' digests were made."""
    keys: Keys | None = None
    """Where records are signed."""
    replayed: bool = False
    """Time is what the events say (`time_source` event), so that nothing depends on when it was processed."""


class Found(NamedTuple, Generic[E]):
    """A record and what it says."""

    entry: Entry
    event: E


class Refused(NamedTuple):
    """A record that breaks the contract."""

    entry: Entry
    error: EventError


Source = Found[Any] | Refused


class Difference(NamedTuple):
    """Where a log is not what it must be, which invariant of the design that breaks, and how. Holds no content."""

    invariant: str
    topic: str
    partition: int
    offset: int
    what: str

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}: {self.what} ({self.invariant})"


class Report:
    """What was found. `since_ms`: what was written before is evidence, and does not count as checked."""

    def __init__(self, since_ms: int = 0) -> None:
        self._since_ms = since_ms
        self.differences: list[Difference] = []
        self.checked: Counter[str] = Counter()
        """Facts recomputed, by kind."""
        self.pending: Counter[str] = Counter()
        """Not judged yet: inputs not yet committed or due, and what is too young."""
        self.beyond: Counter[str] = Counter()
        """Not to be judged any more: what it followed from is beyond retention."""

    def note(self, counts: Counter[str], kind: str, *entries: Entry) -> None:
        """Count records of the period, in `checked`, `pending` or `beyond`."""
        counts[kind] += sum(entry.at_ms >= self._since_ms for entry in entries)

    def differ(self, invariant: str, entry: Entry, what: str) -> None:
        """Note a difference."""
        self.differences.append(Difference(invariant, entry.topic, entry.partition, entry.offset, what))


class Topics:
    """The logs, decoded once. Of what is in order the event stays, not its bytes, which would fill gigabytes."""

    def __init__(self, logs: Logs, keys: Keys | None = None) -> None:
        self.logs = logs
        self._keys = keys
        self._alike: dict[Any, Any] = {}
        self.found: dict[str, list[Found[Any]]] = {topic: [] for topic in CONTRACT}
        self.refused: dict[str, list[Refused]] = {topic: [] for topic in CONTRACT}
        self.withdrawn: dict[bytes | None, tuple[int, int]] = {}
        """Where, by deployment, its calibrator was last taken away from the scorers: a calibration without a value."""
        self.garbled: list[Entry] = []
        """Records of ours whose bytes are not those that their event is written in."""
        self.misnamed: list[Entry] = []
        """Records of ours whose header `ce_id` is not their digest."""
        self.older: dict[str, bytes] = {}
        """Digests of labels and instructions before what is read, by id; known when `before` has gone through them."""
        self.counted_before: set[str] = set()
        """Ids of the feedback that those labels count."""
        for topic, type_ in CONTRACT.items():
            for entry in logs.entries.get(topic, ()):
                self._take(topic, type_, entry)

    def at(self, topic: str, partition: int, offset: int) -> Source | None:
        """Return what stands at a place."""
        place = partition, offset
        known: tuple[Sequence[Source], ...] = (self.found.get(topic, ()), self.refused.get(topic, ()))
        for ones in known:
            index = bisect_left(ones, place, key=lambda one: one.entry.place)
            if index < len(ones) and ones[index].entry.place == place:
                return ones[index]
        return None

    def first(self, type_: type[E], id_: str) -> dict[str, Found[E]]:
        """Return the first record of each id: what readers that know ids go by."""
        return self.first_by(type_, attrgetter(id_))

    def first_by(self, type_: type[E], identity: Callable[[E], Any]) -> dict[Any, Found[E]]:
        """Return the first record of each identity."""
        known: dict[Any, Found[E]] = {}
        for found in self.found[type_.topic]:
            if isinstance(found.event, type_):
                known.setdefault(identity(found.event), found)
        return known

    @cached_property
    def decisions(self) -> dict[str, Found[Decision]]:
        """The effective decision of each response."""
        return self.first(Decision, "response_id")

    @cached_property
    def labels(self) -> dict[str, Found[Label]]:
        """By label id; without repeats of what lies before what is read."""
        return {id_: found for id_, found in self.first(Label, "label_id").items() if id_ not in self.older}

    @cached_property
    def closures(self) -> dict[str, Found[Closure]]:
        """By closure id."""
        return self.first(Closure, "closure_id")

    @cached_property
    def outcomes(self) -> dict[str, Found[Outcome]]:
        """By label id."""
        return self.first(Outcome, "label_id")

    @cached_property
    def folded(self) -> list[Found[Label | Instruction]]:
        """What calibrators fold, in the order of the log: each label and each instruction once."""
        known: dict[str, Found[Label | Instruction]] = {}
        for found in self.found[Label.topic]:
            event = found.event
            known.setdefault(folded_as(event), found)
        return list(known.values())

    def before(self) -> Iterator[Found[Label | Instruction]]:
        """Yield what calibrators folded before what is read, each once, and keep nothing of it but ids."""
        for entry in self.logs.period.labels if self.logs.period else ():
            event = self._read(Label.topic, CONTRACT[Label.topic], entry)
            if not isinstance(event, Label | Instruction) or (id_ := folded_as(event)) in self.older:
                continue
            self.older[id_] = bytes.fromhex(digest(entry.value)[:32])
            if isinstance(event, Label):
                self.counted_before.add(event.feedback_id)
            yield Found(entry, event)

    def ours(self) -> Iterator[Found[Any]]:
        """Yield every record that our stages wrote."""
        for topic, found in self.found.items():
            if topic not in WRITTEN_BY_OTHERS:
                yield from (one for one in found if not isinstance(one.event, Watermark))

    def _take(self, topic: str, type_: Any, entry: Entry) -> None:
        named = digest(entry.value)
        entry = entry._replace(digest=bytes.fromhex(named), size=len(entry.value))
        event = self._read(topic, type_, entry)
        if isinstance(event, EventError):
            self.refused[topic].append(Refused(entry, event))
            return
        if event is None:
            self.withdrawn[entry.key] = entry.place
            return
        if topic not in WRITTEN_BY_OTHERS and not isinstance(event, Watermark):
            if encode(event) != entry.value:
                self.garbled.append(entry)
            if dict(entry.headers).get("ce_id") != named[:32].encode():
                self.misnamed.append(entry)
        if isinstance(event, Calibration):  # ten kilobytes each, and as many as there are batches of labels
            event = msgspec.structs.replace(event, parameters={}, cuts={})
        self._share(event)
        if not isinstance(event, RECOMPUTED):
            entry = entry._replace(value=b"", headers=())
        self.found[topic].append(Found(entry, event))

    def _read(self, topic: str, type_: Any, entry: Entry) -> Any:
        """Return the event, or why it is refused; None: a calibration that was taken away."""
        if self._keys and (error := _fault(self._keys, entry)):
            return error
        if topic == Calibration.topic and not entry.value:
            return None
        try:
            event: Any = decode(type_, entry.value)
        except EventError as error:
            return error
        return misplaced(event, entry.partition, self.logs.partitions) or event

    def _share(self, event: Any) -> None:
        """Let events hold one copy of what many say alike."""
        for part in (event, event.decision) if isinstance(event, Label) else (event,):
            for name in ALIKE:
                if value := getattr(part, name, None):
                    key = tuple(value.items()) if isinstance(value, dict) else value
                    msgspec.structs.force_setattr(part, name, self._alike.setdefault(key, value))


def folded_as(event: Label | Instruction) -> str:
    """Return the id of what a calibrator folds."""
    return event.label_id if isinstance(event, Label) else event.instruction_id


def _fault(keys: Keys, entry: Entry) -> EventError | None:
    headers = dict(entry.headers)
    taken_at = entry.at_ms / 1000 if entry.by_broker else 0.0
    return keys.signature_error(Signed.of(entry.topic, entry.key, entry.value, headers), headers, taken_at)


def fields_that_differ(one: Any, other: Any) -> list[str]:
    """Name the fields in which two events of one type differ.

    >>> from datetime import UTC, datetime
    >>> at = datetime(2026, 1, 5, tzinfo=UTC)
    >>> fields_that_differ(Watermark(occurred_at=at), Watermark(occurred_at=at.replace(year=2027)))
    ['occurred_at']
    """
    return [name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)]
