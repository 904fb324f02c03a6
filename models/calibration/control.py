"""Change control: honour corrections, compare two versions, foresee a policy.

The shape of a predetermined change control plan: what changed, on which evidence, with which effect on the tiers, and
the way back (`history`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from models.calibration.ledger import thresholds
from models.calibration.serving import Thresholds
from models.events import Action, Calibration, Decision, Instruction, Label, Tier
from models.policy import Policy, act
from models.tiers import Facts, doubted, missing_labels, tier

Scores = Sequence[tuple[float, Mapping[str, str]]]
"""A sample of responses: raw logit and groups."""


class Effect(Struct, frozen=True, kw_only=True):
    """Share of a sample's responses per tier and per action; audits included at their rate."""

    tiers: dict[Tier, float]
    actions: dict[Action, float]

    @property
    def review_load(self) -> float:
        """Share of responses that a person has to judge."""
        return self.actions.get("review", 0.0)


class Difference(Struct, frozen=True, kw_only=True):
    """What a change of version does: parameters and thresholds (raw logits) that moved, and the effect on a sample."""

    deployment: str
    before: int
    after: int
    cause: str
    labels: int
    parameters: dict[str, tuple[float | None, float | None]]
    cuts: dict[str, dict[str, tuple[float | None, float | None]]]
    effect_before: Effect
    effect_after: Effect


def revise(log: Iterable[Label | Instruction]) -> list[Label | Instruction]:
    """Return the log as finally revised, each verdict in its first place: corrections replace, revocations remove.

    A revision may revise a revision. One whose label is not in the log has nothing to replace and is left out.
    """
    places: dict[str, str] = {}
    standing: dict[str, Label | Instruction | None] = {}
    for label in log:
        if isinstance(label, Instruction):
            standing[label.instruction_id] = label
            continue
        root = label.label_id if label.kind == "verdict" else places.get(label.revises or "")
        if root is None:
            continue
        places[label.label_id] = root
        revoked = label.kind == "revocation"
        standing[root] = None if revoked else msgspec.structs.replace(label, kind="verdict", revises=None)
    return [event for event in standing.values() if event is not None]


def rebuilding(deployment: str) -> str:
    """Return what a person types to have a calibrator learn for its policy as it is now."""
    return f"demur calibrator rebuild {deployment} --corrected --apply --by WHO"


def simulate_sample(sample: Scores, reading: Thresholds, policy: Policy) -> Effect:
    """Return the tiers and actions that a sample of scores would get, nothing else speaking against green."""
    return effect((Facts(upper=reading.risk(logit, groups)[1]) for logit, groups in sample), policy)


def simulate(
    decisions: Iterable[Decision], version: Calibration | None, policy: Policy, current: Policy | None = None
) -> Effect:
    """Return the tiers and actions of decisions if they were made anew under `policy`, before it is applied.

    By `version`, with its brake let go: so it will be in the end; by None, at the upper risk they were made with, under
    `current` (None: under `policy`). What spoke against a response itself speaks against it again. Under another
    `target`, `groups` or `calibrator` than the version's, or `current`'s, nothing is green; what will be once they are
    learnt is not foreseen. Nor is anything green after a longer warm-up, if no version says how far it got.
    """
    if version is None:
        known = current or policy
        unlearnt = {} if known.basis == policy.basis else {"same_basis": False}
        young = {"missing_labels": 1} if warms_longer(known, policy) else {}
        facts = (msgspec.structs.replace(_as_made(one), **unlearnt, **young) for one in decisions)
        return effect(facts, policy)
    reading = thresholds(version).braked({})
    missing = missing_labels(version.labels, reading.deviation(policy.green), policy)
    return effect((_redecided(one, version, reading, missing, policy) for one in decisions), policy)


def warms_longer(current: Policy, proposed: Policy) -> bool:
    """Whether a calibrator that is warm under the current policy may not be under the proposed one.

    >>> warms_longer(Policy(), Policy()), warms_longer(Policy(), Policy(warm_up_labels=301))
    (False, True)
    """
    more = proposed.warm_up_labels > current.warm_up_labels
    return more or proposed.warm_up_deviation < current.warm_up_deviation


def _as_made(decision: Decision) -> Facts:
    told = {"truncated": decision.truncated, **doubted(decision.reasons)}
    return Facts(upper=decision.upper, valid="invalid_input" not in decision.reasons, **told)


def _redecided(decision: Decision, version: Calibration, reading: Thresholds, missing: int, policy: Policy) -> Facts:
    upper = None if decision.logit is None else reading.risk(decision.logit, decision.groups)[1]
    return msgspec.structs.replace(
        _as_made(decision),
        upper=upper,
        same_model=version.model_hash in {"", decision.model_hash},
        same_basis=version.basis == policy.basis,
        calibrated=True,
        calibration_age_s=0.0,
        missing_labels=missing,
    )


def effect(facts: Iterable[Facts], policy: Policy) -> Effect:
    """Count the tiers and actions that a policy gives."""
    tiers = Counter(tier(one, policy)[0] for one in facts)
    total = max(sum(tiers.values()), 1)
    actions: defaultdict[Action, float] = defaultdict(float)
    for level, count in tiers.items():
        actions[act(level, policy.plan, audit=True)] += policy.audit_rate * count / total
        actions[act(level, policy.plan, audit=False)] += (1.0 - policy.audit_rate) * count / total
    return Effect(
        tiers={level: count / total for level, count in tiers.items()},
        actions={one: share for one, share in actions.items() if share},
    )


def compare(before: Calibration, after: Calibration, sample: Scores, policy: Policy) -> Difference:
    """Return what changed from one published version to another, and what that does to a sample of scores."""
    readings = thresholds(before), thresholds(after)
    return Difference(
        deployment=after.deployment,
        before=before.version,
        after=after.version,
        cause=after.cause,
        labels=after.labels - before.labels,
        parameters=_moved(*(reading.parameters() for reading in readings)),
        cuts=changed_cuts(before, after),
        effect_before=simulate_sample(sample, readings[0], policy),
        effect_after=simulate_sample(sample, readings[1], policy),
    )


def changed_cuts(before: Calibration, after: Calibration) -> dict[str, dict[str, tuple[float | None, float | None]]]:
    """Return the thresholds that differ, as (before, after) per scope and cut; None where there is none."""
    scopes = before.cuts | after.cuts
    changes = {scope: _moved(before.cuts.get(scope, {}), after.cuts.get(scope, {})) for scope in scopes}
    return {scope: cut for scope, cut in changes.items() if cut}


def _moved(
    before: Mapping[str, float | None], after: Mapping[str, float | None]
) -> dict[str, tuple[float | None, float | None]]:
    pairs = {name: (before.get(name), after.get(name)) for name in {**before, **after}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
