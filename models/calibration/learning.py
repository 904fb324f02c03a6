"""LEARN's whole fold: one deployment's log of labels and instructions into versions, alarms, and entries of its log.

The calibrator holds for the scores of one model: when another follows (`succession`), it begins anew. An entry
(`Change`) is made of every change that labels forced or a person ordered, of another model, of the first version under
another policy, of the first that is counted anew above what was lost, and of the first of each day of event time for
all the rest; its `before` is the entry before, so that together they tell the whole course.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from models.calibration.brake import DAY_S
from models.calibration.jumps import Jump
from models.calibration.ledger import Ledger, alarm, describe, instant, lineage, shown_at
from models.calibration.succession import Succession
from models.errors import Invalid, StateError
from models.events import MAX_MESSAGE_BYTES, Alarm, Calibration, Change, Instruction, Label, Standing
from models.labels import is_evidence
from models.policy import Policy

Entry = Label | Instruction

OVERTAKEN: Final = "field `last` is not the newest of the log: what came since would be lost; order it anew"
MAX_RECORDED_BYTES: Final = MAX_MESSAGE_BYTES // 2
"""A calibrator of a thousand groups and a thousand clinicians; a larger one is replayed from further back."""


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `Learning.snapshot` returns, as a type."""

    model: str
    ledger: dict[str, Any]
    recorded: Standing | None
    last: str
    succession: Succession | None = None  # absent: written before there was one


class Learning:
    """One deployment's calibrator, which model may follow its own, and the last entry of its log."""

    def __init__(self, ledger: Ledger, model_hash: str = "", recorded: Standing | None = None, last: str = "") -> None:
        self.ledger = ledger
        self.model_hash = model_hash
        self.last = last
        """The id of the last label, or instruction that was followed."""
        self._succession = Succession(None if ledger.as_of is None else ledger.as_of.timestamp())
        self._recorded = recorded
        self._next_day = _day_after(recorded)
        self._next_policy: Policy | None = None

    def apply(self, event: Entry) -> Iterator[Alarm | Change]:
        """Fold one event. Raises `Invalid` for an instruction that cannot be followed; then nothing has changed."""
        if isinstance(event, Instruction):
            self._apply_instruction(event)
            self.last = event.instruction_id
            entry = self._record(event.instruction_id, self.ledger.cause, instruction_evidence(event))
            return iter((msgspec.structs.replace(entry, ordered_at=event.occurred_at),))
        self.last = event.label_id
        return self._learn(event)

    def set_policy(self, policy: Policy) -> None:
        """Go by another policy from the next label on: a version of its own, so that the log says when that was."""
        self._next_policy = None if policy.learning == self.ledger.policy.learning else policy

    def calibration(self, state: Mapping[str, Any] | None = None) -> Calibration | None:
        """Return the version as it stands; `state`: what its filter's `state` has just returned."""
        found = self.ledger.calibration(state)
        return None if found is None else msgspec.structs.replace(found, model_hash=self.model_hash)

    def show(self) -> tuple[dict[str, Any], list[Calibration]]:
        """Return the state, as `snapshot` does, and what the scorers are to know."""
        state = self.ledger.filter.state()
        version = self.calibration(state)
        return self.snapshot(state), [] if version is None else [version]

    def snapshot(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the whole state as JSON types; `state`: what its filter's `state` has just returned."""
        return {
            "model": self.model_hash,
            "ledger": self.ledger.snapshot(state),
            "recorded": msgspec.to_builtins(self._recorded),
            "last": self.last,
            "succession": msgspec.to_builtins(self._succession),
        }

    @classmethod
    def restore(cls, snapshot: object, policy: Policy) -> "Learning":
        """Continue from `snapshot`, bit for bit, and under `policy` from the next label on.

        Raises `StateError` if it is damaged or of another version.
        """
        try:
            saved = msgspec.convert(snapshot, Saved)
        except msgspec.ValidationError as error:
            raise StateError(f"state of LEARN is damaged or of another version: {error}") from None
        before = policy.with_learning(saved.recorded.policy) if saved.recorded else policy
        self = cls(Ledger.restore(saved.ledger, before), saved.model, saved.recorded, saved.last)
        self._succession = saved.succession or self._succession
        self.set_policy(policy)
        return self

    def _learn(self, label: Label) -> Iterator[Alarm | Change]:
        fresh = self._follow(label)
        if label.decision.model_hash != self.model_hash:
            return
        policy, self._next_policy = self._next_policy, None
        if policy is not None:
            self.ledger = self.ledger.with_policy(policy)
        jumps = self.ledger.apply(label)
        for jump in jumps:
            yield alarm(jump, label)
        if fresh and self._recorded is not None:
            yield self._record(label.label_id, f"another model: {self.model_hash[:12]}", {})
        elif jumps or policy is not None or self._is_due():
            yield self._record(label.label_id, describe(jumps) if jumps else self.ledger.cause, jump_evidence(jumps))

    def _follow(self, label: Label) -> bool:
        """Start anew when another model follows; its labels before, and late ones of the old model, are set aside."""
        model = label.decision.model_hash
        if label.decision.logit is None or not is_evidence(label):
            return False
        if not self._succession.follows(self.model_hash, model, shown_at(label).timestamp()):
            return False
        fresh = Ledger(self.ledger.deployment, self.ledger.policy)
        fresh.version, fresh.as_of = self.ledger.version, self.ledger.as_of
        self.ledger, self.model_hash = fresh, model
        return True

    def _apply_instruction(self, instruction: Instruction) -> None:
        if self.ledger.as_of is None:
            raise Invalid("an instruction before the first label: there is nothing to change")
        if instruction.model_hash != self.model_hash:
            raise Invalid("field `model_hash` names another model than the calibrator's: its parameters do not fit")
        if instruction.order == "rebuild" and instruction.last not in {None, self.last}:
            raise Invalid(OVERTAKEN)
        try:
            self.ledger.apply_instruction(instruction)
        except StateError as error:
            raise Invalid(f"the instruction cannot be followed: {error}") from None

    def _is_due(self) -> bool:
        if self._recorded is not None and lineage(self.ledger.version) > lineage(self._recorded.version):
            return True
        return self.ledger.as_of is not None and self.ledger.as_of >= self._next_day

    def _record(self, last: str, cause: str, evidence: dict[str, float | int | str]) -> Change:
        state = self.ledger.filter.state()
        version = self.calibration(state)
        assert version is not None
        parameters = self.ledger.filter.thresholds().parameters()
        before, self._recorded = self._recorded, standing_of(version, parameters, self.ledger.policy.learning)
        self._next_day = _day_after(self._recorded)
        return Change(
            deployment=version.deployment,
            model_hash=version.model_hash,
            cause="; ".join([*policy_changes(before, self._recorded), cause]),
            evidence={"labels": version.labels - (before.labels if before else 0), **evidence},
            before=before,
            after=self._recorded,
            last=last,
            state=self._recordable(state),
        )

    def _recordable(self, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the state for an entry, if it fits into a message."""
        whole = self.snapshot(state)
        return None if len(msgspec.json.encode(whole)) > MAX_RECORDED_BYTES else whole


def identity(event: Entry) -> str:
    """Return the id by which a repeat is known."""
    return event.instruction_id if isinstance(event, Instruction) else event.label_id


def _day_after(recorded: Standing | None) -> datetime:
    """Return when the day of event time ends in which an entry was made."""
    return instant(0.0 if recorded is None else (recorded.as_of.timestamp() // DAY_S + 1.0) * DAY_S)


def policy_changes(before: Standing | None, after: Standing) -> list[str]:
    """Say in words what a policy said before, and what it says now."""
    old = {} if before is None else before.policy
    return [
        f"policy: {name} {old[name]} → {new}" for name, new in after.policy.items() if name in old and old[name] != new
    ]


def standing_of(version: Calibration, parameters: dict[str, float], policy: dict[str, float]) -> Standing:
    """Return how a version stands under what LEARN goes by, for people."""
    return Standing(
        version=version.version,
        labels=version.labels,
        missing_labels=version.missing_labels,
        parameters=parameters,
        cuts=version.cuts,
        shares=version.shares,
        as_of=version.as_of,
        basis=version.basis,
        policy=policy,
    )


def jump_evidence(jumps: tuple[Jump, ...]) -> dict[str, float | int | str]:
    """Return the evidence of the strongest of the changes that a label forced."""
    if not jumps:
        return {}
    first = max(jumps, key=lambda jump: jump.statistic)
    return {"statistic": first.statistic, "threshold": first.threshold, "since": first.since, "scope": first.scope}


def instruction_evidence(instruction: Instruction) -> dict[str, float | int | str]:
    """Return who ordered a change, why, and up to where green was let through."""
    ceilings = {f"ceiling {scope}": value for scope, value in instruction.ceilings.items()}
    return {"by": instruction.by, "why": instruction.why, **ceilings}
