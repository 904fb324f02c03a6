"""Fit an encoder's vectors to a field without verdicts: which title belongs to which answer.

Where a file states the titles of its answers ("What causes lupus ?"), these are questions whose answers are known. The
adapter learns to find each title's answer among others, by a contrastive loss in both directions (InfoNCE,
https://arxiv.org/abs/1807.03748). Titles that end alike stand in one batch: the same subject, another question.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from models.encoder.adapter import Adapter
from models.encoder.embedder import Vectors

RANK: Final = 32
EPOCHS: Final = 8
BATCH: Final = 128
SHARPNESS: Final = 20.0
"""Inverse temperature of the contrast."""

SOFTNESS: Final = 10.0
"""A title's nearness to an answer is the soft maximum over its passages."""

ENDING: Final = 18
"""Characters at the end of a title that mostly name its subject."""

FEWEST: Final = 200
"""Pairs below which there is no adapter."""


def adapt(names: Sequence[str], titles: Vectors, answers: Sequence[Vectors], seed: int) -> Adapter | None:
    """Fit to titles (N, H), called `names`, and their answers' passages, each (P, H); None if there are too few."""
    if len(names) < FEWEST:
        return None
    torch.manual_seed(seed)
    order, layers = np.random.default_rng(seed), _layers(titles.shape[1])
    passages = nn.utils.rnn.pad_sequence(
        [torch.from_numpy(answer) for answer in answers], batch_first=True
    )  # (N, P, H)
    optimiser = torch.optim.AdamW(layers.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.tensor(_shuffled(names, order)), BATCH):
            near = _near(_adapted(layers, torch.from_numpy(titles)[rows]), _adapted(layers, passages[rows]))
            loss: Any = _contrast(near.masked_fill(_twins([names[row] for row in rows]), -torch.inf))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    down, up = (parameter.detach().numpy().T.copy() for parameter in layers.parameters())
    return Adapter(down, up)


def _layers(size: int) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(size, RANK, bias=False), nn.Linear(RANK, size, bias=False))
    nn.init.zeros_(next(layers[1].parameters()))  # begins as no correction at all
    return layers


def _adapted(layers: nn.Module, vectors: Tensor) -> Tensor:
    return normalize(vectors + layers(vectors), dim=-1)  # padding stays zero


def _near(titles: Tensor, passages: Tensor) -> Tensor:
    """(B, H), (B, P, H) → (B, B): nearness of each title to each answer."""
    near = torch.einsum("qh,bph->qbp", titles, passages).masked_fill(passages.norm(dim=-1) < 0.5, -torch.inf)
    return torch.logsumexp(near * SOFTNESS, dim=-1) / SOFTNESS * SHARPNESS


def _contrast(near: Tensor) -> Tensor:
    right = torch.arange(len(near))
    return cross_entropy(near, right) + cross_entropy(near.T, right)


def _twins(names: Sequence[str]) -> Tensor:
    """(B, B): the other answers of the same title, which are not wrong."""
    return torch.tensor([[i != j and one == two for j, two in enumerate(names)] for i, one in enumerate(names)])


def _shuffled(names: Sequence[str], order: np.random.Generator) -> list[int]:
    groups: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        groups[name.lower().rstrip(" ?")[-ENDING:]].append(row)
    parts = list(groups.values())
    return list(
        chain.from_iterable(order.permutation(parts[index]).tolist() for index in order.permutation(len(parts)))
    )
