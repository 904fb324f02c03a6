"""What a model must beat: simpler ones, fitted to the same verdicts.

`prior` knows the rate alone; `tfidf_overlap` is a logistic regression on the answer's words, their cosine with the
question and the overlap of both; `boosted_overlap` is gradient boosting on that overlap.

>>> sorted(BASELINES)
['boosted_overlap', 'prior', 'tfidf_overlap']
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.errors import SettingsError
from models.training.examples import Example, beside, folds, has_both_verdicts

Risks = NDArray[np.float64]
Judge = Callable[[Sequence[Example], Sequence[Example]], Risks]
"""(training, test) → risks of the test answers (N,)."""

BEGINNING: Final = 40
"""Words at the beginning of an answer, where its topic stands."""


def out_of_fold(judge: Judge, examples: Sequence[Example], count: int = 5, seed: int = 0) -> Risks:
    """Risks (N,) of each answer by a judge fitted to the other questions' answers.

    Compared over all folds they rank a little worse than within each: a fold with more rejections is judged by what had
    seen fewer, so that the AUROC of `prior` is below .5 (Parker, Günter and Bedo, BMC Bioinformatics 2007, 8:326).
    Raises `SettingsError` if these are of one verdict.
    """
    risks = np.zeros(len(examples))
    for fold in filter(None, folds(examples, count, seed)):
        rest = [examples[index] for index in beside(examples, fold)]
        if not has_both_verdicts(rest):
            raise SettingsError("the answers are to too few questions to learn from the others: give more, or --train")
        risks[fold] = judge(rest, [examples[index] for index in fold])
    return risks


def prior(train: Sequence[Example], test: Sequence[Example]) -> Risks:
    """The training answers' rate for everyone."""
    return np.full(len(test), _truth(train).mean())


def tfidf(train: Sequence[Example], test: Sequence[Example]) -> Risks:
    """TF-IDF of the answer, cosine with the question, overlap; logistic regression.

    Raises `SettingsError` if no word stands in two answers.
    """
    words = TfidfVectorizer(min_df=2, sublinear_tf=True, stop_words="english")
    try:
        words.fit([_answer(e) for e in train])
    except ValueError:
        raise SettingsError(
            f"field `response`: no word stands in two of the {len(train)} answers to learn from: give more answers"
        ) from None
    tables = [_words(words, part) for part in (train, test)]
    model: Any = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(C=0.01, max_iter=2000))
    return np.asarray(model.fit(tables[0], _truth(train)).predict_proba(tables[1])[:, 1])


def boosted(train: Sequence[Example], test: Sequence[Example]) -> Risks:
    """Gradient boosting on lexical overlap alone."""
    model: Any = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.05, max_leaf_nodes=8, random_state=0)
    return np.asarray(model.fit(overlaps(train), _truth(train)).predict_proba(overlaps(test))[:, 1])


BASELINES: Final[dict[str, Judge]] = {"prior": prior, "tfidf_overlap": tfidf, "boosted_overlap": boosted}


def overlaps(part: Sequence[Example]) -> NDArray[np.float64]:
    """(N, 6): shares of words that both texts have, and their lengths."""
    return np.array([_overlap(e.event.query.lower().split(), _answer(e).lower().split()) for e in part])


def _words(words: Any, part: Sequence[Example]) -> Any:
    answers, queries = words.transform([_answer(e) for e in part]), words.transform([e.event.query for e in part])
    cosine = np.asarray(answers.multiply(queries).sum(axis=1))
    return sparse.hstack([answers, sparse.csr_matrix(np.hstack([cosine, overlaps(part)]))]).tocsr()


def _overlap(query: list[str], answer: list[str]) -> list[float]:
    asked, said, begins = set(query), set(answer), set(answer[:BEGINNING])
    shared = len(asked & said)
    shares = [shared / max(1, len(asked)), shared / max(1, len(said)), len(asked & begins) / max(1, len(asked))]
    return [*shares, float(np.log1p(len(query))), float(np.log1p(len(answer))), len(said) / max(1, len(answer))]


def _answer(example: Example) -> str:
    return example.event.response or ""


def _truth(examples: Sequence[Example]) -> NDArray[np.bool_]:
    return np.array([example.rejected for example in examples])
