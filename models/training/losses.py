"""What training minimises: one latent risk, two thresholds, the rater's severity set aside.

Depth is ordinal (none, surface, deep), so one latent value serves both targets, as in a cumulative-link model
(McCullagh 1980, J. R. Stat. Soc. B 42:109): the log odds of a deep rejection are those of any rejection less a gap.
The severity of the rater, learnt before by a linear model, is added while training only: what remains is the risk of
a typical clinician.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from models.encoder.cross import log_odds
from models.training import raters
from models.training.examples import Example, has_both_verdicts
from models.training.topics import Topics


class Loss(StrEnum):
    """`balanced` gives both verdicts equal weight; `focal` turns to what is still wrong."""

    PLAIN = "plain"
    BALANCED = "balanced"
    FOCAL = "focal"


DEPTH: Final = 0.5
"""Weight of the second target."""

FOCUS: Final = 2.0
"""Gamma of Lin et al. 2017, https://arxiv.org/abs/1708.02002."""

FEW: Final = 20
"""Answers with a known rater below which severities are not learnt."""

Lessons = list[tuple[float, float, float]]
"""Of each answer: rejected, deeply rejected, severity of its rater."""


def lessons(examples: Sequence[Example], severity: dict[str, float]) -> Lessons:
    """What the loss is told of each answer; an unknown rater is a typical one."""
    return [(float(e.rejected), float(e.rejected_deeply), severity.get(e.rater or "", 0.0)) for e in examples]


def severities(examples: Sequence[Example]) -> dict[str, float]:
    """Learn each rater's severity beside what the texts are about.

    Returns {} where raters are unknown or one, or there is one verdict.
    """
    if len({e.rater for e in examples if e.rater}) < 2 or sum(e.rater is not None for e in examples) < FEW:
        return {}
    if not has_both_verdicts(examples):
        return {}
    rejected = np.array([example.rejected for example in examples])
    return raters.fit(Topics(examples)(examples), rejected, [example.rater for example in examples]).severity


def loss(kind: Loss, told: Lessons) -> Callable[..., Tensor]:
    """Return the Trainer's `compute_loss_func` for answers like these."""
    rates = np.mean(np.asarray(told)[:, :2], axis=0)
    weight = torch.tensor((1 - rates[0]) / rates[0] if kind is Loss.BALANCED else 1.0)
    gap = _gap(*rates)

    def compute(outputs: Any, labels: Tensor, **_: Any) -> Tensor:
        rejected, deep, severity = labels.T  # each (B,)
        latent = log_odds(outputs.logits) + severity
        both = _one(kind, latent, rejected, weight)
        return both if gap is None else both + DEPTH * _one(kind, latent - gap, deep, weight)

    return compute


def _one(kind: Loss, latent: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    if kind is not Loss.FOCAL:
        return cross_entropy(latent, truth, pos_weight=weight)
    wrong = torch.sigmoid(torch.where(truth > 0, -latent, latent))
    return (wrong**FOCUS * cross_entropy(latent, truth, reduction="none")).mean()


def _gap(rejected: float, deep: float) -> float | None:
    """Distance of the thresholds, from the rates of both targets; None where depth says nothing more."""
    if not 0 < deep < rejected:
        return None
    return float(np.log(rejected / (1 - rejected)) - np.log(deep / (1 - deep)))
