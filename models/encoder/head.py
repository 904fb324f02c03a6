"""The head over relation features: the mean of a linear model and a few small networks, in probability.

Each alone is worse where the questions are of another kind than in training: the linear one misses interplay, the
networks learn the training questions. All are smooth, so that rounding never moves a tier.
"""

from typing import Final

import torch
from torch import Tensor, nn

CLIP: Final = 4.0
"""Standard deviations beyond which a feature says no more."""

NETWORKS: Final = 5
HIDDEN: Final = 24


class Head(nn.Module):
    """Features (B, F) → log odds of rejection (B,)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.linear = nn.Linear(size, 1)
        self.networks = nn.ModuleList(_network(size) for _ in range(NETWORKS))

    def forward(self, features: Tensor) -> Tensor:
        """Average the two probabilities and return its log odds."""
        scaled = self.scaled(features)  # (B, F)
        networks = torch.stack([network(scaled)[:, 0] for network in self.networks]).mean(dim=0)  # (B,)
        risk = (torch.sigmoid(self.linear(scaled)[:, 0]) + torch.sigmoid(networks)) / 2
        return torch.logit(risk, eps=1e-6)

    def scaled(self, features: Tensor) -> Tensor:
        """Standardise and clip."""
        return ((features - self.get_buffer("mean")) / self.get_buffer("scale")).clamp(-CLIP, CLIP)


def _network(size: int) -> nn.Module:
    """(B, F) → (B, 2): log odds of any rejection, and of a deep one, which is learnt beside and then set aside."""
    return nn.Sequential(nn.Dropout(0.1), nn.Linear(size, HIDDEN), nn.Tanh(), nn.Dropout(0.3), nn.Linear(HIDDEN, 2))
