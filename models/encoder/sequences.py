"""Where texts stand that are packed end to end, and how attention is kept within each; `gpu.py` has a GPU's own way."""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from models.encoder.batches import rounded
from models.encoder.tokens import MAX_LENGTH

ALIGNED: Final = 16
"""In bfloat16 a text takes a multiple of so many rows: attention to another number takes up to twice as long."""
BRIEF: Final = 64
"""Tokens below which a text takes no more rows than it has: they would cost more than attention gains."""

_PLACES: Final = torch.arange(MAX_LENGTH)
_LAST: Final = torch.where(_PLACES + _PLACES[:ALIGNED, None] < MAX_LENGTH, 0.0, -torch.inf).bfloat16()
"""(`ALIGNED`, `MAX_LENGTH`): row n hides the last n places."""


class SequenceBounds(Protocol):
    """Where B texts stand among T packed rows."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Each text asks itself: three of (T, E) → (T, E)."""

    def firsts(self, x: Tensor) -> Tensor:
        """(T, E) → (B', E), the first token of each text; B' is B rounded up."""

    def attend_first(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """The first token of each text asks all of it: (B', E) and two of (T, E) → (B', E)."""


def padded_rows(length: int, step: int) -> int:
    """Return how many rows a text takes.

    >>> padded_rows(50, 16), padded_rows(100, 16), padded_rows(100, 1)
    (50, 112, 100)
    """
    return length if length < BRIEF else -(-length // step) * step


class Run(NamedTuple):
    """Neighbours that take equally many rows: one call of attention. `mask` (B, 1, 1, rows) hides what is no token."""

    start: int
    texts: int
    rows: int
    mask: Tensor | None

    @property
    def part(self) -> slice:
        """Its rows."""
        return slice(self.start, self.start + self.texts * self.rows)


class Runs(tuple[Run, ...]):
    """The bounds on a CPU, where a call for each run is as fast as one for all.

    >>> Runs.of([3, 3, 5])
    (Run(start=0, texts=2, rows=3, mask=None), Run(start=6, texts=1, rows=5, mask=None))
    """

    __slots__ = ()

    @classmethod
    def of(cls, lengths: Sequence[int], step: int = 1) -> "Runs":
        """Find the runs among texts that are packed in this order."""
        found: list[Run] = []
        start = 0
        for taken, equal in groupby(lengths, partial(padded_rows, step=step)):
            beyond = [taken - length for length in equal]
            mask = _LAST[beyond, None, None, -taken:] if any(beyond) else None
            found.append(Run(start, len(beyond), taken, mask))
            start = found[-1].part.stop
        return cls(found)

    @property
    def starts(self) -> list[int]:
        """The first row of each text."""
        return [start for run in self for start in range(run.start, run.part.stop, run.rows)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """See `SequenceBounds`."""
        mixed = torch.zeros_like(q, memory_format=torch.contiguous_format)
        for run in self:
            mixed[run.part] = _attend(q[run.part], k, v, run, heads)
        return mixed

    def firsts(self, x: Tensor) -> Tensor:
        """See `SequenceBounds`: the head too sees few sizes, and never one row, which BLAS sums otherwise."""
        found = self.starts
        return x[found + [0] * (rounded(len(found)) - len(found))]

    def attend_first(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """See `SequenceBounds`."""
        mixed, done = torch.zeros_like(q), 0
        for run in self:
            asking = slice(done, done + run.texts)
            mixed[asking] = _attend(q[asking], k, v, run, heads)
            done += run.texts
        return mixed


def _attend(q: Tensor, k: Tensor, v: Tensor, run: Run, heads: int) -> Tensor:
    """Of the B texts of a run: (B Q, E) and two of (T, E) → (B Q, E)."""
    shape = (run.texts, -1, heads, q.shape[-1] // heads)
    q, k, v = (part.view(shape).transpose(1, 2) for part in (q, k[run.part], v[run.part]))  # (B, H, Q or rows, D)
    return scaled_dot_product_attention(q, k, v, run.mask).transpose(1, 2).flatten(0, 1).flatten(1)
