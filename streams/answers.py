"""Decisions as they are made, for those who wait for one: each gateway reads them all, from when it started."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final, NamedTuple

import structlog
from aiokafka import TopicPartition

from models.deciding import MAX_WAIT, is_on
from models.errors import DeliveryError, DemurError, EventError
from models.events import CONTRACT, DeadLetter, Decision, Event, Response, digest
from streams.agents.common import Context
from streams.clock import Clock
from streams.connection import kafka_options
from streams.reading import FETCH_MS
from streams.settings import Settings
from streams.standalone_consumers import retry_forever, standalone_consumer

SILENT_S: Final = 3.0
"""Without an answer for some partition: a broker answers each 50 ms, also if there is nothing new."""
TOPICS: Final = (Decision.topic, DeadLetter.topic)

log = structlog.get_logger(__name__)


class SetAside(DemurError):
    """A response became a dead letter instead of a decision; `code` says why."""

    def __init__(self, letter: DeadLetter) -> None:
        super().__init__(letter.detail)
        self.code = letter.code


class Stale(DemurError):
    """What was decided on a response, it was long ago: much may have been learnt since."""

    code = "stale"

    def __init__(self) -> None:
        super().__init__(
            f"the decision on it is not of the last {MAX_WAIT.total_seconds() / 60:.0f} minutes: ask under a new id, "
            "with a new `occurred_at`"
        )


class Question(NamedTuple):
    """What is waited for: a decision on this text of this conversation, or a dead letter on these bytes."""

    response: Response
    digest: str
    answer: asyncio.Future[Decision]


class Answers:
    """Brings each decision to who waits for it.

    An id alone is no proof that a decision is on the text that was sent: another text under the id of one that was
    decided on is set aside, and would be shown by what was said of the first.
    """

    def __init__(self, settings: Settings, context: Context, digest_keys: tuple[bytes, ...], clock: Clock) -> None:
        self._context, self._digest_keys, self._clock = context, digest_keys, clock
        self._options = kafka_options(settings)
        self._partitions = [
            TopicPartition(settings.topic_prefix + topic, number)
            for topic in TOPICS
            for number in range(context.partitions)
        ]
        self._open = defaultdict[str, list[Question]](list)
        self.listening = False
        """Whether decisions are read: what is sent before then may be decided on unheard."""

    @contextmanager
    def expect(self, response: Response, value: bytes) -> Iterator[asyncio.Future[Decision]]:
        """Yield what will be the decision on a response whose record is `value`, or a `SetAside`, or `Stale`."""
        answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        mine = Question(response, digest(value), answer)
        self._open[response.response_id].append(mine)
        try:
            yield answer
        finally:
            self._open[response.response_id].remove(mine)
            if not self._open[response.response_id]:
                del self._open[response.response_id]

    def hear(self, record: Any) -> None:
        """Take in a record. What is forged, misplaced, of another version or no event of ours answers nothing."""
        if record.value is None:
            return
        event: Event | None = None
        with suppress(EventError, DeliveryError):
            event = self._context.decode(CONTRACT[record.topic.removeprefix(self._context.prefix)], record)
        if isinstance(event, Decision):
            for asked in self._waiting(event.response_id):
                if not is_on(event, asked.response, self._digest_keys):
                    log.warning("a decision is on another text under an id, or DEMUR_SALIENCE_KEY is not SCORE's")
                elif self._is_stale(event, (record.timestamp or 0) / 1000):
                    asked.answer.set_exception(Stale())
                else:
                    asked.answer.set_result(event)
        elif isinstance(event, DeadLetter):
            for asked in self._waiting(event.response_id or ""):
                if asked.digest == event.digest:
                    asked.answer.set_exception(SetAside(event))

    def _is_stale(self, decision: Decision, taken_at: float) -> bool:
        """Whether a decision is older than one that is made now may be, by the faster of two clocks, or dated ahead.

        SCORE repeats what it said for as long as it keeps its row, whatever has become of its calibrator. `taken_at`:
        when the broker took this repeat, in seconds since the epoch.
        """
        if (now := self._clock.now()) is None:
            return False
        decided_at, most = decision.decided_at.timestamp(), MAX_WAIT.total_seconds()
        return abs(now.timestamp() - decided_at) > most or taken_at - decided_at > most

    def _waiting(self, response_id: str) -> list[Question]:
        return [asked for asked in self._open.get(response_id, ()) if not asked.answer.done()]

    async def follow(self) -> None:
        """Read for ever; a lost broker is waited for."""
        await retry_forever(self._follow, "lost the decisions: no response is answered")

    def _polled(self, consumer: Any) -> int:
        """Return when the broker last answered for the partition that waits longest, in ms: to wait raises nothing."""
        return min(consumer.last_poll_timestamp(partition) or 0 for partition in self._partitions)

    async def _follow(self) -> None:
        try:
            async with standalone_consumer(self._options, self._partitions, fetch_max_wait_ms=FETCH_MS) as consumer:
                while not self.listening:
                    self.listening = await consumer.seek_to_end(*self._partitions)
                oldest, heard_at = 0, monotonic()
                while True:
                    for records in (await consumer.getmany(timeout_ms=FETCH_MS)).values():
                        for record in records:
                            self.hear(record)
                    if (polled := self._polled(consumer)) != oldest:
                        oldest, heard_at = polled, monotonic()
                    self.listening = monotonic() - heard_at < SILENT_S
        finally:
            self.listening = False
