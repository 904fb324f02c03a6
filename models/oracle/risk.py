"""A published calibration read anew: from raw logit and groups to (risk, upper risk), written from the formulas alone.

    eta   = b0 + b1 x1 + b2 x2 + sum of the offsets,   x1 = (ln p + 2.8) / 1.8,  x2 = -1.5 ln(1 - p) - 0.25
    risk  = sigmoid(eta / k),                  k^2 = 1 + pi/8 (variance of b0 and offsets)
    upper = sigmoid((eta + z sd(eta)) / k)     at the logit raised by the brakes of all and of the groups, together,
                                               or by that of just these groups, if that is more;
                                               1 where that takes it off the scale, on which every threshold lies

An offset drifts back to its prior with the labels since its own: mean by half in `half_life`, variance twice as fast.
"""

from collections.abc import Mapping
from math import exp, expm1, log, log1p, pi, sqrt
from typing import Any, Final

from models.calibration.settings import FilterSettings

TOLERANCE: Final = 1e-9
"""The same formula in another order of operations: the last digits may differ."""
LOGITS: Final = 10.0
ETAS: Final = 60.0


def risks(parameters: Mapping[str, Any], logit: float, groups: Mapping[str, str]) -> tuple[float, float]:
    """Return (risk, upper risk) under `Calibration.parameters`."""
    state, brakes = parameters["filter"], parameters.get("brakes", {})
    settings = FilterSettings.read(state["settings"])
    served = {name: value for name, value in groups.items() if name not in settings.raters}
    moments = [offset(state, settings, name, value) for name, value in served.items()]
    shift, spread = sum(mean for mean, _ in moments), sum(var for _, var in moments)
    brake = _held_back(brakes.get("all", 0.0), [brakes[one] for one in map("=".join, groups.items()) if one in brakes])
    brake = max(brake, *(held for just, held in parameters.get("combined", ()) if dict(just) == {**groups}), 0.0)
    plain, _ = _log_odds(state, logit, shift, spread)
    eta, deviation = _log_odds(state, logit + brake, shift, spread)
    k = sqrt(1.0 + pi / 8.0 * (state["covariance"][0] + spread))
    is_off_scale = brake > 0.0 and logit + brake >= LOGITS
    return _sigmoid(plain / k), 1.0 if is_off_scale else _sigmoid((eta + settings.z * deviation) / k)


def _held_back(general: float, own: list[float]) -> float:
    """What the threshold of all lies above its ceiling, and what each group adds; no less than any of them alone."""
    return max(0.0, general, general + sum(one - general for one in own), *own)


def _log_odds(state: Mapping[str, Any], logit: float, shift: float, spread: float) -> tuple[float, float]:
    """Mean and standard deviation of eta at a logit."""
    s = max(-LOGITS, min(logit, LOGITS))
    below = s - log1p(exp(s)) if s < 0.0 else -log1p(exp(-s))  # ln p
    above = below - s  # ln (1 - p)
    x = (1.0, (below + 2.8) / 1.8, -1.5 * above - 0.25)
    eta = sum(b * v for b, v in zip(state["curve"], x, strict=False)) + shift
    var = spread + sum(_covariance(state, i, j) * x[i] * x[j] for i in range(3) for j in range(3))
    return max(-ETAS, min(eta, ETAS)), sqrt(max(var, 0.0))


def _covariance(state: Mapping[str, Any], i: int, j: int) -> float:
    """The upper triangle of a 4 x 4 matrix is stored by rows."""
    low, high = min(i, j), max(i, j)
    value: float = state["covariance"][4 * low - low * (low - 1) // 2 + high - low]
    return value


def offset(state: Mapping[str, Any], settings: FilterSettings, name: str, value: str) -> tuple[float, float]:
    """Mean and variance of a group value as of now; what was never seen is served from the prior."""
    prior = settings.group_variance
    known = state["groups"].get(name, {}).get(value)
    if known is None:
        return 0.0, prior
    mean, var, clock = known[:3]
    past = log(2.0) * (state["clock"] - clock) / settings.half_life
    mean *= exp(-past)
    mean = max(mean, settings.floor) if name in settings.guarded else mean
    return mean, var + (prior - var) * -expm1(-2.0 * past)


def _sigmoid(eta: float) -> float:
    return 1.0 / (1.0 + exp(-eta))
