"""How good scores are, in the field's measures."""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

BINS: Final = 15
"""Bins of the expected calibration error: the count of Guo et al. 2017, https://arxiv.org/abs/1706.04599."""


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """`count` scored examples of which a share `rate` was rejected. Log-loss in nats; accuracy at risk 0.5."""

    count: int
    rate: float
    auroc: float
    average_precision: float
    accuracy: float
    brier: float
    log_loss: float
    ece: float


def measure(rejected: ArrayLike, risk: ArrayLike) -> Metrics:
    """Compare probabilities (N,) with verdicts (N,). AUROC is NaN where only one verdict occurs.

    >>> measure([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).auroc
    0.75
    """
    truth, guess = np.asarray(rejected, dtype=float), np.asarray(risk, dtype=float)
    both = 0 < truth.sum() < truth.size
    return Metrics(
        count=truth.size,
        rate=float(truth.mean()),
        auroc=float(roc_auc_score(truth, guess)) if both else float("nan"),
        average_precision=float(average_precision_score(truth, guess)) if both else float("nan"),
        accuracy=float(((guess >= 0.5) == truth).mean()),
        brier=float(((guess - truth) ** 2).mean()),
        log_loss=_log_loss(truth, guess),
        ece=_ece(truth, guess),
    )


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """Log odds to probability, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(logits, dtype=float))))


def _log_loss(truth: NDArray[np.float64], guess: NDArray[np.float64]) -> float:
    safe = np.clip(guess, 1e-12, 1 - 1e-12)
    return float(-(truth * np.log(safe) + (1 - truth) * np.log1p(-safe)).mean())


def _ece(truth: NDArray[np.float64], guess: NDArray[np.float64]) -> float:
    """Expected calibration error over bins of equal width: mean distance of risk and rate, weighted by count."""
    bins = np.minimum((guess * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=guess - truth, minlength=BINS)
    return float(np.abs(gaps).sum() / truth.size)
