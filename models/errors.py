"""Every error this project raises on purpose.

DemurError
├── SettingsError        a setting is wrong: the start stops with one clear sentence
├── ArtifactError        a model folder is missing, tampered with, or not loadable safely
├── StateError           a persisted state cannot be restored: unknown version or damaged
├── DeliveryError        an outcome or a state record could not be made durable: the worker ends
├── LeaseLost            a partition may be another's by now: what was begun is left to whoever has it
├── EncoderHung          the encoder does not score any more: the worker ends
└── EventError           a message breaks the contract: dead letter, and red for its response
    ├── Undecodable      not JSON, not UTF-8, NaN or infinity
    ├── Oversized        larger than the declared bound
    ├── UnknownSchema    the `schema` of another version, which this one does not read
    ├── Forged           not signed by a producer that may write it, where records are signed
    ├── Misplaced        not in the partition of its key
    ├── Excessive        more feedback on one response than clinicians give
    ├── IdReused         another text under the id of a response that was decided on
    └── Invalid          a field is missing, of the wrong type, or out of range
"""

from typing import ClassVar, Final

MAX_DETAIL: Final = 500
"""Characters of what is said of a message: a dead letter must be sent, whatever it is about."""


class DemurError(Exception):
    """Root of the tree."""


class SettingsError(DemurError):
    """A setting is wrong; the message names it and the remedy."""


class ArtifactError(DemurError):
    """A model artifact is missing, tampered with, or not loadable safely."""


class StateError(DemurError):
    """A persisted state cannot be restored."""


class DeliveryError(DemurError):
    """An outcome or a state record could not be made durable."""


class LeaseLost(DemurError):
    """A partition may have been given to another worker: nothing may be written to it."""


class EncoderHung(DemurError):
    """The encoder does not score any more: it is silent, or fails on every text."""


class EventError(DemurError):
    """A message breaks the contract. Its text never quotes the message: it may hold patient data."""

    code: ClassVar[str] = "invalid"

    def __str__(self) -> str:
        return super().__str__()[:MAX_DETAIL]


class Undecodable(EventError):
    """The bytes are not JSON in UTF-8 (NaN and infinities are not JSON)."""

    code = "undecodable"


class Oversized(EventError):
    """The message is larger than the declared bound."""

    code = "oversized"


class UnknownSchema(EventError):
    """The `schema` is that of another version, which this one does not read."""

    code = "unknown_schema"


class Forged(EventError):
    """The record carries no signature that fits."""

    code = "forged"


class Misplaced(EventError):
    """The record lies in another partition than its key says."""

    code = "misplaced"


class Excessive(EventError):
    """More feedback on one response than clinicians give: its state must stay small enough to be stored."""

    code = "excessive"


class IdReused(EventError):
    """Another text under the id of a response that was decided on: what was said of the first is no word on this."""

    code = "id_reused"

    def __init__(self) -> None:
        super().__init__(
            "field `response_id` is that of another text, and what was decided on that stands: give each text an id of "
            "its own, a query and its answer too"
        )


class Invalid(EventError):
    """A field is missing, of the wrong type, or out of range."""

    code = "invalid"
