"""Where a stage begins to read: at its place; where it never read, at the beginning; nowhere else without a word.

Kafka forgets the place of a group that had no member for `offsets.retention.minutes`, a log may lose its beginning to
retention and its end to a broker that was not in step, and a client begins elsewhere then, in silence: what was decided
and labelled is decided and labelled again, or what was never read is left out. So a place is committed before anything
is processed, rows imply one, and what cannot be put right without a person ends the worker.

A log that lost its end may have been written on beyond our place. So the record that was settled last is known again:
its checkpoint is committed with the place, and it is read once more, but not processed.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from models.errors import DeliveryError
from streams.checkpoint import ChangelogRecord, Checkpoint
from streams.wire import Record

RESET_HINT: Final = (
    "stop the stage and set its place to shortly before it last worked (`kafka-consumer-groups.sh --reset-offsets "
    "--to-datetime`): docs/runbook.md#lost-place says how"
)

log = structlog.get_logger(__name__)


class Committed(NamedTuple):
    """Where a stage goes on in a partition, and the checkpoint of what it settled last before that, if known."""

    offset: int
    last: Checkpoint | None = None

    @classmethod
    def of(cls, offset: int, metadata: str | None) -> "Committed":
        """Read what was committed; metadata of another tool's says nothing."""
        with suppress(ValueError):
            last = Checkpoint.decode((metadata or "").encode())
            return cls(offset, last if 0 <= last.offset < offset else None)
        return cls(offset)

    @property
    def metadata(self) -> str:
        """What is committed beside the offset."""
        return self.last.encode().decode() if self.last else ""

    @property
    def start(self) -> int:
        """Where to read from, so that the log is known again."""
        return self.last.offset if self.last else self.offset


def checkpoint(record: Record) -> Checkpoint:
    """Return the checkpoint of a record of an input: without its text, which could be guessed from a digest."""
    length = str(len(record.value)).encode()
    return Checkpoint.of(ChangelogRecord(record.offset, round(record.at * 1e3), record.key or b"", length))


async def restore_offsets(consumer: Any, app: Any) -> Mapping[Any, Committed]:
    """Go back to what the group of `app` has committed, and commit the beginning first where nothing is; return that.

    Raises `DeliveryError` where a place was lost, `IllegalStateError` in a rebalance: Faust then waits for its end.
    """
    held, assigned = _held(consumer), list(consumer.assignment())
    committed = await consumer._coordinator.fetch_committed_offsets(assigned)
    found = {tp: Committed.of(*at) for tp, at in committed.items()}
    if new := [tp for tp in assigned if tp not in found]:
        begin = await _start_offsets(consumer, app, new)
        await _commit(consumer, held, begin)
        found |= {tp: Committed(offset) for tp, offset in begin.items()}
    for tp, at in found.items():
        consumer.seek(tp, at.start)
    return found


def check_last(app: Any, tp: Any, at: Committed, record: Record) -> None:
    """Raises `DeliveryError` if a `record` that lies before our place is not the one that was settled last.

    Where retention has deleted that one meanwhile, none does, and nothing can be said.
    """
    if checkpoint(record) != at.last:
        raise DeliveryError(
            f"the group {app.conf.id} has settled {tp.topic}/{tp.partition} up to {at.offset}, and another record is "
            f"at {record.offset} now: the log lost its end and was written on, or the topic was made anew; {RESET_HINT}"
        )


async def skip_deleted(consumer: Any, app: Any, tp: Any, at: Committed) -> None:
    """Go on where a log begins that has nothing at our place any more; count and name what was deleted before it was
    read.

    Raises `DeliveryError` if it has nothing behind it either. In a rebalance, whoever has the partition next does it.
    """
    held = _held(consumer)
    first = (await consumer.beginning_offsets([tp]))[tp]
    if first <= at.start:
        raise DeliveryError(
            f"the group {app.conf.id} has its place in {tp.topic}/{tp.partition} at {at.offset}, where there is no "
            f"record any more: the log lost its end, or the topic was made anew; {RESET_HINT}"
        )
    with suppress(IllegalStateError):
        if first <= at.offset:
            consumer.seek(tp, at.offset)
            return
        await _commit(consumer, held, {tp: first})  # nobody is to count them again
        lost = first - at.offset
        app.lost[tp.topic].inc(lost)
        log.error("records were deleted before they were read", topic=tp.topic, partition=tp.partition, records=lost)
        consumer.seek(tp, first)


async def _start_offsets(consumer: Any, app: Any, new: Sequence[Any]) -> Mapping[Any, int]:
    """Return where partitions begin. Raises `DeliveryError` where there are rows, and records that would come again."""
    changelogs = {tp: TopicPartition(app.stage.state.changelog, tp.partition) for tp in new}
    first: Mapping[Any, int] = await consumer.beginning_offsets(new)
    ends = await consumer.end_offsets([*new, *set(changelogs.values())])
    if lost := sorted({tp.topic for tp in new if first[tp] < ends[tp] and ends[changelogs[tp]]}):
        raise DeliveryError(
            f"the group {app.conf.id} has no place in {', '.join(lost)}, though it has rows of what it read: Kafka "
            f"forgot it, or somebody deleted it, and to read all again would contradict what was decided; {RESET_HINT}"
        )
    return first


def _held(consumer: Any) -> Any:
    """Return what is assigned now; it is `active` until a rebalance ends."""
    return consumer._subscription.subscription.assignment


async def _commit(consumer: Any, held: Any, places: Mapping[Any, int]) -> None:
    """Raises `IllegalStateError` if the partitions may be another worker's by now, who has gone on from there."""
    if not held.active:
        raise IllegalStateError("the group has rebalanced")
    try:
        await consumer.commit(places)
    except CommitFailedError as error:
        raise IllegalStateError("the group is rebalancing") from error
