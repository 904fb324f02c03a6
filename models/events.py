"""The wire contract: what every topic carries. Frozen, tagged by `type`, strictly decoded once at the edge.

Times are timezone-aware (RFC 3339 on the wire), with any offset as they come, in UTC from then on. Durations are in
the unit that the field name ends in (`_s` seconds, `_ms` milliseconds). Probabilities lie in [0, 1]; logits are
natural-log odds.
Only `Response` and `Feedback` may hold patient text; no other type has a field for it.

>>> event = decode(Feedback, b'{"type":"feedback","feedback_id":"f1","response_id":"r1","clinician":"c1",'
...                          b'"action":"accepted","occurred_at":"2026-01-05T08:00:00Z"}')
>>> event.action
'accepted'
>>> decode(Feedback, encode(event)) == event
True
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from inspect import isclass
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_args, get_type_hints

import msgspec
import orjson
from msgspec import Meta, Struct, inspect

from models.errors import Invalid, Oversized, Undecodable, UnknownSchema

SCHEMA = 1
"""Rises when older readers would refuse or misread what is written: with a field that must be there, with a new value
where values are listed. A version that raises it reads the one before too: what lies in the topics is not sent again.
"""
MAX_MESSAGE_BYTES = 1_000_000
"""Below what a broker takes of a batch by default (`message.max.bytes`: 1,048,588), with room for key and headers."""

MAX_ID: Final = 128
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
"""Printable ASCII without spaces: safe in keys, headers, logs and file names of any system. `decode` sees to that for
all of an event at once: a pattern here would take a microsecond for each."""
Name = Annotated[str, Meta(max_length=128)]
Person = Annotated[str, Meta(max_length=128, pattern=r"\A(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+\Z")]
"""A name as people have them: not blank, and nothing in it that would break or turn a line of a log."""
Remark = Annotated[str, Meta(max_length=500)]
"""A sentence or two."""
Text = Annotated[str, Meta(max_length=200_000)]
Instant = Annotated[datetime, Meta(tz=True)]
LARGEST: Final = 2**53
"""Up to it any reader of JSON takes a whole number for the same (RFC 7493)."""
Whole = Annotated[int, Meta(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Tier = Literal["green", "yellow", "red"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
Target = Literal["any", "deep"]
"""Which rejections steer the tiers: any, or only those that change the content."""
Depth = Literal["none", "surface", "deep"]
FeedbackAction = Literal["accepted", "edited", "disagreed", "flagged", "abandoned", "retracted"]
Action = Literal["show", "banner", "review", "withhold"]
ClosureReason = Literal["unlabelled", "duplicate", "superseded", "orphan"]
Group = Literal["category", "department", "history", "llm_model", "site", "specialty", "turn"]
"""What is known of every response and may move its risk beside its score. `history`: how the conversation's earlier
responses were received; `turn`: first, second or later."""
Scope = Annotated[str, Meta(max_length=max(map(len, get_args(Group))) + 1 + MAX_ID)]
"""The name of a group, `=`, and of whom."""
Order = Literal["rollback", "rebuild", "approval", "release"]

YEARS: Final = range(1970, 2200)
"""In which the times of an event may lie; of what others write, all but the last: a horizon is added to it."""
LAST_S: Final = datetime(YEARS[-1], 1, 1, tzinfo=UTC).timestamp()
"""Seconds since the epoch, later than any record was taken."""

_QUOTED: Final = re.compile(r"""['"].*['"]""", re.DOTALL)
"""From the first quote, of either kind, to the last: what is quoted may hold quotes."""


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of everything on the wire. `schema` is the major version of the contract."""

    topic: ClassVar[str]
    keyed_by: ClassVar[str | None] = None
    """What of it is the record's key, and so says in which partition it lies; None: it lies in any."""
    schema: int = SCHEMA  # major version of the contract

    @property
    def key(self) -> str | None:
        """The record's key."""
        return getattr(self, self.keyed_by) if self.keyed_by else None


class Response(Event, frozen=True, kw_only=True, tag="response"):
    """An answer of a clinical language model, or, with `response` absent, a query before it is answered.

    Each text has a `response_id` of its own, the query and its answer too: another text under a known id is set aside.
    """

    topic: ClassVar[str] = "responses"
    keyed_by: ClassVar[str | None] = "conversation_id"
    response_id: Id  # of this text; no other text has it
    conversation_id: Id  # of the exchange that this is a turn of
    turn: Count = 0  # place in the conversation, from 0
    deployment: Id  # the use of a language model that a calibrator and a policy belong to
    site: Id  # hospital or ward
    department: Name = ""  # of whoever asked
    specialty: Name = ""  # of whoever asked
    llm_model: Name = ""  # what wrote the response
    category: Name | None = None  # kind of question; absent counts as `unknown`
    query: Annotated[str, Meta(min_length=1, max_length=200_000)]  # what was asked
    response: Text | None = None  # what the language model answered; absent before it has
    context: dict[Name, float] = {}  # numbers about the request; the model is shown them
    earlier: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()  # asked and answered before, oldest first
    occurred_at: Instant  # when the answer was made, or the query, if there is none yet


class Feedback(Event, frozen=True, kw_only=True, tag="feedback"):
    """What a clinician did with a response."""

    topic: ClassVar[str] = "feedback"
    keyed_by: ClassVar[str | None] = "response_id"
    feedback_id: Id  # of this act; counts once
    response_id: Id  # of the response that it is about
    clinician: Id  # pseudonym, always the same for one person
    action: FeedbackAction  # what the clinician did
    edited_response: Text | None = None  # the text after `edited`; kept as a keyed digest only
    reason_code: Name | None = None  # why, as a code of HL7's `non-adherence-reason-codes`
    comment: Text | None = None  # accepted, so that senders need not cut it out, and used by nothing
    dwell_ms: Count | None = None  # how long the response was looked at; accepted and used by nothing
    occurred_at: Instant  # when the clinician acted


class Watermark(Event, frozen=True, kw_only=True, tag="watermark"):
    """To every partition of `topics`: no event older than `occurred_at` will follow. Ends a replay."""

    topic: ClassVar[str] = "feedback"
    topics: ClassVar[tuple[str, str]] = ("decisions", "feedback")
    occurred_at: Instant  # no event of the topic older than that will follow


class Decision(Event, frozen=True, kw_only=True, tag="decision"):
    """How a response was tiered and why. Score fields are absent exactly when no trustworthy score exists.

    `propensity` belongs to `audit`: if that is true, the probability with which the response was drawn (the policy's
    `audit_rate`); else it is 1.0 and says nothing, neither how likely a verdict was nor how likely no audit was.
    """

    topic: ClassVar[str] = "decisions"
    keyed_by: ClassVar[str | None] = "response_id"
    response_id: Id  # of the response decided on
    conversation_id: Id
    turn: Count = 0
    deployment: Id
    groups: dict[str, str] = {}  # what the calibrator tells apart, e.g. category and site
    logit: float | None = None  # the model's score, uncalibrated
    risk: Probability | None = None  # that the clinician rejects it, calibrated
    upper: Probability | None = None  # bound of the risk that the tier is decided on
    tier: Tier  # how risky it is
    action: Action  # what the display does: act on this
    reasons: tuple[str, ...] = ()  # `code` or `code: detail`
    audit: bool = False  # whether it was drawn for review whatever its tier
    propensity: Probability = 1.0  # of the audit's draw
    calibrator_version: Count = 0  # 0: none
    model_hash: str = ""  # of the model that scored
    config_hash: str = ""  # of the policy
    input_digest: str = ""  # keyed, of the texts scored
    salience_digest: str = ""  # keyed, of the numbers, doses, drugs and negations answered
    truncated: bool = False  # whether the model saw only a part
    occurred_at: Instant  # of the response
    decided_at: Instant  # by the worker's clock or the broker's, whichever is ahead


class Scored(Struct, frozen=True, kw_only=True):
    """The part of a decision that a label carries, so that LEARN needs nothing else."""

    conversation_id: Id
    turn: Count
    groups: dict[str, str]
    logit: float | None
    risk: float | None
    upper: float | None
    tier: Tier
    action: Action
    audit: bool
    propensity: float
    calibrator_version: Count
    model_hash: str = ""
    occurred_at: Instant


class Label(Event, frozen=True, kw_only=True, tag="label"):
    """One clinician's settled verdict on one response. `weight` 0 carries no evidence (abandoned, retracted).

    `kind` is `verdict` for the first settled one, and, if that has no weight, for the first that has; a `correction` or
    `revocation` names in `revises` the label it replaces, and is counted in reports but folded into a calibrator only
    at its next rebuild.
    """

    topic: ClassVar[str] = "labels"
    keyed_by: ClassVar[str | None] = "deployment"
    label_id: Id  # derived from the feedback
    feedback_id: Id  # of the feedback that decided it
    response_id: Id  # of the response judged
    deployment: Id
    clinician: Id  # pseudonym
    action: FeedbackAction  # of the feedback
    rejected: bool  # whether the clinician rejected the response
    depth: Depth  # whether the content was rejected, or its form
    weight: Probability  # as evidence: 1, or a share of it if several clinicians judged; 0: none
    kind: Literal["verdict", "correction", "revocation"] = "verdict"  # whether it is the clinician's first
    revises: Id | None = None  # the label that it replaces
    delay_s: float  # seconds from the response to the feedback
    occurred_at: Instant  # of the feedback
    decision: Scored


class Outcome(Event, frozen=True, kw_only=True, tag="outcome"):
    """A conversation learns how one of its turns was received; keyed by conversation for SCORE."""

    topic: ClassVar[str] = "outcomes"
    keyed_by: ClassVar[str | None] = "conversation_id"
    label_id: Id  # of the label that it follows from
    conversation_id: Id
    response_id: Id  # of the response judged
    turn: Count
    rejected: bool
    depth: Depth
    occurred_at: Instant  # of the feedback


class Closure(Event, frozen=True, kw_only=True, tag="closure"):
    """An ending that is not a label.

    `unlabelled`: no verdict within the horizon (never "accepted"). `duplicate`: this feedback id was seen before.
    `superseded`: the same clinician's later verdict stands instead. `orphan`: no response came for this feedback.
    """

    topic: ClassVar[str] = "closures"
    keyed_by: ClassVar[str | None] = "response_id"
    closure_id: Id  # derived from what it ends
    reason: ClosureReason  # which ending
    response_id: Id  # of the response that is closed, or that the feedback names
    feedback_id: Id | None = None  # of the feedback that is closed; absent for `unlabelled`
    deployment: Id | None = None
    tier: Tier | None = None
    groups: dict[str, str] = {}
    closed_at: Instant  # in event time


class Calibration(Event, frozen=True, kw_only=True, tag="calibration"):
    """One version of a deployment's calibrator. Version n is the fold of the first n changes (labels, instructions);
    where LEARN began anew on a log whose beginning is lost, they are counted from the next thousand million on.

    It holds for scores of the model `model_hash` only, and for policies of its `basis`.
    """

    topic: ClassVar[str] = "calibrations"
    keyed_by: ClassVar[str | None] = "deployment"
    deployment: Id
    version: Count  # how many changes it is the fold of
    model_hash: str = ""  # of the model that scored
    basis: str = ""  # hash of what it is learnt for: target, groups, settings
    parameters: dict[str, Any]  # what scorers need of the calibrator: all but the severity of each clinician
    cuts: dict[str, dict[str, float | None]] = {}  # for people: raw logits, by scope; null: none is low enough
    shares: dict[Tier, float] = {}  # of the tiers that it would give the responses labelled of late
    labels: Count  # how many it has learnt from
    missing_labels: Count  # how many more until it may give green
    cause: str  # of this version, in words
    as_of: Instant  # time of the last change


class Instruction(Event, frozen=True, kw_only=True, tag="instruction"):
    """A person's word on a calibrator. It travels on `labels`, so that it has its place among them and a replay of the
    log repeats it: all that it needs is in it.

    `rollback`, `rebuild`: take `parameters` (the filter's state), those of `version`, or of the log as corrected; a
    rebuild also says for which `target` and `groups` it was made, which hold from then on, and up to which label or
    instruction (`last`): it is refused once others have followed, which would be lost.
    `approval`: green may rise to `ceilings` (raw logits by scope), as `version` would have it, at once.
    `release`: the quarantine of `scope` ends.
    """

    topic: ClassVar[str] = "labels"
    keyed_by: ClassVar[str | None] = "deployment"
    instruction_id: Id  # of this order; counts once
    deployment: Id
    order: Order  # what is to be done
    version: Count  # the one meant
    model_hash: str = ""  # of the model whose scores the version holds for
    parameters: dict[str, Any] = {}  # the filter's state to take
    target: Target | None = None  # which rejections count from then on
    groups: tuple[Group, ...] | None = None  # which groups count from then on
    last: Id | None = None  # the last entry that a rebuild was computed from
    ceilings: dict[str, float] = {}  # raw logits by scope up to which green may rise
    scope: Scope = ""  # the block whose quarantine ends
    by: Person  # who ordered it
    why: Remark = ""  # the reason given
    occurred_at: Instant  # when it was ordered


class Standing(Struct, frozen=True, kw_only=True):
    """How a version stands, for people."""

    version: Count
    labels: Count
    missing_labels: Count
    parameters: dict[str, float]  # intercept, slopes and each group's offset, in logits
    cuts: dict[str, dict[str, float | None]]
    shares: dict[Tier, float]
    as_of: Instant
    basis: str = ""
    policy: dict[Name, float | Whole | bool] = {}  # what LEARN goes by beside the basis


class Change(Event, frozen=True, kw_only=True, tag="change"):
    """One entry of a calibrator's log: each change that labels forced or a person ordered, the first version under
    another policy, and one a day for the rest.
    """

    topic: ClassVar[str] = "changes"
    keyed_by: ClassVar[str | None] = "deployment"
    deployment: Id
    model_hash: str = ""
    cause: str  # in words
    evidence: dict[str, float | Whole | str] = {}  # what the cause rests on, by name
    before: Standing | None  # the entry before; null: there was none
    after: Standing  # the entry itself
    last: Id  # id of the label or instruction after which it stood so
    ordered_at: Instant | None = None  # when a person ordered it; absent if labels led to it
    state: dict[str, Any] | None = None  # restores LEARN's whole state; absent if it is too large

    @property
    def at(self) -> datetime:
        """When it was ordered; if labels led to it, the time of the last of them."""
        return self.ordered_at or self.after.as_of


KINDS: Final = ("jump", "bias", "quarantine", "tightening", "breach", "excess", "unscored", "orphans", "doubted")
"""Of alarms: what evidence forced in a calibrator, what LEARN did about it, what WATCH found."""


class Alarm(Event, frozen=True, kw_only=True, tag="alarm"):
    """Something a person should know, of one of `KINDS`."""

    topic: ClassVar[str] = "alarms"
    keyed_by: ClassVar[str | None] = "deployment"
    alarm_id: Id  # derived from the evidence
    kind: str  # which alarm; the runbook explains each
    deployment: Id
    scope: str  # `all`, or a block, e.g. `category=dosing`
    statistic: float  # the evidence found
    threshold: float  # the evidence needed
    evidence: dict[str, float | Whole | str] = {}  # figures beside, by name
    since: Instant  # when it began, by estimate
    raised_at: Instant  # in event time


class DeadLetter(Event, frozen=True, kw_only=True, tag="dead_letter"):
    """A message that could not be processed: where it lies, why, and its SHA-256. Never its content."""

    topic: ClassVar[str] = "dead-letters"
    keyed_by: ClassVar[str | None] = "place"
    source_topic: str  # with its prefix
    partition: Count  # of that topic
    offset: Count  # in that partition
    stage: str  # who set it aside
    code: str  # why; the runbook explains each
    detail: str  # the field and the remedy, never its value
    digest: str  # SHA-256 of the message
    size_bytes: Count  # of the message
    response_id: str | None = None  # whose red decision follows from it

    @property
    def place(self) -> str:
        """Where the message lies."""
        return f"{self.source_topic}/{self.partition}/{self.offset}"


CONTRACT: Final[dict[str, Any]] = {
    **{t.topic: t for t in (Response, Outcome, Closure, Calibration, Change, Alarm, DeadLetter)},
    Label.topic: Label | Instruction,
    **{t.topic: t | Watermark for t in (Decision, Feedback)},
}
"""What each topic may carry, and nothing else."""
WRITTEN_BY_OTHERS: Final = frozenset({Response.topic, Feedback.topic})
"""Everything else is ours: as we would have written it, and sent again by nobody."""

E = TypeVar("E", bound=Event)


def encode(event: Event) -> bytes:
    """Return the JSON bytes of an event: field order is fixed, so equal events have equal bytes."""
    return msgspec.json.encode(event)


def parse(data: bytes, limit: int = MAX_MESSAGE_BYTES) -> dict[str, Any]:
    """Read bytes as one JSON object, an event or a CloudEvent around one. Raises `Oversized` or `Undecodable`."""
    if len(data) > limit:
        raise Oversized(f"message of {len(data)} bytes; the bound is {limit}: send less text")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Undecodable("not JSON in UTF-8 (NaN and infinities are not JSON)") from None
    if not isinstance(value, dict):
        raise Undecodable("not a JSON object")
    return _within(value) if _is_structured(value) else value


def _is_structured(value: dict[str, Any]) -> bool:
    """Whether this is a CloudEvent in structured mode: its attributes have no underscores, all that comes in has."""
    return "specversion" in value and "occurred_at" not in value


def _within(value: dict[str, Any]) -> dict[str, Any]:
    """Return what a CloudEvent holds; if that is no object, the CloudEvent, named by its id."""
    data = value.get("data")
    return data if isinstance(data, dict) else value | {"response_id": value.get("id")}


def build(type_: type[E] | UnionType, value: dict[str, Any]) -> E:
    """Check a JSON object against the contract. Raises `UnknownSchema` or `Invalid`, which name the field."""
    if (schema := value.get("schema", SCHEMA)) != SCHEMA:
        if not isinstance(schema, int) or schema < 1:
            raise Invalid(f"field `schema` is not that of any version: give {SCHEMA}, or leave it out")
        raise UnknownSchema(f"field `schema` is {schema}; this version reads {SCHEMA}: upgrade the older side")
    if _is_structured(value):
        raise Invalid("field `data` of the CloudEvent is not an event: send it as a JSON object, not as text or base64")
    try:
        event: E = msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise Invalid(unquoted(error)) from None
    return _checked(event)


def _checked(event: E) -> E:
    """Return an event whose ids and times can be, the times in UTC; raises `Invalid`."""
    paths, ids = _ids(type(event))
    if not _is_safe("".join(filter(None, ids(event)))):
        field = next(path for path in paths if not _is_safe(attrgetter(path)(event) or ""))
        raise Invalid(f"field `{field}` is not printable ASCII without spaces: give another id")
    names, years = _instants(type(event))
    for name in names:
        at = getattr(event, name)
        if at.tzinfo is not UTC and at.year in YEARS:
            at = at.astimezone(UTC)
            msgspec.structs.force_setattr(event, name, at)
        if at.year not in years:
            raise Invalid(f"field `{name}` is not in the years {years[0]} to {years[-1]}: correct the sender's clock")
    return event


def as_id(value: object) -> str | None:
    r"""Return a value that can be an id.

    >>> as_id("r-1"), as_id("r 1"), as_id("r\n"), as_id("ré"), as_id(""), as_id(7)
    ('r-1', None, None, None, None, None)
    """
    return value if isinstance(value, str) and 0 < len(value) <= MAX_ID and _is_safe(value) else None


def _is_safe(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


@cache
def _ids(type_: Any) -> tuple[tuple[str, ...], Callable[[Any], Iterable[str | None]]]:
    """Return where ids are in an event, and what gets them all; the topic's name comes first, for some have none."""
    paths = tuple(_paths(type_))
    return paths, attrgetter("topic", *paths)


def _paths(type_: type[Struct]) -> Iterator[str]:
    for name, hint in get_type_hints(type_, include_extras=True).items():
        if hint in {Id, Id | None}:
            yield name
        elif isclass(hint) and issubclass(hint, Struct):
            yield from (f"{name}.{path}" for path in _paths(hint))


@cache
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)


@cache
def _instants(type_: type[Event]) -> tuple[tuple[str, ...], range]:
    """Return the names of the fields that are times, and in which years they may lie."""
    kind: Any = inspect.type_info(type_)
    names = tuple(field.name for field in kind.fields if isinstance(field.type, inspect.DateTimeType))
    return names, YEARS[:-1] if type_.topic in WRITTEN_BY_OTHERS else YEARS


def unquoted(error: msgspec.ValidationError) -> str:
    r"""Return what msgspec complains of without the value that it quotes: it may be patient text.

    >>> unquoted(msgspec.ValidationError('Invalid enum value "O\'Neill\'s dose" - at `$.action`'))
    'Invalid enum value (value) - at `$.action`'
    """
    return _QUOTED.sub("(value)", str(error))


def decode(type_: type[E] | UnionType, data: bytes, limit: int = MAX_MESSAGE_BYTES) -> E:
    """`parse`, then `build`, in one go; what that refuses is read again by them, to say why. Raises `EventError`."""
    if len(data) <= limit:
        try:
            event: E = _decoder(type_).decode(data)
        except (ValueError, RecursionError):
            pass
        else:
            if event.schema == SCHEMA:
                return _checked(event)
    return build(type_, parse(data, limit))


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
