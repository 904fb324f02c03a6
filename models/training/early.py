"""When to stop: the number of epochs is found on grouped folds, then everything is trained on for as many.

The questions to train on are dealt into `TENTHS` parts. For each part that is watched, a training on the other nine
follows the loss on it, epoch by epoch; a question is never on both sides. The epoch at which the mean of these losses
is lowest is the last of the training on all, whose learning rate falls as theirs did. One fold costs what it takes to
run out of patience; ten would be the whole cross-validation.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from models.training.artifact_files import write_atomically
from models.training.examples import Example, beside, folds

TENTHS: Final = 10
"""Nine tenths are enough like all of them for the number of epochs to carry over."""


class Fold(NamedTuple):
    """What is trained on, and what is only looked at."""

    fitted: Sequence[Example]
    watched: Sequence[Example]


def watched_folds(examples: Sequence[Example], count: int, seed: int) -> list[Fold]:
    """Return the first `count` of the seeded folds that have questions on both sides."""
    parts = folds(examples, TENTHS, seed + 1)[:count]
    return [
        Fold([examples[index] for index in rest], [examples[index] for index in part])
        for part in parts
        if part and (rest := beside(examples, part))
    ]


def best(curves: Sequence[Sequence[float]]) -> int:
    """Return the epoch, from 1, of the lowest mean loss, as far as all curves go.

    >>> best([[0.7, 0.4, 0.6, 0.6], [0.7, 0.6, 0.5]])
    2
    """
    shortest = min(map(len, curves))
    return 1 + int(np.argmin(np.mean([curve[:shortest] for curve in curves], axis=0)))


def kept(folder: Path, found: Callable[[Path], list[float]]) -> list[float]:
    """Return the losses that `found` measures in the folder, or that it measured there before it was interrupted."""
    folder.mkdir(exist_ok=True)
    note = folder / "losses.json"
    if not note.exists():
        write_atomically(note, msgspec.json.encode(found(folder)))
    return msgspec.json.decode(note.read_bytes(), type=list[float])
