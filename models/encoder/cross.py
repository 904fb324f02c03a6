"""A transformers classifier over (context and query, response): any architecture with a head of one or two labels."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from models.encoder.base import Encoder, Runtime, Score
from models.encoder.batches import BATCH_TOKENS
from models.encoder.forward import Forward, Ways
from models.encoder.template import lost, segments
from models.encoder.tokens import Framer, Tokens
from models.events import Response


class CrossEncoder(Encoder[Tokens]):
    """Scores with one forward pass over both segments."""

    def __init__(
        self,
        ways: Ways,
        framer: Framer,
        model_hash: str,
        runtime: Runtime,
        *,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self.model_hash = model_hash
        self.runtime = runtime
        self._ways = ways
        self._framer = framer
        self._batch_tokens = batch_tokens

    def prepare(self, responses: Sequence[Response]) -> list[Tokens]:
        """Tokenise."""
        rows = self._framer([segments(response) for response in responses])
        unseen = map(lost, responses)
        return [row._replace(unknown=max(row.unknown, share)) for row, share in zip(rows, unseen, strict=True)]

    def infer(self, prepared: Sequence[Tokens]) -> list[Score]:
        """Score each row, in the order given."""
        return self._infer(self._ways.fast, prepared)

    def infer_exactly(self, prepared: Sequence[Tokens]) -> list[Score]:
        """Score each row, in the order given."""
        return self._infer(self._ways.plain, prepared)

    def _infer(self, way: Forward, prepared: Sequence[Tokens]) -> list[Score]:
        logits = np.empty(len(prepared))
        groups = list(way.group([row.size for row in prepared], self._batch_tokens))
        passes = way.passes([prepared[index] for index in picked] for picked in groups)
        for picked, found in zip(groups, passes, strict=True):
            logits[picked] = log_odds(found).double().numpy()
        return [Score(float(logit), row.truncated, row.unknown) for logit, row in zip(logits, prepared, strict=True)]

    def warm(self) -> None:
        """Prepare every size of pass."""
        self._ways.fast.warm(self._batch_tokens)


def log_odds(logits: Tensor) -> Tensor:
    """(B, 1) or (B, 2) → (B,): the log odds of rejection; with two labels the second is *reject*."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
