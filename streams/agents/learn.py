"""LEARN: labels, keyed by deployment, become versions of its calibrator; what people are to know goes to its log."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog

from models.calibration.control import rebuilding
from models.calibration.learning import Entry, Learning, identity
from models.calibration.ledger import Ledger
from models.events import Instruction, Label
from models.policy import Policies
from streams.agents.fold import Published
from streams.settings import Stage
from streams.wire import Record

log = structlog.get_logger(__name__)


class Learn:
    """What LEARN folds."""

    name: Stage = "learn"
    types = Label | Instruction

    def __init__(self, policies: Policies, published: Published) -> None:
        self._policies = policies
        self.published = published

    def identify(self, event: Entry) -> tuple[str, str, datetime]:
        """A label counts once in its deployment, and an instruction is followed once."""
        return identity(event), event.deployment, event.occurred_at

    def arrange(self, records: Sequence[Record], /) -> list[Record]:
        """One deployment, which is the key, after the other: its calibrator stays in the processor's caches."""
        return sorted(records, key=lambda record: record.key or b"")

    def create(self, deployment: str) -> Learning:
        """Return a calibrator that knows its prior only."""
        return Learning(Ledger(deployment, self._policies.of(deployment)))

    def restore(self, deployment: str, snapshot: Any) -> Learning:
        """Continue from a snapshot, learning what it learnt; say so if the policy wants something else by now."""
        policy = self._policies.of(deployment)
        learning = Learning.restore(snapshot, policy)
        if learning.ledger.policy.basis != policy.basis:
            log.warning(
                "learnt for another target, groups or settings: nothing is green until it is rebuilt",
                deployment=deployment,
                remedy=rebuilding(deployment),
            )
        return learning
