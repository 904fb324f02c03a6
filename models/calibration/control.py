"""Change control: rebuild a calibrator from its labels, compare two versions, foresee a policy.

The shape of a predetermined change control plan: what changed, on which evidence, with which effect on the tiers, and
the way back (`Ledger.rollback`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from models.calibration.ledger import Ledger, thresholds
from models.calibration.serving import Thresholds
from models.events import Action, Calibration, Label, Tier
from models.policy import Policy, act
from models.tiers import Facts, tier

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
    """What a change of version does: thresholds (raw logits) that moved, and the effect on a sample."""

    deployment: str
    before: int
    after: int
    cause: str
    labels: int
    cuts: dict[str, dict[str, tuple[float | None, float | None]]]
    effect_before: Effect
    effect_after: Effect


def rebuild(deployment: str, policy: Policy, labels: Iterable[Label], *, corrected: bool = False) -> Ledger:
    """Fold a label log anew. Plain, it reproduces the running state bit for bit; `corrected`, it honours revisions."""
    ledger = Ledger(deployment, policy)
    for label in revise(labels) if corrected else labels:
        ledger.apply(label)
    return ledger


def revise(labels: Iterable[Label]) -> list[Label]:
    """Return the verdicts as finally revised, each in its first place: corrections replace, revocations remove.

    A revision may revise a revision. One whose label is not in the log has nothing to replace and is left out.
    """
    places: dict[str, str] = {}
    standing: dict[str, Label | None] = {}
    for label in labels:
        root = label.label_id if label.kind == "verdict" else places.get(label.revises or "")
        if root is None:
            continue
        places[label.label_id] = root
        standing[root] = None if label.kind == "revocation" else as_verdict(label)
    return [label for label in standing.values() if label is not None]


def as_verdict(label: Label) -> Label:
    """Return a correction as the verdict that it puts in place."""
    if label.kind == "verdict":
        return label
    facts = {name: getattr(label, name) for name in label.__struct_fields__}
    return Label(**{**facts, "kind": "verdict", "revises": None})


def foresee(sample: Scores, reading: Thresholds, policy: Policy) -> Effect:
    """Return the tiers and actions that a sample of scores would get: for a proposed policy before it is applied."""
    found = [tier(Facts(upper=reading.risk(logit, groups)[1]), policy)[0] for logit, groups in sample]
    tiers = Counter(found)
    total = max(len(found), 1)
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
    return Difference(
        deployment=after.deployment,
        before=before.version,
        after=after.version,
        cause=after.cause,
        labels=after.labels - before.labels,
        cuts=moved(before, after),
        effect_before=foresee(sample, thresholds(before), policy),
        effect_after=foresee(sample, thresholds(after), policy),
    )


def moved(before: Calibration, after: Calibration) -> dict[str, dict[str, tuple[float | None, float | None]]]:
    """Return the thresholds that differ, as (before, after) per scope and cut; None where there is none."""
    changes = {
        scope: {
            name: (before.cuts.get(scope, {}).get(name), after.cuts.get(scope, {}).get(name))
            for name in before.cuts.get(scope, {}) | after.cuts.get(scope, {})
        }
        for scope in before.cuts | after.cuts
    }
    differing = {s: {name: pair for name, pair in cut.items() if pair[0] != pair[1]} for s, cut in changes.items()}
    return {scope: cut for scope, cut in differing.items() if cut}
