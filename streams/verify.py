"""`demur verify`: the topics' full logs, read from a broker, held against the oracle (`models.oracle`).

On a live system, committed offsets are asked first and the logs' ends afterwards: what a stage has committed must have
its outcomes in what is read. What was written in the last moments may be half of a batch and is not judged. If
nothing moves and everything is committed, the stream is at rest and all of it is judged.

Of a period no more is read than its check needs (`models.oracle.period`), and labels before that are not kept.
"""

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from models.errors import SettingsError
from models.events import CONTRACT, Label
from models.oracle import Entry, Logs, Period, Report, Rules, check
from models.oracle.logs import HEADERS
from models.oracle.period import IN_PART, reach
from streams.clock import WallClock
from streams.reading import begin_at, read_to, reader
from streams.settings import Settings
from streams.stages import INPUTS, digest_keys, horizons, keys_in, policies
from streams.topics import administrator
from streams.wire import by_broker, header_map

FRESH_S: Final = 120.0
"""A worker that dies in the middle of a batch is replaced, and the batch completed, long before."""
STILL_S: Final = 5.0
"""At rest, nothing has been written for so long."""

Committed = dict[tuple[str, str, int], int]
Offsets = dict[TopicPartition, int]
Place = tuple[str, int]
"""A topic without its prefix, and a partition."""


def verify(
    settings: Settings, files: Sequence[Path] = (), *, at_rest: bool = False, since: datetime | None = None
) -> Report:
    """Read the logs of an installation and check them. `files`: every policy that was in force, the last one now.

    `since`: only what was written then or later, by the broker's time. Raises `SettingsError` if a topic does not
    exist, the broker does not let us read, or a replay is to be checked from a time on.
    """
    if since and settings.time_source == "event":
        raise SettingsError("--from is a time of the broker, which took a replay all at once: check the replay whole")
    known = tuple(policies(file) for file in files or (settings.policy,))
    signed, replayed = keys_in(settings.keys), settings.time_source == "event"
    rules = Rules(known, horizons(settings), digest_keys(settings), signed, replayed=replayed)
    with _uncollected():
        return check(read(settings, at_rest=at_rest, since=since), rules)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no cycles meanwhile: nothing is let go of, and a search would go through millions of records."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def read(settings: Settings, *, at_rest: bool = False, since: datetime | None = None) -> Logs:
    """Read every record of every topic, or what a period needs that began at `since`.

    `at_rest`: the caller knows that all batches are complete.
    """
    committed = None if at_rest else committed_by(settings)
    with reader(settings, CONTRACT) as (consumer, partitions):
        begins, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        starts, period = begins, None
        if since is not None:
            read_ms, names = _ms(reach(since, horizons(settings))), {settings.topic_prefix + topic for topic in IN_PART}
            in_part = {place: end for place, end in ends.items() if place.topic in names}
            starts = begins | begin_at(consumer, read_ms, in_part)
            period = _period(settings, _ms(since), read_ms, begins, starts)
        entries: dict[str, list[Entry]] = {topic: [] for topic in CONTRACT}
        for record in read_to(consumer, ends):
            entry = _entry(record, settings.topic_prefix)
            entries[entry.topic].append(entry)
        for found in entries.values():
            found.sort(key=attrgetter("place"))
        now_ms = _ms(WallClock().now())
        still = at_rest or (
            _is_still(consumer, ends, committed, settings.topic_prefix)
            and all(entry.at_ms <= now_ms - int(STILL_S * 1000) for found in entries.values() for entry in found)
        )
    return Logs(
        {topic: _handed_over(found) for topic, found in entries.items()},
        settings.topic_prefix,
        None if still else committed or {},
        None if still else now_ms - int(FRESH_S * 1000),
        _places(starts, settings.topic_prefix),
        len({p.partition for p in partitions}),
        period,
    )


def _period(settings: Settings, since_ms: int, read_ms: int, begins: Offsets, starts: Offsets) -> Period:
    labels = {place: start for place, start in starts.items() if place.topic == settings.topic_prefix + Label.topic}
    return Period(since_ms, read_ms, _places(begins, settings.topic_prefix), _before(settings, labels))


def _before(settings: Settings, ends: Offsets) -> Iterator[Entry]:
    """Yield the labels before these places, and hold none of them."""
    with reader(settings, [Label.topic]) as (consumer, _):
        for record in read_to(consumer, ends):
            if record.offset < ends[TopicPartition(record.topic, record.partition)]:
                yield _entry(record, settings.topic_prefix)


def _places(offsets: Offsets, prefix: str) -> dict[Place, int]:
    return {(place.topic.removeprefix(prefix), place.partition): offset for place, offset in offsets.items()}


def _ms(at: datetime) -> int:
    return max(0, int(at.timestamp() * 1000))


def is_proof(report: Report) -> bool:
    """Whether anything was checked of which a log is kept: no difference in nothing proves nothing."""
    return any(report.checked[name] for name in ("decisions", "labels", "closures"))


def sentence(report: Report, since: datetime | None = None) -> str:
    """Say in one line what was found."""
    named = [*_counts("", report.checked), *_counts("pending: ", report.pending), *_counts("too old: ", report.beyond)]
    written = f" in what was written since {since:%Y-%m-%d %H:%M:%S} UTC" if since else ""
    empty = "" if is_proof(report) else "nothing proven, for no decision, label or closure could be checked: "
    return f"{empty}{len(report.differences):,} differences{written}; checked: {', '.join(named) or 'nothing'}"


def _counts(before: str, counts: Any) -> list[str]:
    return [f"{before}{count:,} {name}" for name, count in sorted(counts.items()) if count]


def _handed_over(entries: list[Entry]) -> Iterator[Entry]:
    """Yield records, and hold none of them: the oracle keeps what it needs."""
    entries.reverse()
    while entries:
        yield entries.pop()


def _is_still(
    consumer: KafkaConsumer, ends: dict[TopicPartition, int], committed: Committed | None, prefix: str
) -> bool:
    if consumer.end_offsets(list(ends)) != ends:
        return False
    return all_read(committed or {}, _places(ends, prefix))


def all_read(committed: Committed, ends: Mapping[Place, int]) -> bool:
    """Whether every stage has committed that far in each of its inputs, by topic without prefix and partition."""
    return all(
        committed.get((stage, topic, partition), 0) >= end
        for (topic, partition), end in ends.items()
        for stage, inputs in INPUTS.items()
        if topic in inputs
    )


def committed_by(settings: Settings) -> Committed:
    """Return how far each stage has committed, by stage, topic without prefix, and partition."""
    prefix = settings.topic_prefix
    found: Committed = {}
    with administrator(settings) as admin:
        for stage in INPUTS:
            group = f"{prefix}demur-{stage}"
            try:
                offsets = admin.list_group_offsets(group)[group]
            except KafkaError as error:
                raise SettingsError(f"the offsets of {group} cannot be read: {type(error).__name__}") from None
            for place, at in offsets.items():
                found[stage, place.topic.removeprefix(prefix), place.partition] = at.offset
    return found


def _entry(record: Any, prefix: str) -> Entry:
    found = header_map(record.headers)
    return Entry(
        sys.intern(record.topic.removeprefix(prefix)),
        record.partition,
        record.offset,
        record.key,
        record.value or b"",
        tuple((name, found[name]) for name in HEADERS if name in found),
        record.timestamp,
        by_broker(record),
    )
