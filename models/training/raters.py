"""Who judges weighs more than what is judged: a severity per rater, learnt beside the text and then set aside.

Logistic regression with a random intercept per rater, at its posterior mode. The severities centre on zero, so the
model without them predicts the verdict of a typical clinician; with them, that of one who is known.

>>> table, rejected = np.zeros((40, 1)), np.array([True] * 20 + [False] * 20)
>>> fitted = fit(table, rejected, ["strict"] * 20 + ["mild"] * 20)
>>> fitted.severity["strict"] > 1 > -1 > fitted.severity["mild"], round(abs(fitted.intercept), 3)
(True, 0.0)
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

SPREAD: Final = 1.5
"""Prior standard deviation of a severity, in log odds: reject rates from .04 to .43 were seen among six physicians."""

Table = NDArray[np.float64]


class Fitted(NamedTuple):
    """Log odds of a typical clinician are `table @ weights + intercept`; a known one adds a severity."""

    weights: NDArray[np.float64]
    intercept: float
    severity: dict[str, float]


def fit(  # noqa: PLR0913 (what one fit can be asked for)
    table: Table,
    rejected: NDArray[np.bool_],
    raters: Sequence[str | None],
    penalty: float = 100.0,
    spread: float = SPREAD,
    *,
    balanced: bool = False,
) -> Fitted:
    """Fit (N, F) features with a rater effect.

    Args:
        table: features, standardised.
        rejected: verdicts (N,).
        raters: pseudonyms (N,); None is a typical clinician.
        penalty: inverse prior variance of the weights.
        spread: prior standard deviation of the severities; 0 leaves raters out.
        balanced: give both verdicts equal weight, so that the intercept is that of even odds.
    """
    names = sorted({rater for rater in raters if rater is not None}) if spread else []
    columns = np.hstack([table, _indicators(raters, names) * spread * penalty**0.5])
    regression: Any = LogisticRegression
    found = regression(C=1 / penalty, max_iter=2000, class_weight="balanced" if balanced else None).fit(
        columns, rejected
    )
    weights, scaled = found.coef_[0][: table.shape[1]], found.coef_[0][table.shape[1] :]
    severity = scaled * spread * penalty**0.5
    centre = float(severity.mean()) if names else 0.0
    return Fitted(
        weights, float(found.intercept_[0]) + centre, dict(zip(names, (severity - centre).tolist(), strict=True))
    )


def log_odds(fitted: Fitted, table: Table, raters: Sequence[str | None] | None = None) -> NDArray[np.float64]:
    """Log odds (N,) of a typical clinician or, with `raters`, of these; an unknown one is typical."""
    typical = table @ fitted.weights + fitted.intercept
    return typical if raters is None else typical + offsets(fitted, raters)


def offsets(fitted: Fitted, raters: Sequence[str | None]) -> NDArray[np.float64]:
    """Severities (N,), 0 for an unknown rater."""
    return np.array([0.0 if rater is None else fitted.severity.get(rater, 0.0) for rater in raters])


def _indicators(raters: Sequence[str | None], names: Sequence[str]) -> Table:
    return np.array([[float(rater == name) for name in names] for rater in raters]).reshape(len(raters), len(names))
