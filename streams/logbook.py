"""What people ask of a calibrator, read from the topics; and what they tell it, sent to its label log."""

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from kafka import KafkaProducer

from models.calibration.history import History
from models.errors import EventError, StateError
from models.events import CONTRACT, Calibration, Change, Decision, Event, Instruction, Label, decode
from models.partitions import home, misplaced
from models.policy import Policy
from models.training.lines import read_lines
from streams.agents.fold import Row, row_of
from streams.connection import kafka_options, reach
from streams.reading import partitions_of, read_all
from streams.settings import Settings
from streams.stages import keys_in
from streams.wire import fault, outgoing


class Running(NamedTuple):
    """What LEARN holds of a deployment: its state, and the id of the event after which it stood so."""

    state: dict[str, Any]
    last: str


def history(settings: Settings, deployment: str, policy: Policy) -> History:
    """Read a deployment's label log, in its partition, and its calibrator's log."""
    key = deployment.encode()
    place = home(key, partitions_of(settings, Label.topic))
    labels = [record for record in read_all(settings, Label.topic) if record.partition == place]
    mine = [record for record in labels if record.key == key]
    whole = not (mine and labels[0].offset)
    changes = _events(settings, [r for r in read_all(settings, Change.topic) if r.key == key])
    return History(deployment, policy, _events(settings, mine), changes, whole=whole)


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


def instruct(settings: Settings, instruction: Instruction) -> tuple[int, int]:
    """Put an instruction into a deployment's label log, and return at which partition and offset the broker has it."""
    send = outgoing(settings.topic_prefix, instruction, keys_in(settings.keys))
    reach(settings)
    with closing(KafkaProducer(**kafka_options(settings))) as producer:
        sent = producer.send(send.topic, key=send.key, value=send.value, headers=send.headers).get()
    return sent.partition, sent.offset


def genuine(settings: Settings, records: Iterable[Any]) -> Iterator[tuple[Event, int]]:
    """Yield what keeps to the contract, lies in its partition, and has a signature that fits where records are signed;
    and the broker's time in milliseconds. The rest is in the dead letters, or `demur verify` names it.
    """
    return ((event, at_ms) for event, at_ms in judged(settings, records) if event is not None)


def judged(settings: Settings, records: Iterable[Any]) -> Iterator[tuple[Event | None, int]]:
    """Yield each record that has a value as `genuine` does, or None in place of one that would be passed over."""
    keys, prefix, partitions = keys_in(settings.keys), settings.topic_prefix, 0
    for record in records:
        if record.value is None:
            continue
        topic = record.topic.removeprefix(prefix)
        partitions = partitions or partitions_of(settings, topic)  # all topics have as many
        event: Event | None = None
        if not fault(record, prefix, keys):
            with suppress(EventError):
                event = decode(CONTRACT[topic], record.value)
        if event is not None and misplaced(event, record.partition, partitions):
            event = None
        yield event, record.timestamp


def _events(settings: Settings, records: Iterable[Any]) -> list[Any]:
    return [event for event, _ in genuine(settings, records)]
