"""JOIN as a state machine: whatever comes, crashes, comes again or passes, in any order, leaves what came but once."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from models.events import Watermark
from streams.timers import GRACE_S
from streams.wire import Record
from tests.property.test_join import CRASHES, END, asked, said, theatre
from tests.stagecraft import Stopwatch, at, record

TOPICS = ("labels", "closures", "outcomes")


class Joining(RuleBasedStateMachine):
    """A worker, its successors, and beside them one that never fails and to whom everything comes once."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Stopwatch()
        self.worker, self.sound = theatre(self.clock), theatre(self.clock)
        self.log: list[Record] = []
        self.safe = 0
        """What lies before this cannot come again."""

    def _come(self, event: Any, topic: str = "", crash: str = "no") -> None:
        self.log.append(record(event, len(self.log), topic=topic))
        self.worker.run(self.log[-1:], crash=crash)
        self.sound.run(self.log[-1:])

    @rule(event=said | asked, crash=st.sampled_from(CRASHES))
    def arrive(self, event: Any, crash: str) -> None:
        self._come(event, crash=crash)

    @rule(hours=st.integers(0, 60), topic=st.sampled_from(Watermark.topics), crash=st.sampled_from(CRASHES))
    def pass_on(self, hours: int, topic: str, crash: str) -> None:
        self._come(Watermark(occurred_at=at(3600 * hours)), topic, crash)

    @precondition(lambda self: len(self.log) > self.safe)
    @rule(data=st.data())
    def come_again(self, data: st.DataObject) -> None:
        """Nothing since then was committed when the worker died."""
        start = data.draw(st.integers(self.safe, len(self.log) - 1))
        self.worker.restart()
        for one in self.log[start:]:
            self.worker.run([one])

    @rule()
    def stay_idle(self) -> None:
        self.worker.tick()

    @rule()
    def commit(self) -> None:
        """All of it, long ago."""
        self.clock.seconds += GRACE_S
        self.safe = len(self.log)
        self.worker.tick()
        self.sound.tick()

    def teardown(self) -> None:
        for stage in (self.worker, self.sound):
            for end in END:
                stage.run([end])
        assert self.worker.outcomes(*TOPICS) == self.sound.outcomes(*TOPICS)


TestJoining = Joining.TestCase
TestJoining.settings = settings(max_examples=60, stateful_step_count=30)
