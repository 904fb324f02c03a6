"""Labels against each other and against what conversations are told of them."""

from models.events import Label, Outcome
from models.oracle import join_rules
from models.oracle.logs import Found, Report, Topics, fields_that_differ, folded_as
from models.oracle.retention import Retention


def check_labels(topics: Topics, retention: Retention, report: Report) -> None:
    """Each feedback id counts once, a revision follows what it revises, and a conversation learns of each verdict."""
    _check_older(topics, report)
    counted: dict[str, Found[Label]] = {}
    for found in topics.labels.values():
        if not topics.logs.judged(found.entry):
            continue
        label = found.event
        other = counted.setdefault(label.feedback_id, found)
        if other is not found:
            where = f"{other.entry.partition}/{other.entry.offset}"
            report.differ("I4", found.entry, f"its feedback id is counted in {where} too")
        if label.feedback_id in topics.counted_before:
            report.differ("I4", found.entry, "its feedback id is counted before what was read, too")
        if label.revises is not None:
            _check_revision(topics, found, retention, report)
        _check_outcome(topics, found, retention, report)
    for id_, outcome in topics.outcomes.items():
        if id_ in topics.labels or id_ in topics.older or not topics.logs.judged(outcome.entry):
            continue
        if not retention.covers(Label.topic, retention.time(outcome)):
            report.note(report.beyond, "outcomes", outcome.entry)
        else:
            report.differ("I1", outcome.entry, "tells of a label that is not in the log")


def _check_older(topics: Topics, report: Report) -> None:
    """Hold what repeats a label or instruction from before what is read against its digest, all that is kept of it."""
    for entry, event in topics.found[Label.topic]:
        known = topics.older.get(folded_as(event))
        if known is not None and not entry.digest.startswith(known):
            report.differ("I4", entry, "has the id of one before what was read and other bytes")


def _check_revision(topics: Topics, found: Found[Label], retention: Retention, report: Report) -> None:
    revised = topics.labels.get(str(found.event.revises))
    before = revised is not None and revised.entry.place < found.entry.place
    before = before or str(found.event.revises) in topics.older
    since = retention.since(found.entry, found.event.decision.occurred_at)
    if not before and retention.covers(Label.topic, since, found.entry.partition):
        report.differ("I5", found.entry, "revises a label that does not stand before it")


def _check_outcome(topics: Topics, found: Found[Label], retention: Retention, report: Report) -> None:
    wanted, told = join_rules.outcome(found.event), topics.outcomes.get(found.event.label_id)
    if wanted is not None and told is None and not retention.covers(Outcome.topic, retention.time(found)):
        report.note(report.beyond, "outcomes", found.entry)
        return
    report.note(report.checked, "outcomes", found.entry)
    if wanted is None and told is not None:
        report.differ("I5", told.entry, "tells of a label that is no first verdict or carries no evidence")
    elif wanted is not None and told is None:
        report.differ("I1", found.entry, "the conversation was not told of this label")
    elif wanted is not None and told is not None and (names := fields_that_differ(told.event, wanted)):
        report.differ("I5", told.entry, f"not what the label says: {', '.join(names)}")
