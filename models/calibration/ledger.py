"""LEARN's pure fold: one deployment's labels, in the order of its log, into versions of its calibrator.

Version n is the fold of the first n *changes*: labels, instructions, and policies that followed another. A label is a
change when it carries evidence: kind `verdict`, weight above 0, and a decision with a logit. Any other label changes
nothing:

    correction, revocation   a label cannot be subtracted: it is honoured at the next rebuild
    no weight                abandoned or retracted: not evidence
    no logit                 its decision had no score, so there is nothing to calibrate

A change that the filter sets aside (older than a jump, or of a quarantined group) still has its version, so that
versions and labels stay one to one; it does not count towards the warm-up.

Before the filter stands a safeguard: `influence` caps the weight of any one clinician. Behind it stands another: if
greens given since the last change are rejected more often than promised (`monitors.guarantee`), their scope's threshold
is lowered by `TIGHTENING` at once, whatever the filter believes. There, too, a label has the weight that was granted,
and a quarantined clinician has no say.

Where LEARN begins anew on a log whose beginning has expired, scorers hold higher numbers, and they take versions only
upwards. A label's decision cites a version that was published: one above the fold's own shows that this log does not
lead there. From then on versions are counted in the next `LINEAGE`, above all that were published before. On a whole
log no label cites what does not exist yet, so that a replay gives the same numbers.

The state is mutable, with `snapshot` and `restore`: a fold costs ten microseconds, copying the state would cost ten
times that. Duplicates of a label id are the caller's to drop: it keeps the ids and offsets beside the snapshot.
There is no clock: `as_of` is the latest `occurred_at` of a label that was not set aside.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import nan
from typing import Any, Final, Literal

import msgspec

from models.calibration.brake import DAY_S, Brake, Combination, effective, green
from models.calibration.filter import Filter, Observation
from models.calibration.influence import Influence
from models.calibration.jumps import Jump
from models.calibration.serving import Key, Thresholds
from models.calibration.soundness import check_sound
from models.calibration.state import read
from models.errors import StateError
from models.events import LARGEST, Alarm, Calibration, Group, Instruction, Label, Target, Tier, digest
from models.labels import is_evidence, rejects
from models.monitors.guarantee import Finding, Guarantee
from models.policy import Policy
from models.tiers import missing_labels

SCHEMA: Final = 4

LINEAGE: Final = 10**9
"""Versions of one beginning: at a label a second, those of thirty years."""

TIGHTENING: Final = 1.0
"""Logits by which a broken promise lowers its scope's threshold: two days of the default allowance to come back."""

SAMPLE: Final = 200
"""Scores of the last labels, on which the expected shares of tiers are read: to 3 %, in less than two kilobytes."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `Ledger.snapshot` returns, as a type."""

    schema: Literal[4]
    deployment: str
    version: int
    cause: str
    as_of: float | None
    filter: dict[str, Any]
    brake: dict[str, Any]
    influence: dict[str, Any]
    guarantee: dict[str, Any]
    scores: list[float]
    forced: int
    target: Target
    groups: tuple[Group, ...]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Calibration.parameters`: what is served of the filter, and by scope the logits held back (see `brake`).

    `combined`: combinations of groups that are held back farther; absent if none is.
    """

    filter: dict[str, Any]
    brakes: dict[str, float]
    combined: list[tuple[Combination, float]] = []


class Ledger:
    """The calibrator of one deployment, its version, and its accounts.

    What it learns for, `policy.basis`, stays as it began until it is rebuilt, whatever a policy file says later.

    >>> ledger = Ledger("icu", Policy())
    >>> ledger.version, ledger.labels, ledger.missing_labels()
    (0, 0, 300)
    """

    __slots__ = (
        "_brake",
        "_guarantee",
        "_influence",
        "_scores",
        "as_of",
        "cause",
        "deployment",
        "filter",
        "forced",
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
        self.forced = 0
        """The last version that labels forced, by a jump or a broken promise."""
        self._brake = Brake(policy.max_loosening)
        self._influence = Influence(policy.rater_share)
        self._guarantee = Guarantee(policy.green)
        self._scores: deque[float] = deque(maxlen=SAMPLE)

    @property
    def labels(self) -> int:
        """Labels that the estimate rests on."""
        return self.filter.clock

    def apply(self, label: Label) -> tuple[Jump, ...]:
        """Fold one label of this deployment. Returns what it revealed; `alarm` puts that on the wire."""
        if not is_evidence(label) or label.decision.logit is None:
            return ()
        now = label.occurred_at.timestamp()
        self._pass(*divmod(now, DAY_S))
        weight = self._influence.grant(label.clinician, label.weight)
        seen = observation(label, self.policy, weight)
        self._scores.append(seen.logit)
        self._brake.know(combination(seen))
        known = self.filter.clock
        jump = self.filter.observe(seen)
        above = self._go_above(label.decision.calibrator_version)
        self.version += 1
        if self.as_of is None or (label.occurred_at > self.as_of and self.filter.clock > known):
            self.as_of = label.occurred_at  # what is set aside tells nothing of how responses fare now
        found: tuple[Jump, ...] = () if jump is None else (jump,)
        if label.decision.tier == "green":
            apart = self.filter.quarantined(seen.groups) if self.filter.clock == known else []
            found += self._tighten(msgspec.structs.replace(label, weight=weight), apart)
        for one in found:
            self._guarantee.forget(one.scope, now)
        self.cause = describe(found) if found else above or "labels"
        self.forced = self.version if found else self.forced
        return found

    def _go_above(self, cited: int) -> str:
        """Go on above a version that a decision cites and this fold does not know. Returns the cause, if it does."""
        following = (lineage(cited) + 1) * LINEAGE
        if cited <= self.version or following + LINEAGE > LARGEST:
            return ""
        self.version = following
        return f"counted anew above version {cited}, to which this log does not lead"

    def _tighten(self, label: Label, apart: Sequence[Key]) -> tuple[Jump, ...]:
        """Lower the thresholds of the scopes whose promise a green's label shows to be broken."""
        found = [tightening(one) for one in self._vouch(label, apart)]
        jumps = {one.scope: one for one in found}  # what all greens and the audited among them show is done once
        if jumps:
            cuts = self._cuts(self.filter.thresholds())
            for scope in jumps:
                self._brake.tighten(scope, cuts, TIGHTENING)
        return tuple(jumps.values())

    def _vouch(self, label: Label, apart: Sequence[Key]) -> tuple[Finding, ...]:
        """Count a green's verdict under all that it may speak for: what is in quarantine, `apart`, for itself at most.

        A script's acceptances would hide what others reject. Of a site's own greens they are all that is known.
        """
        if any(name in self.filter.settings.raters for name, _ in apart):
            return ()
        return self._guarantee.observe(label, self.policy.target, map("=".join, apart) if apart else None)

    def _pass(self, day: float, seconds: float) -> None:
        """Let the brake's time come to `seconds` of a day since the epoch."""
        if self._brake.is_new(int(day)) and self.labels >= self.policy.warm_up_labels and self.missing_labels() == 0:
            reading = self.filter.thresholds()
            self._brake.start(int(day), self._cuts(reading), reading.greens(self._brake.known, self.policy.green))
        self._brake.go_on(int(day), seconds / DAY_S)

    def _cuts(self, reading: Thresholds) -> dict[str, dict[str, float | None]]:
        return reading.cuts({"green": self.policy.green, "red": self.policy.red})

    def apply_instruction(self, instruction: Instruction) -> None:
        """Do what a person says, as a new version. Raises `StateError` if it cannot be done; then nothing has changed.

        `as_of` stays: an instruction is no news of how responses fare. What greens were promised counts anew from then
        on, not from the instruction's own date: a workstation's clock ahead would suspend the guarantee.
        """
        if instruction.deployment != self.deployment:
            raise StateError(f"the instruction is for deployment {instruction.deployment}, not {self.deployment}")
        if instruction.order in {"approval", "rebuild"} and instruction.version < self.forced:
            raise StateError(f"labels forced version {self.forced} meanwhile: look at it, and order anew")
        match instruction.order:
            case "rollback" | "rebuild":
                self._replace(instruction)
            case "approval":
                self._brake.approve(instruction.ceilings)
            case "release":
                name, _, value = instruction.scope.partition("=")
                if not self.filter.release(name, value):
                    raise StateError(f"{instruction.scope} is not in quarantine")
        self._guarantee.forget("all", min(self.as_of or instruction.occurred_at, instruction.occurred_at).timestamp())
        self.version += 1
        self.cause = f"{instruction.order}: {instruction.scope or f'version {instruction.version}'}"

    def _replace(self, by: Instruction) -> None:
        """Take the filter that an instruction brings, and with a rebuild what it was learnt for."""
        restored = Filter.restore(by.parameters)
        check_sound(read(by.parameters))
        policy = with_basis(self.policy, by.target, by.groups, restored)
        if by.order == "rollback" and policy.basis != self.policy.basis:
            raise StateError(f"version {by.version} was learnt for other settings: rebuild for them instead")
        self.filter, self.policy = restored, policy
        reading = restored.thresholds()
        self._brake.cap(self._cuts(reading), reading.greens(self._brake.known, self.policy.green))

    def with_policy(self, policy: Policy) -> "Ledger":
        """Return the calibrator as it goes on under another policy, as a new version.

        What it learns for stays; another `target`, `groups` or `calibrator` needs a rebuild.
        """
        following = Ledger.restore(self.snapshot(), policy)
        following.version += 1
        return following

    def missing_labels(self) -> int:
        """Labels that the deployment lacks before it may show green."""
        return missing_labels(self.labels, self.filter.deviation(self.policy.green), self.policy)

    def calibration(self, state: Mapping[str, Any] | None = None) -> Calibration | None:
        """Return the current version for the scorers; None before the first change: there is no event time yet.

        `state`: what `filter.state` has just returned.
        """
        if self.as_of is None:
            return None
        reading = self.filter.thresholds()
        cuts, missing = self._cuts(reading), self.missing_labels()
        greens = reading.greens(self._brake.combined, self.policy.green)
        excess = self._brake.excess(cuts, greens)
        in_force = effective(self._brake.with_absent(cuts), excess) if excess else cuts
        parameters: dict[str, Any] = {"filter": self.filter.served(state or self.filter.state()), "brakes": excess}
        if combined := self._brake.beyond(greens, excess) if excess else None:
            parameters["combined"] = [*combined.items()]
        return Calibration(
            deployment=self.deployment,
            version=self.version,
            basis=self.policy.basis,
            parameters=parameters,
            cuts=in_force,
            shares=tier_shares(self._scores, in_force["all"], warm=missing == 0),
            labels=self.labels,
            missing_labels=missing,
            cause=self.cause,
            as_of=self.as_of,
        )

    def snapshot(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the whole state as versioned JSON types; `state`: what `filter.state` has just returned."""
        return {
            "schema": SCHEMA,
            "deployment": self.deployment,
            "version": self.version,
            "cause": self.cause,
            "as_of": None if self.as_of is None else self.as_of.timestamp(),
            "filter": state or self.filter.state(),
            "brake": self._brake.state(),
            "influence": self._influence.state(),
            "guarantee": self._guarantee.snapshot(),
            "scores": list(self._scores),
            "forced": self.forced,
            "target": self.policy.target,
            "groups": list(self.policy.groups),
        }

    @classmethod
    def restore(cls, snapshot: object, policy: Policy) -> "Ledger":
        """Continue from `snapshot`, bit for bit. Raises `StateError` if it is damaged or of another version.

        It goes on learning what it learnt; another `target`, `groups` or `calibrator` of the policy needs a rebuild.
        """
        try:
            saved = msgspec.convert(snapshot, Snapshot)
        except msgspec.ValidationError as error:
            raise StateError(f"ledger snapshot is damaged or of another version: {error}") from None
        restored = Filter.restore(saved.filter)
        self = cls(saved.deployment, with_basis(policy, saved.target, saved.groups, restored))
        self.version, self.cause, self.forced = saved.version, saved.cause, saved.forced
        self.as_of = None if saved.as_of is None else instant(saved.as_of)
        self.filter = restored
        self._brake = Brake.restore(saved.brake, policy.max_loosening)
        self._influence = Influence.restore(saved.influence, policy.rater_share)
        self._guarantee = Guarantee.restore(saved.guarantee, policy.green)
        self._scores.extend(saved.scores)
        return self


def lineage(version: int) -> int:
    """Return which beginning a version counts from: 0, or how often those before it were lost.

    >>> lineage(41_234), lineage(1_000_000_001)
    (0, 1)
    """
    return version // LINEAGE


def with_basis(policy: Policy, target: Target | None, groups: tuple[Group, ...] | None, learnt: Filter) -> Policy:
    """Return the policy with the basis that a calibrator has; None: as the policy says."""
    known = policy.groups if groups is None else groups
    return msgspec.structs.replace(policy, target=target or policy.target, groups=known, calibrator=learnt.settings)


def thresholds(calibration: Calibration) -> Thresholds:
    """Return the scorer's reading of a published version. Raises `StateError` if its parameters are damaged."""
    try:
        saved = msgspec.convert(calibration.parameters, Parameters)
    except msgspec.ValidationError as error:
        raise StateError(f"parameters of version {calibration.version} are damaged: {error}") from None
    return Filter.reading(saved.filter).braked(saved.brakes, dict(saved.combined))


def tier_shares(scores: Sequence[float], cuts: Mapping[str, float | None], *, warm: bool) -> dict[Tier, float]:
    """Return the share of scores in each tier, groups at their mean. Labelled responses are seldom green: so these are
    for comparing one version with another; `demur policy simulate` takes all responses.

    >>> tier_shares([-4.0, -3.0, -1.0, 0.5], {"green": -2.5, "red": 0.0}, warm=True)
    {'green': 0.5, 'yellow': 0.25, 'red': 0.25}
    """
    if not scores:
        return {}
    ordered = sorted(scores)
    red = bisect_left(ordered, green({"green": cuts["red"]})) / len(ordered)
    low = bisect_left(ordered, green(cuts)) / len(ordered) if warm else 0.0
    return {"green": low, "yellow": red - low, "red": 1.0 - red}


def describe(found: Sequence[Jump]) -> str:
    """Return the cause of a version in words."""
    return "; ".join([f"{one.kind}: {one.scope} {one.delta:+.1f}" for one in found])


def tightening(finding: Finding) -> Jump:
    """Return what a broken promise does; what audits find holds for all."""
    return Jump(
        kind="tightening",
        scope="all" if finding.scope == "audit" else finding.scope,
        delta=-TIGHTENING,
        statistic=finding.statistic,
        threshold=finding.threshold,
        since=finding.since,
    )


def observation(label: Label, policy: Policy, weight: float) -> Observation:
    """Return what the filter sees of a label: its groups, its clinician, and the event time of the response.

    Groups that the policy does not tell apart (any more) are left out: no response is served by them.

    Event time is the *response's*: a label says how things stood when the answer was given.
    """
    scored = label.decision
    known = [item for item in scored.groups.items() if item[0] in policy.groups or item[0] == "moment"]
    groups = (*known, ("clinician", label.clinician))
    logit = nan if scored.logit is None else scored.logit
    return Observation(logit, groups, rejects(label, policy.target), weight, shown_at(label).timestamp(), scored.audit)


def combination(seen: Observation) -> Combination:
    """Return the groups that a response is served by: all but who judged it.

    >>> combination(Observation(0.0, (("site", "a"), ("category", "b"), ("clinician", "c")), rejected=True))
    (('category', 'b'), ('site', 'a'))
    """
    return tuple(sorted(seen.groups[:-1]))


def shown_at(label: Label) -> datetime:
    """Return when the response was given: not after its verdict, whatever a gateway's clock said.

    A date ahead would make every later label look older than a jump.
    """
    return min(label.decision.occurred_at, label.occurred_at)


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
