"""A transformers classifier over (context and query, response): any architecture with a head of one or two labels."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from models.encoder.base import Encoder, Score
from models.encoder.batches import BATCH_TOKENS, batches
from models.encoder.template import segments
from models.encoder.tokens import Framer, Tokens
from models.events import Response

STEP: Final = 16
"""Row lengths are rounded up to a multiple, so that kernels are prepared for few distinct shapes."""


class CrossEncoder(Encoder):
    """Scores with one forward pass over both segments."""

    def __init__(
        self, model: Any, framer: Framer, model_hash: str, *, pad: int, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        self.model_hash = model_hash
        self._model = model
        self._framer = framer
        self._pad = pad
        self._typed = getattr(model.config, "type_vocab_size", 0) > 1
        self._batch_tokens = batch_tokens

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Score each response, in the order given."""
        rows = self._tokens(responses)
        return [Score(logit, row.truncated, row.unknown) for logit, row in zip(self._logits(rows), rows, strict=True)]

    def count_tokens(self, responses: Sequence[Response]) -> list[int]:
        """Return the length of each row without padding."""
        return [len(row.ids) for row in self._tokens(responses)]

    def _tokens(self, responses: Sequence[Response]) -> list[Tokens]:
        return self._framer([segments(response) for response in responses])

    def _logits(self, rows: list[Tokens]) -> list[float]:
        logits = np.empty(len(rows))
        for picked in batches([len(row.ids) for row in rows], self._batch_tokens):
            logits[picked] = self._forward([rows[index] for index in picked])
        return [float(logit) for logit in logits]

    @torch.inference_mode()
    def _forward(self, rows: list[Tokens]) -> np.ndarray:
        inputs = {name: tensor.to(self._model.device) for name, tensor in self._padded(rows).items()}
        return log_odds(self._model(**inputs).logits).double().cpu().numpy()

    def _padded(self, rows: list[Tokens]) -> dict[str, Tensor]:
        inputs = padded(rows, self._pad, STEP)
        return inputs if self._typed else {name: inputs[name] for name in ("input_ids", "attention_mask")}


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
