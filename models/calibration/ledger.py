"""LEARN's pure fold: one deployment's labels, in the order of its log, into versions of its calibrator.

Version n is the fold of the first n *changes*. A label is a change when it carries evidence: kind `verdict`, weight
above 0, and a decision with a logit. Any other label is counted under its reason and changes nothing:

    correction, revocation   a label cannot be subtracted: counted now, honoured at the next rebuild
    weightless               abandoned or retracted: not evidence
    unscored                 its decision had no score, so there is nothing to calibrate

A change that the filter sets aside (older than a jump, or of a quarantined group) still has its version, so that
versions and labels stay one to one; it does not count towards the warm-up.

The state is mutable, with `snapshot` and `restore`: a fold costs ten microseconds, copying the state would cost ten
times that. Duplicates of a label id are the caller's to drop: it keeps the ids and offsets beside the snapshot.
There is no clock: `as_of` is the latest `occurred_at` of a folded label.
"""

from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from models.calibration.filter import Filter, Observation
from models.calibration.jumps import Jump
from models.calibration.serving import Thresholds
from models.errors import StateError
from models.events import Alarm, Calibration, Label, digest
from models.policy import Policy
from models.tiers import missing_labels

SCHEMA: Final = 1


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `Ledger.snapshot` returns, as a type."""

    schema: Literal[1] = 1
    deployment: str
    version: int
    cause: str
    as_of: float | None
    counts: dict[str, int]
    filter: dict[str, Any]


class Ledger:
    """The calibrator of one deployment, its version, and its accounts.

    >>> ledger = Ledger("icu", Policy())
    >>> ledger.version, ledger.labels, ledger.missing_labels()
    (0, 0, 300)
    """

    __slots__ = ("as_of", "cause", "counts", "deployment", "filter", "policy", "version")

    def __init__(self, deployment: str, policy: Policy) -> None:
        self.deployment = deployment
        self.policy = policy
        self.filter = Filter(policy.calibrator)
        self.version = 0
        self.cause = "prior"
        self.as_of: datetime | None = None
        self.counts: dict[str, int] = {}

    @property
    def labels(self) -> int:
        """Labels that the estimate rests on."""
        return self.filter.clock

    def apply(self, label: Label) -> tuple[Jump, ...]:
        """Fold one label of this deployment. Returns what it revealed; `alarm` puts that on the wire."""
        reason = idle(label)
        if reason is not None:
            self.counts[reason] = self.counts.get(reason, 0) + 1
            return ()
        jump = self.filter.observe(observation(label, self.policy.target))
        self.version += 1
        self.cause = "labels" if jump is None else f"{jump.kind}: {jump.scope} {jump.delta:+.1f}"
        if self.as_of is None or label.occurred_at > self.as_of:
            self.as_of = label.occurred_at
        return () if jump is None else (jump,)

    def missing_labels(self) -> int:
        """Labels that the deployment lacks before it may show green."""
        return missing_labels(self.labels, self.filter.thresholds().deviation(self.policy.green), self.policy)

    def calibration(self) -> Calibration | None:
        """Return the current version for the scorers; None before the first change: there is no event time yet."""
        if self.as_of is None:
            return None
        thresholds = self.filter.thresholds()
        deviation = thresholds.deviation(self.policy.green)
        return Calibration(
            deployment=self.deployment,
            version=self.version,
            parameters=self.filter.state(),
            cuts=thresholds.cuts({"green": self.policy.green, "red": self.policy.red}),
            labels=self.labels,
            missing_labels=missing_labels(self.labels, deviation, self.policy),
            cause=self.cause,
            as_of=self.as_of,
        )

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state as versioned JSON types."""
        return {
            "schema": SCHEMA,
            "deployment": self.deployment,
            "version": self.version,
            "cause": self.cause,
            "as_of": None if self.as_of is None else self.as_of.timestamp(),
            "counts": dict(sorted(self.counts.items())),
            "filter": self.filter.state(),
        }

    @classmethod
    def restore(cls, snapshot: object, policy: Policy) -> "Ledger":
        """Continue from `snapshot`, bit for bit. Raises `StateError` if it is damaged or of another version.

        The filter keeps the settings that it was folded with; other `policy.calibrator` settings need a rebuild.
        """
        try:
            saved = msgspec.convert(snapshot, Snapshot)
        except msgspec.ValidationError as error:
            raise StateError(f"ledger snapshot is damaged or of another version: {error}") from None
        self = cls(saved.deployment, policy)
        self.version, self.cause, self.counts = saved.version, saved.cause, dict(saved.counts)
        self.as_of = None if saved.as_of is None else instant(saved.as_of)
        self.filter = Filter.restore(saved.filter)
        return self


def thresholds(calibration: Calibration) -> Thresholds:
    """Return the scorer's reading of a published version. Raises `StateError` if its parameters are damaged."""
    return Filter.restore(calibration.parameters).thresholds()


def idle(label: Label) -> str | None:
    """Return why a label folds nothing, or None if it is a change."""
    if label.kind != "verdict":
        return label.kind
    if label.weight <= 0.0:
        return "weightless"
    return "unscored" if label.decision.logit is None else None


def observation(label: Label, target: str) -> Observation:
    """Return what the filter sees of a label: its groups, its clinician, and the event time of the response.

    Event time is the *response's*: a label says how things stood when the answer was given.
    """
    scored = label.decision
    groups = [*scored.groups.items(), ("clinician", label.clinician)]
    rejected = label.rejected if target == "any" else label.depth == "deep"
    logit = float("nan") if scored.logit is None else scored.logit
    return Observation(logit, groups, rejected, label.weight, scored.occurred_at.timestamp(), scored.audit)


def instant(seconds: float) -> datetime:
    """Return the instant of `seconds` since the epoch.

    >>> instant(1767600000.0).isoformat()
    '2026-01-05T08:00:00+00:00'
    """
    return datetime.fromtimestamp(seconds, tz=UTC)


def alarm(jump: Jump, label: Label) -> Alarm:
    """Put a jump on the wire. The id derives from label and scope, so that a replay repeats it byte for byte."""
    return Alarm(
        alarm_id=digest(f"{label.label_id}|{jump.kind}|{jump.scope}".encode())[:32],
        kind=jump.kind,
        deployment=label.deployment,
        scope=jump.scope,
        statistic=jump.statistic,
        threshold=jump.threshold,
        evidence={"delta_logits": jump.delta, "label": label.label_id},
        since=instant(jump.since),
        raised_at=label.occurred_at,
    )
