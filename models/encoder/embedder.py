"""A frozen sentence encoder: texts to one vector a text and one a token, all of length one."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.encoder.batches import BATCH_TOKENS, batches
from models.encoder.cross import STEP

Vectors = NDArray[np.float32]

LONGEST: Final = 256
"""Tokens of one text; sentence encoders were trained on no more."""


class Embedded(NamedTuple):
    """`pooled` (H,) is the mean over all tokens; `tokens` (T, H) and `ids` leave out the special ones."""

    pooled: Vectors
    tokens: Vectors
    ids: list[int]
    cut: bool


class Embedder:
    """Embeds each distinct text of a call once."""

    def __init__(self, model: Any, tokenizer: Any, batch_tokens: int = BATCH_TOKENS) -> None:
        self.unknown = tokenizer.unk_token_id
        self._model = model
        self._tokenizer = tokenizer
        self._batch_tokens = batch_tokens

    def __call__(self, texts: Sequence[str]) -> dict[str, Embedded]:
        """Return the embedding of each distinct text."""
        distinct = sorted(set(texts))
        ids = self._tokenizer(distinct, verbose=False)["input_ids"] if distinct else []
        found: dict[str, Embedded] = {}
        for picked in batches([min(LONGEST, len(row)) for row in ids], self._batch_tokens):
            rows = self._forward([ids[index] for index in picked])
            found.update(zip((distinct[index] for index in picked), rows, strict=True))
        return found

    @torch.inference_mode()
    def _forward(self, ids: list[list[int]]) -> list[Embedded]:
        kept = [row if len(row) <= LONGEST else [*row[: LONGEST - 1], row[-1]] for row in ids]
        width = -(-max(map(len, kept)) // STEP) * STEP
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in kept])  # (B, T)
        inputs = torch.tensor([row + [0] * (width - len(row)) for row in kept])
        device = self._model.device
        states = self._model(input_ids=inputs.to(device), attention_mask=mask.to(device)).last_hidden_state  # (B, T, H)
        found = zip(states.float().cpu(), kept, ids, strict=True)
        return [_embedded(state[: len(row)], row, cut=len(row) < len(full)) for state, row, full in found]


def _embedded(states: torch.Tensor, ids: list[int], *, cut: bool) -> Embedded:
    pooled, tokens = unit(states.mean(dim=0).numpy()), unit(states[1:-1].numpy())
    return Embedded(pooled, tokens, ids[1:-1], cut)


def unit(vectors: Vectors) -> Vectors:
    """Scale to length one along the last axis."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9), dtype=np.float32)
