"""Group texts into forward passes: packed end to end, or padded to the longest."""

from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Final

BATCH_TOKENS: Final = 2048
"""Tokens a forward pass: beyond it a CPU gains little (measured: tiny to base sizes, two cores)."""
GPU_TOKENS: Final = 16_384
"""Beyond it a GPU gains little (measured: tiny to base sizes, an H200)."""

FINE, COARSE, MANY = 16, 64, 512
"""Rows of a matrix are rounded up to a multiple of `FINE`, of `COARSE` above `MANY`: 56 sizes up to 2,048."""


def packs(lengths: Sequence[int], budget: int, most: float = inf) -> Iterator[list[int]]:
    """Yield lists of up to `most` indices, shortest texts first; lengths sum to `budget` tokens at most.

    A text longer than the budget is a pack of its own.

    >>> list(packs([30, 5, 9, 100], budget=40))
    [[1, 2], [0], [3]]
    >>> list(packs([10, 10, 10, 10], budget=40))
    [[0, 1, 2, 3]]
    >>> list(packs([10, 10, 10, 10], budget=40, most=3))
    [[0, 1, 2], [3]]
    """
    return _grouped(lengths, lambda count, spent, length: spent + length > budget or count == most)


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield lists of indices, shortest texts first; rows times longest row stays within `budget` tokens.

    A text longer than the budget is a batch of its own.

    >>> list(batches([30, 5, 9, 100], budget=40))
    [[1, 2], [0], [3]]
    """
    return _grouped(lengths, lambda count, _, length: (count + 1) * length > budget)


def _grouped(lengths: Sequence[int], full: Callable[[int, int, int], bool]) -> Iterator[list[int]]:
    """Begin a list where `full` says so of how many there are, their sum, and the next length."""
    rows: list[int] = []
    spent = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        if rows and full(len(rows), spent, length):
            yield rows
            rows, spent = [], 0
        rows.append(index)
        spent += length
    if rows:
        yield rows


def rounded(rows: int) -> int:
    """Round up to one of few sizes, since oneDNN prepares a kernel for each.

    >>> [rounded(n) for n in (1, 16, 180, 513, 2048)]
    [16, 16, 192, 576, 2048]
    """
    step = FINE if rows <= MANY else COARSE
    return -(-rows // step) * step


def sizes(budget: int) -> list[int]:
    """Return every value of `rounded` up to a budget.

    >>> sizes(40)
    [16, 32, 48]
    """
    return sorted({rounded(rows) for rows in range(1, budget + 1)})
