"""A small week of a hospital as the topics' records, with every ending in it: for views and accounts, without a stream.

The truth is simple: a raw logit, biased by +0.8, and 1.6 more rejection log-odds in `dosing` from the middle on.
The "calibrator" knows the bias, and learns of the drift 40 dosing labels late.
"""

import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from models.accounts import Drift, Promise, Run
from models.events import (
    Alarm,
    Calibration,
    Closure,
    DeadLetter,
    Decision,
    Event,
    Feedback,
    Label,
    Response,
    Scored,
    Tier,
)

Record = tuple[str, Event | None, int]
"""Topic, event (None: the bytes could not be decoded), and the broker's time in milliseconds."""

START = datetime(2026, 1, 5, tzinfo=UTC)
HOURS = 168
CATEGORIES = ("diagnosis", "discharge", "dosing", "imaging", "interactions", "triage")
SITES = ("harbour", "hill", "north")
DEPLOYMENT = "assistant"
CANARY = "Jane Canary, born 1950"
PLANTED = 3
DRIFT = Drift(START + timedelta(hours=HOURS / 2), "category=dosing")
PROMISE = Promise()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@dataclass
class Week:
    """Records per topic, in topic order."""

    seed: int = 1
    size: int = 400
    records: list[Record] = field(default_factory=list)
    shift: float = 0.0
    labels: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._calibration(START, "labels", 0)
        for n in range(self.size):
            self._response(n)
        self._broken()

    def _put(self, event: Event | None, *, topic: str = "", after_ms: int = 0) -> None:
        self.records.append((topic or event.topic, event, 1_760_000_000_000 + 25 * len(self.records) + after_ms))

    def _response(self, n: int) -> None:
        at = START + timedelta(hours=HOURS * n / self.size)
        category, site = self.random.choice(CATEGORIES), self.random.choice(SITES)
        logit = self.random.gauss(-3.2 + 0.4 * CATEGORIES.index(category), 1.5)
        drifted = category == "dosing" and at >= DRIFT.at
        rejected = self.random.random() < sigmoid(logit - 0.8 + 1.6 * drifted)
        risk = sigmoid(logit - 0.8 + self.shift * (category == "dosing"))
        tier: Tier = "green" if risk < 0.05 else "yellow" if risk < 0.2 else "red"
        self._put(
            Response(
                response_id=f"r{n}",
                conversation_id=f"c{n // 3}",
                deployment=DEPLOYMENT,
                site=site,
                category=category,
                query=f"What dose for {CANARY}?",
                response=f"{CANARY} takes 5 mg.",
                occurred_at=at,
            )
        )
        decision = Decision(
            response_id=f"r{n}",
            conversation_id=f"c{n // 3}",
            deployment=DEPLOYMENT,
            groups={"category": category, "site": site},
            logit=logit,
            risk=risk,
            upper=min(1.0, risk * 1.1),
            tier=tier,
            action="show" if tier == "green" else "banner",
            reasons=(f"risk: {risk:.4f}",),
            audit=self.random.random() < 0.03,
            calibrator_version=self.labels,
            occurred_at=at,
            decided_at=at,
        )
        self._put(decision, after_ms=4)
        self._feedback(decision, rejected=rejected)

    def _feedback(self, decision: Decision, *, rejected: bool) -> None:
        rid, at = decision.response_id, decision.occurred_at
        if self.random.random() < 0.3:
            self._put(Closure(closure_id=f"u-{rid}", reason="unlabelled", response_id=rid, closed_at=at))
            return
        feedback = Feedback(
            feedback_id=f"f-{rid}",
            response_id=rid,
            clinician="k1",
            action="edited" if rejected else "accepted",
            edited_response=CANARY if rejected else None,
            comment=CANARY,
            occurred_at=at + timedelta(hours=2),
        )
        self._put(feedback)
        for reason, chance in (("duplicate", 0.03), ("superseded", 0.03), ("orphan", 0.02)):
            if self.random.random() < chance:
                self._second(feedback, reason)
        self._label(decision, feedback, rejected=rejected)

    def _second(self, feedback: Feedback, reason: str) -> None:
        other = feedback.feedback_id if reason == "duplicate" else f"{feedback.feedback_id}-{reason}"
        rid = "nobody" if reason == "orphan" else feedback.response_id
        at = feedback.occurred_at
        self._put(Feedback(feedback_id=other, response_id=rid, clinician="k1", action="flagged", occurred_at=at))
        self._put(
            Closure(
                closure_id=f"{reason}-{other}",
                reason=reason,
                response_id=rid,
                feedback_id=other,
                closed_at=at,
            )
        )

    def _label(self, decision: Decision, feedback: Feedback, *, rejected: bool) -> None:
        scored = Scored(**{name: getattr(decision, name) for name in Scored.__struct_fields__})
        self._put(
            Label(
                label_id=f"l-{decision.response_id}",
                feedback_id=feedback.feedback_id,
                response_id=decision.response_id,
                deployment=DEPLOYMENT,
                clinician="k1",
                action=feedback.action,
                rejected=rejected,
                depth="surface" if rejected else "none",
                weight=1.0,
                delay_s=7200.0,
                occurred_at=feedback.occurred_at,
                decision=scored,
            )
        )
        self._learn(decision, feedback.occurred_at)

    def _learn(self, decision: Decision, at: datetime) -> None:
        self.labels += 1
        self.after += decision.groups["category"] == "dosing" and decision.occurred_at >= DRIFT.at
        jump = self.after >= min(40, self.size // 40) and not self.shift
        if jump:
            self.shift = 1.5
            self._alarm(decision.occurred_at)
        self._calibration(at, "jump: category=dosing +1.6" if jump else "labels", self.labels)

    def _calibration(self, at: datetime, cause: str, version: int) -> None:
        warm = min(100, self.size // 8)
        self._put(
            Calibration(
                deployment=DEPLOYMENT,
                version=version,
                parameters={},
                cuts={f"category={c}": self._cuts(c) for c in CATEGORIES},
                labels=version,
                missing_labels=max(0, warm - version),
                cause=cause,
                as_of=at,
            ),
            after_ms=self.random.randrange(2, 30),
        )

    def _cuts(self, category: str) -> dict[str, float | None]:
        shift = 0.8 - self.shift * (category == "dosing") + 0.3 / math.sqrt(1 + self.labels)
        return {
            "green": math.log(PROMISE.green / (1 - PROMISE.green)) + shift,
            "red": math.log(PROMISE.red / (1 - PROMISE.red)) + shift,
        }

    def _alarm(self, at: datetime) -> None:
        self._put(
            Alarm(
                alarm_id=f"a{self.labels}",
                kind="jump",
                deployment=DEPLOYMENT,
                scope="category=dosing",
                statistic=12345.0,
                threshold=10_000.0,
                evidence={"delta_logits": 1.6, "label": "l-1"},
                since=DRIFT.at,
                raised_at=at,
            )
        )

    def _broken(self) -> None:
        for n, code in enumerate(("undecodable", "invalid", "oversized")[:PLANTED]):
            self._put(None, topic="responses")
            self._put(
                DeadLetter(
                    source_topic="responses",
                    partition=0,
                    offset=n,
                    stage="score",
                    code=code,
                    detail="field `site` is missing",
                    digest="0" * 64,
                    size_bytes=10,
                )
            )

    def run(self) -> Run:
        return Run(
            title="A synthetic week",
            broker="none (synthetic events)",
            promise=PROMISE,
            seconds=12.5,
            drift=DRIFT,
            dead_letters_planted=PLANTED,
            note="Synthetic events, for the tests of this view.",
            settings={"cuts": "0.05, 0.20"},
            versions={"demur": "0.1.0"},
        )
