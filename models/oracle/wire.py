"""What holds for every record of ours alone: contract, canonical bytes, digest, key, and identical repeats."""

from collections.abc import Callable
from typing import Any, Final

from models.events import (
    WRITTEN_BY_OTHERS,
    Alarm,
    Calibration,
    Change,
    Closure,
    DeadLetter,
    Decision,
    Instruction,
    Label,
    Outcome,
)
from models.oracle.logs import Entry, Found, Report, Topics

KEYS: Final[dict[str, Callable[[Any], str]]] = {
    Decision.topic: lambda e: e.response_id,
    Label.topic: lambda e: e.deployment,
    Outcome.topic: lambda e: e.conversation_id,
    Closure.topic: lambda e: e.response_id,
    Calibration.topic: lambda e: e.deployment,
    Change.topic: lambda e: e.deployment,
    Alarm.topic: lambda e: e.deployment,
    DeadLetter.topic: lambda e: f"{e.source_topic}/{e.partition}/{e.offset}",
}
"""What each topic is keyed by, so that what is joined or folded lies in one partition."""
IDENTITY: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    Decision.topic: ("I3", lambda e: e.response_id),
    Label.topic: ("I4", lambda e: e.instruction_id if isinstance(e, Instruction) else e.label_id),
    Outcome.topic: ("I4", lambda e: e.label_id),
    Closure.topic: ("I1", lambda e: e.closure_id),
    Alarm.topic: ("I8", lambda e: e.alarm_id),
    Change.topic: ("I8", lambda e: (e.deployment, e.last)),
    DeadLetter.topic: ("I1", lambda e: (e.source_topic, e.partition, e.offset, e.stage)),
}
"""What may be sent again, and only byte for byte. Calibrations: see `calibrators`."""


def check_wire(topics: Topics, report: Report) -> None:
    """Check each record of ours for itself and against its repeats."""
    for topic, refused in topics.refused.items():
        for entry, error in refused if topic not in WRITTEN_BY_OTHERS else ():
            report.differ("I12", entry, f"not a record that a stage of this version writes: {error}")
    for entry in topics.garbled:
        report.differ("I12", entry, "not in canonical bytes: a stage of this version writes none such")
    for entry in topics.misnamed:
        report.differ("I12", entry, "the digest in header `ce_id` is not that of the record: it was changed")
    first: dict[tuple[str, Any], Entry] = {}
    for found in topics.ours():
        _check_record(found, report)
        _check_repeat(found, first, report)


def _check_record(found: Found[Any], report: Report) -> None:
    entry, event = found
    report.note(report.checked, "records of ours", entry)
    if entry.key != KEYS[entry.topic](event).encode():
        report.differ("I12", entry, "the key is not what the topic is keyed by")


def _check_repeat(found: Found[Any], first: dict[tuple[str, Any], Entry], report: Report) -> None:
    entry, event = found
    if entry.topic not in IDENTITY:
        return
    invariant, identity = IDENTITY[entry.topic]
    earlier = first.setdefault((entry.topic, identity(event)), entry)
    if earlier.digest != entry.digest:
        where = f"{earlier.partition}/{earlier.offset}"
        report.differ(invariant, entry, f"has the id of {where} and other bytes: a repeat must be identical")
