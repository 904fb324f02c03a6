"""What a decision must be, given its own facts, its policy, and the calibrator version that it cites.

Two facts are taken from the decision's own reasons, for no log holds them: that the text was unlike the training data,
and that the scorer had lost contact with the calibrations. Both only ever keep a response from being green.
"""

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from math import isfinite
from typing import Any, Final

import msgspec

from models.calibration.filter import Filter
from models.events import Calibration, Decision, Tier, digest
from models.oracle.logs import Rules
from models.oracle.risk import TOLERANCE, risks
from models.policy import EDITION, Policy

DOUBTED: Final = ("out_of_distribution", "calibration_missing")
OF_VERSIONS: Final = ("model_mismatch", "settings_mismatch", "warming_up", "calibration_stale")
"""Doubts that follow from the version that a decision cites."""
MAX_WAIT_S: Final = 300.0
FAILURES: Final = frozenset({"deadline_missed", "model_error", "model_missing", "shutting_down"})
"""Why there may be no score; a number that is not finite has no further reason."""
SHOWN: Final = {
    ("full-access", "green"): "show",
    ("full-access", "yellow"): "banner",
    ("full-access", "red"): "review",
    ("green-only", "green"): "show",
    ("green-only", "yellow"): "withhold",
    ("green-only", "red"): "withhold",
}


def policy_of(decision: Decision, rules: Rules) -> Policy | None:
    """Return the policy that the decision's `config_hash` names, if it is among those that were given."""
    for policies in reversed(rules.policies):
        policy = policies.of(decision.deployment)
        if config_hash(policy) == decision.config_hash:
            return policy
    return None


def config_hash(policy: Policy) -> str:
    """Return the hash that decisions under a policy carry: of what is not as in a policy that says nothing."""
    usual = type(policy)()
    own = {name: said for name in policy.__struct_fields__ if (said := getattr(policy, name)) != getattr(usual, name)}
    if "calibrator" in own:
        own["calibrator"] = policy.calibrator.overrides()
    return digest(msgspec.json.encode([EDITION, own], order="deterministic"))[:32]


@lru_cache(maxsize=256)
def basis_of(policy: Policy) -> str:
    """Return what versions that a policy may be served by carry."""
    whole = {"target": policy.target, "groups": sorted({*policy.groups}), "calibrator": policy.calibrator.overrides()}
    return digest(msgspec.json.encode([*whole.values()], order="deterministic"))[:16]


def complaints(decision: Decision, policy: Policy, cited: Calibration | None) -> Iterator[tuple[str, str]]:
    """Yield (invariant, what is wrong) of a decision on a valid response; `cited` None: it was made on the prior."""
    yield from _routed(decision, policy)
    if decision.logit is None:
        yield from _unscored(decision)
        return
    yield from _risk(decision, policy, cited)
    yield from _tiered(decision, policy, tuple(_doubts(decision, policy, cited)))


def complaints_of_any(decision: Decision, policy: Policy) -> Iterator[tuple[str, str]]:
    """Yield what is wrong whatever the version was that a decision cites: it is beyond retention."""
    yield from _routed(decision, policy)
    if decision.logit is None:
        yield from _unscored(decision)
        return
    if decision.risk is None:
        yield "I7", "`logit` without `risk`"
    yield from _tiered(decision, policy, tuple(_doubts_of_any(decision)))


def _routed(decision: Decision, policy: Policy) -> Iterator[tuple[str, str]]:
    audit = _drawn(decision.response_id, policy.audit_key) < policy.audit_rate
    if (decision.audit, decision.propensity) != (audit, policy.audit_rate if audit else 1.0):
        yield "I7", "`audit` or `propensity` is not what the draw and the policy give"
    action = "review" if audit else SHOWN[policy.plan, decision.tier]
    if decision.action != action:
        yield "I7", f"`action` is {decision.action}; its tier, plan and audit give {action}"


def _tiered(decision: Decision, policy: Policy, doubts: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    tier, reasons = _tier(decision, policy, doubts)
    if decision.tier != tier:
        yield ("I6" if decision.tier == "green" else "I7"), f"`tier` is {decision.tier}; its facts give {tier}"
    if decision.reasons != reasons:
        yield "I7", "`reasons` are not those that its facts give"


def _unscored(decision: Decision) -> Iterator[tuple[str, str]]:
    if (decision.risk, decision.upper, decision.truncated) != (None, None, False):
        yield "I7", "`risk`, `upper` or `truncated` without `logit`"
    if decision.tier != "red":
        yield "I6", f"`tier` is {decision.tier} without a score: it must be red"
    first, *why = decision.reasons or ("",)
    if first != "score_missing" or len(why) > 1 or not all(reason.partition(":")[0] in FAILURES for reason in why):
        yield "I7", "`reasons` do not say that the score is missing, or not in the words of a scorer"


def _risk(decision: Decision, policy: Policy, cited: Calibration | None) -> Iterator[tuple[str, str]]:
    parameters = cited.parameters if cited else {"filter": Filter(policy.calibrator).state()}
    assert decision.logit is not None
    wanted, version = risks(parameters, decision.logit, decision.groups), decision.calibrator_version
    for name, found, value in zip(("risk", "upper"), (decision.risk, decision.upper), wanted, strict=True):
        if found is None or not abs(found - value) <= TOLERANCE:
            yield (
                "I7",
                f"`{name}` is {found}; logit, groups and version {version} give {value}",
            )


def _tier(decision: Decision, policy: Policy, doubts: tuple[str, ...]) -> tuple[Tier, tuple[str, ...]]:
    upper = decision.upper
    if upper is None or not isfinite(upper):
        return "red", ("score_missing",)
    if upper >= policy.red:
        return "red", (f"risk_above_red: {upper:.4f} >= {policy.red:g}", *doubts)
    if upper >= policy.green:
        return "yellow", (f"risk_between_cuts: {upper:.4f} < {policy.red:g}", *doubts)
    if doubts:
        return "yellow", doubts
    return "green", (f"risk_below_green: {upper:.4f} < {policy.green:g}",)


def _doubts(decision: Decision, policy: Policy, cited: Calibration | None) -> Iterator[str]:
    """Yield, in their order, what keeps a scored response from being green."""
    lost = DOUBTED[1] in decision.reasons
    missing = max(cited.missing_labels, policy.warm_up_labels - cited.labels) if cited else policy.warm_up_labels
    age = (decision.occurred_at - cited.as_of).total_seconds() if cited else 0.0
    if decision.truncated:
        yield "truncated"
    if DOUBTED[0] in decision.reasons:
        yield DOUBTED[0]
    if cited and cited.model_hash not in {"", decision.model_hash}:
        yield "model_mismatch"
    if cited and cited.basis != basis_of(policy):
        yield "settings_mismatch"
    if cited is None or lost:
        yield DOUBTED[1]
    if missing > 0:
        yield f"warming_up: {missing} labels missing"
    if age > policy.max_calibration_age_s:
        yield "calibration_stale"
    if _is_late(decision):
        yield "deadline_missed"


def _doubts_of_any(decision: Decision) -> Iterator[str]:
    """Yield the doubts where the version is not known: for those of it the reasons are believed, the rest must be."""
    if decision.truncated:
        yield "truncated"
    yield from (reason for reason in decision.reasons if reason.partition(":")[0] in (*DOUBTED, *OF_VERSIONS))
    if _is_late(decision):
        yield "deadline_missed"


def _is_late(decision: Decision) -> bool:
    return abs((decision.decided_at - decision.occurred_at).total_seconds()) > MAX_WAIT_S


def _drawn(response_id: str, key: str) -> float:
    drawn: Any = blake2b(response_id.encode(), key=key.encode()[:64], digest_size=8).digest()
    return (int.from_bytes(drawn, "big") >> 11) / 2**53
