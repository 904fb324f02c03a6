"""Group texts of similar length, so that little is padded."""

from collections.abc import Iterator, Sequence
from typing import Final

BATCH_TOKENS: Final = 2048
"""Padded tokens a forward pass: beyond it a CPU gains nothing (measured: tiny to base sizes, two cores)."""


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield lists of indices, shortest texts first; rows times longest row stays within `budget` tokens.

    A text longer than the budget is a batch of its own.

    >>> list(batches([30, 5, 9, 100], budget=40))
    [[1, 2], [0], [3]]
    """
    rows: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and (len(rows) + 1) * lengths[index] > budget:
            yield rows
            rows = []
        rows.append(index)
    if rows:
        yield rows
