"""From a raw logit to (risk, upper risk): what SCORE needs of a calibrator, and nothing that learns.

    risk  = sigmoid(eta / k),                k = sqrt(1 + v0 pi / 8), v0 = variance of intercept and offsets
    upper = sigmoid((eta + z sd(eta)) / k)

The first is the mean of the sigmoid under the belief (MacKay, *The evidence framework applied to classification
networks*, 1992), with the variance at the centre of the scale instead of at this logit: so it cannot fall where the
logit rises. The tier is decided on the second.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from math import exp, log, pi, sqrt
from typing import Final

from models.calibration.basis import LIMIT, basis
from models.calibration.brake import NONE, Combination, Greens, combined_excess, scopes

PROBIT: Final = pi / 8.0
MAX_ETA: Final = 60.0
"""Log-odds are cut here so that exp cannot overflow; sigmoid(60) is 1 in double precision."""

MAX_CACHE: Final = 4096
"""Combinations of group values remembered per version; then the cache starts anew."""

STEP: Final = 0.25

GRID: Final = tuple(STEP * k for k in range(-40, 41))
"""Raw logits from -LIMIT to LIMIT at which the inverse is tabulated, read off linearly in between."""

FEATURES: Final = tuple(basis(logit) for logit in GRID)

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

    Made by `Filter.thresholds()`; a thousand of them may serve while one writer learns.
    """

    __slots__ = ("_brakes", "_cache", "_combined", "_curve", "_groups", "_prior", "_unserved", "_z")

    def __init__(  # noqa: PLR0913, PLR0917  # what one version consists of
        self,
        curve: Coefficients,
        groups: Mapping[Key, Moments],
        prior: float,
        unserved: Iterable[str],
        z: float,
        brakes: Mapping[str, float] | None = None,
        combined: Greens = NONE,
    ) -> None:
        self._curve = curve
        self._groups = dict(groups)
        self._prior = (0.0, prior)
        self._unserved = frozenset(unserved)
        self._z = z
        self._brakes = dict(brakes or {})
        self._combined = combined
        self._cache: dict[tuple[Key, ...], tuple[float, float, float]] = {}

    def braked(self, brakes: Mapping[str, float], combined: Mapping[Combination, float] = NONE) -> "Thresholds":
        """Return the same version with its upper risk read `brakes` logits higher, by scope (see `brake`).

        `combined`: for some combinations, what holds them back farther.
        """
        return Thresholds(self._curve, self._groups, self._prior[1], self._unserved, self._z, brakes, combined)

    def risk(self, logit: float, groups: Mapping[str, str]) -> tuple[float, float]:
        """Return (risk, upper risk) in [0, 1]; an unseen group value is served from the prior, with its variance.

        Both rise with the logit. NaN is read as the centre of the scale: whether a score exists is for `tiers` to say.
        What a brake raises to the end of the scale is above every threshold, for none lies higher; clipped there, it
        would be below that of a group that is safe up to the end, and nothing would hold the group back.
        """
        keys = tuple(groups.items())
        known = self._cache.get(keys)
        if known is None:
            known = self._remember(keys)
        offset, spread, brake = known
        risk, upper = evaluate(self._curve, offset, spread, self._z, logit)
        if not brake:
            return risk, upper
        if logit + brake >= LIMIT:  # NaN is not
            return risk, 1.0
        return risk, evaluate(self._curve, offset, spread, self._z, logit + brake)[1]

    def cuts(self, levels: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
        """Return, for all responses and each known group alone, the raw logit below which each level is kept.

        For people: the reading for one group with the others at their mean. None: no logit is low enough.
        """
        curve = cache(lambda k: curve_moments(self._curve, *FEATURES[k]))
        wanted = {name: _log_odds(level) for name, level in levels.items()}
        scopes = {"all": (0.0, 0.0)} | {f"{name}={value}": m for (name, value), m in self._groups.items()}
        return {
            scope: {name: self._crossing(curve, moments, odds) for name, odds in wanted.items()}
            for scope, moments in scopes.items()
        }

    def greens(self, limits: Greens, level: float) -> dict[Combination, float]:
        """Return the raw logit below which responses of these groups keep the level; none at all is the lowest.

        Only for those where it lies above their limit, or less than a step of the grid below.
        """
        curve, odds, found = cache(lambda k: curve_moments(self._curve, *FEATURES[k])), _log_odds(level), {}
        for groups, limit in limits.items():
            moments = self._moments(groups)
            if self._keeps(curve, moments, odds, limit):
                cut = self._crossing(curve, moments, odds)
                found[groups] = -LIMIT if cut is None else cut
        return found

    def parameters(self) -> dict[str, float]:
        """Return intercept, slopes and each group's offset, in logits to four places: for people."""
        names = ("intercept", "slope_low", "slope_high")
        offsets = {f"{name}={value}": mean for (name, value), (mean, _) in self._groups.items()}
        return {name: round(mean, 4) for name, mean in (*zip(names, self._curve[:3], strict=True), *offsets.items())}

    def deviation(self, level: float) -> float:
        """Standard deviation of the curve, in logits, where its mean risk is `level` (or nearest to it)."""
        return deviation(self._curve, level)

    def _remember(self, keys: tuple[Key, ...]) -> tuple[float, float, float]:
        if len(self._cache) >= MAX_CACHE:
            self._cache.clear()
        groups = tuple(sorted(keys))
        offset, spread = self._moments(groups)
        brake = (
            max(combined_excess(self._brakes, scopes(groups)), self._combined.get(groups, 0.0)) if self._brakes else 0.0
        )
        self._cache[keys] = offset, spread, brake
        return offset, spread, brake

    def _moments(self, groups: Combination) -> Moments:
        """Return what these groups add, in their order."""
        offset = spread = 0.0
        for key in groups:
            if key[0] not in self._unserved:
                mean, var = self._groups.get(key, self._prior)
                offset, spread = offset + mean, spread + var
        return offset, spread

    def _keeps(self, curve: Callable[[int], Moments], group: Moments, odds: float, limit: float) -> bool:
        """Whether the upper risk is below `odds` where the grid comes to the limit; that rules most of them out."""
        if not -LIMIT < limit < LIMIT:
            return limit < LIMIT
        (offset, spread), (mean, var) = group, curve(int((limit + LIMIT) / STEP))
        return mean + offset + self._z * sqrt(var + spread) < odds * sqrt(1.0 + PROBIT * (self._curve[3] + spread))

    def _crossing(self, curve: Callable[[int], Moments], group: Moments, odds: float) -> float | None:
        """Return the logit whose upper risk is `odds`: it rises with the logit, so few points need be looked at."""
        (offset, spread), z = group, self._z
        wanted = odds * sqrt(1.0 + PROBIT * (self._curve[3] + spread))
        low, high, below, above = 0, len(GRID), 0.0, 0.0
        while low < high:  # not bisect(): its key function would cost as much again
            k = (low + high) // 2
            mean, var = curve(k)
            upper = mean + offset + z * sqrt(var + spread)
            if wanted < upper:
                high, above = k, upper
            else:
                low, below = k + 1, upper
        if low == 0:
            return None
        if low == len(GRID):
            return LIMIT
        return round(GRID[low - 1] + (wanted - below) / (above - below) * (GRID[low] - GRID[low - 1]), 4)


def curve_moments(curve: Coefficients, x1: float, x2: float) -> Moments:
    """Return mean and variance of the curve where the features are (x1, x2)."""
    b0, b1, b2, a, b, c, d, e, f = curve
    var = a + d * x1 * x1 + f * x2 * x2 + 2.0 * (b * x1 + c * x2 + e * x1 * x2)
    return b0 + b1 * x1 + b2 * x2, max(var, 0.0)


def deviation(curve: Coefficients, level: float) -> float:
    """Standard deviation of the curve, in logits, where its mean risk is `level` (or nearest to it)."""
    b0, b1, b2, *_ = curve
    wanted = _log_odds(level)

    def beyond(features: tuple[float, float]) -> float:
        return b0 + b1 * features[0] + b2 * features[1] - wanted

    k = bisect_left(FEATURES, 0.0, key=beyond)  # slopes are not negative
    nearest = min(FEATURES[max(k - 1, 0) : k + 1], key=lambda features: abs(beyond(features)))
    return sqrt(curve_moments(curve, *nearest)[1])


def _log_odds(p: float) -> float:
    return log(p / (1.0 - p))
