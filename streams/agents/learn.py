"""LEARN: labels, keyed by deployment, become versions of its calibrator; jumps become alarms."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from models.calibration.ledger import Ledger, alarm
from models.events import Alarm, Calibration, Label
from models.policy import Policies, Policy
from streams.settings import Stage


class Learning:
    """One deployment's calibrator. It holds for one encoder: another one's scores start it anew."""

    def __init__(self, ledger: Ledger, model_hash: str = "") -> None:
        self._ledger = ledger
        self._model = model_hash

    def apply(self, label: Label) -> Iterable[Alarm]:
        """Fold one label."""
        self._follow(label)
        if label.decision.model_hash == self._model:
            yield from (alarm(jump, label) for jump in self._ledger.apply(label))

    def publish(self) -> Iterable[Calibration]:
        """Return the version as it stands."""
        if (found := self._ledger.calibration()) is not None:
            yield msgspec.structs.replace(found, model_hash=self._model)

    def snapshot(self) -> Any:
        """Return ledger and model as JSON types."""
        return {"model": self._model, "ledger": self._ledger.snapshot()}

    def _follow(self, label: Label) -> None:
        """Start anew when a newer response was scored by another encoder; late labels of the old one are set aside."""
        newer = self._ledger.as_of is None or label.decision.occurred_at > self._ledger.as_of
        if label.decision.model_hash != self._model and newer and label.decision.logit is not None:
            fresh = Ledger(self._ledger.deployment, self._ledger.policy)
            fresh.version, fresh.as_of = self._ledger.version, self._ledger.as_of
            self._ledger, self._model = fresh, label.decision.model_hash


class Learn:
    """What LEARN folds."""

    name: Stage = "learn"
    publishes = True
    types = Label

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def identify(self, label: Label) -> tuple[str, str, datetime]:
        """A label counts once in its deployment."""
        return label.label_id, label.deployment, label.occurred_at

    def create(self, deployment: str) -> Learning:
        """Return a calibrator that knows its prior only."""
        return Learning(Ledger(deployment, self._policy(deployment)))

    def restore(self, deployment: str, snapshot: Any) -> Learning:
        """Continue from a snapshot."""
        return Learning(Ledger.restore(snapshot["ledger"], self._policy(deployment)), snapshot["model"])

    def _policy(self, deployment: str) -> Policy:
        return self._policies.of(deployment)
