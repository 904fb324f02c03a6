"""What people ask of a calibrator, read from the topics; and what they tell it, sent to its label log."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError

from models.calibration.history import History
from models.errors import DemurError, EventError, StateError
from models.events import CONTRACT, Calibration, Change, Decision, Event, Instruction, Label, decode
from models.partitions import home, misplaced
from models.policy import Policy
from models.training.lines import read_lines
from streams.agents.fold import Row, row_of
from streams.connection import CONNECT_MS, kafka_options, permitted, reach, refused
from streams.reading import partitions_of, read_all, read_to, reader
from streams.settings import Settings
from streams.stages import keys_in
from streams.wire import outgoing, signature_error


class Running(NamedTuple):
    """What LEARN holds of a deployment: its state, and the id of the event after which it stood so."""

    state: dict[str, Any]
    last: str


class Part(NamedTuple):
    """What lies in a deployment's label log from an offset on: its records, where it begins, and how many partitions
    there are.
    """

    records: list[Any]
    begin: int
    partitions: int


def history(settings: Settings, deployment: str, policy: Policy) -> History:
    """Read a deployment's label log, in its partition, and its calibrator's log."""
    with label_log(settings, deployment) as more:
        return history_of(settings, deployment, policy, more())


def history_of(settings: Settings, deployment: str, policy: Policy, log: Part) -> History:
    """Read the log of the calibrator that learns from a label log."""
    changes = _events(settings, [r for r in read_all(settings, Change.topic) if r.key == deployment.encode()])
    whole = not (log.records and log.begin)
    return History(deployment, policy, labels(settings, log), changes, whole=whole)


@contextmanager
def label_log(settings: Settings, deployment: str) -> Iterator[Callable[[], Part]]:
    """Yield what returns a deployment's label log, read in its partition; asked again, what came since."""
    key = deployment.encode()
    with reader(settings, [Label.topic]) as (consumer, partitions):
        [place] = [one for one in partitions if one.partition == home(key, len(partitions))]
        consumer.assign([place])
        consumer.seek_to_beginning(place)

        def more() -> Part:
            begin, ends = consumer.position(place), consumer.end_offsets([place])
            return Part([record for record in read_to(consumer, ends) if record.key == key], begin, len(partitions))

        yield more


def labels(settings: Settings, log: Part) -> list[Any]:
    """Return the labels and instructions of a label log that are genuine."""
    return _events(settings, log.records, log.partitions)


def running(settings: Settings, deployment: str) -> Running:
    """Read LEARN's state of a deployment. Raises `StateError` if there is none."""
    rows = [r for r in read_all(settings, "demur-learn-state-changelog") if r.key == row_of(deployment)]
    if not rows:
        raise StateError(f"LEARN knows nothing of deployment {deployment}: does the name agree with its responses?")
    row = msgspec.json.decode(rows[-1].value, type=Row)
    return Running(row.snapshot, row.recent[-1])


def newest(settings: Settings) -> dict[str, Calibration]:
    """Read the newest calibration of each deployment."""
    found: list[Calibration] = _events(settings, read_all(settings, Calibration.topic))
    return {one.deployment: one for one in sorted(found, key=lambda one: one.version)}


def decisions(settings: Settings, last: int) -> list[Decision]:
    """Read about the `last` decisions of each partition."""
    found = _events(settings, read_all(settings, Decision.topic, last))
    return [event for event in found if isinstance(event, Decision)]


def decisions_in(path: Path) -> list[Decision]:
    """Read decisions from a file of JSON lines. Raises `SettingsError` for a line that is none."""
    return list(read_lines(path, lambda line: decode(Decision, line)))


@contextmanager
def instructing(settings: Settings) -> Iterator[Callable[[Instruction], tuple[int, int]]]:
    """Yield what puts an instruction into its deployment's label log, and returns at which partition and offset the
    broker has it.

    Raises `SettingsError` if no broker answers, or we may not write there; `DemurError` if it does not confirm one.
    """
    reach(settings)
    topic = settings.topic_prefix + Instruction.topic
    try:
        made = KafkaProducer(**kafka_options(settings), bootstrap_timeout_ms=CONNECT_MS)
    except KafkaError:
        raise refused(settings) from None
    with closing(made) as producer, permitted("Write", [topic]):
        producer.partitions_for(topic)  # connects

        def instruct(instruction: Instruction) -> tuple[int, int]:
            send = outgoing(settings.topic_prefix, instruction, keys_in(settings.keys))
            with _confirmed(instruction), permitted("Write", [topic]):
                sent = producer.send(send.topic, key=send.key, value=send.value, headers=send.headers).get()
            return sent.partition, sent.offset

        yield instruct


@contextmanager
def _confirmed(instruction: Instruction) -> Iterator[None]:
    """Say of an order that the broker does not confirm that it may have it nevertheless."""
    try:
        yield
    except KafkaError as error:
        raise DemurError(
            f"the broker did not confirm the {instruction.order} ({type(error).__name__}): "
            f"see `demur calibrator log {instruction.deployment}` before you give it again"
        ) from None


def genuine(settings: Settings, records: Iterable[Any], partitions: int = 0) -> Iterator[tuple[Event, int]]:
    """Yield what keeps to the contract, lies in its partition, and has a signature that fits where records are signed;
    and the broker's time in milliseconds. The rest is in the dead letters, or `demur verify` names it.
    """
    return ((event, at_ms) for event, at_ms in judged(settings, records, partitions) if event is not None)


def judged(settings: Settings, records: Iterable[Any], partitions: int = 0) -> Iterator[tuple[Event | None, int]]:
    """Yield each record that has a value as `genuine` does, or None in place of one that would be passed over.

    `partitions`: how many there are; 0: the broker is asked.
    """
    keys, prefix = keys_in(settings.keys), settings.topic_prefix
    for record in records:
        if record.value is None:
            continue
        topic = record.topic.removeprefix(prefix)
        partitions = partitions or partitions_of(settings, topic)  # all topics have as many
        event: Event | None = None
        if not signature_error(record, prefix, keys):
            with suppress(EventError):
                event = decode(CONTRACT[topic], record.value)
        if event is not None and misplaced(event, record.partition, partitions):
            event = None
        yield event, record.timestamp


def _events(settings: Settings, records: Iterable[Any], partitions: int = 0) -> list[Any]:
    return [event for event, _ in genuine(settings, records, partitions)]
