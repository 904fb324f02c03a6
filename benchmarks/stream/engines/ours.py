"""Our own stages as `demur worker` runs them; an encoder that costs nothing; and a pass-through, which we do not ship.

Settings come from the environment, as a worker's do; the only argument is `pass`, or `worker`.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from benchmarks.stream import rule
from benchmarks.stream.engines.spec import Began
from models.encoder.base import Score as Scored
from models.events import Response
from streams import settings, stages, worker
from streams.agents.fold import Fold
from streams.agents.join import Join
from streams.agents.score import Score
from streams.app import create_app
from streams.clock import clock_for
from streams.delivery import Plan
from streams.metrics import Metrics
from streams.scorer import Scorer
from streams.settings import Settings
from streams.stages import Built
from streams.state import State
from streams.wire import Record, Send


class Pass:
    """A stage that writes on what it reads."""

    name = "pass"
    batch = 256

    def __init__(self, state: State, target: str) -> None:
        self.state = state
        self._target = target

    async def handle(self, partition: int, records: Sequence[Record]) -> Plan:  # noqa: ARG002 (the stage's interface)
        return Plan({}, [Send(self._target, r.key, r.value) for r in records])

    async def tick(self, partition: int, watermarks: Mapping[str, datetime], /) -> Plan:  # noqa: ARG002
        return Plan({}, [])

    async def poison(self, record: Record) -> Plan:  # noqa: ARG002
        return Plan({}, [])

    def done(self, partition: int) -> None:
        """Nothing is kept back."""

    def forget(self, *partitions: int) -> None:
        """Nothing is cached."""


class Sized:
    """Stands for a tokenised response of three hundred characters and a question."""

    size = 100


class Free:
    """An encoder that costs nothing."""

    model_hash = rule.MODEL_HASH
    rounding = 0.0

    def prepare(self, responses: Sequence[Response]) -> list[Any]:
        return [Sized] * len(responses)

    def infer(self, prepared: Sequence[Any]) -> list[Scored]:
        return [rule.FREE] * len(prepared)


def noting(stage: Any, began: Began) -> None:
    """Let a stage note when it took its first batch."""
    handle = stage.handle

    async def noted(self: Any, partition: int, records: Sequence[Record]) -> Plan:
        began()
        plan: Plan = await handle(self, partition, records)
        return plan

    stage.handle = noted


def passing(given: Settings) -> None:
    """Run the pass-through until told to stop."""
    made, clock = f"{given.topic_prefix}passed", clock_for(given.time_source)
    app = create_app(given, "pass", [Response.topic], lambda state: Pass(state, made), clock)
    asyncio.run(worker._run(given, [Built(app, {})], Metrics()))  # noqa: SLF001 (what is below `run` knows shipped stages only)


def shipped(given: Settings) -> None:
    """Run a worker; should it score, its encoder costs nothing."""
    stages.scorer = lambda chosen, metrics: Scorer(Free(), metrics, deadline_s=chosen.deadline_s)
    worker.run(given)


if __name__ == "__main__":
    chosen = settings.load()
    noted = Began(str(chosen.data_dir))
    for each in (Pass, Score, Join, Fold):
        noting(each, noted)
    {"pass": passing, "worker": shipped}[sys.argv[1]](chosen)
