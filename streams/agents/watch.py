"""WATCH: decisions, labels and closures become alarms. Nothing is decided here.

The promise is counted here as people answered, each verdict with its own weight: how often greens were rejected is what
they said, whoever they are. Which part of it may steer is for LEARN to say, which caps a clinician's weight and leaves
out who is in quarantine (`models.calibration.ledger`); that is its state, and no event on the wire tells the whole of
it. So the two may differ: LEARN may tighten where no `excess` is raised here, and the other way round.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from models.events import Alarm, Closure, Decision, Event, Instruction, Label, Watermark, digest
from models.monitors.doubts import Doubts
from models.monitors.guarantee import Guarantee
from models.monitors.guarantee import alarm as guarantee_alarm
from models.monitors.share import Share
from models.policy import Policies, Policy
from streams.settings import Stage
from streams.wire import Record

UNSCORED_LIMIT: Final = 0.2
"""Share of responses without a score above which someone should look at the encoder; shares are of one partition."""
ORPHAN_LIMIT: Final = 0.2
"""Share of closures that are feedback without a response above which someone should look at the ids that are sent."""
DOUBTED_LIMIT: Final = 0.2
"""Share of scored responses with a doubt above which someone should look for what keeps a deployment from green."""

Watched = Decision | Label | Closure | Instruction
"""Instructions share the labels' topic; there is nothing to watch in them."""


class Watching:
    """What is watched of one deployment in one partition."""

    def __init__(
        self, deployment: str, policy: Policy, guarantee: Guarantee, shares: dict[str, Share], doubts: Doubts
    ) -> None:
        self._deployment = deployment
        self._policy = policy
        self._guarantee = guarantee
        self._shares = shares
        self._doubts = doubts

    def apply(self, event: Watched) -> Iterable[Alarm]:
        """Count one event."""
        match event:
            case Instruction():
                return ()
            case Label():
                findings = self._guarantee.observe(event, self._policy.target)
                return [guarantee_alarm(finding, event) for finding in findings]
            case Decision():
                return self._decided(event)
            case Closure():
                return self._share("orphans", event.closure_id, event.closed_at, yes=event.reason == "orphan")

    def show(self) -> tuple[dict[str, Any], list[Event]]:
        """Return the state as JSON types; only alarms leave this stage."""
        state = {"guarantee": self._guarantee.snapshot(), "shares": msgspec.to_builtins(self._shares)}
        return {**state, "target": self._policy.target, "warm": self._doubts.warm}, []

    def _decided(self, one: Decision) -> Iterable[Alarm]:
        id_, at = one.response_id, one.occurred_at
        yield from self._share("unscored", id_, at, yes=one.logit is None)
        if one.logit is not None:
            doubts = self._doubts.among(one.reasons)
            yield from self._share("doubted", id_, at, yes=bool(doubts), reasons=", ".join(doubts))

    def _share(self, kind: str, id_: str, at: datetime, *, yes: bool, **evidence: str) -> Iterable[Alarm]:
        share = self._shares[kind]
        if share.count(yes=yes):
            yield Alarm(
                alarm_id=digest(f"{id_}|{kind}".encode())[:32],
                kind=kind,
                deployment=self._deployment,
                scope="all",
                statistic=share.mean,
                threshold=share.limit,
                evidence={**evidence},
                since=at,
                raised_at=at,
            )


class Watch:
    """What WATCH folds."""

    name: Stage = "watch"
    published = None
    types = Watched | Watermark

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def identify(self, event: Watched) -> tuple[str, str, datetime]:
        """Each event counts once. An orphan belongs to no deployment that is known: closures are watched together."""
        match event:
            case Instruction():
                return f"i/{event.instruction_id}", event.deployment, event.occurred_at
            case Label():
                return f"l/{event.label_id}", event.deployment, event.occurred_at
            case Decision():
                return f"r/{event.response_id}", event.deployment, event.occurred_at
            case Closure():
                return f"c/{event.closure_id}", "unknown", event.closed_at

    def arrange(self, records: Sequence[Record], /) -> Sequence[Record]:
        """As they came."""
        return records

    def create(self, deployment: str) -> Watching:
        """Return monitors that have seen nothing."""
        policy = self._policies.of(deployment)
        return Watching(deployment, policy, Guarantee(policy.green), _shares(), Doubts())

    def restore(self, deployment: str, snapshot: Any) -> Watching:
        """Continue from a snapshot."""
        policy = self._policies.of(deployment)
        shares = _shares() | msgspec.convert(snapshot["shares"], dict[str, Share])
        guarantee = Guarantee.restore(snapshot["guarantee"], policy.green)
        if snapshot.get("target", policy.target) != policy.target:
            guarantee = Guarantee(policy.green)  # what was counted are other rejections
        return Watching(deployment, policy, guarantee, shares, Doubts(snapshot.get("warm", False)))


def _shares() -> dict[str, Share]:
    return {"unscored": Share(UNSCORED_LIMIT), "orphans": Share(ORPHAN_LIMIT), "doubted": Share(DOUBTED_LIMIT)}
