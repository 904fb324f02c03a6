"""Labels against each other and against what conversations are told of them."""

from models.events import Label
from models.oracle import rows
from models.oracle.logs import Found, Report, Topics, fields_that_differ


def check_labels(topics: Topics, report: Report) -> None:
    """Each feedback id counts once, a revision follows what it revises, and a conversation learns of each verdict."""
    counted: dict[str, Found[Label]] = {}
    for found in topics.labels.values():
        if not topics.logs.judged(found.entry):
            continue
        label = found.event
        other = counted.setdefault(label.feedback_id, found)
        if other is not found:
            where = f"{other.entry.partition}/{other.entry.offset}"
            report.differ("I4", found.entry, f"its feedback id is counted in {where} too")
        if label.revises is not None:
            _check_revision(topics, found, report)
        _check_told(topics, found, report)
    for id_, outcome in topics.outcomes.items():
        if id_ not in topics.labels and topics.logs.judged(outcome.entry) and not topics.logs.is_cut(Label.topic):
            report.differ("I1", outcome.entry, "tells of a label that is not in the log")


def _check_revision(topics: Topics, found: Found[Label], report: Report) -> None:
    revised = topics.labels.get(str(found.event.revises))
    if revised is None and topics.logs.is_cut(Label.topic):
        return
    if revised is None or revised.entry[1:3] >= found.entry[1:3]:
        report.differ("I5", found.entry, "revises a label that does not stand before it")


def _check_told(topics: Topics, found: Found[Label], report: Report) -> None:
    wanted, told = rows.outcome(found.event), topics.outcomes.get(found.event.label_id)
    report.checked["outcomes"] += 1
    if wanted is None and told is not None:
        report.differ("I5", told.entry, "tells of a label that is no first verdict or carries no evidence")
    elif wanted is not None and told is None:
        report.differ("I1", found.entry, "the conversation was not told of this label")
    elif wanted is not None and told is not None and (names := fields_that_differ(told.event, wanted)):
        report.differ("I5", told.entry, f"not what the label says: {', '.join(names)}")
