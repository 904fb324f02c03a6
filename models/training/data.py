"""Judged answers from files, and from files to a stream.

Two shapes are read. *Verdict files* (`read`): JSON lines with `id`, `query`, `response`, `label` (1 = rejected) and,
where known, `rater`, `depth`, `grade`, `verdict`, `question_id`, `category`, `specific_field`, `source`,
`edited_response`, `earlier` (turns), `answer_title`. *Our own logs* (`read_logs`): responses as the stream carries
them, with labels or feedback beside.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec

from models.errors import Invalid
from models.events import Depth, Feedback, Instruction, Label, Response, as_id, decode, parse, unquoted
from models.labels import reason_of, verdict
from models.salience import tokens
from models.training.draw import Draw
from models.training.examples import Example, Verdict, joined, plain
from models.training.lines import read_lines
from models.training.reactions import Arrival, delay
from models.training.synth import Week

START: Final = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday: real files have no times, so replays begin somewhere."""

PANEL: Final = "expert-panel"
"""The clinician of a verdict whose rater is not known."""

REASONS: Final = {"deep": "recipient-disagrees-evidence", "surface": "cds-not-applicable"}
"""HL7 override reasons that tell JOIN the depth that a file states."""


class _Row(msgspec.Struct, frozen=True):
    """A line of a verdict file. Fields that are not named here are left alone."""

    id: str
    query: str
    label: Literal[0, 1]
    response: str | None = None
    grade: int | None = None
    verdict: Verdict | None = None
    depth: Depth | None = None
    rater: str | None = None
    question_id: str | None = None
    liveqa_qid: str | None = None
    conversation_id: str | None = None
    category: str | None = None
    specific_field: str | None = None
    source: str = "file"
    edited_response: str | None = None
    earlier: tuple[str, ...] = ()
    answer_title: str | None = None


def read(*paths: Path) -> list[Example]:
    """Read verdict files, and folders with `responses.jsonl` and `feedback.jsonl`, as `demur synth` writes them.

    Over all of them, what shares a question, a conversation or a query is one question, and no row's id stands twice.

    Raises `SettingsError` naming file, line and field.
    """
    ids: set[str] = set()
    parts = (_folder(path) if path.is_dir() else _verdicts(path, ids) for path in paths)
    return joined([example for part in parts for example in part])


def _verdicts(path: Path, ids: set[str]) -> list[Example]:
    return [_example(row) for row in read_lines(path, lambda line: _new(_row(line), ids))]


def _new(row: _Row, ids: set[str]) -> _Row:
    if row.id in ids:
        raise Invalid("field `id` stands in an earlier line already: give each answer its own")
    ids.add(row.id)
    return row


def _folder(path: Path) -> list[Example]:
    return read_logs(path / "responses.jsonl", path / "feedback.jsonl")


def read_logs(responses: Path, judgements: Path) -> list[Example]:
    """Join a file of responses with one of labels or feedback.

    As in the stream, the last word of each clinician counts by when it occurred, wherever it stands; one that says
    nothing, such as a retraction, takes back what was said. The last verdict that stands is the response's.
    """
    events = {event.response_id: event for event in read_lines(responses, lambda line: decode(Response, line))}
    standing: dict[tuple[str, str], Example] = {}
    for judged in sorted(
        read_lines(judgements, lambda line: decode(Label | Feedback, line)),
        key=lambda judged: (judged.occurred_at, judged.feedback_id),
    ):
        standing.pop((judged.response_id, judged.clinician), None)
        if (event := events.get(judged.response_id)) is not None:
            standing.update(_judged(event, judged))
    last = {example.event.response_id: example for example in standing.values()}
    return [last[name] for name in events if name in last]


def read_labels(path: Path) -> list[Label]:
    """Read a label log, as the topic carries it: instructions are no labels, and one delivered again counts once.

    Raises `SettingsError` naming file, line and field.
    """
    found: dict[str, Label] = {}
    for event in read_lines(path, lambda line: decode(Label | Instruction, line)):
        if isinstance(event, Label):
            found.setdefault(event.label_id, event)
    return list(found.values())


def from_week(week: Week) -> list[Example]:
    """The judged answers of a synthetic week, with what its clinicians thought, said or not."""
    return [
        Example(
            event=event,
            rejected=truth.rejected,
            depth=truth.depth,
            rater=truth.clinician,
            question=event.conversation_id,
        )
        for event in week.responses
        for truth in (week.truths[event.response_id],)
    ]


def to_events(examples: Sequence[Example], seed: int, feedback: float = 1.0) -> list[Arrival]:
    """Replay judged answers as a stream, in order of arrival. Times and delays are *simulated* from the seed.

    Responses keep the file's order and spread evenly over a week with jitter; a share `feedback` of them gets its
    verdict after a delay drawn like the synthetic hospital's. The file's depth travels as an override reason.
    """
    draw, gap = Draw(seed), timedelta(days=7) / max(1, len(examples))
    arrivals: list[Arrival] = []
    for index, example in enumerate(examples):
        event = msgspec.structs.replace(example.event, occurred_at=START + gap * (index + draw.unit()))
        arrivals.append(Arrival(event.occurred_at, event))
        if draw.chance(feedback):
            arrivals.append(_verdict_on(example, event.occurred_at + timedelta(seconds=round(delay(draw), 3))))
    return sorted(arrivals, key=lambda arrival: arrival.arrives_at)


def _verdict_on(example: Example, at: datetime) -> Arrival:
    edited = example.verdict == "edit"
    refused = edited or example.rejected
    feedback = Feedback(
        feedback_id=_id(f"{example.event.response_id}-f1"),
        response_id=example.event.response_id,
        clinician=_id(example.rater or PANEL),
        action="edited" if edited else "disagreed" if refused else "accepted",
        edited_response=example.edited if edited else None,
        reason_code=REASONS.get(example.depth) if refused else None,
        occurred_at=at,
    )
    return Arrival(at, feedback)


def _row(line: bytes) -> _Row:
    try:
        return msgspec.convert(parse(line), _Row)
    except msgspec.ValidationError as error:
        raise Invalid(unquoted(error)) from None


def _example(row: _Row) -> Example:
    return Example(
        event=_event(row),
        rejected=row.label == 1,
        depth=row.depth or _graded(row),
        verdict=row.verdict or ("reject" if row.label == 1 else "accept"),
        rater=row.rater,
        question=row.liveqa_qid or row.question_id or plain(" ".join((*row.earlier, row.query))),
        edited=row.edited_response,
        title=_ALIASES.sub("", row.answer_title or "") or None,
    )


_ALIASES: Final = re.compile(r"\s*\(Also called.*$")
"""Other names behind a title."""


def _event(row: _Row) -> Response:
    return Response(
        response_id=_id(row.id),
        conversation_id=_id(row.conversation_id or row.id),
        deployment="replay",
        site=_id(row.source),
        specialty=(row.specific_field or "")[:128],
        category=row.category and row.category[:128],
        query=row.query or "-",
        response=row.response,
        earlier=row.earlier,
        occurred_at=START,
    )


def _graded(row: _Row) -> Depth:
    """Grade 1 of the four of MEDIQA is incorrect, 2 only related."""
    if row.label != 1:
        return "none"
    return "surface" if row.grade == 2 else "deep"


def _judged(event: Response, judged: Label | Feedback) -> Iterator[tuple[tuple[str, str], Example]]:
    """One entry for what stands, unless nothing was said."""
    ruling = _ruling(event, judged)
    if ruling is not None:
        rejected, depth = ruling
        example = Example(
            event=event, rejected=rejected, depth=depth, rater=judged.clinician, question=event.conversation_id
        )
        yield (event.response_id, judged.clinician), example


def _ruling(event: Response, judged: Label | Feedback) -> tuple[bool, Depth] | None:
    if isinstance(judged, Label):
        return (judged.rejected, judged.depth) if judged.weight else None
    changed = None if judged.edited_response is None else tokens(judged.edited_response) != tokens(event.response or "")
    found = verdict(judged.action, reason=reason_of(judged.reason_code), edit_changed=changed)
    return (found.rejected, found.depth) if found.weight else None


_FOREIGN: Final = re.compile(r"[^\x21-\x7e]")


def _id(text: str) -> str:
    """Any text as an id of the contract: foreign characters become `_`; what was changed or too long ends in a hash."""
    plain = _FOREIGN.sub("_", text)
    return plain if as_id(text) else f"{plain[:95]}-{sha256(text.encode()).hexdigest()[:32]}"
