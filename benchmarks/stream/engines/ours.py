"""Our own stages where `demur worker` alone does not do: a pass-through, and SCORE with an encoder that costs nothing.

Settings come from the environment, as a worker's do; the only argument is `pass`, or `free` for the stand-in.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from models.encoder.base import Score
from models.events import Response
from streams import settings, stages, worker
from streams.app import create_app
from streams.delivery import Plan, Record
from streams.metrics import Metrics
from streams.scorer import Scorer
from streams.settings import Settings
from streams.stages import Built
from streams.state import State
from streams.wire import Send


class Pass:
    """A stage that writes on what it reads."""

    name = "pass"
    batch = 256

    def __init__(self, state: State, target: str) -> None:
        self.state = state
        self._target = target

    async def handle(self, partition: int, records: Sequence[Record]) -> Plan:  # noqa: ARG002 (the stage's interface)
        return Plan({}, [Send(self._target, r.key, r.value) for r in records])

    async def tick(self, partition: int) -> Plan:  # noqa: ARG002
        return Plan({}, [])

    async def poison(self, record: Record) -> Plan:  # noqa: ARG002
        return Plan({}, [])

    def done(self, partition: int) -> None:
        """Nothing is kept back."""

    def forget(self) -> None:
        """Nothing is cached."""


class Sized:
    """Stands for a tokenised response."""

    size = 1


class Free:
    """An encoder that costs nothing."""

    model_hash = "free"

    def prepare(self, responses: Sequence[Response]) -> list[Any]:
        return [Sized] * len(responses)

    def infer(self, prepared: Sequence[Any]) -> list[Score]:
        return [Score(-2.0, truncated=False, unknown=0.0)] * len(prepared)


def passing(given: Settings) -> None:
    """Run the pass-through until told to stop."""
    app = create_app(given, "pass", [Response.topic], lambda state: Pass(state, f"{given.topic_prefix}passed"))
    asyncio.run(worker._run(given, [Built(app, {})], Metrics()))


def free(given: Settings) -> None:
    """Run a worker whose encoder costs nothing."""
    stages.scorer = lambda chosen, metrics: Scorer(Free(), metrics, deadline_s=chosen.deadline_s)
    worker.run(given)


if __name__ == "__main__":
    {"pass": passing, "free": free}[sys.argv[1]](settings.load())
