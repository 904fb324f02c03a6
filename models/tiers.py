"""From upper risk to tier, with the reasons. Any doubt, and a response is not green.

A tier is the worst of what the risk says and of what each doubt allows:

    nothing trustworthy is known of the response       red        invalid input, no finite score
    a risk is known, but not to be relied upon         yellow     truncated, unlike the training data, another model,
                                                                  calibration of other settings, missing, warming up
                                                                  or stale, too late
    none of these                                      by risk    upper < green: green; upper < red: yellow; else red

A doubt of the second kind never lowers a tier: a truncated response of high risk stays red. Without any calibration
the risk is that of the prior, which is wide, so such a response is yellow at best.
"""

from collections.abc import Iterable
from math import ceil, inf, isfinite
from typing import Any, Final

from msgspec import Struct

from models.events import Tier
from models.policy import Policy

DOUBTS: Final[dict[str, dict[str, Any]]] = {
    "truncated": {"truncated": True},
    "out_of_distribution": {"in_distribution": False},
    "model_mismatch": {"same_model": False},
    "settings_mismatch": {"same_basis": False},
    "calibration_missing": {"calibrated": False},
    "warming_up": {"missing_labels": 1},
    "calibration_stale": {"calibration_age_s": inf},
    "deadline_missed": {"on_time": False},
}
"""What each doubt's code says of the facts, at the least; in the order in which reasons give them."""


class Facts(Struct, frozen=True, kw_only=True):
    """All that a tier depends on. Ages are in seconds of event time; `upper` is the calibrator's upper risk."""

    upper: float | None
    valid: bool = True
    truncated: bool = False
    in_distribution: bool = True
    same_model: bool = True
    same_basis: bool = True
    calibrated: bool = True
    missing_labels: int = 0
    calibration_age_s: float = 0.0
    on_time: bool = True


def tier(facts: Facts, policy: Policy) -> tuple[Tier, tuple[str, ...]]:
    """Return the tier and its reasons, each `code` or `code: detail`.

    >>> tier(Facts(upper=0.03), Policy())
    ('green', ('risk_below_green: 0.0300 < 0.05',))
    >>> tier(Facts(upper=0.03, truncated=True, missing_labels=120), Policy())
    ('yellow', ('truncated', 'warming_up: 120 labels missing'))
    >>> tier(Facts(upper=float("nan")), Policy())
    ('red', ('score_missing',))
    """
    if not facts.valid:
        return "red", ("invalid_input",)
    if facts.upper is None or not isfinite(facts.upper):
        return "red", ("score_missing",)
    level, why = by_risk(facts.upper, policy)
    found = doubts(facts, policy)
    if not found:
        return level, (why,)
    if level == "green":
        return "yellow", found
    return level, (why, *found)


def doubts(facts: Facts, policy: Policy) -> tuple[str, ...]:
    """Return every doubt that keeps a scored response from being green (invariant I6)."""
    held = (
        facts.truncated,
        not facts.in_distribution,
        not facts.same_model,
        not facts.same_basis,
        not facts.calibrated,
        facts.missing_labels > 0,
        not facts.calibration_age_s <= policy.max_calibration_age_s,
        not facts.on_time,
    )
    if True not in held:
        return ()
    details = {"warming_up": f": {facts.missing_labels} labels missing"}
    return tuple([code + details.get(code, "") for code, holds in zip(DOUBTS, held, strict=True) if holds])


def doubted(reasons: Iterable[str]) -> dict[str, Any]:
    """Return the facts behind the doubts among reasons, as far as they say: fields of `Facts`.

    >>> doubted(("risk_above_red: 0.4000 >= 0.2", "truncated", "warming_up: 120 labels missing"))
    {'truncated': True, 'missing_labels': 1}
    """
    found: dict[str, Any] = {}
    for reason in reasons:
        found |= DOUBTS.get(reason.partition(":")[0], {})
    return found


def missing_labels(labels: int, deviation: float, policy: Policy) -> int:
    """Return how many labels a deployment still lacks before it may show green; 0: it is warm.

    It needs `warm_up_labels`, and its curve at the green cut known to `warm_up_deviation`. Variance falls as 1 / n,
    so a deviation d after n labels takes about n (d / wanted)^2 labels in all.

    >>> missing_labels(100, 0.5, Policy())
    200
    >>> missing_labels(300, 0.5, Policy())
    313
    >>> missing_labels(400, 0.2, Policy())
    0
    """
    wanted = policy.warm_up_deviation
    accurate = labels if deviation <= wanted else max(labels + 1, ceil(labels * (deviation / wanted) ** 2))
    return max(policy.warm_up_labels, accurate) - labels


def by_risk(upper: float, policy: Policy) -> tuple[Tier, str]:
    """Return the tier that an upper risk gives by itself, and the reason."""
    if upper < policy.green:
        return "green", f"risk_below_green: {upper:.4f} < {policy.green:g}"
    if upper < policy.red:
        return "yellow", f"risk_between_cuts: {upper:.4f} < {policy.red:g}"
    return "red", f"risk_above_red: {upper:.4f} >= {policy.red:g}"
