"""LEARN's pure fold: one deployment's labels, in the order of its log, into versions of its calibrator.

Version n is the fold of the first n *changes*. A label is a change when it carries evidence: kind `verdict`, weight
above 0, and a decision with a logit. Any other label is counted under its reason and changes nothing:

    correction, revocation   a label cannot be subtracted: counted now, honoured at the next rebuild
    weightless               abandoned or retracted: not evidence
    unscored                 its decision had no score, so there is nothing to calibrate

A change that the filter sets aside (older than a jump, or of a quarantined group) still has its version, so that
versions and labels stay one to one; it does not count towards the warm-up.

Between a label and the filter stand two safeguards: `influence` caps the weight of any one clinician, and `maturity`
holds labels back while rejections arrive faster than acceptances. A held label becomes a change when a later label's
`occurred_at` shows that its response is old enough: event time is the only clock.

The state is mutable, with `snapshot` and `restore`: a fold costs ten microseconds, copying the state would cost ten
times that. Duplicates of a label id are the caller's to drop: it keeps the ids and offsets beside the snapshot.
There is no clock: `as_of` is the latest `occurred_at` of a folded label.
"""

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime
from math import nan
from typing import Any, Final, Literal

import msgspec

from models.calibration.brake import DAY_S, Brake, effective
from models.calibration.filter import Filter, Observation
from models.calibration.influence import Influence
from models.calibration.jumps import Jump
from models.calibration.maturity import Maturity
from models.calibration.serving import Thresholds
from models.errors import StateError
from models.events import Alarm, Calibration, Label, digest
from models.policy import Policy
from models.tiers import missing_labels

SCHEMA: Final = 1
MAX_HELD: Final = 20_000
"""Labels held back at most; beyond, the most mature is folded early. Bounds the snapshot to some ten megabytes."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `Ledger.snapshot` returns, as a type."""

    schema: Literal[1] = 1
    deployment: str
    version: int
    cause: str
    as_of: float | None
    counts: dict[str, int]
    filter: dict[str, Any]
    brake: dict[str, Any]
    influence: dict[str, Any]
    maturity: dict[str, Any]
    held: list[tuple[float, int, Label]]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Calibration.parameters`: the filter's state, and by scope the logits that its brake adds."""

    filter: dict[str, Any]
    brakes: dict[str, float]


class Ledger:
    """The calibrator of one deployment, its version, and its accounts.

    >>> ledger = Ledger("icu", Policy())
    >>> ledger.version, ledger.labels, ledger.missing_labels()
    (0, 0, 300)
    """

    __slots__ = (
        "_brake",
        "_held",
        "_influence",
        "_maturity",
        "as_of",
        "cause",
        "counts",
        "deployment",
        "filter",
        "policy",
        "version",
    )

    def __init__(self, deployment: str, policy: Policy) -> None:
        self.deployment = deployment
        self.policy = policy
        self.filter = Filter(policy.calibrator)
        self.version = 0
        self.cause = "prior"
        self.as_of: datetime | None = None
        self.counts: dict[str, int] = {}
        self._brake = Brake(policy.max_loosening)
        self._influence = Influence(policy.rater_share)
        self._maturity = Maturity()
        self._held: list[tuple[float, int, Label]] = []

    @property
    def labels(self) -> int:
        """Labels that the estimate rests on."""
        return self.filter.clock

    @property
    def held(self) -> int:
        """Labels that wait for their response to mature."""
        return len(self._held)

    def apply(self, label: Label) -> tuple[Jump, ...]:
        """Fold one label of this deployment, and those it matures. Returns what they revealed.

        `alarm` puts that on the wire.
        """
        reason = idle(label)
        if reason is not None:
            self.counts[reason] = self.counts.get(reason, 0) + 1
            return tuple(self._release(label.occurred_at.timestamp()))
        now, due = label.occurred_at.timestamp(), self._due(label)
        if due <= now and not self._held:
            return tuple(self._fold(label))
        heapq.heappush(self._held, (due, self.version + len(self._held), label))
        return tuple(self._release(now))

    def _due(self, label: Label) -> float:
        """Return when a label may be folded: at once (0), unless one kind of verdict arrives faster than the other."""
        shown = label.decision.occurred_at.timestamp()
        delay_s = label.occurred_at.timestamp() - shown
        self._maturity.add(delay_s, rejected=rejects(label, self.policy.target))
        hold_s = self._maturity.hold_s() if self.policy.mature else 0.0
        return shown + hold_s if hold_s else 0.0

    def _release(self, now: float) -> Iterator[Jump]:
        while self._held and (self._held[0][0] <= now or len(self._held) > MAX_HELD):
            yield from self._fold(heapq.heappop(self._held)[2])

    def _fold(self, label: Label) -> Iterator[Jump]:
        self._begin_day(int(label.occurred_at.timestamp() // DAY_S))
        weight = self._influence.grant(label.clinician, label.weight)
        jump = self.filter.observe(observation(label, self.policy.target, weight))
        self.version += 1
        self.cause = "labels" if jump is None else f"{jump.kind}: {jump.scope} {jump.delta:+.1f}"
        if self.as_of is None or label.occurred_at > self.as_of:
            self.as_of = label.occurred_at
        if jump is not None:
            yield jump

    def _begin_day(self, day: int) -> None:
        if self._brake.is_new(day) and self.missing_labels() == 0:
            self._brake.start(day, self._cuts(self.filter.thresholds()))

    def _cuts(self, reading: Thresholds) -> dict[str, dict[str, float | None]]:
        return reading.cuts({"green": self.policy.green, "red": self.policy.red})

    def rollback(self, earlier: Calibration, at: datetime) -> None:
        """Take the parameters of an earlier version, as a new version: a person's change, at event time `at`.

        Raises `StateError` if that version is not of this deployment, or its parameters are damaged.
        """
        if earlier.deployment != self.deployment:
            raise StateError(f"version {earlier.version} belongs to deployment {earlier.deployment}")
        self.filter = Filter.restore(earlier.parameters["filter"])
        self.version += 1
        self.cause = f"rollback: to version {earlier.version}"
        self.as_of = at if self.as_of is None else max(at, self.as_of)

    def missing_labels(self) -> int:
        """Labels that the deployment lacks before it may show green."""
        return missing_labels(self.labels, self.filter.thresholds().deviation(self.policy.green), self.policy)

    def calibration(self) -> Calibration | None:
        """Return the current version for the scorers; None before the first change: there is no event time yet."""
        if self.as_of is None:
            return None
        reading = self.filter.thresholds()
        cuts, deviation = self._cuts(reading), reading.deviation(self.policy.green)
        excess = self._brake.excess(cuts)
        return Calibration(
            deployment=self.deployment,
            version=self.version,
            parameters={"filter": self.filter.state(), "brakes": excess},
            cuts=effective(cuts, excess),
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
            "brake": self._brake.state(),
            "influence": self._influence.state(),
            "maturity": self._maturity.state(),
            "held": [[due, order, msgspec.to_builtins(label)] for due, order, label in sorted(self._held)],
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
        self._brake = Brake.restore(saved.brake, policy.max_loosening)
        self._influence = Influence.restore(saved.influence, policy.rater_share)
        self._maturity = Maturity.restore(saved.maturity)
        self._held = saved.held
        return self


def thresholds(calibration: Calibration) -> Thresholds:
    """Return the scorer's reading of a published version. Raises `StateError` if its parameters are damaged."""
    try:
        saved = msgspec.convert(calibration.parameters, Parameters)
    except msgspec.ValidationError as error:
        raise StateError(f"parameters of version {calibration.version} are damaged: {error}") from None
    return Filter.restore(saved.filter).thresholds().braked(saved.brakes)


def idle(label: Label) -> str | None:
    """Return why a label folds nothing, or None if it is a change."""
    if label.kind != "verdict":
        return label.kind
    if label.weight <= 0.0:
        return "weightless"
    return "unscored" if label.decision.logit is None else None


def rejects(label: Label, target: str) -> bool:
    """Whether the label is a rejection of the kind that steers the tiers."""
    return label.rejected if target == "any" else label.depth == "deep"


def observation(label: Label, target: str, weight: float) -> Observation:
    """Return what the filter sees of a label: its groups, its clinician, and the event time of the response.

    Event time is the *response's*: a label says how things stood when the answer was given.
    """
    scored = label.decision
    groups = (*scored.groups.items(), ("clinician", label.clinician))
    logit = nan if scored.logit is None else scored.logit
    at = scored.occurred_at.timestamp()
    return Observation(logit, groups, rejects(label, target), weight, at, scored.audit)


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
