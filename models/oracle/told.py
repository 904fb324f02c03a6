"""Labels against each other and against what conversations are told of them."""

from models.events import Label, Outcome
from models.oracle import rows
from models.oracle.edges import Edges
from models.oracle.logs import Found, Report, Topics, fields_that_differ


def check_labels(topics: Topics, edges: Edges, report: Report) -> None:
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
            _check_revision(topics, found, edges, report)
        _check_told(topics, found, edges, report)
    for id_, outcome in topics.outcomes.items():
        if id_ in topics.labels or not topics.logs.judged(outcome.entry):
            continue
        if not edges.whole(Label.topic, edges.time(outcome)):
            report.beyond["outcomes"] += 1
        else:
            report.differ("I1", outcome.entry, "tells of a label that is not in the log")


def _check_revision(topics: Topics, found: Found[Label], edges: Edges, report: Report) -> None:
    revised = topics.labels.get(str(found.event.revises))
    before = revised is not None and revised.entry.place < found.entry.place
    since = edges.since(found.entry, found.event.decision.occurred_at)
    if not before and edges.whole(Label.topic, since, found.entry.partition):
        report.differ("I5", found.entry, "revises a label that does not stand before it")


def _check_told(topics: Topics, found: Found[Label], edges: Edges, report: Report) -> None:
    wanted, told = rows.outcome(found.event), topics.outcomes.get(found.event.label_id)
    if wanted is not None and told is None and not edges.whole(Outcome.topic, edges.time(found)):
        report.beyond["outcomes"] += 1
        return
    report.checked["outcomes"] += 1
    if wanted is None and told is not None:
        report.differ("I5", told.entry, "tells of a label that is no first verdict or carries no evidence")
    elif wanted is not None and told is None:
        report.differ("I1", found.entry, "the conversation was not told of this label")
    elif wanted is not None and told is not None and (names := fields_that_differ(told.event, wanted)):
        report.differ("I5", told.entry, f"not what the label says: {', '.join(names)}")
