"""Feedback and decisions against labels and closures: each input has its one end, and each end its input."""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from models.events import Closure, ClosureReason, DeadLetter, Decision, Feedback, Label
from models.oracle import join_rules
from models.oracle.join_rules import Execution, Judged, executions
from models.oracle.logs import Entry, Found, Report, Rules, Topics, fields_that_differ
from models.oracle.retention import SKEW, Retention, moment
from models.oracle.watermarks import WatermarkBounds

ENDINGS: Final[tuple[ClosureReason, ...]] = ("duplicate", "superseded", "orphan")

UNENDED: Final = "feedback without an end, though its time has come"
UNFOUNDED: Final = "a label that does not follow from the feedback on its response"
Complaint = tuple[str, Entry, str]


class FeedbackRecord(NamedTuple):
    """One record of feedback, and the closures that are named after it."""

    entry: Entry
    said: Feedback
    closed: dict[ClosureReason, Found[Closure]]

    @property
    def origin(self) -> str:
        """What its closures are named after."""
        return f"{self.said.feedback_id}@{self.entry.partition}:{self.entry.offset}"


class Row(NamedTuple):
    """What the logs have of one response in one partition of JOIN."""

    partition: int
    response_id: str
    decided: Found[Decision] | None
    told: list[FeedbackRecord]


class Verdicts:
    """The check of every row."""

    def __init__(self, topics: Topics, rules: Rules, retention: Retention, report: Report) -> None:
        self._topics = topics
        self._logs = topics.logs
        self._rules = rules
        self._retention = retention
        self._report = report
        self._watermarks = WatermarkBounds(topics, rules, retention)
        self._labels: dict[str, list[Found[Label]]] = defaultdict(list)
        for label in topics.labels.values():
            self._labels[label.event.response_id].append(label)
        self._explained: set[str] = set()
        """Ids of labels and closures that follow from some input."""

    def check(self) -> None:
        """Hold inputs and ends against each other, both ways."""
        for row in self._rows().values():
            self._check_row(row)
        for id_, label in self._topics.labels.items():
            self._check_stray(id_, label)
        for id_, closure in self._topics.closures.items():
            self._check_stray(id_, closure)

    def _rows(self) -> dict[tuple[int, str], Row]:
        """Cut the inputs by response, as JOIN does; what it set aside never reached a row."""
        letters = (letter for _, letter in self._topics.found[DeadLetter.topic] if letter.stage == "join")
        aside = {(d.source_topic, d.partition, d.offset) for d in letters}
        found: dict[tuple[int, str], Row] = {}
        for topic in (Decision.topic, Feedback.topic):
            for entry, event in self._topics.found[topic]:
                place = (self._logs.prefix + topic, entry.partition, entry.offset)
                if place not in aside and isinstance(event, Decision | Feedback):
                    self._put(found, entry, event)
        return found

    def _put(self, found: dict[tuple[int, str], Row], entry: Entry, event: Decision | Feedback) -> None:
        key = entry.partition, event.response_id
        row = found.setdefault(key, Row(*key, None, []))
        if isinstance(event, Feedback):
            row.told.append(self._told(entry, event))
        elif row.decided is None:
            found[key] = row._replace(decided=Found(entry, event))

    def _told(self, entry: Entry, said: Feedback) -> FeedbackRecord:
        told = FeedbackRecord(entry, said, {})
        for reason in ENDINGS:
            closure = self._topics.closures.get(join_rules.name(said.response_id, reason, told.origin))
            if closure is not None:
                told.closed[reason] = closure
                self._explained.add(closure.event.closure_id)
        return told

    def _check_row(self, row: Row) -> None:
        labels = self._labels.get(row.decided.event.response_id, []) if row.decided else []
        ends = [label.entry for label in labels]
        ends += [closure.entry for told in row.told for closure in told.closed.values()]
        if not all(map(self._logs.judged, ends)):
            self._explained |= {label.event.label_id for label in labels}
            self._report.note(self._report.pending, "rows in the making", _begun(row))
            return
        if self._is_old(row):
            self._check_old(row, self._labels.get(row.response_id, []))
            return
        heard = self._hear(row)
        settled = bool(labels) or any("superseded" in told.closed for told in heard)
        if settled and row.decided:
            self._check_settled(row, row.decided, heard, labels)
        else:
            self._check_unsettled(row, heard)
        if row.decided:
            self._check_silence(row, row.decided, heard=bool(heard), settled=settled)

    def _is_old(self, row: Row) -> bool:
        """Whether anything that belongs to a row may be beyond retention."""
        covers, partition = self._retention.covers, row.partition
        begun = [row.decided] if row.decided else [Found(told.entry, told.said) for told in row.told]
        since = min(self._retention.since(entry, event.occurred_at) for entry, event in begun)
        kept = row.decided is not None or covers(Decision.topic, since - self._rules.horizons.response, partition)
        kept = kept and covers(Feedback.topic, since, partition) and covers(Closure.topic, since, partition)
        return not (kept and covers(Label.topic, since))

    def _check_old(self, row: Row, labels: Sequence[Found[Label]]) -> None:
        """Hold against each other what is left of a row, as far as what is not left cannot matter."""
        self._report.note(self._report.beyond, "rows", _begun(row))
        self._report.note(self._report.beyond, "labels", *(label.entry for label in labels))
        known, named = {told.said.feedback_id for told in row.told}, {label.event.feedback_id for label in labels}
        for told in row.told:
            self._check_old_feedback(row, told, named)
        if row.decided is None:
            return
        self._explained |= {label.event.label_id for label in labels}
        certain = [one for one in labels if self._retention.covers(Feedback.topic, self._since(one), row.partition)]
        for complaint in _unfounded(certain, known):
            self._report.differ(*complaint)
        self._check_silence(row, row.decided, heard=True, settled=bool(labels))

    def _since(self, label: Found[Label]) -> datetime:
        """Return since when what a label follows from may have been written."""
        event = label.event
        decided, said = event.decision.occurred_at, event.occurred_at
        earliest = said - self._rules.horizons.response
        return self._retention.since(label.entry, max(decided, earliest) if decided <= said else earliest)

    def _check_old_feedback(self, row: Row, told: FeedbackRecord, named: set[str]) -> None:
        self._check_one_end(told)
        at = self._retention.since(told.entry, told.said.occurred_at)
        for reason, found in told.closed.items():
            if (wanted := self._wanted(row, told, reason)) is not None:
                self._compare(found, wanted)
            else:
                self._report.note(self._report.beyond, "closures", found.entry)
        if told.closed or told.said.feedback_id in named:
            return
        if self._retention.covers(Label.topic, at) and self._retention.covers(Closure.topic, at, row.partition):
            self._check_missing(row, told, UNENDED, at_once=False)
        else:
            self._report.note(self._report.beyond, "feedback", told.entry)

    def _wanted(self, row: Row, told: FeedbackRecord, reason: ClosureReason) -> Closure | None:
        """Return the closure that a feedback must have if it ended so."""
        if reason == "superseded":
            return None if row.decided is None else join_rules.superseded(row.decided.event, told.said, told.origin)
        if reason == "duplicate":
            return join_rules.duplicate(told.said, told.origin)
        return join_rules.orphan(told.said, told.origin, self._rules.horizons.orphan)

    def _check_one_end(self, told: FeedbackRecord) -> None:
        self._report.note(self._report.checked, "feedback", told.entry)
        if len(told.closed) > 1:
            self._report.differ("I1", told.entry, f"has {len(told.closed)} ends: {', '.join(told.closed)}")

    def _hear(self, row: Row) -> list[FeedbackRecord]:
        """Return the feedback that counts, first of its id; check the ends of what does not."""
        heard: list[FeedbackRecord] = []
        known: set[str] = set()
        lost: set[str] = set()
        for told in row.told:
            id_, closed = told.said.feedback_id, told.closed
            self._check_one_end(told)
            if "orphan" in closed:
                lost.add(id_)
                self._check_orphan(row, told)
            elif id_ in known or "duplicate" in closed:
                self._check_duplicate(told, row, repeated=id_ in known | lost)
            else:
                known.add(id_)
                heard.append(told)
        return heard

    def _check_duplicate(self, told: FeedbackRecord, row: Row, *, repeated: bool) -> None:
        if (found := told.closed.get("duplicate")) is None:
            self._check_missing(row, told, "a repeated feedback that was not closed as a duplicate", at_once=True)
            return
        if not repeated:
            self._report.differ("I5", found.entry, "a duplicate, though its id was not there before")
        self._compare(found, join_rules.duplicate(told.said, told.origin))

    def _check_orphan(self, row: Row, told: FeedbackRecord) -> None:
        found, wait = told.closed["orphan"], self._rules.horizons.orphan
        self._compare(found, join_rules.orphan(told.said, told.origin, wait))
        given_up = self._watermarks.upper(row.partition, end=found.entry) >= self._said(told) + wait
        late = self._may_be_over(row, told.entry.offset, end=found.entry)
        if row.decided and told.said.occurred_at > join_rules.shown(row.decided) + self._rules.horizons.response:
            late = self._may_be_over(row, end=found.entry)
        if not given_up and not late:
            self._report.differ("I5", found.entry, "an orphan before its time: its response might still have come")

    def _said(self, told: FeedbackRecord) -> datetime:
        """Return when a feedback was said, or, live, the latest that it can have been, if it is dated later."""
        at, dated = told.said.occurred_at, told.entry.at_ms > 0 and not self._rules.replayed
        return min(at, moment(told.entry) + SKEW) if dated else at

    def _may_be_over(self, row: Row, before: int | None = None, *, end: Entry | None = None) -> bool:
        """Whether the row may have ended by then, so that further feedback is too late. See `WatermarkBounds.upper`."""
        return row.decided is not None and self._watermarks.upper(row.partition, before, end=end) >= self._end(
            row.decided
        )

    def _end(self, decided: Found[Decision]) -> datetime:
        """When a response is closed: a settle window after its horizon."""
        horizons = self._rules.horizons
        return join_rules.shown(decided) + horizons.response + horizons.settle

    def _check_unsettled(self, row: Row, heard: Sequence[FeedbackRecord]) -> None:
        for told in heard:
            if "superseded" in told.closed:
                self._report.differ("I5", told.closed["superseded"].entry, "superseded, but no decision is in the log")
            elif not told.closed:
                self._check_missing(row, told, UNENDED, at_once=False)

    def _check_missing(self, row: Row, told: FeedbackRecord, what: str, *, at_once: bool) -> None:
        """Note a feedback that has no end: a difference only where it must have one, whatever the interleaving."""
        horizons = self._rules.horizons
        known = row.decided is not None and self._logs.consumed("join", row.decided.entry)
        over = self._may_be_over(row)
        wait = 2 * horizons.settle if known and not over else max(horizons.orphan, 2 * horizons.settle)
        due = at_once and not over  # else: at the latest with the window of another one
        since = told.said.occurred_at if known else self._said(told)
        due = due or since + wait <= self._watermarks.lower(row.partition)
        if due and self._logs.consumed("join", told.entry):
            self._report.differ("I1", told.entry, what)
        else:
            self._report.note(self._report.pending, "feedback", told.entry)

    def _check_settled(
        self, row: Row, decided: Found[Decision], heard: Sequence[FeedbackRecord], labels: Sequence[Found[Label]]
    ) -> None:
        """Take the course of things that leaves least to complain of."""
        self._explained |= {label.event.label_id for label in labels}
        self._report.note(self._report.checked, "labels", *(label.entry for label in labels))
        superseded = (told.closed[reason].entry for told in heard for reason in told.closed)
        self._report.note(self._report.checked, "closures", *superseded)
        known = {told.said.feedback_id: told for told in heard}
        horizons = self._rules.horizons
        end = join_rules.shown(decided) + horizons.response
        start = Execution(decided.event, end, horizons.settle, self._rules.digest_keys)
        ends = {label.event.feedback_id: label.entry for label in reversed(labels)}
        ends |= {told.said.feedback_id: found.entry for told in heard for found in told.closed.values()}
        arrivals = [
            (told.said, self._watermarks.upper(row.partition, told.entry.offset, end=ends.get(told.said.feedback_id)))
            for told in heard
        ]
        tries = (
            None if execution is None else list(self._complaints(row, decided, known, execution, labels))
            for execution in executions(start, arrivals, lambda judged: not any(self._wrong(row, known, judged)))
        )
        if (least := _least(tries)) is None:
            self._report.note(self._report.beyond, "rows of many verdicts", decided.entry)
            least = list(_unfounded(labels, known))
        for complaint in least:
            self._report.differ(*complaint)

    def _complaints(
        self,
        row: Row,
        decided: Found[Decision],
        known: Mapping[str, FeedbackRecord],
        execution: Execution,
        labels: Sequence[Found[Label]],
    ) -> Iterator[Complaint]:
        """Yield what is wrong with a row if this was its execution."""
        for judged in execution.judged:
            yield from self._wrong(row, known, judged)
        for said in execution.waiting:
            yield from self._left(row, decided, known[said.feedback_id])
        ids = {judged.label.label_id for judged in execution.judged if judged.label}
        for extra in (label for label in labels if label.event.label_id not in ids):
            yield "I4", extra.entry, UNFOUNDED

    def _left(self, row: Row, decided: Found[Decision], told: FeedbackRecord) -> Iterator[Complaint]:
        """Yield what is wrong with feedback that occurred after its response's horizon."""
        if "superseded" in told.closed:
            yield "I5", told.closed["superseded"].entry, "superseded, but its response's horizon was over: an orphan"
        elif self._end(decided) <= self._watermarks.lower(row.partition) and self._logs.consumed("join", told.entry):
            yield "I1", told.entry, "has no end: it must be an orphan, for its response's horizon was over"

    def _wrong(self, row: Row, known: Mapping[str, FeedbackRecord], judged: Judged) -> Iterator[Complaint]:
        """Yield what is wrong with the end of one feedback."""
        assert row.decided is not None
        told = known[judged.said.feedback_id]
        found = self._topics.labels.get(judged.label.label_id) if judged.label else told.closed.get("superseded")
        due = judged.due <= self._watermarks.lower(row.partition) and self._logs.consumed("join", told.entry)
        if judged.label and "superseded" in told.closed:
            yield "I5", told.closed["superseded"].entry, "superseded, but no later verdict of its clinician stands"
        if found is None and due:
            end = "have become a label" if judged.label else "be superseded: another verdict of its clinician stands"
            yield "I1", told.entry, f"has no end: it must {end}"
        if found is None or (judged.label and found.event.feedback_id != judged.said.feedback_id and not due):
            return
        wanted = judged.label or join_rules.superseded(row.decided.event, told.said, told.origin)
        if names := fields_that_differ(found.event, wanted):
            yield "I5", found.entry, f"not what feedback and decision give: {', '.join(names)}"
        if judged.due > self._watermarks.upper(row.partition, end=found.entry):
            yield "I5", found.entry, "judged before its time had come"

    def _check_silence(self, row: Row, decided: Found[Decision], *, heard: bool, settled: bool) -> None:
        """A response is closed as unlabelled at its horizon, exactly when nobody judged it."""
        self._report.note(self._report.checked, "responses joined", decided.entry)
        wanted = join_rules.unlabelled(decided, self._rules.horizons.response)
        found = self._topics.closures.get(wanted.closure_id)
        if found is None:
            if not (heard or settled):
                self._check_open(row, decided)
            return
        self._explained.add(wanted.closure_id)
        if not self._logs.judged(found.entry):
            return
        self._compare(found, wanted)
        if settled:
            self._report.differ("I1", found.entry, "closed as unlabelled, though it has a label")
        if self._watermarks.upper(row.partition, end=found.entry) < self._end(decided):
            self._report.differ("I5", found.entry, "closed as unlabelled before its horizon")

    def _check_open(self, row: Row, decided: Found[Decision]) -> None:
        due = self._end(decided) <= self._watermarks.lower(row.partition)
        if due and self._logs.consumed("join", decided.entry):
            self._report.differ("I1", decided.entry, "nobody judged its response in time, and it was not closed")
        else:
            self._report.note(self._report.pending, "responses without feedback", decided.entry)

    def _compare(self, found: Found[Closure], wanted: Closure) -> None:
        self._report.note(self._report.checked, "closures", found.entry)
        if names := fields_that_differ(found.event, wanted):
            what = f"not the closure that feedback and decision give: {', '.join(names)}"
            self._report.differ("I5", found.entry, what)

    def _check_stray(self, id_: str, found: Found[Label] | Found[Closure]) -> None:
        """What follows from no input at all."""
        if id_ in self._explained:
            return
        if not self._logs.judged(found.entry):
            self._report.note(self._report.pending, "ends in the making", found.entry)
        elif self._may_follow(found):
            self._report.note(self._report.beyond, "ends", found.entry)
        else:
            self._report.differ("I1", found.entry, "follows from no feedback and no decision in the log")

    def _may_follow(self, found: Found[Label] | Found[Closure]) -> bool:
        """Whether what an end follows from may be beyond retention."""
        entry, event = found
        if isinstance(event, Label):
            return not self._retention.covers(Decision.topic, self._since(Found(entry, event)))
        horizons = self._rules.horizons
        waited = {"unlabelled": horizons.response, "orphan": horizons.orphan}.get(event.reason, timedelta(0))
        topic = Decision.topic if event.reason == "unlabelled" else Feedback.topic
        return not self._retention.covers(
            topic, self._retention.since(entry, event.closed_at - waited), entry.partition
        )


def _begun(row: Row) -> Entry:
    """Return the record with which a row began."""
    return row.decided.entry if row.decided else row.told[0].entry


def _unfounded(labels: Iterable[Found[Label]], known: Container[str]) -> Iterator[Complaint]:
    """Yield the labels whose feedback is not among what is known."""
    for label in labels:
        if label.event.feedback_id not in known:
            yield "I4", label.entry, UNFOUNDED


def _least(tries: Iterator[list[Complaint] | None]) -> list[Complaint] | None:
    """Return the shortest list, the first empty one at once; None if that cannot be told."""
    best: list[Complaint] | None = None
    for found in tries:
        if not found:
            return found
        best = found if best is None or len(found) < len(best) else best
    return best or []
