"""The wire contract: what every topic carries. Frozen, tagged by `type`, strictly decoded once at the edge.

Times are timezone-aware (RFC 3339 on the wire). Durations are in the unit that the field name ends in
(`_s` seconds, `_ms` milliseconds). Probabilities lie in [0, 1]; logits are natural-log odds.
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
from datetime import datetime
from functools import cache
from inspect import isclass
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_type_hints

import msgspec
import orjson
from msgspec import Meta, Struct, inspect

from models.errors import Invalid, Oversized, Undecodable, UnknownSchema

SCHEMA = 1
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
Whole = Annotated[int, Meta(ge=-(2**53), le=2**53)]
"""What any reader of JSON takes for the same number (RFC 7493)."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Tier = Literal["green", "yellow", "red"]
Target = Literal["any", "deep"]
"""Which rejections steer the tiers: any, or only those that change the content."""
Depth = Literal["none", "surface", "deep"]
Verb = Literal["accepted", "edited", "disagreed", "flagged", "abandoned", "retracted"]
Action = Literal["show", "banner", "review", "withhold"]
Ending = Literal["unlabelled", "duplicate", "superseded", "orphan"]
Group = Literal["category", "department", "history", "llm_model", "site", "specialty", "turn"]
"""What is known of every response and may move its risk beside its score. `history`: how the conversation's earlier
responses were received; `turn`: first, second or later."""
Order = Literal["rollback", "rebuild", "approval", "release"]

YEARS: Final = range(1970, 2200)
"""In which the times of an event may lie: with any horizon added it is still a date."""

_QUOTED: Final = re.compile(r"""['"].*['"]""", re.DOTALL)
"""From the first quote, of either kind, to the last: what is quoted may hold quotes."""


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of everything on the wire. `schema` is the major version of the contract."""

    topic: ClassVar[str]
    keyed_by: ClassVar[str | None] = None
    """What of it is the record's key, and so says in which partition it lies; None: it lies in any."""
    schema: int = SCHEMA

    @property
    def key(self) -> str | None:
        """The record's key."""
        return getattr(self, self.keyed_by) if self.keyed_by else None


class Response(Event, frozen=True, kw_only=True, tag="response"):
    """An answer of a clinical language model, or, with `response` absent, a query before it is answered.

    Each text has a `response_id` of its own, the query and its answer too: another text under a known id is set aside.
    `earlier` holds what was asked and answered before in this conversation, oldest first.
    """

    topic: ClassVar[str] = "responses"
    keyed_by: ClassVar[str | None] = "conversation_id"
    response_id: Id
    conversation_id: Id
    turn: Count = 0
    deployment: Id
    site: Id
    department: Name = ""
    specialty: Name = ""
    llm_model: Name = ""
    category: Name | None = None
    query: Annotated[str, Meta(min_length=1, max_length=200_000)]
    response: Text | None = None
    context: dict[Name, float] = {}
    earlier: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()
    occurred_at: Instant


class Feedback(Event, frozen=True, kw_only=True, tag="feedback"):
    """What a clinician did with a response. `clinician` is a pseudonym.

    `comment` and `dwell_ms` are accepted, so that senders need not cut them out, and used by nothing.
    """

    topic: ClassVar[str] = "feedback"
    keyed_by: ClassVar[str | None] = "response_id"
    feedback_id: Id
    response_id: Id
    clinician: Id
    action: Verb
    edited_response: Text | None = None
    reason_code: Name | None = None
    comment: Text | None = None
    dwell_ms: Count | None = None
    occurred_at: Instant


class Watermark(Event, frozen=True, kw_only=True, tag="watermark"):
    """To every partition of `topics`: no event older than `occurred_at` will follow. Ends a replay."""

    topic: ClassVar[str] = "feedback"
    topics: ClassVar[tuple[str, str]] = ("decisions", "feedback")
    occurred_at: Instant


class Decision(Event, frozen=True, kw_only=True, tag="decision"):
    """How a response was tiered and why. Score fields are None exactly when no trustworthy score exists.

    `propensity` belongs to `audit`: if that is true, the probability with which the response was drawn (the policy's
    `audit_rate`); else it is 1.0 and says nothing, neither how likely a verdict was nor how likely no audit was.
    """

    topic: ClassVar[str] = "decisions"
    keyed_by: ClassVar[str | None] = "response_id"
    response_id: Id
    conversation_id: Id
    turn: Count = 0
    deployment: Id
    groups: dict[str, str] = {}
    logit: float | None = None
    risk: Probability | None = None
    upper: Probability | None = None
    tier: Tier
    action: Action
    reasons: tuple[str, ...] = ()
    audit: bool = False
    propensity: Probability = 1.0
    calibrator_version: Count = 0
    model_hash: str = ""
    config_hash: str = ""
    input_digest: str = ""
    salience_digest: str = ""
    truncated: bool = False
    occurred_at: Instant
    decided_at: Instant


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

    `kind` is `verdict` for the first settled one; a `correction` or `revocation` names in `revises` the label it
    replaces, and is counted in reports but folded into a calibrator only at its next rebuild.
    """

    topic: ClassVar[str] = "labels"
    keyed_by: ClassVar[str | None] = "deployment"
    label_id: Id
    feedback_id: Id
    response_id: Id
    deployment: Id
    clinician: Id
    action: Verb
    rejected: bool
    depth: Depth
    weight: Probability
    kind: Literal["verdict", "correction", "revocation"] = "verdict"
    revises: Id | None = None
    delay_s: float
    occurred_at: Instant
    decision: Scored


class Outcome(Event, frozen=True, kw_only=True, tag="outcome"):
    """A conversation learns how one of its turns was received; keyed by conversation for SCORE."""

    topic: ClassVar[str] = "outcomes"
    keyed_by: ClassVar[str | None] = "conversation_id"
    label_id: Id
    conversation_id: Id
    response_id: Id
    turn: Count
    rejected: bool
    depth: Depth
    occurred_at: Instant


class Closure(Event, frozen=True, kw_only=True, tag="closure"):
    """An ending that is not a label.

    `unlabelled`: no verdict within the horizon (never "accepted"). `duplicate`: this feedback id was seen before.
    `superseded`: the same clinician's later verdict stands instead. `orphan`: no response came for this feedback.
    """

    topic: ClassVar[str] = "closures"
    keyed_by: ClassVar[str | None] = "response_id"
    closure_id: Id
    reason: Ending
    response_id: Id
    feedback_id: Id | None = None
    deployment: Id | None = None
    tier: Tier | None = None
    groups: dict[str, str] = {}
    closed_at: Instant


class Calibration(Event, frozen=True, kw_only=True, tag="calibration"):
    """One version of a deployment's calibrator. Version n is the fold of the first n changes (labels, instructions).

    `parameters` restores the calibrator, which holds for scores of the model `model_hash` only, and for policies of its
    `basis` (target, groups, settings); `cuts` are raw-score thresholds per group, for people; `shares` the tiers that
    it would give the responses labelled of late.
    """

    topic: ClassVar[str] = "calibrations"
    keyed_by: ClassVar[str | None] = "deployment"
    deployment: Id
    version: Count
    model_hash: str = ""
    basis: str = ""
    parameters: dict[str, Any]
    cuts: dict[str, dict[str, float | None]] = {}
    shares: dict[Tier, float] = {}
    labels: Count
    missing_labels: Count
    cause: str
    as_of: Instant


class Instruction(Event, frozen=True, kw_only=True, tag="instruction"):
    """A person's word on a calibrator. It travels on `labels`, so that it has its place among them and a replay of the
    log repeats it: all that it needs is in it.

    `rollback`, `rebuild`: take `parameters` (the filter's state), those of `version`, or of the log as corrected; a
    rebuild also says for which `target` and `groups` it was made, which hold from then on.
    `approval`: green may rise to `ceilings` (raw logits by scope), as `version` would have it, at once.
    `release`: the quarantine of `scope` ends.
    """

    topic: ClassVar[str] = "labels"
    keyed_by: ClassVar[str | None] = "deployment"
    instruction_id: Id
    deployment: Id
    order: Order
    version: Count
    model_hash: str = ""
    parameters: dict[str, Any] = {}
    target: Target | None = None
    groups: tuple[Group, ...] | None = None
    ceilings: dict[str, float] = {}
    scope: Name = ""
    by: Person
    why: Remark = ""
    occurred_at: Instant


class Standing(Struct, frozen=True, kw_only=True):
    """How a version stands: `parameters` for people (intercept, slopes and each group's offset, in logits), `cuts` and
    `shares` as in `Calibration`; `basis` and `policy`: what it is learnt for, and what LEARN goes by beside that.
    """

    version: Count
    labels: Count
    missing_labels: Count
    parameters: dict[str, float]
    cuts: dict[str, dict[str, float | None]]
    shares: dict[Tier, float]
    as_of: Instant
    basis: str = ""
    policy: dict[Name, float | Whole | bool] = {}


class Change(Event, frozen=True, kw_only=True, tag="change"):
    """One entry of a calibrator's log: each change that labels forced or a person ordered, the first version under
    another policy, and one a day for the rest.

    `before` is the entry before (None: there was none). `last` is the id of the label or instruction after which it
    stood so. `state` restores LEARN's whole state there; None if it is too large.
    """

    topic: ClassVar[str] = "changes"
    keyed_by: ClassVar[str | None] = "deployment"
    deployment: Id
    model_hash: str = ""
    cause: str
    evidence: dict[str, float | Whole | str] = {}
    before: Standing | None
    after: Standing
    last: Id
    state: dict[str, Any] | None = None


KINDS: Final = ("jump", "bias", "quarantine", "tightening", "breach", "excess", "unscored", "orphans")
"""Of alarms: what evidence forced in a calibrator, what LEARN did about it, what WATCH found."""


class Alarm(Event, frozen=True, kw_only=True, tag="alarm"):
    """Something a person should know, of one of `KINDS`. `scope` names the block, e.g. `category=dosing`."""

    topic: ClassVar[str] = "alarms"
    keyed_by: ClassVar[str | None] = "deployment"
    alarm_id: Id
    kind: str
    deployment: Id
    scope: str
    statistic: float
    threshold: float
    evidence: dict[str, float | Whole | str] = {}
    since: Instant
    raised_at: Instant


class DeadLetter(Event, frozen=True, kw_only=True, tag="dead_letter"):
    """A message that could not be processed: where it lies, why, and its SHA-256. Never its content."""

    topic: ClassVar[str] = "dead-letters"
    keyed_by: ClassVar[str | None] = "place"
    source_topic: str
    partition: Count
    offset: Count
    stage: str
    code: str
    detail: str
    digest: str
    size_bytes: Count
    response_id: str | None = None

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

E = TypeVar("E", bound=Event)


def encode(event: Event) -> bytes:
    """Return the JSON bytes of an event: field order is fixed, so equal events have equal bytes."""
    return msgspec.json.encode(event)


def parse(data: bytes, limit: int = MAX_MESSAGE_BYTES) -> dict[str, Any]:
    """Read bytes as one JSON object. Raises `Oversized` or `Undecodable`."""
    if len(data) > limit:
        raise Oversized(f"message of {len(data)} bytes; the bound is {limit}: send less text")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Undecodable("not JSON in UTF-8 (NaN and infinities are not JSON)") from None
    if not isinstance(value, dict):
        raise Undecodable("not a JSON object")
    return value


def build(type_: type[E] | UnionType, value: dict[str, Any]) -> E:
    """Check a JSON object against the contract. Raises `UnknownSchema` or `Invalid`, which name the field."""
    if (schema := value.get("schema", SCHEMA)) != SCHEMA:
        shown = schema if isinstance(schema, int) else "of another type"
        raise UnknownSchema(f"field `schema` is {shown}; this version reads {SCHEMA}: upgrade the older side")
    try:
        event: E = msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise Invalid(unquoted(error)) from None
    return _checked(event)


def _checked(event: E) -> E:
    """Return an event whose ids and times can be; raises `Invalid`."""
    paths, ids = _ids(type(event))
    if not _is_safe("".join(filter(None, ids(event)))):
        field = next(path for path in paths if not _is_safe(attrgetter(path)(event) or ""))
        raise Invalid(f"field `{field}` is not printable ASCII without spaces: give another id")
    for name in _instants(type(event)):
        if getattr(event, name).year not in YEARS:
            raise Invalid(f"field `{name}` is not in the years {YEARS[0]} to {YEARS[-1]}: correct the sender's clock")
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
def _instants(type_: Any) -> tuple[str, ...]:
    """Return the names of the fields that are times."""
    kind: Any = inspect.type_info(type_)
    return tuple(field.name for field in kind.fields if isinstance(field.type, inspect.DateTimeType))


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
