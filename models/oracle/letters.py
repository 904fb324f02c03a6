"""Dead letters: each points at a real record, by its digest, and says what is wrong with it; none is missing."""

from collections.abc import Iterator, Sequence
from typing import Final

from models.errors import Invalid
from models.events import DeadLetter, Feedback, Label, Response
from models.oracle.decisions import whose
from models.oracle.edges import Edges
from models.oracle.logs import READERS, Entry, Found, Refused, Report, Source, Topics

MOST_TOLD: Final = 1000
"""Feedback that JOIN keeps of one response."""
INTERNAL: Final = ("internal", "not processable")
"""A valid record that a stage could not process: a fault of ours, but not one that a log can show."""


Where = tuple[str, tuple[str, int, int]]
"""A stage, and the place of what it reads."""


def check_letters(topics: Topics, unfollowed: Sequence[tuple[Entry, str]], edges: Edges, report: Report) -> None:
    """Hold dead letters and refused records against each other, both ways.

    `unfollowed`: instructions that LEARN could not follow, and why, as far as the label log is whole.
    """
    refused = {(stage, _place(one)): one for one in _broken(topics) for stage in READERS.get(one.entry.topic, ())}
    refused |= {("learn", _place(one)): one for one in (Refused(e, Invalid(why)) for e, why in unfollowed)}
    there: set[Where] = set()
    for found in topics.found[DeadLetter.topic]:
        letter = found.event
        topic = letter.source_topic.removeprefix(topics.logs.prefix)
        place = (topic, letter.partition, letter.offset)
        there.add((letter.stage, place))
        if (letter.stage, topic) == ("learn", Label.topic) and topics.logs.is_cut(topic, letter.partition):
            report.beyond["dead letters"] += 1
            continue
        for what in _complaints(topics, found, topic, refused.get((letter.stage, place))):
            report.differ("I1", found.entry, what)
        report.checked["dead letters"] += 1
    for stage, place in refused.keys() - there:
        one = refused[stage, place]
        if not edges.whole(DeadLetter.topic, edges.time(Found(one.entry, None))):
            report.beyond["dead letters"] += 1
        elif topics.logs.consumed(stage, one.entry):
            report.differ("I1", one.entry, f"cannot be processed, and {stage} wrote no dead letter: {one.error}")
        else:
            report.pending["dead letters"] += 1


def _complaints(topics: Topics, found: Found[DeadLetter], topic: str, refused: Refused | None) -> Iterator[str]:
    letter = found.event
    source = topics.at(topic, letter.partition, letter.offset)
    if source is None:
        if letter.offset >= topics.logs.starts.get((topic, letter.partition), 0):
            yield "points at no record"
        return
    if not letter.source_topic.startswith(topics.logs.prefix) or letter.stage not in READERS.get(topic, ()):
        yield f"no stage {letter.stage} reads that topic"
    if (letter.digest, letter.size_bytes) != (source.entry.digest.hex(), source.entry.size):
        yield "`digest` or `size_bytes` is not that of the record that it points at"
    if not _is_right(topics, letter, source, refused):
        yield "`code` or `detail` is not what is wrong with the record that it points at"
    response_id = whose(source).response_id if letter.stage == "score" and topic == Response.topic else None
    if letter.response_id != response_id:
        yield "`response_id` is not what the record says"


def _is_right(topics: Topics, letter: DeadLetter, source: Source, refused: Refused | None) -> bool:
    """Whether a letter says what is wrong with its record, as far as a log can show it."""
    said = (letter.code, letter.detail)
    if letter.code == "excessive" and isinstance(source, Found) and isinstance(source.event, Feedback):
        return _told_before(topics, source) >= MOST_TOLD
    return said == INTERNAL or (refused is not None and said == (refused.error.code, str(refused.error)))


def _told_before(topics: Topics, source: Found[Feedback]) -> int:
    """Count the feedback that its response had when a record came."""
    (_, partition, offset, *_), whose = source.entry, source.event.response_id
    before = (f for f in topics.found[Feedback.topic] if f.entry.partition == partition and f.entry.offset < offset)
    told = (f.event for f in before if isinstance(f.event, Feedback) and f.event.response_id == whose)
    return len({event.feedback_id for event in told})


def _broken(topics: Topics) -> Iterator[Refused]:
    return (one for ones in topics.refused.values() for one in ones)


def _place(one: Refused) -> tuple[str, int, int]:
    return one.entry.topic, one.entry.partition, one.entry.offset
