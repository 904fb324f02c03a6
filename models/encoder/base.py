"""What every encoder is to the rest of the project: events in, log odds of rejection out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from models.events import Response


class Score(NamedTuple):
    """One response's raw score; it becomes a probability only through a calibrator.

    `logit`: natural-log odds of rejection. `truncated`: part of the text was too long and was lost.
    `unknown`: share of the text's tokens, in [0, 1], that the vocabulary cannot express.
    """

    logit: float
    truncated: bool
    unknown: float


class Encoder(ABC):
    """A loaded model. `model_hash` names weights, vocabulary, template and numeric mode, in 64 hexadecimal digits."""

    model_hash: str

    @abstractmethod
    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Score each response, in the order given. A response's logit does not depend on the others."""

    @abstractmethod
    def count_tokens(self, responses: Sequence[Response]) -> list[int]:
        """Return what each response costs, in tokens after truncation: the unit of a batch's budget."""
