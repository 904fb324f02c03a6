"""One record in, the books updated. Every method costs the same whether it is the first record or the millionth."""

from collections import Counter
from datetime import datetime
from functools import cache
from math import exp
from typing import Final

from models.accounts.changes import Changes
from models.accounts.lags import Lags
from models.accounts.lives import ARRIVED, DECIDED, JUDGED, LABELLED, UNLABELLED, Lives
from models.accounts.reliability import Curve
from models.accounts.tallies import Tallies
from models.accounts.unmatched import Unmatched
from models.deciding import config_hash
from models.events import (
    CONTRACT,
    Alarm,
    Calibration,
    Change,
    Closure,
    DeadLetter,
    Decision,
    Event,
    Feedback,
    Instruction,
    Label,
    Response,
    Target,
)
from models.labels import is_evidence, rejects
from models.policy import Policies

MAX_WORDS: Final = 200
"""Different reason codes or models counted; there are few, so more of them is a fault of the writer."""
OTHER: Final = "(other)"


class Accounts:
    """The aggregate of all topics.

    Repeats of an id count once (delivery is at least once); only feedback records are counted each, because a repeated
    feedback is itself something that must be accounted for. The topics may interleave in any way; within a
    deployment, labels and calibrations come in their topic's order. What a calibrator changed is told by its
    calibrations or, where Kafka has compacted those, by its log: give one of the two.
    """

    def __init__(self, policies: Policies | None = None) -> None:
        self.policies = policies or Policies()
        """Each deployment's own says which rejections count: any, or only deep ones."""
        self.records: Counter[str] = Counter()
        """Records read per topic, repeats and invalid ones included."""
        self.invalid: Counter[str] = Counter()
        """Records per topic that broke the contract."""
        self.lives = Lives()
        self.feedback = Unmatched()
        self.feedback_in = 0
        self.kinds: Counter[str] = Counter()
        """Labels by kind: verdict, correction, revocation."""
        self.endings: Counter[str] = Counter()
        """Closures by reason."""
        self.dead: Counter[tuple[str, str]] = Counter()
        """Dead letters by source topic and code."""
        self.reasons: Counter[str] = Counter()
        """Decisions by reason code (what stands before a colon); a decision may have several."""
        self.models: Counter[str] = Counter()
        """Decisions by the hash of the encoder."""
        self.otherwise = 0
        """Decisions made under another policy than the deployment has in `policies`."""
        self.audits = 0
        """Decisions drawn into the random audit sample."""
        self.tallies = Tallies()
        self.raw, self.calibrated = Curve(), Curve()
        self.lags = Lags()
        self.changes = Changes()
        self.alarms: dict[str, Alarm] = {}
        self.clock: datetime | None = None
        """The latest event time among the decisions."""
        self._hours: dict[str, int] = {}
        """At which hour a response counts, if not at its own."""
        self._seen: set[str] = set()
        """Ids of labels, instructions, closures and dead-letter positions (their alphabets do not meet)."""

    def observe(self, topic: str, event: Event, at_ms: int, counts: datetime | None = None) -> None:
        """Take in one decoded record; `at_ms` is the broker's record timestamp, milliseconds since the epoch.

        `counts`: when a decision counts (`Selection.when`); None: when its response occurred.
        """
        self.records[_base(topic)] += 1
        match event:
            case Response():
                self.lives.mark(event.response_id, ARRIVED)
            case Feedback():
                self.feedback_in += 1
                self.feedback.add(event.feedback_id, +1)
            case Decision():
                self._decision(event, at_ms, counts or event.occurred_at)
            case Label() | Instruction():
                self._change(event, at_ms)
            case Closure():
                self._closure(event)
            case Calibration() | Change():
                self._version(event, at_ms)
            case Alarm():
                self.alarms.setdefault(event.alarm_id, event)
            case DeadLetter():
                self._dead_letter(event)

    def observe_invalid(self, topic: str) -> None:
        """Take in one record that could not be decoded."""
        self.records[_base(topic)] += 1
        self.invalid[_base(topic)] += 1

    def _decision(self, decision: Decision, at_ms: int, counts: datetime) -> None:
        self.lags.decision(decision.deployment, version=decision.calibrator_version, at_ms=at_ms)
        if not self.lives.mark(decision.response_id, DECIDED):
            return
        groups = decision.groups | {"deployment": decision.deployment}
        hour = _hour(counts)
        if hour != _hour(decision.occurred_at):
            self._hours[decision.response_id] = hour
        self.tallies.decided(groups, hour, decision.tier)
        self.audits += decision.audit
        self.otherwise += decision.config_hash != config_hash(self.policies.of(decision.deployment))
        _count(self.models, decision.model_hash)
        for reason in decision.reasons:
            _count(self.reasons, reason.partition(":")[0])
        self.clock = max(self.clock or counts, counts)

    def _version(self, event: Calibration | Change, at_ms: int) -> None:
        self.changes.observe(event)
        if isinstance(event, Calibration):
            self.lags.calibration(event.deployment, version=event.version, at_ms=at_ms)

    def _change(self, event: Label | Instruction, at_ms: int) -> None:
        if isinstance(event, Label):
            self._label(event, at_ms)
        elif self._news(f"instruction {event.instruction_id}"):
            self.lags.change(event.deployment, at_ms)

    def _label(self, label: Label, at_ms: int) -> None:
        if not self._news(f"label {label.label_id}"):
            return
        self.kinds[label.kind] += 1
        self.feedback.add(label.feedback_id, -1)
        self.lives.mark(label.response_id, LABELLED)
        if is_evidence(label):
            self.lives.mark(label.response_id, JUDGED)
            self._verdict(label)
            if label.decision.logit is not None:
                self.lags.change(label.deployment, at_ms)

    def _verdict(self, label: Label) -> None:
        scored, weight = label.decision, label.weight
        rejected = rejects(label, self.policies.of(label.deployment).target)
        groups = scored.groups | {"deployment": label.deployment}
        hour = self._hours.get(label.response_id, _hour(scored.occurred_at))
        self.tallies.judged(groups, hour, scored.tier, weight=weight, rejected=rejected)
        if scored.logit is not None and scored.risk is not None:
            self.raw.add(_sigmoid(scored.logit), weight=weight, rejected=rejected)
            self.calibrated.add(scored.risk, weight=weight, rejected=rejected)

    def _closure(self, closure: Closure) -> None:
        if not self._news(f"closure {closure.closure_id}"):
            return
        self.endings[closure.reason] += 1
        if closure.feedback_id is not None:
            self.feedback.add(closure.feedback_id, -1)
        if closure.reason == "unlabelled":
            self.lives.mark(closure.response_id, UNLABELLED)

    def _dead_letter(self, letter: DeadLetter) -> None:
        if not self._news(f"dead {letter.source_topic} {letter.partition} {letter.offset}"):
            return
        source = _base(letter.source_topic)
        self.dead[source, letter.code] += 1
        if source == Response.topic and letter.response_id is not None:
            self.lives.mark(letter.response_id, ARRIVED)

    def _news(self, key: str) -> bool:
        before = len(self._seen)
        self._seen.add(key)
        return len(self._seen) > before

    @property
    def target(self) -> Target:
        """Which rejections count where a deployment has no policy of its own."""
        return self.policies.default.target

    @property
    def labels(self) -> int:
        """Labels of every kind."""
        return self.kinds.total()

    @property
    def duplicates(self) -> int:
        """Feedback records that repeat one, or that a later verdict of the same clinician supersedes."""
        return self.endings["duplicate"] + self.endings["superseded"]

    @property
    def dead_letters(self) -> int:
        """Different positions that a dead letter names."""
        return self.dead.total()

    @property
    def busiest_deployment(self) -> str:
        """The calibrated deployment with most decisions; empty without any."""
        totals = {d: self.tallies.total(f"deployment={d}") for d in self.changes.deployments}
        return max(totals, key=lambda d: sum(c.count for c in totals[d].values()), default="")

    @property
    def waiting(self) -> int:
        """Responses decided on, without a label yet, whose horizon is open."""
        return self.lives.lacking(DECIDED, LABELLED | UNLABELLED)


def _count(known: Counter[str], key: str) -> None:
    known[key if key in known or len(known) < MAX_WORDS else OTHER] += 1


@cache
def _base(topic: str) -> str:
    """Return a topic's name without the deployment's prefix; a foreign name as it is."""
    return next((name for name in CONTRACT if topic.endswith(name)), topic)


def _hour(at: datetime) -> int:
    return int(at.timestamp() // 3600)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + exp(-logit)) if logit >= 0 else exp(logit) / (1 + exp(logit))
