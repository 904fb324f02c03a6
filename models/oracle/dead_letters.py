"""Dead letters: each points at a real record, by its digest, and says what is wrong with it; none is missing."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final, TypeGuard

from models.errors import IdReused, Invalid, UnknownSchema
from models.events import WRITTEN_BY_OTHERS, DeadLetter, Feedback, Label, Response
from models.oracle.calibrators import Versions
from models.oracle.decisions import ids_of
from models.oracle.logs import READERS, Found, Refused, Report, Source, Topics
from models.oracle.retention import Retention

MAX_FEEDBACK: Final = 1000
"""Feedback that JOIN keeps of one response."""
INTERNAL: Final = ("internal", "not processable")
"""A valid record that a stage could not process: a fault of ours, but not one that a log can show."""


Where = tuple[str, tuple[str, int, int]]
"""A stage, and the place of what it reads."""


def check_dead_letters(
    topics: Topics, versions: Versions, retention: Retention, reused: Iterable[Refused], report: Report
) -> None:
    """Hold dead letters and refused records against each other, both ways. `reused`: texts under another one's id."""
    refused = {(stage, _place(one)): one for one in _broken(topics) for stage in READERS.get(one.entry.topic, ())}
    refused |= {("learn", _place(one)): one for one in (Refused(e, Invalid(why)) for e, why in versions.unfollowed)}
    refused |= {("score", _place(one)): one for one in reused}
    counts = _FeedbackCounts(topics, retention)
    there: set[Where] = set()
    for found in topics.found[DeadLetter.topic]:
        letter = found.event
        topic = letter.source_topic.removeprefix(topics.logs.prefix)
        place = (topic, letter.partition, letter.offset)
        there.add((letter.stage, place))
        if (letter.stage, topic) == ("learn", Label.topic) and _is_beyond(topics, place, versions):
            report.note(report.beyond, "dead letters", found.entry)
            continue
        if letter.code == IdReused.code and not topics.logs.judged(found.entry):
            # The decision that it means may not have been read.
            report.note(report.pending, "dead letters", found.entry)
            continue
        for what in _complaints(topics, found, topic, refused.get((letter.stage, place)), counts):
            report.differ("I1", found.entry, what)
        report.note(report.checked, "dead letters", found.entry)
    for stage, place in refused.keys() - there:
        one = refused[stage, place]
        if isinstance(one.error, UnknownSchema) and one.entry.topic not in WRITTEN_BY_OTHERS:
            continue  # `wire` names it: an older stage leaves it to a newer one
        if not retention.covers(DeadLetter.topic, retention.time(Found(one.entry, None))):
            report.note(report.beyond, "dead letters", one.entry)
        elif topics.logs.consumed(stage, one.entry):
            report.differ("I1", one.entry, f"cannot be processed, and {stage} wrote no dead letter: {one.error}")
        else:
            report.note(report.pending, "dead letters", one.entry)


class _FeedbackCounts:
    """How much feedback each response had that is said to have had too much."""

    def __init__(self, topics: Topics, retention: Retention) -> None:
        self._topics = topics
        self._retention = retention
        named = (letter for _, letter in topics.found[DeadLetter.topic] if letter.code == "excessive")
        sources = (topics.at(Feedback.topic, letter.partition, letter.offset) for letter in named)
        self._news: dict[tuple[int, str], list[int]] = {_row(one): [] for one in sources if _is_feedback(one)}
        """The offsets at which an id came for the first time, by partition and response."""
        ids: set[tuple[int, str, str]] = set()
        for found in topics.found[Feedback.topic]:
            if _is_feedback(found) and (row := _row(found)) in self._news:
                if (known := (*row, found.event.feedback_id)) not in ids:
                    self._news[row].append(found.entry.offset)
                ids.add(known)

    def may_exceed(self, source: Found[Feedback]) -> bool:
        """Whether JOIN may have kept as much as it keeps when this one came."""
        decided = self._topics.decisions.get(source.event.response_id)
        since = decided and self._retention.since(decided.entry, decided.event.occurred_at)
        if not self._retention.covers(Feedback.topic, since, source.entry.partition):
            return True
        return bisect_left(self._news[_row(source)], source.entry.offset) >= MAX_FEEDBACK


def _is_beyond(topics: Topics, place: tuple[str, int, int], versions: Versions) -> bool:
    """Whether it can no longer be known if LEARN could follow an instruction that it set aside."""
    source = topics.at(*place)
    told = isinstance(source, Found) and versions.is_beyond(source.event.deployment)
    unread = source is None and topics.logs.is_before(*place)
    return told or unread or topics.logs.is_truncated(*place[:2])


def _is_feedback(source: Source | None) -> TypeGuard[Found[Feedback]]:
    return isinstance(source, Found) and isinstance(source.event, Feedback)


def _row(found: Found[Feedback]) -> tuple[int, str]:
    return found.entry.partition, found.event.response_id


def _complaints(
    topics: Topics, found: Found[DeadLetter], topic: str, refused: Refused | None, counts: _FeedbackCounts
) -> Iterator[str]:
    letter = found.event
    source = topics.at(topic, letter.partition, letter.offset)
    if source is None:
        if not topics.logs.is_before(topic, letter.partition, letter.offset):
            yield "points at no record"
        return
    if not letter.source_topic.startswith(topics.logs.prefix) or letter.stage not in READERS.get(topic, ()):
        yield f"no stage {letter.stage} reads that topic"
    if (letter.digest, letter.size_bytes) != (source.entry.digest.hex(), source.entry.size):
        yield "`digest` or `size_bytes` is not that of the record that it points at"
    if not _is_right(letter, source, refused, counts):
        yield "`code` or `detail` is not what is wrong with the record that it points at"
    response_id = ids_of(source).response_id if letter.stage == "score" and topic == Response.topic else None
    if letter.response_id != response_id:
        yield "`response_id` is not what the record says"


def _is_right(letter: DeadLetter, source: Source, refused: Refused | None, counts: _FeedbackCounts) -> bool:
    """Whether a letter says what is wrong with its record, as far as a log can show it."""
    said = (letter.code, letter.detail)
    if letter.code == "excessive" and _is_feedback(source):
        return counts.may_exceed(source)
    return said == INTERNAL or (refused is not None and said == (refused.error.code, str(refused.error)))


def _broken(topics: Topics) -> Iterator[Refused]:
    return (one for ones in topics.refused.values() for one in ones)


def _place(one: Refused) -> tuple[str, int, int]:
    return one.entry.topic, one.entry.partition, one.entry.offset
