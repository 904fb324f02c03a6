"""When to stop: the number of epochs is found on grouped folds, then everything is trained on for as many.

The questions to train on are dealt into `TENTHS` parts. For each part that is watched, a training on the other nine
follows the loss on it, epoch by epoch; a question is never on both sides. The epoch at which the mean of these losses
is lowest is the last of the training on all, whose learning rate falls as theirs did. One fold costs what it takes to
run out of patience; ten would be the whole cross-validation.
"""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from models.training.artifact_files import write_atomically
from models.training.examples import Example, beside, folds, has_both_verdicts

TENTHS: Final = 10
"""Nine tenths are enough like all of them for the number of epochs to carry over."""


class Fold(NamedTuple):
    """What is trained on, and what is only looked at."""

    fitted: Sequence[Example]
    watched: Sequence[Example]


def watched_folds(examples: Sequence[Example], count: int, seed: int) -> list[Fold]:
    """Return the first `count` of the seeded folds that have questions, and beside which there are both verdicts."""
    dealt = (
        Fold([examples[index] for index in beside(examples, part)], [examples[index] for index in part])
        for part in folds(examples, TENTHS, seed + 1)
        if part
    )
    return list(islice((fold for fold in dealt if has_both_verdicts(fold.fitted)), count))


def best(curves: Sequence[Sequence[float]]) -> int:
    """Return the epoch, from 1, of the lowest mean loss, as far as all curves go; one that is no number is the highest.

    >>> best([[0.7, 0.4, 0.6, 0.6], [0.7, 0.6, 0.5]])
    2
    """
    shortest = min(map(len, curves))
    means = np.mean([curve[:shortest] for curve in curves], axis=0)
    return 1 + int(np.argmin(np.where(np.isnan(means), np.inf, means)))


def kept(folder: Path, found: Callable[[Path], list[float]]) -> list[float]:
    """Return the losses that `found` measures in the folder, or that it measured there before it was interrupted."""
    folder.mkdir(exist_ok=True)
    note = folder / "losses.json"
    if not note.exists():
        write_atomically(note, msgspec.json.encode(found(folder)))
    losses = msgspec.json.decode(note.read_bytes(), type=list[float | None])
    return [math.nan if loss is None else loss for loss in losses]  # JSON has null where a loss is no number
