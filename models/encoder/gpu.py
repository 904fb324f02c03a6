"""The packed way on a GPU: one kernel attends to texts of all lengths, and a whole pass is replayed as a CUDA graph.

Graphs are recorded for few sizes (`graph_size`); a pass takes the smallest that holds it. Inputs and results travel
through pinned memory without waiting, so that the host prepares one pass while the GPU computes another.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from models.encoder.batches import packs
from models.encoder.forward import Layout, Packed
from models.encoder.stack import Stack
from models.encoder.tokens import MAX_LENGTH, Tokens

LEAST: Final = 256
"""Tokens of the smallest pass."""
SHORT: Final = 32
"""A pass of T tokens holds up to T / `SHORT` texts: a graph has room for so many."""
DEPTH: Final = 2
"""Passes under way at once."""


def graph_size(tokens: int) -> int:
    """Round up to a size for which a graph is recorded: four in each doubling.

    >>> [graph_size(tokens) for tokens in (1, 256, 300, 513, 16_000)]
    [256, 256, 320, 640, 16384]
    """
    if tokens <= LEAST:
        return LEAST
    step = 1 << ((tokens - 1).bit_length() - 3)
    return -(-tokens // step) * step


class Bounds(NamedTuple):
    """The bounds on a GPU, for up to B texts, of which some may be empty: `starts` (B + 1,), `each` 0 to B, int32."""

    starts: Tensor
    each: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """See `sequences.SequenceBounds`; rows beyond the last text are left undefined."""
        parts = _split(q, heads), _split(k, heads), _split(v, heads)
        return _joined(varlen_attn(*parts, self.starts, self.starts, MAX_LENGTH, MAX_LENGTH))

    def firsts(self, x: Tensor) -> Tensor:
        """See `sequences.SequenceBounds`."""
        return x[self.starts[:-1].clamp(max=len(x) - 1)]

    def attend_first(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """See `sequences.SequenceBounds`."""
        parts = _split(q, heads), _split(k, heads), _split(v, heads)
        return _joined(varlen_attn(*parts, self.each, self.starts, 1, MAX_LENGTH))


def _split(x: Tensor, heads: int) -> Tensor:
    """(T, E) → (T, H, D)."""
    return x.view(len(x), heads, -1)


def _joined(x: Any) -> Tensor:
    """(T, H, D) → (T, E)."""
    return x.flatten(1)  # type: ignore[no-any-return]


class GraphPass:
    """A pass of one size: a graph with its input and output on the GPU.

    The input, int64, is laid end to end: (size,) for each name, then where texts start, (size / `SHORT` + 1,).
    """

    def __init__(
        self, model: Callable[..., Any], names: Sequence[str], size: int, stream: torch.cuda.Stream, pool: Any
    ) -> None:
        self.size, self.texts, self._stream = size, size // SHORT, stream
        self._input = torch.zeros(len(names) * size + self.texts + 1, dtype=torch.int64, device=stream.device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            self._run(model, names)  # libraries prepare themselves outside of the recording
        stream.synchronize()
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._output = self._run(model, names)

    def _run(self, model: Callable[..., Any], names: Sequence[str]) -> Tensor:
        *parts, starts = torch.split(self._input, [*[self.size] * len(names), self.texts + 1])
        each = torch.arange(self.texts + 1, dtype=torch.int32, device=starts.device)
        inputs = {name: part[None] for name, part in zip(names, parts, strict=True)}
        return model(**inputs, bounds=Bounds(starts.int(), each))[0]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def begin(self, values: NDArray[np.int64]) -> Callable[[], Tensor]:
        """Start a pass, and return what waits for its output on the host."""
        with torch.cuda.stream(self._stream):
            self._input.copy_(torch.from_numpy(values).pin_memory(), non_blocking=True)
            self._graph.replay()
            output = self._output.to("cpu", non_blocking=True)
            done = self._stream.record_event()

        def wait() -> Tensor:
            done.synchronize()
            return output

        return wait


class GraphedModel(Packed):
    """A model of BERT's shape on a GPU."""

    def __init__(self, model: Any, stack: Stack, layout: Layout) -> None:
        super().__init__(model, stack, layout)
        self._stream = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[int, GraphPass] = {}

    def group(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        """As many as the budget and a graph hold."""
        return packs(lengths, budget, max(1, budget // SHORT))

    def warm(self, budget: int) -> None:
        """Record the graphs, the largest first: the others share its memory."""
        sizes = {graph_size(tokens) for tokens in range(LEAST, max(budget, MAX_LENGTH) + 1)}
        for size in sorted(sizes, reverse=True):
            self._graph(size)

    def logits(self, rows: Sequence[Tokens]) -> Tensor:
        """(B, labels)."""
        return next(self.passes([rows]))

    def passes(self, packs: Iterable[Sequence[Tokens]]) -> Iterator[Tensor]:
        """(B, labels) of each pass, of which some are under way while the next is prepared."""
        waiting: deque[tuple[Callable[[], Tensor], int]] = deque()
        for rows in packs:
            waiting.append((self._begin(rows), len(rows)))
            if len(waiting) == DEPTH:
                yield _first(*waiting.popleft())
        while waiting:
            yield _first(*waiting.popleft())

    def states(self, rows: Sequence[Tokens]) -> list[Tensor]:
        """(T, E) of each row."""
        lengths = [len(row.ids) for row in rows]
        return list(torch.split(self._begin(rows)()[0, : sum(lengths)], lengths))

    def _begin(self, rows: Sequence[Tokens]) -> Callable[[], Tensor]:
        lengths = [len(row.ids) for row in rows]
        graph = self._graph(graph_size(max(sum(lengths), SHORT * len(rows))))
        starts = np.full(graph.texts + 1, sum(lengths), dtype=np.int64)
        starts[: len(lengths)] = np.cumsum([0, *lengths[:-1]])
        inputs = self._inputs(rows, starts[: len(lengths)].tolist(), graph.size)
        return graph.begin(np.concatenate([*inputs.values(), starts]))

    @torch.inference_mode()
    def _graph(self, size: int) -> GraphPass:
        if size not in self._graphs:
            self._graphs[size] = GraphPass(self._model, self._names, size, self._stream, self._pool)
        return self._graphs[size]


def _first(wait: Callable[[], Tensor], count: int) -> Tensor:
    return wait()[:count]
