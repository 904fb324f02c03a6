"""What stages keep in memory of a partition: read without holding up others, and dropped without theirs."""

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from models.events import Event
from streams.agents.common import YIELD_EVERY
from streams.agents.watch import Watch
from tests.stagecraft import FakeState, Theatre, decision, record
from tests.unit import test_fold, test_join, test_score
from tests.unit.test_fold import label
from tests.unit.test_score import response

STAGES: list[tuple[Callable[[], Theatre], Callable[[int], Event]]] = [
    (test_score.theatre, lambda n: response(f"r{n}")),
    (test_join.theatre, lambda n: decision(f"r{n}")),
    (test_fold.theatre, label),
    (lambda: test_fold.theatre(Watch), label),
]
NAMES = ["score", "join", "learn", "watch"]


class Counted(FakeState):
    """Counts how often all rows of a partition are read."""

    def __init__(self, read: list[int]) -> None:
        super().__init__()
        self.read = read

    def items(self, partition: int, prefix: bytes = b"") -> Any:
        if not prefix:
            self.read.append(partition)
        return super().items(partition, prefix)


@pytest.mark.parametrize(("make", "event"), STAGES, ids=NAMES)
def test_a_partition_that_is_taken_up_leaves_the_event_loop_to_others(
    make: Callable[[], Theatre], event: Callable[[int], Event]
) -> None:
    """A million rows were seven seconds in which no other partition, and no answer of the broker, was looked at."""
    stage, rows = make(), 10 * YIELD_EVERY
    events = (record(event(n), n) for n in range(rows))
    while batch := list(islice(events, 512)):
        stage.run(batch)
    stage.stage.forget()

    async def turns() -> int:
        ticking, found = asyncio.create_task(stage.stage.tick(0, {})), 0
        while not ticking.done():
            await asyncio.sleep(0)
            found += 1
        return found

    assert asyncio.run(turns()) >= rows // YIELD_EVERY


@pytest.mark.parametrize("make", [make for make, _ in STAGES], ids=NAMES)
def test_to_forget_a_partition_forgets_no_other(make: Callable[[], Theatre]) -> None:
    """A batch that was put off, or a record that failed, had every partition's rows read again."""
    stage, read = make(), list[int]()
    stage.state = Counted(read)
    stage.restart()

    def tick() -> list[int]:
        read.clear()
        for partition in (0, 1):
            asyncio.run(stage.stage.tick(partition, {}))
        return read

    assert tick() == [0, 1]
    stage.stage.forget(0)
    assert tick() == [0]
    stage.stage.forget()
    assert tick() == [0, 1]
