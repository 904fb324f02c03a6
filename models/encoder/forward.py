"""The two ways through a model: texts packed end to end, or padded to equal length.

Both take rows of token ids and return logits a text, or states a token. `packed` is the fast one, for models of BERT's
shape; whoever takes it compares it with `Plain` first (`runtime.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.encoder.batches import batches, packs, rounded
from models.encoder.kernels import Numerics
from models.encoder.sequences import BRIEF, Runs, padded_rows
from models.encoder.stack import BERT, DISTILBERT, Stack
from models.encoder.tokens import MAX_LENGTH, Tokens

STEP: Final = 16
"""Padded rows are rounded up to a multiple, so that kernels are prepared for few distinct shapes."""
_NONE: Final = torch.zeros(1, 1, 1, 1)
"""A mask of four dimensions is handed on as it is, and `Stack` reads none: to make one is a tenth of a small pass."""

_Part = Sequence[int] | NDArray[np.int64]


class Layout(NamedTuple):
    """What a model wants: its padding token, whether segments are told apart, whether only first tokens are read.

    `limit`: positions that it has.
    """

    pad: int
    typed: bool
    first: bool
    limit: int = MAX_LENGTH


def padding(model: Any, tokenizer: Any) -> int:
    """Return what a model takes for padding: decoders look for the last token that is none."""
    own = getattr(model.config, "pad_token_id", None)
    return int((tokenizer.pad_token_id if own is None else own) or 0)


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


class Plain(Forward):
    """Any transformers model, as it is; each text alone and unpadded where padding would change what it says."""

    def __init__(self, model: Any, layout: Layout, *, alone: bool = False) -> None:
        self._model, self._layout, self._alone = model, layout, alone
        self._names = ("input_ids", "attention_mask", *(["token_type_ids"] if layout.typed else []))

    def group(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        """Texts of similar length."""
        return ([index] for index in range(len(lengths))) if self._alone else batches(lengths, budget)

    def logits(self, rows: Sequence[Tokens]) -> Tensor:
        """(B, labels)."""
        return self._run(rows).logits.float().cpu()  # type: ignore[no-any-return]

    def states(self, rows: Sequence[Tokens]) -> list[Tensor]:
        """(T, E) of each row."""
        states = self._run(rows).last_hidden_state.float().cpu()
        return [state[: len(row.ids)] for state, row in zip(states, rows, strict=True)]

    @torch.inference_mode()
    def _run(self, rows: Sequence[Tokens]) -> Any:
        inputs = padded(rows, self._layout.pad, 1 if self._alone else STEP, self._layout.limit)
        return self._model(**{name: inputs[name].to(self._model.device) for name in self._names})


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


class Packed(Forward):
    """A model of BERT's shape whose encoder is a `Stack`."""

    def __init__(self, model: Any, stack: Stack, layout: Layout) -> None:
        self._model, self._stack, self._layout = model, stack, layout
        reserved = getattr(model.base_model.embeddings, "padding_idx", None)  # RoBERTa's positions begin after it
        self._position = 0 if reserved is None else reserved + 1
        self._names = ("input_ids", "position_ids", *(["token_type_ids"] if layout.typed else []))

    def group(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        """As many as the budget holds."""
        return packs(lengths, budget)

    def warm(self, budget: int) -> None:
        """Prepare kernels."""
        with torch.inference_mode():
            self._stack.warm(
                budget * padded_rows(BRIEF + 1, self._stack.step) // (BRIEF + 1)
            )  # the most rows for its tokens

    def logits(self, rows: Sequence[Tokens]) -> Tensor:
        """(B, labels)."""
        return self._run(rows, self._runs(rows)).logits[: len(rows)]  # type: ignore[no-any-return]

    def states(self, rows: Sequence[Tokens]) -> list[Tensor]:
        """(T, E) of each row."""
        runs = self._runs(rows)
        states = self._run(rows, runs).last_hidden_state[0]
        return [states[start : start + row.size] for start, row in zip(runs.starts, rows, strict=True)]

    @torch.inference_mode()
    def _run(self, rows: Sequence[Tokens], runs: Runs) -> Any:
        inputs = self._inputs(rows, runs.starts, rounded(runs[-1].part.stop))
        return self._model(
            **{name: torch.from_numpy(part)[None] for name, part in inputs.items()}, bounds=runs, attention_mask=_NONE
        )

    def _runs(self, rows: Sequence[Tokens]) -> Runs:
        return Runs.of([row.size for row in rows], self._stack.step)

    def _inputs(self, rows: Sequence[Tokens], starts: Sequence[int], size: int) -> dict[str, NDArray[np.int64]]:
        """(size,) of each name: the texts where they start, and between them what stands for nothing."""
        positions = (np.arange(self._position, self._position + row.size) for row in rows)
        found = {
            "input_ids": _flat(starts, (row.ids for row in rows), size, self._layout.pad),
            "position_ids": _flat(starts, positions, size, self._position),
            "token_type_ids": _flat(starts, (row.types for row in rows), size, 0),
        }
        return {name: found[name] for name in self._names}


def _flat(starts: Sequence[int], parts: Iterable[_Part], size: int, rest: int) -> NDArray[np.int64]:
    """(size,): the parts where they start, else `rest`."""
    flat = np.full(size, rest, dtype=np.int64)
    for start, part in zip(starts, parts, strict=True):
        flat[start : start + len(part)] = part
    return flat


def packed(model: Any, layout: Layout, how: Numerics, kind: type[Packed] = Packed) -> Packed:
    """Return the packed way through a model, which stays as it is; weights that are not copied are shared.

    Raises `ValueError` that says why it has none.
    """
    base = model.base_model
    names = next((names for names in (BERT, DISTILBERT) if _has(base, names.layers)), None)
    if names is None:
        raise ValueError("its layers are not where BERT's are")
    try:
        stack = Stack(base, names, how, first=layout.first)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"its layers are not made as BERT's are: {error}") from None
    place = base.get_submodule(names.layers.rpartition(".")[0])
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return kind(deepcopy(model, {**shared, id(place): stack}), stack, layout)


def _has(base: Any, name: str) -> bool:
    try:
        base.get_submodule(name)
    except AttributeError:
        return False
    return True
