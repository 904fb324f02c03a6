"""What is the same in every engine: the join, `models.joining` over the rows of one partition, which an engine keeps.

And the decision on a response, `models.deciding`, with an encoder that costs nothing and no calibrator. It is what
`streams.agents` does, without what makes that durable: no progress row, no sequence, nothing deleted, and no decision
kept for a repeat.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec

from benchmarks.stream.feed import HORIZONS, Item, by_place
from models import joining
from models.deciding import Calibrated, DecisionContext, History, decide
from models.encoder.base import Score
from models.errors import EventError
from models.events import Closure, DeadLetter, Decision, Feedback, Label, Outcome, Response, Watermark, decode, digest
from models.joining import Row
from models.policy import Policy
from streams.timers import EPOCH, Timers
from streams.wire import Send, outgoing

TYPES: Final[dict[str, Any]] = {t.topic: t | Watermark for t in (Decision, Feedback)}
OUTCOMES: Final = (Label.topic, Outcome.topic, Closure.topic, DeadLetter.topic)
MODEL_HASH: Final = "free"
FREE: Final = Score(-2.0, truncated=False, unknown=0.0)
"""Every response's."""


def score(prefix: str, value: bytes) -> Send:
    """Decide on a response."""
    response: Response = decode(Response, value)
    context = DecisionContext(Policy(), MODEL_HASH, b"", response.occurred_at)
    return outgoing(prefix, decide(response, FREE, Calibrated(), History(), context))


def decided(items: Iterable[Item]) -> list[Item]:
    """Return the same with decisions instead of responses, which lie where those lay."""
    return [
        item if item.topic != Response.topic else item._replace(topic=Decision.topic, value=score("", item.value).value)
        for item in items
    ]


class Join:
    """One partition. `get` and `put` reach the engine's rows by response id."""

    def __init__(
        self, prefix: str, partition: int, get: Callable[[str], bytes | None], put: Callable[[str, bytes], None]
    ) -> None:
        self._prefix, self._partition = prefix, partition
        self._get, self._put = get, put
        self._reached = dict.fromkeys(TYPES, EPOCH)
        self._timers = Timers()

    def take(self, topic: str, offset: int, value: bytes) -> Iterator[Send]:
        """Take in one message (topic without prefix); yield what follows."""
        try:
            event = decode(TYPES[topic], value)
            yield from self._sends(self._enter(event, offset))
        except EventError as error:
            yield self._dead(topic, offset, value, error)
            return
        yield from self._sends(self._advance(topic, event.occurred_at))

    def _enter(self, event: Any, offset: int) -> Iterable[joining.Effect]:
        if isinstance(event, Decision):
            self._set(
                joining.on_decision(self._row(event.response_id), joining.stored_decision(event, event.decided_at))
            )
        elif isinstance(event, Feedback):
            feedback = joining.stored_feedback(event, f"{self._partition}:{offset}", (b"",), event.occurred_at)
            row, effects = joining.on_feedback(self._row(event.response_id), feedback, HORIZONS)
            self._set(row)
            return effects
        return ()

    def _advance(self, topic: str, to: datetime) -> Iterator[joining.Effect]:
        self._reached[topic] = max(self._reached[topic], to)
        self._timers.advance(min(self._reached.values()))
        for due, key in self._timers.due():
            before = self._row(key)
            row, effects = joining.on_time(before, due, HORIZONS, 0)
            if row is not before:
                self._set(row)
                yield from effects

    def _row(self, response_id: str) -> Row:
        stored = self._get(response_id)
        return msgspec.json.decode(stored, type=Row) if stored else Row(response_id)

    def _set(self, row: Row) -> None:
        self._put(row.response_id, msgspec.json.encode(row))
        self._timers.set(row.response_id, row.due(HORIZONS))

    def _sends(self, effects: Iterable[joining.Effect]) -> Iterator[Send]:
        yield from (outgoing(self._prefix, effect) for effect in effects)

    def _dead(self, topic: str, offset: int, value: bytes, error: EventError) -> Send:
        letter = DeadLetter(
            source_topic=self._prefix + topic,
            partition=self._partition,
            offset=offset,
            stage="join",
            code=error.code,
            detail=str(error),
            digest=digest(value),
            size_bytes=len(value),
        )
        return outgoing(self._prefix, letter)


def expected(items: Iterable[Item], prefix: str = "") -> set[bytes]:
    """Return the outcomes that a join of these inputs has, whatever engine runs it."""
    rows: dict[str, bytes] = {}
    joins: dict[int, Join] = {}
    found: set[bytes] = set()
    for item, offset in by_place(items):
        rule = joins.setdefault(item.partition, Join(prefix, item.partition, rows.get, rows.__setitem__))
        found.update(send.value or b"" for send in rule.take(item.topic, offset, item.value))
    return found
