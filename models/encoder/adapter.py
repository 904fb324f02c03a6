"""A low-rank correction of a frozen encoder's vectors: x → x + x·down·up, scaled to length one.

Residual adapters (Houlsby et al. 2019, https://arxiv.org/abs/1902.00751) behind the pooling, where they cost nothing.
"""

from typing import NamedTuple

import numpy as np

from models.encoder.embedder import Vectors, unit


class Adapter(NamedTuple):
    """`down` (H, R) and `up` (R, H)."""

    down: Vectors
    up: Vectors

    def __call__(self, vectors: Vectors) -> Vectors:
        """Correct vectors (..., H)."""
        return unit((vectors + vectors @ self.down @ self.up).astype(np.float32))
