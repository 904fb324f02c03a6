"""The online calibrator as a river estimator."""

from collections.abc import Mapping
from math import isnan
from typing import Any

from river import base

from models.calibration.basis import number
from models.calibration.filter import Filter, Observation
from models.calibration.serving import Groups
from models.calibration.settings import FilterSettings
from models.errors import Invalid


class RejectionCalibrator(base.Classifier):
    """Rejection probability from a raw logit, per group, learnt from one delayed label at a time.

    `x` holds the raw score under `logit` and any number of groups: each string-valued feature is one, named by its
    key. Unseen values are served from the prior; other features are ignored, and without a score the middle of the
    scale is taken. The log-odds are

        eta = b0 + b1 ln p - b2 ln(1 - p) + sum of the groups' offsets,    p = sigmoid(logit)

    with a Gaussian belief updated by one implicit Bayesian step per label, a random walk, and a CUSUM of likelihood
    ratios per block that re-opens the belief when the block jumps. `filter` does it, and tells the upper risk, too.

    >>> model = RejectionCalibrator()
    >>> x = {"logit": -2.0, "site": "north", "category": "dosing"}
    >>> round(model.predict_proba_one(x)[True], 3)
    0.161
    >>> for _ in range(100):
    ...     model.learn_one(x, False)
    >>> round(model.predict_proba_one(x)[True], 3)
    0.022

    Context in numbers becomes a group by naming its ranges, in a pipeline of river's own:

    >>> from river import compose
    >>> def named(x):
    ...     return {**x, "turn": "first" if x["turn"] == 0 else "later"}
    >>> pipeline = compose.FuncTransformer(named) | RejectionCalibrator()
    >>> for turn in range(200):
    ...     pipeline.learn_one({"logit": -2.0, "turn": turn % 2, "specialty": "icu"}, turn % 2 == 1)
    >>> [round(pipeline.predict_proba_one({"logit": -2.0, "turn": turn})[True], 2) for turn in (0, 1)]
    [0.14, 0.78]

    References:
        Kull, Silva Filho, Flach, *Beta calibration*, 2017. McCormick et al., *Dynamic logistic regression and dynamic
        model averaging*, 2012. Shin, Ramdas, Rinaldo, *E-detectors*, 2022.
    """

    def __init__(self, settings: FilterSettings | None = None) -> None:
        self.settings = settings
        self.filter = Filter() if settings is None else Filter(settings)

    def learn_one(
        self, x: Mapping[Any, Any], y: Any, w: float = 1.0, *, at: float | None = None, forced: bool = False
    ) -> None:
        """Fold one label. `at`: the event's time in seconds; `forced`: an audited verdict, not a volunteered one.

        Raises `Invalid` if `logit` is there and is no number: labels of another score would bend the curve unseen.
        """
        logit = number(x.get("logit"))
        if isnan(logit) and "logit" in x:
            raise Invalid("feature `logit` is not a number: give the raw score, or none")
        self.filter.observe(Observation(logit, groups_of(x), bool(y), w, at, forced))

    def predict_proba_one(self, x: Mapping[Any, Any], **_: Any) -> dict[Any, float]:
        """Return {False: 1 - risk, True: risk}."""
        risk, _upper = self.filter.risk(number(x.get("logit")), groups_of(x))
        return {False: 1.0 - risk, True: risk}

    def state(self) -> dict[str, Any]:
        """Return the whole state as versioned JSON types."""
        return self.filter.state()

    @classmethod
    def from_state(cls, state: object) -> "RejectionCalibrator":
        """Continue from `state`, bit for bit. Raises `StateError` if it is damaged or of another version."""
        restored = Filter.restore(state)
        self = cls(restored.settings)
        self.filter = restored
        return self


def groups_of(x: Mapping[Any, Any]) -> Groups:
    """Return the string-valued features as groups, but for `logit`, which is the score whatever it holds.

    >>> groups_of({"logit": "-2.0", "site": "north", "turn": 3})
    (('site', 'north'),)
    """
    return tuple((str(name), value) for name, value in x.items() if isinstance(value, str) and name != "logit")
