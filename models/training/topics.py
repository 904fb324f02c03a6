"""A small table of what texts are about: latent topics (LSA), lengths, and how much the answer repeats of the question.

Files with raters are small: a linear model on this is what their verdicts can bear.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.training.baselines import overlaps
from models.training.examples import Example

TOPICS: Final = 16


class Topics:
    """Fitted to some answers, describes any: (N, TOPICS + 6), standardised."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._topics: Any = make_pipeline(
            TfidfVectorizer(stop_words="english", sublinear_tf=True), TruncatedSVD(TOPICS, random_state=0)
        ).fit([_text(example) for example in examples])
        self._scaler: Any = StandardScaler().fit(self._raw(examples))

    def __call__(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """Describe answers."""
        return np.asarray(self._scaler.transform(self._raw(examples)))

    def _raw(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        return np.hstack([self._topics.transform([_text(example) for example in examples]), overlaps(examples)])


def _text(example: Example) -> str:
    return f"{example.event.query} {example.event.response or ''}"
