"""A transformers classifier over (context and query, response): any architecture with a head of one or two labels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from models.encoder.base import Encoder, Runtime, Score
from models.encoder.batches import BATCH_TOKENS
from models.encoder.template import segments
from models.encoder.tokens import Framer, Tokens
from models.events import Response


class Forward(ABC):
    """A way through a model."""

    @abstractmethod
    def group(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        """Divide rows of these lengths into passes of up to `budget` tokens."""

    @abstractmethod
    def logits(self, rows: Sequence[Tokens]) -> Tensor:
        """Return (B, labels) of one pass, in float32."""

    @abstractmethod
    def states(self, rows: Sequence[Tokens]) -> list[Tensor]:
        """Return (T, E) for each row of one pass, in float32."""

    def warm(self, budget: int) -> None:  # noqa: B027 (most ways need nothing)
        """Do beforehand what the first passes would wait for."""


class CrossEncoder(Encoder[Tokens]):
    """Scores with one forward pass over both segments."""

    def __init__(
        self,
        forward: Forward,
        framer: Framer,
        model_hash: str,
        runtime: Runtime,
        *,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self.model_hash = model_hash
        self.runtime = runtime
        self._forward = forward
        self._framer = framer
        self._batch_tokens = batch_tokens

    def prepare(self, responses: Sequence[Response]) -> list[Tokens]:
        """Tokenise."""
        return self._framer([segments(response) for response in responses])

    def infer(self, prepared: Sequence[Tokens]) -> list[Score]:
        """Score each row, in the order given."""
        logits = np.empty(len(prepared))
        for picked in self._forward.group([row.size for row in prepared], self._batch_tokens):
            logits[picked] = log_odds(self._forward.logits([prepared[index] for index in picked])).double().numpy()
        return [Score(float(logit), row.truncated, row.unknown) for logit, row in zip(logits, prepared, strict=True)]

    def warm(self) -> None:
        """Prepare every size of pass."""
        self._forward.warm(self._batch_tokens)


def padded(rows: Sequence[Tokens], pad: int, step: int = 1) -> dict[str, Tensor]:
    """Stack rows into int64 tensors (rows, longest rounded up to `step`): ids, mask and types."""
    width = -(-max(len(row.ids) for row in rows) // step) * step
    ids = np.full((len(rows), width), pad, dtype=np.int64)  # (B, T)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length], mask[index, :length], types[index, :length] = row.ids, 1, row.types
    named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: torch.from_numpy(values) for name, values in named.items()}


def log_odds(logits: Tensor) -> Tensor:
    """(B, 1) or (B, 2) → (B,): the log odds of rejection; with two labels the second is *reject*."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
