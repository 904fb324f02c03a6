"""A transformers classifier over (context and query, response): any architecture with a head of one or two labels."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.encoder.base import Encoder, Runtime, Score
from models.encoder.batches import BATCH_TOKENS
from models.encoder.template import lost, segments
from models.encoder.tokens import MAX_LENGTH, Framer, Tokens
from models.events import Response


class Forward(ABC):
    """A way through a model."""

    @abstractmethod
    def group(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        """Divide rows of these lengths into passes of up to `budget` tokens."""

    @abstractmethod
    def logits(self, rows: Sequence[Tokens]) -> Tensor:
        """Return (B, labels) of one pass, in float32."""

    def passes(self, packs: Iterable[Sequence[Tokens]]) -> Iterator[Tensor]:
        """Return the logits of several passes, in order."""
        return map(self.logits, packs)

    @abstractmethod
    def states(self, rows: Sequence[Tokens]) -> list[Tensor]:
        """Return (T, E) for each row of one pass, in float32."""

    def warm(self, budget: int) -> None:  # noqa: B027 (most ways need nothing)
        """Do beforehand what the first passes would wait for."""


class Ways(NamedTuple):
    """Two ways through one model: the fastest, and transformers' own in float32; they may be the same."""

    fast: Forward
    plain: Forward


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


def padded(rows: Sequence[Tokens], pad: int, step: int = 1, limit: int = MAX_LENGTH) -> dict[str, Tensor]:
    """Stack rows into int64 tensors (rows, longest rounded up to `step`, if `limit` allows): ids, mask and types."""
    longest = max(len(row.ids) for row in rows)
    width = max(longest, min(limit, -(-longest // step) * step))
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
