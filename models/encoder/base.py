"""What every encoder is to the rest of the project: events in, log odds of rejection out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

from models.events import Response

Precision = Literal["float32", "bfloat16"]
Wanted = Literal["auto", "float32", "bfloat16"]
Route = Literal["fused", "packed", "plain"]
"""Texts end to end with fused kernels, without them, or padded as transformers does it."""

ROUNDING: Final = 0.02
"""Logits, of bfloat16, at least."""
BEYOND: Final = 9
"""Times the mean: of the reference encoder's scores five in a thousand were off by more than seven times."""


class Score(NamedTuple):
    """One response's raw score; it becomes a probability only through a calibrator.

    `logit`: natural-log odds of rejection. `truncated`: part of the text was too long and was lost.
    `unknown`: share of characters, in [0, 1], that the model cannot read, of query or answer: the larger one.
    """

    logit: float
    truncated: bool
    unknown: float


class Prepared(Protocol):
    """A response that is tokenised and cut."""

    @property
    def size(self) -> int:
        """What it costs, in tokens: the unit of a batch's budget."""


class Runtime(NamedTuple):
    """How an encoder computes, as its self-test found.

    `deviation`: the largest difference in probability from the plain float32 forward, on the test's texts.
    `reason`: why it is not the faster way, where there is one.
    `off`: the mean difference in logits.
    """

    path: Route
    precision: Precision
    deviation: float = 0.0
    reason: str = ""
    off: float = 0.0

    @property
    def rounding(self) -> float:
        """Logits by which a score may be off, but for some in a thousand."""
        return 0.0 if self.precision == "float32" else max(ROUNDING, BEYOND * self.off)


P = TypeVar("P", bound=Prepared)


class Encoder(ABC, Generic[P]):
    """A loaded model. `model_hash` names weights, vocabulary, template and numeric mode, in 64 hexadecimal digits."""

    model_hash: str
    runtime: Runtime
    commit: str | None = None
    """Of the hub's repository, if it comes from there."""

    @property
    def rounding(self) -> float:
        """Logits: a decision that hangs on less is left to `infer_exactly`. 0 where `infer` is exact."""
        return self.runtime.rounding

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Score each response, in the order given. A response's logit does not depend on the others."""
        return self.infer(self.prepare(responses))

    @abstractmethod
    def prepare(self, responses: Sequence[Response]) -> list[P]:
        """Do what needs no model: tokenise and cut."""

    @abstractmethod
    def infer(self, prepared: Sequence[P]) -> list[Score]:
        """Score what was prepared, in the order given."""

    @abstractmethod
    def infer_exactly(self, prepared: Sequence[P]) -> list[Score]:
        """Do the same by the plain float32 forward, which is slower."""

    def count_tokens(self, responses: Sequence[Response]) -> list[int]:
        """Return what each response costs, in tokens after truncation."""
        return [found.size for found in self.prepare(responses)]

    def warm(self) -> None:
        """Do beforehand what the first batches would wait for."""
