"""From a raw logit to (risk, upper risk): what SCORE needs of a calibrator, and nothing that learns.

    risk  = sigmoid(eta / k),                k = sqrt(1 + v0 pi / 8), v0 = variance of intercept and offsets
    upper = sigmoid((eta + z sd(eta)) / k)

The first is the mean of the sigmoid under the belief (MacKay, *The evidence framework applied to classification
networks*, 1992), with the variance at the centre of the scale instead of at this logit: so it cannot fall where the
logit rises. The tier is decided on the second.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from math import exp, log, pi, sqrt
from typing import Final

from models.calibration.basis import LIMIT, basis

PROBIT: Final = pi / 8.0
MAX_ETA: Final = 60.0
"""Log-odds are cut here so that exp cannot overflow; sigmoid(60) is 1 in double precision."""

MAX_CACHE: Final = 4096
"""Combinations of group values remembered per version; then the cache starts anew."""

GRID: Final = tuple(LIMIT * k / 40.0 for k in range(-40, 41))
"""Raw logits at which the inverse is tabulated: steps of 0.25, read off linearly in between."""

Key = tuple[str, str]
"""A group: its name and its value, such as ("category", "dosing")."""

Groups = tuple[Key, ...]

Moments = tuple[float, float]
"""Mean and variance, in logits and squared logits."""

Coefficients = tuple[float, float, float, float, float, float, float, float, float]
"""Means b0 b1 b2 and covariances 00 01 02 11 12 22 of intercept and slopes."""


def evaluate(curve: Coefficients, offset: float, spread: float, z: float, logit: float) -> tuple[float, float]:
    """Return (risk, upper risk) for groups that add `offset` with variance `spread`.

    >>> identity = (-2.8 + 0.25 / 1.5, 1.8, 1 / 1.5, 0.01, 0, 0, 0, 0, 0)
    >>> [round(p, 4) for p in evaluate(identity, 0.0, 0.03, z=1.0, logit=-3.0)]
    [0.0485, 0.0585]
    """
    x1, x2 = basis(logit)
    b0, b1, b2, a, b, c, d, e, f = curve
    eta = b0 + b1 * x1 + b2 * x2 + offset
    if not -MAX_ETA < eta < MAX_ETA:
        eta = MAX_ETA if eta > 0.0 else -MAX_ETA
    var = a + spread + d * x1 * x1 + f * x2 * x2 + 2.0 * (b * x1 + c * x2 + e * x1 * x2)
    k = sqrt(1.0 + PROBIT * (a + spread))
    return 1.0 / (1.0 + exp(-eta / k)), 1.0 / (1.0 + exp(-(eta + z * sqrt(max(var, 0.0))) / k))


class Thresholds:
    """The frozen, fast reading of one calibrator version.

    Made by `RejectionCalibrator.thresholds()`; a thousand of them may serve while one writer learns.
    """

    __slots__ = ("_brakes", "_cache", "_curve", "_groups", "_prior", "_unserved", "_z")

    def __init__(  # noqa: PLR0913, PLR0917  # what one version consists of
        self,
        curve: Coefficients,
        groups: Mapping[Key, Moments],
        prior: float,
        unserved: Iterable[str],
        z: float,
        brakes: Mapping[str, float] | None = None,
    ) -> None:
        self._curve = curve
        self._groups = dict(groups)
        self._prior = (0.0, prior)
        self._unserved = frozenset(unserved)
        self._z = z
        self._brakes = dict(brakes or {})
        self._cache: dict[tuple[Key, ...], tuple[float, float, float]] = {}

    def braked(self, brakes: Mapping[str, float]) -> "Thresholds":
        """Return the same version with its upper risk read `brakes` logits higher, by scope (see `brake`)."""
        return Thresholds(self._curve, self._groups, self._prior[1], self._unserved, self._z, brakes)

    def risk(self, logit: float, groups: Mapping[str, str]) -> tuple[float, float]:
        """Return (risk, upper risk) in [0, 1]; an unseen group value is served from the prior, with its variance.

        Both rise with the logit. NaN is read as the centre of the scale: whether a score exists is for `tiers` to say.
        """
        keys = tuple(groups.items())
        known = self._cache.get(keys)
        if known is None:
            known = self._remember(keys)
        offset, spread, brake = known
        risk, upper = evaluate(self._curve, offset, spread, self._z, logit)
        return (risk, evaluate(self._curve, offset, spread, self._z, logit + brake)[1]) if brake else (risk, upper)

    def cuts(self, levels: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
        """Return, for all responses and each known group alone, the raw logit below which each level is kept.

        For people: the reading for one group with the others at their mean. None: no logit is low enough.
        """
        curve = [self._curve_moments(logit) for logit in GRID]
        scopes = {"all": (0.0, 0.0)} | {f"{name}={value}": m for (name, value), m in self._groups.items()}
        return {
            scope: {name: self._crossing(curve, moments, level) for name, level in levels.items()}
            for scope, moments in scopes.items()
        }

    def parameters(self) -> dict[str, float]:
        """Return intercept, slopes and each group's offset, in logits to four places: for people."""
        names = ("intercept", "slope_low", "slope_high")
        offsets = {f"{name}={value}": mean for (name, value), (mean, _) in self._groups.items()}
        return {name: round(mean, 4) for name, mean in (*zip(names, self._curve[:3], strict=True), *offsets.items())}

    def deviation(self, level: float) -> float:
        """Standard deviation of the curve, in logits, where its mean risk is `level` (or nearest to it)."""
        moments = [self._curve_moments(logit) for logit in GRID]
        wanted = _log_odds(level)
        return sqrt(min(moments, key=lambda pair: abs(pair[0] - wanted))[1])

    def _remember(self, keys: tuple[Key, ...]) -> tuple[float, float, float]:
        if len(self._cache) >= MAX_CACHE:
            self._cache.clear()
        offset = spread = 0.0
        for key in sorted(keys):
            if key[0] not in self._unserved:
                mean, var = self._groups.get(key, self._prior)
                offset, spread = offset + mean, spread + var
        brake = max(self._brakes.get(scope, 0.0) for scope in ("all", *(f"{name}={value}" for name, value in keys)))
        self._cache[keys] = offset, spread, brake
        return offset, spread, brake

    def _curve_moments(self, logit: float) -> Moments:
        x1, x2 = basis(logit)
        b0, b1, b2, a, b, c, d, e, f = self._curve
        var = a + d * x1 * x1 + f * x2 * x2 + 2.0 * (b * x1 + c * x2 + e * x1 * x2)
        return b0 + b1 * x1 + b2 * x2, max(var, 0.0)

    def _crossing(self, curve: list[Moments], group: Moments, level: float) -> float | None:
        wanted = _log_odds(level) * sqrt(1.0 + PROBIT * (self._curve[3] + group[1]))
        upper = [mean + group[0] + self._z * sqrt(var + group[1]) for mean, var in curve]
        k = bisect_right(upper, wanted)
        if k == 0:
            return None
        if k == len(GRID):
            return LIMIT
        share = (wanted - upper[k - 1]) / (upper[k] - upper[k - 1])
        return round(GRID[k - 1] + share * (GRID[k] - GRID[k - 1]), 4)


def _log_odds(p: float) -> float:
    return log(p / (1.0 - p))
