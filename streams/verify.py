"""`demur verify`: the topics' full logs, read from a broker, held against the oracle (`models.oracle`).

On a live system, committed offsets are asked first and the logs' ends afterwards: what a stage has committed must have
its outcomes in what is read. What was written in the last moments may be half of a batch and is not judged. If
nothing moves and everything is committed, the stream is at rest and all of it is judged.
"""

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from models.errors import SettingsError
from models.events import CONTRACT
from models.oracle import Entry, Logs, Report, Rules, check
from models.oracle.logs import HEADERS
from streams.clock import WallClock
from streams.reading import read_to, reader
from streams.settings import Settings
from streams.stages import INPUTS, digest_keys, horizons, keys_in, policies
from streams.topics import administrator
from streams.wire import told

FRESH_S: Final = 120.0
"""A worker that dies in the middle of a batch is replaced, and the batch completed, long before."""
STILL_S: Final = 5.0
"""At rest, nothing has been written for so long."""

Committed = dict[tuple[str, str, int], int]


def verify(settings: Settings, files: Sequence[Path] = (), *, at_rest: bool = False) -> Report:
    """Read the logs of an installation and check them. `files`: every policy that was in force, the last one now.

    Raises `SettingsError` if a topic does not exist or the broker does not let us read.
    """
    known = tuple(policies(file) for file in files or (settings.policy,))
    signed, replayed = keys_in(settings.keys), settings.time_source == "event"
    rules = Rules(known, horizons(settings), digest_keys(settings), signed, replayed=replayed)
    with _uncollected():
        return check(read(settings, at_rest=at_rest), rules)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no cycles meanwhile: nothing is let go of, and a search would go through millions of records."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def read(settings: Settings, *, at_rest: bool = False) -> Logs:
    """Read every record of every topic. `at_rest`: the caller knows that all batches are complete."""
    committed = None if at_rest else committed_by(settings)
    with reader(settings, CONTRACT) as (consumer, partitions):
        starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        entries: dict[str, list[Entry]] = {topic: [] for topic in CONTRACT}
        for record in read_to(consumer, ends):
            entry = _entry(record, settings.topic_prefix)
            entries[entry.topic].append(entry)
        for found in entries.values():
            found.sort(key=attrgetter("place"))
        now_ms = int(WallClock().now().timestamp() * 1000)
        still = at_rest or (
            _is_still(consumer, ends, committed, settings.topic_prefix)
            and all(entry.at_ms <= now_ms - int(STILL_S * 1000) for found in entries.values() for entry in found)
        )
    return Logs(
        {topic: _handed_over(found) for topic, found in entries.items()},
        settings.topic_prefix,
        None if still else committed or {},
        None if still else now_ms - int(FRESH_S * 1000),
        {(p.topic.removeprefix(settings.topic_prefix), p.partition): start for p, start in starts.items()},
        len({p.partition for p in partitions}),
    )


def sentence(report: Report) -> str:
    """Say in one line what was found."""
    named = [*_counts("", report.checked), *_counts("pending: ", report.pending), *_counts("too old: ", report.beyond)]
    return f"{len(report.differences):,} differences; checked: {', '.join(named) or 'nothing, the topics are empty'}"


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
    places = {(p.topic.removeprefix(prefix), p.partition): end for p, end in ends.items()}
    return all_read(committed or {}, places)


def all_read(committed: Committed, ends: Mapping[tuple[str, int], int]) -> bool:
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
    found = told(record.headers)
    return Entry(
        sys.intern(record.topic.removeprefix(prefix)),
        record.partition,
        record.offset,
        record.key,
        record.value or b"",
        tuple((name, found[name]) for name in HEADERS if name in found),
        record.timestamp,
    )
