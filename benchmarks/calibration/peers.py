"""The methods to beat, each as its authors or its library would have it used."""

import json
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from river import drift, linear_model, optim
from sklearn.isotonic import IsotonicRegression

from benchmarks.calibration.method import Groups, Method, Row
from models.calibration.basis import clip, sigmoid

CENTRE, SCALE = -2.6, 1.8


def platt(rows: Sequence[Row], steps: int = 30) -> tuple[float, float]:
    """Return intercept and slope of logistic regression on the raw logit, by Newton steps."""
    features = np.array([(1.0, row[0]) for row in rows])
    verdicts = np.array([row[2] for row in rows], float)
    weights, prior = np.array([0.0, 1.0]), np.array([0.0, 1.0])
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-features @ weights))
        curvature = (features.T * (p * (1.0 - p) + 1e-9)) @ features + 1e-3 * np.eye(2)
        weights = weights + np.linalg.solve(curvature, features.T @ (verdicts - p) - 1e-3 * (weights - prior))
    return float(weights[0]), float(weights[1])


class Static:
    """Platt scaling on the warm-up, for ever."""

    def __init__(self) -> None:
        self.intercept, self.slope = 0.0, 1.0
        self.jumps: list[float] = []

    def warm_up(self, rows: Sequence[Row]) -> None:
        self.intercept, self.slope = platt(rows)

    def predict(self, logit: float, groups: Groups) -> tuple[float, float]:  # noqa: ARG002
        p = sigmoid(clip(self.slope * logit + self.intercept, 60.0))
        return p, p

    def learn(self, row: Row, at: float, now: float, tier: int, *, audit: bool) -> None:
        """Nothing is learnt."""

    def state_bytes(self) -> int:
        return len(json.dumps([self.intercept, self.slope]))


class BatchPlatt(Static):
    """Platt scaling refitted on every 5,000 labels."""

    def __init__(self, every: int = 5_000) -> None:
        super().__init__()
        self.every, self.buffer = every, list[Row]()

    def learn(self, row: Row, at: float, now: float, tier: int, *, audit: bool) -> None:  # noqa: ARG002
        self.buffer.append(row)
        if len(self.buffer) >= self.every:
            self.intercept, self.slope = platt(self.buffer)
            self.buffer.clear()

    def state_bytes(self) -> int:
        return super().state_bytes() + len(json.dumps([(row[0], row[2]) for row in self.buffer]))


class WindowedIsotonic(Static):
    """Isotonic regression on the last 2,000 labels, refitted every 200."""

    def __init__(self, window: int = 2_000, every: int = 200) -> None:
        super().__init__()
        self.buffer, self.every, self.seen = deque[tuple[float, int]](maxlen=window), every, 0
        self.knots: list[float] = []
        self.values: list[float] = []

    def warm_up(self, rows: Sequence[Row]) -> None:
        self.buffer.extend((row[0], row[2]) for row in rows)
        self._fit()

    def predict(self, logit: float, groups: Groups) -> tuple[float, float]:  # noqa: ARG002
        j = bisect_left(self.knots, logit)
        if j in {0, len(self.knots)}:
            p = self.values[min(j, len(self.values) - 1)]
        else:
            share = (logit - self.knots[j - 1]) / (self.knots[j] - self.knots[j - 1])
            p = (1.0 - share) * self.values[j - 1] + share * self.values[j]
        return p, p

    def learn(self, row: Row, at: float, now: float, tier: int, *, audit: bool) -> None:  # noqa: ARG002
        self.buffer.append((row[0], row[2]))
        self.seen += 1
        if self.seen % self.every == 0:
            self._fit()

    def state_bytes(self) -> int:
        return len(json.dumps(list(self.buffer)))

    def _fit(self) -> None:
        logits, verdicts = zip(*self.buffer, strict=True)
        fit = IsotonicRegression(y_min=1e-3, y_max=0.999, out_of_bounds="clip").fit(logits, verdicts)
        self.knots, self.values = fit.X_thresholds_.tolist(), fit.y_thresholds_.tolist()


class RiverLogistic(Static):
    """river's logistic regression by SGD on the raw logit, with or without one-hot groups."""

    def __init__(self, rate: float, *, grouped: bool) -> None:
        super().__init__()
        self.grouped = grouped
        self.model = linear_model.LogisticRegression(optim.SGD(rate), intercept_lr=0.0, l2=1e-4 if grouped else 0.0)

    def warm_up(self, rows: Sequence[Row]) -> None:
        for _ in range(3):
            for logit, groups, verdict in rows:
                self.model.learn_one(self._features(logit, groups), bool(verdict))

    def predict(self, logit: float, groups: Groups) -> tuple[float, float]:
        p = self.model.predict_proba_one(self._features(logit, groups))[True]
        return p, p

    def learn(self, row: Row, at: float, now: float, tier: int, *, audit: bool) -> None:  # noqa: ARG002
        self.model.learn_one(self._features(row[0], row[1]), bool(row[2]))

    def state_bytes(self) -> int:
        return len(json.dumps(dict(self.model.weights)))

    def _features(self, logit: float, groups: Groups) -> dict[str, float]:
        hot = {f"{name}={value}": 1.0 for name, value in groups} if self.grouped else {}
        return {"one": 1.0, "logit": (logit - CENTRE) / SCALE, **hot}


class OnlinePlatt(Static):
    """Online Newton steps on intercept and slope (Gupta and Ramdas 2023; gamma .1, D 1 as in their code).

    With `adwin` a change in its residuals, by river's ADWIN, resets the step size.
    """

    def __init__(self, gamma: float = 0.1, adwin: float | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.detector = drift.ADWIN(adwin) if adwin else None
        self._reset()

    def warm_up(self, rows: Sequence[Row]) -> None:
        super().warm_up(rows)
        for row in rows:
            self._step(row[0], row[2])

    def learn(self, row: Row, at: float, now: float, tier: int, *, audit: bool) -> None:  # noqa: ARG002
        residual = self._step(row[0], row[2])
        if self.detector is not None:
            self.detector.update(residual)
            if self.detector.drift_detected:
                self.jumps.append(now)
                self._reset()

    def _reset(self) -> None:
        self.inverse = np.eye(2) * self.gamma**2

    def _step(self, logit: float, verdict: int) -> float:
        x = (logit - CENTRE) / SCALE
        residual = verdict - self.predict(logit, ())[0]
        gradient = -residual * np.array([1.0, x])
        pulled = self.inverse @ gradient
        self.inverse -= np.outer(pulled, pulled) / (1.0 + gradient @ pulled)
        first, second = (self.inverse @ gradient / self.gamma).tolist()
        self.intercept -= first - second * CENTRE / SCALE
        self.slope -= second / SCALE
        return residual

    def state_bytes(self) -> int:
        return len(json.dumps([self.intercept, self.slope, self.inverse.tolist()]))


class Calibeating:
    """Online Platt, then each of ten bins of its forecast replaced by the bin's mean (Foster and Hart 2023)."""

    def __init__(self) -> None:
        self.base = OnlinePlatt()
        self.seen, self.rejected = [0] * 10, [0] * 10
        self.jumps: list[float] = []

    def warm_up(self, rows: Sequence[Row]) -> None:
        self.base.warm_up(rows)

    def predict(self, logit: float, groups: Groups) -> tuple[float, float]:
        p, _ = self.base.predict(logit, groups)
        k = min(int(10.0 * p), 9)
        q = self.rejected[k] / self.seen[k] if self.seen[k] else p
        return q, q

    def learn(self, row: Row, at: float, now: float, tier: int, *, audit: bool) -> None:
        k = min(int(10.0 * self.base.predict(row[0], ())[0]), 9)
        self.seen[k] += 1
        self.rejected[k] += row[2]
        self.base.learn(row, at, now, tier, audit=audit)

    def state_bytes(self) -> int:
        return self.base.state_bytes() + len(json.dumps([self.seen, self.rejected]))


class Aci:
    """Adaptive conformal inference (Gibbs and Candes 2021) on top of online Platt: a green threshold by feedback."""

    def __init__(self, alpha: float = 0.05, rate: float = 0.05) -> None:
        self.base, self.alpha, self.rate = OnlinePlatt(), alpha, rate
        self.threshold = math.log(alpha / (1.0 - alpha))
        self.jumps: list[float] = []

    def warm_up(self, rows: Sequence[Row]) -> None:
        self.base.warm_up(rows)

    def predict(self, logit: float, groups: Groups) -> tuple[float, float]:
        p, _ = self.base.predict(logit, groups)
        inside = self.base.slope * logit + self.base.intercept < self.threshold
        return p, (min(p, 0.98 * self.alpha) if inside else max(p, 1.002 * self.alpha))

    def learn(self, row: Row, at: float, now: float, tier: int, *, audit: bool) -> None:
        if tier == 0:
            self.threshold = max(self.threshold - self.rate * (row[2] - self.alpha), -6.0)
        self.base.learn(row, at, now, tier, audit=audit)

    def state_bytes(self) -> int:
        return self.base.state_bytes() + 8


PEERS: dict[str, Callable[[], Method]] = {
    "static": Static,
    "batch-platt": BatchPlatt,
    "windowed-isotonic": WindowedIsotonic,
    "river-logistic": lambda: RiverLogistic(0.01, grouped=False),
    "river-logistic-groups": lambda: RiverLogistic(0.05, grouped=True),
    "online-platt": OnlinePlatt,
    "calibeating": Calibeating,
    "aci": Aci,
    "adwin-reset": lambda: OnlinePlatt(adwin=0.002),
}
