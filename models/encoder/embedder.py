"""A frozen sentence encoder: texts to one vector a text and one a token, all of length one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.encoder.base import Wanted
from models.encoder.batches import BATCH_TOKENS
from models.encoder.forward import Forward, Layout, padding
from models.encoder.runtime import LONG, Probe, choose
from models.encoder.tokens import Tokens, ends
from models.encoder.word_tokenizer import WordTokenizer

Vectors = NDArray[np.float32]

LONGEST: Final = 256
"""Tokens of one text; sentence encoders were trained on no more."""

PROBES: Final = ("Dose?", "When?", "Take two tablets of amlodipine 5 mg every day with water. " * 2)


class Embedded(NamedTuple):
    """`pooled` (H,) is the mean over all tokens; `tokens` (T, H) and `ids` leave out the special ones."""

    pooled: Vectors
    tokens: Vectors
    ids: list[int]
    cut: bool


class Embedder:
    """Embeds each distinct text of a call once."""

    def __init__(
        self, model: Any, tokenizer: Any, batch_tokens: int = BATCH_TOKENS, precision: Wanted = "float32"
    ) -> None:
        self._tokenizer = tokenizer
        self._words = WordTokenizer(tokenizer)
        self._batch_tokens = batch_tokens
        layout = Layout(padding(model, tokenizer), typed=False, first=False, limit=LONGEST)
        self._ways, self.runtime = choose(model, layout, self._test(), precision)

    def __call__(self, texts: Iterable[str]) -> dict[str, Embedded]:
        """Return the embedding of each distinct text."""
        return self.embed(self.tokenise(texts))

    def tokenise(self, texts: Iterable[str]) -> dict[str, Tokens]:
        """Return the ids of each distinct text."""
        distinct = sorted(set(texts))
        read = [ends(text, LONGEST) for text in distinct]
        found = self._tokenizer(read, verbose=False)["input_ids"] if read else []
        return {text: self._row(text, *parts) for text, *parts in zip(distinct, read, found, strict=True)}

    def _row(self, text: str, read: str, ids: list[int]) -> Tokens:
        """Cut to the longest; the last special token stays."""
        ids[1:-1] = self._words.as_text(ids[1:-1])
        kept = ids if len(ids) <= LONGEST else [*ids[: LONGEST - 1], ids[-1]]
        cut = len(read) < len(text) or len(kept) < len(ids)
        return Tokens(kept, [0] * len(kept), cut, self._words.unknown_share(read, ids[1:-1]))

    def embed(self, texts: Mapping[str, Tokens], *, exactly: bool = False) -> dict[str, Embedded]:
        """Return the embedding of each tokenised text; exactly: by the plain float32 forward."""
        way = self._ways.plain if exactly else self._ways.fast
        names, rows = list(texts), list(texts.values())
        found: dict[str, Embedded] = {}
        for picked in way.group([row.size for row in rows], self._batch_tokens):
            states = way.states([rows[index] for index in picked])
            found.update((names[i], _embedded(state, rows[i])) for i, state in zip(picked, states, strict=True))
        return found

    def _test(self) -> Probe:
        passes = [list(self.tokenise(texts).values()) for texts in (PROBES, [LONG])]
        return Probe(passes, _similarities, bounded=lambda found: found)

    def warm(self) -> None:
        """Prepare every size of pass."""
        self._ways.fast.warm(self._batch_tokens)


def _similarities(way: Forward, passes: Sequence[Sequence[Tokens]]) -> torch.Tensor:
    """Of all tokens: what the features are made of."""
    vectors = unit(torch.cat([state for rows in passes for state in way.states(rows)]).numpy())
    return torch.from_numpy(vectors @ vectors.T)


def _embedded(states: torch.Tensor, row: Tokens) -> Embedded:
    pooled, tokens = unit(states.mean(dim=0).numpy()), unit(states[1:-1].numpy())
    return Embedded(pooled, tokens, row.ids[1:-1], row.truncated)


def unit(vectors: Vectors) -> Vectors:
    """Scale to length one along the last axis."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9), dtype=np.float32)
