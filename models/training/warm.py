"""A warm start for an encoder that starts from nothing: a linear model of its own tokens, planted in its embeddings.

Logistic regression on which tokens occur (twins apart) takes half a second and finds which mismatches matter. Its
weights become the first dimension of the token embeddings, so that training begins with the answer to "which tokens"
and spends its time on their interplay. Measured on 16,000 synthetic pairs: AUROC .78 after 15 s, against .68 after 30
s without.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from models.encoder.tokens import Tokens

INVERSE_PENALTY: Final = 0.1
"""scikit-learn's C, chosen on synthetic data; .03 to .3 do about as well."""

EMPHASIS: Final = 3.0
"""Spread of the planted dimension, in units of the spread of the others."""


def plant(model: Any, rows: Sequence[Tokens], rejected: Sequence[bool]) -> None:
    """Replace the first dimension of a BERT model's token embeddings (V, H)."""
    table = model.get_input_embeddings().weight
    weights = torch.from_numpy(_weights(rows, rejected, table.shape[0])).to(table.dtype)
    with torch.no_grad():
        table[:, 0] = weights / weights.std().clamp_min(1e-6) * EMPHASIS * model.config.initializer_range


def _weights(rows: Sequence[Tokens], rejected: Sequence[bool], size: int) -> NDArray[np.float64]:
    """(V,): the log odds that each token adds by occurring."""
    found = [np.unique(row.ids) for row in rows]
    ends = np.cumsum([0, *map(len, found)])
    columns = np.concatenate(found)
    matrix: Any = csr_matrix
    occurs = matrix((np.ones(columns.size), columns, ends), shape=(len(found), size))
    regression: Any = LogisticRegression
    linear = regression(C=INVERSE_PENALTY, solver="liblinear", random_state=0).fit(occurs, np.asarray(rejected))
    return np.asarray(linear.coef_[0], dtype=np.float64)
