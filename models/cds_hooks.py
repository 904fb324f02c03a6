"""Feedback as CDS Hooks sends it, as feedback of our contract (HL7 CDS Hooks 2.0, "Feedback").

A card is a response: its `uuid` is the `response_id`. Who accepts one of its suggestions accepts the response; who
overrides the card disagrees, and the reason's code says how deeply (`models.labels`). Of a card that is ignored nothing
is sent, which is no acceptance.

The standard has no field for who acted. `extension` may say it, by a pseudonym: `{"org.demur": {"clinician": "dr-4"}}`.
All who are not named are `unknown`, one clinician: one verdict a response, and one clinician's share of the evidence.

>>> body = b'''{"feedback": [{"card": "c-1", "outcome": "overridden", "outcomeTimestamp": "2026-01-05T08:00:00Z",
...     "overrideReason": {"reason": {"code": "cds-not-applicable"}}}]}'''
>>> [(one.response_id, one.clinician, one.action, one.reason_code) for one in feedback(body)]
[('c-1', 'unknown', 'disagreed', 'cds-not-applicable')]
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from models.errors import EventError, Invalid
from models.events import Feedback, Id, Instant, Name, decode, digest, encode, parse, unquoted

MAX_ENTRIES: Final = 1_000
"""Entries of one body."""
MAX_COMMENT: Final = 200_000
"""Characters of a comment that is passed on, as of all texts."""


class Coding(Struct, frozen=True):
    """A code; of which system is not asked, for ours are known by their names."""

    code: Name


class OverrideReason(Struct, frozen=True, rename="camel"):
    """Why a card was overridden."""

    reason: Coding | None = None
    user_comment: str | None = None


class Who(Struct, frozen=True):
    """The pseudonym of a clinician."""

    clinician: Id = "unknown"


class Extension(Struct, frozen=True, rename={"who": "org.demur"}):
    """What the standard has no field for."""

    who: Who = Who()


class Entry(Struct, frozen=True, kw_only=True, rename="camel", tag_field="outcome"):
    """What was done with one card."""

    card: Id
    outcome_timestamp: Instant
    extension: Extension = Extension()


class Suggestion(Struct, frozen=True):
    """A suggestion of a card."""

    id: str


class Accepted(Entry, frozen=True, kw_only=True, rename="camel", tag="accepted"):
    """One or more suggestions of the card were accepted."""

    accepted_suggestions: Annotated[tuple[Suggestion, ...], Meta(min_length=1)]


class Overridden(Entry, frozen=True, kw_only=True, rename="camel", tag="overridden"):
    """The card was dismissed, with or without a reason."""

    override_reason: OverrideReason = OverrideReason()


class Body(Struct, frozen=True):
    """What is posted."""

    feedback: Annotated[tuple[Any, ...], Meta(min_length=1, max_length=MAX_ENTRIES)]


def feedback(data: bytes) -> tuple[Feedback | Invalid, ...]:
    """Read a body: of each entry its feedback, or what is wrong with it, which names the field and quotes nothing.

    A client sends many cards at once, and nobody there corrects one: the others count. Each `feedback_id` is a digest
    of card, outcome, reason, clinician and time, so that what is sent again counts once. Comments are not in it: they
    may be patients' text. Raises `EventError` if the body has no entries to read.
    """
    try:
        body = msgspec.convert(parse(data), Body)
    except msgspec.ValidationError as error:
        raise Invalid(unquoted(error)) from None
    return tuple(_read(number, entry) for number, entry in enumerate(body.feedback))


def _read(number: int, found: Any) -> Feedback | Invalid:
    try:
        entry: Accepted | Overridden = msgspec.convert(found, Accepted | Overridden)
        return _event(entry)
    except msgspec.ValidationError as error:
        return Invalid(f"entry {number} of `feedback`: {unquoted(error)}")
    except EventError as error:
        names = "`response_id` is its `card`, `occurred_at` its `outcomeTimestamp`"
        return Invalid(f"entry {number} of `feedback`: {error} ({names})")


def _event(entry: Accepted | Overridden) -> Feedback:
    why = entry.override_reason if isinstance(entry, Overridden) else OverrideReason()
    found = Feedback(
        feedback_id="cds",
        response_id=entry.card,
        clinician=entry.extension.who.clinician,
        action="accepted" if isinstance(entry, Accepted) else "disagreed",
        reason_code=why.reason.code if why.reason else None,
        occurred_at=entry.outcome_timestamp,
    )
    said = encode(found)
    checked = decode(Feedback, said)
    comment = why.user_comment if len(why.user_comment or "") <= MAX_COMMENT else None  # nothing is made of it
    return msgspec.structs.replace(checked, feedback_id=f"cds-{digest(said)[:32]}", comment=comment)
