"""SCORE: responses become decisions; outcomes tell a conversation how its earlier turns were received."""

from bisect import bisect
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import accumulate
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from models.deciding import (
    MAX_REST,
    DecisionContext,
    Failed,
    History,
    decide,
    is_on,
    is_refusal,
    refuse,
    subject,
    tier_is_rounding_sensitive,
)
from models.encoder.base import Score as Scored
from models.errors import EventError, IdReused
from models.events import Decision, Outcome, Response, decode, parse
from models.policy import Policies, Policy
from streams.agents.common import Context, Internal
from streams.agents.expiry import Expiry
from streams.calibrations import Calibrations
from streams.clock import Clock
from streams.delivery import MAX_CONCURRENT_BATCHES, Plan
from streams.scorer import Scorer
from streams.state import State
from streams.wire import Record, with_trace

BATCH: Final = 256
BYTES: Final = 5
"""Of a record, per token, at most: it is an estimate, and must not hold back texts of one length."""
ENVELOPE: Final = 400
"""Bytes of a record that are no text: ids, times, groups."""
MAX_UNNAMED: Final = 100
"""Deployments that a worker warns of: a gateway that gives each response one of its own must not fill the log."""

log = structlog.get_logger(__name__)


class Parts(Struct, frozen=True):
    """What SCORE works with."""

    scorer: Scorer
    calibrations: Calibrations
    policies: Policies
    clock: Clock
    keys: tuple[bytes, ...]
    """Of the digests: the first makes them, the others are known too."""


class Score:
    """The stage. Keeps every decision for a while, so that a repeated response gets the same one, byte for byte.

    A decision is on one text, in one place. Another text under its id, or the same elsewhere (`is_on`), is set aside,
    and is not told what was decided on the first; nor if that was refused: then the id stays red, though the text that
    comes now could be scored.
    """

    name = "score"

    def __init__(self, context: Context, state: State, expiry: Expiry, parts: Parts) -> None:
        self.context = context
        self.state = state
        self._expiry = expiry
        self._parts = parts
        self._under_way = 0.0  # tokens, by the length of their records
        self._unnamed: set[str] = set()  # deployments that were warned of

    @property
    def batch(self) -> int:
        """As many as the encoder soon answers: each waits for the slowest among them, and some wait behind them."""
        return min(BATCH, self._parts.scorer.ready_for)

    async def handle(self, partition: int, records: Sequence[Record]) -> Plan:
        """Decide on responses, all of a batch at once as far as they are answered in time; note outcomes."""
        if records[0].topic == self.context.prefix + Outcome.topic:
            return await self._outcomes(partition, records)
        tokens = list(accumulate(max(0, len(record.value) - ENVELOPE) / BYTES for record in records))
        taken = max(1, bisect(tokens, self._room()))
        self._under_way += tokens[taken - 1]
        try:
            plan = await self._responses(partition, records[:taken])
        finally:
            self._under_way -= tokens[taken - 1]
        left = len(records) - taken
        return plan._replace(more=left > 0, left=left)

    def _room(self) -> float:
        """Tokens that may be taken now: a backlog of short texts, of which many were answered, may end in long ones."""
        ready = self._parts.scorer.ready_for_tokens
        return min(ready, MAX_CONCURRENT_BATCHES * ready - self._under_way)

    async def tick(self, partition: int, _: Mapping[str, datetime], /) -> Plan:
        """Forget what is long past."""
        return Plan(await self._expiry.take(partition, self.state), [])

    async def poison(self, record: Record) -> Plan:
        """Set aside what cannot be processed; its response is red."""
        plan = Plan({}, [])
        self.context.metrics.decided(self._refuse(plan, record, Internal("not processable")))
        return plan

    def done(self, partition: int) -> None:
        """Nothing is kept back."""

    def forget(self, *partitions: int) -> None:
        """Drop what is cached."""
        self._expiry.forget(*partitions)

    async def _responses(self, partition: int, records: Sequence[Record]) -> Plan:
        await self._parts.calibrations.ready()
        plan = Plan(await self._expiry.take(partition, self.state), [])
        clock = self._parts.clock
        now = clock.wall_time_at(clock.monotonic())
        found = [self._spare(partition, self._read(partition, record), now) for record in records]
        fresh = [one for one in found if isinstance(one, Response)]
        decide = partial(self._decide, partition)
        decided = iter(await self._parts.scorer.decide_all(fresh, decide, self._tier_is_rounding_sensitive))
        decisions: list[Decision] = []
        for record, one in zip(records, found, strict=True):
            decisions += self._answer(plan, record, next(decided) if isinstance(one, Response) else one)
        self.context.metrics.decided(decisions)
        return plan

    def _read(self, partition: int, record: Record) -> Response | Decision | EventError:
        """Return a response, the decision on it that stands, or what is wrong with it."""
        try:
            response: Response = self.context.decode(Response, record)
        except EventError as error:
            return error
        first = self._first(partition, response.response_id)
        if first is None or is_on(first, response, self._parts.keys):
            return first or response
        return _other_text(first)

    def _spare(
        self, partition: int, one: Response | Decision | EventError, now: datetime | None
    ) -> Response | Decision | EventError:
        """Decide, without the encoder, on a response that is over before its turn: others would wait for it in vain."""
        if now is None or not isinstance(one, Response) or one.occurred_at >= now - self._expiry.keep:
            return one
        return self._decide(partition, one, Failed("deadline_missed"))

    def _first(self, partition: int, response_id: str, plan: Plan | None = None) -> Decision | None:
        """Return the decision on an id that stands, also if `plan` only makes it."""
        key = _decided(response_id)
        stored = (plan and plan.rows.get(key)) or self.state.get(partition, key)
        return msgspec.json.decode(stored, type=Decision) if stored else None

    def _decide(self, partition: int, response: Response, score: Scored | Failed) -> Decision:
        parts = self._parts
        stored = self.state.get(partition, _conversation(response.conversation_id))
        history = msgspec.json.decode(stored, type=History) if stored else History()
        by = parts.calibrations.of(response.deployment)
        return decide(response, score, by, history, self._decision_context(response))

    def _tier_is_rounding_sensitive(self, decision: Decision, tolerance: float) -> bool:
        by, policy = self._parts.calibrations.of(decision.deployment), self._parts.policies.of(decision.deployment)
        return tier_is_rounding_sensitive(decision, by, policy, tolerance)

    def _decision_context(self, response: Response | None) -> DecisionContext:
        parts = self._parts
        policy = self._policy(response.deployment) if response else Policy()
        # By the faster clock: by one that is behind, what waited for long would be prompt, and green (`MAX_WAIT`).
        now = parts.clock.latest() or (response.occurred_at if response else self._expiry.watermark)
        return DecisionContext(policy, parts.scorer.model_hash, parts.keys[0], now)

    def _policy(self, deployment: str) -> Policy:
        """Return a deployment's policy; say once of each if the file names others only: it may have been renamed."""
        policies, known = self._parts.policies, self._unnamed
        if policies.omits(deployment) and deployment not in known and len(known) < MAX_UNNAMED:
            known.add(deployment)
            log.warning(
                "a deployment is not in the policy file: the file's defaults hold for it",
                deployment=deployment,
                remedy="give it a table of its own in DEMUR_POLICY, an empty one if the defaults are meant",
            )
        return policies.of(deployment)

    def _answer(self, plan: Plan, record: Record, one: Decision | EventError) -> list[Decision]:
        """Send the first decision on a text, each time that it comes; set aside what has none."""
        if isinstance(one, EventError):
            return self._refuse(plan, record, one)
        first = self._first(record.partition, one.response_id, plan)
        if first is not None and subject(first) != subject(one):
            return self._refuse(plan, record, _other_text(first))
        return [self._keep(record, plan, first or one, again=first is not None)]

    def _keep(self, record: Record, plan: Plan, decision: Decision, *, again: bool) -> Decision:
        key, send = _decided(decision.response_id), self.context.send(decision)
        plan.rows[key] = send.value
        plan.sends.append(with_trace(record.headers, send))
        self._expiry.set(record.partition, key, self._parts.clock.clamped(decision.occurred_at, record.at), again=again)
        return decision

    def _refuse(self, plan: Plan, record: Record, error: EventError) -> list[Decision]:
        """Set a record aside; its response is red, unless another record of its id was decided on: that stands."""
        decision = refuse(_rest(record, error), error, self._decision_context(None))
        response_id = decision.response_id if decision else None
        plan.sends.append(self.context.dead_letter(self.name, record, error, response_id))
        if decision is None:
            return []
        first = self._first(record.partition, decision.response_id, plan)
        if first is not None and (isinstance(error, IdReused) or not is_refusal(first)):
            return []
        return [self._keep(record, plan, first or decision, again=first is not None)]

    async def _outcomes(self, partition: int, records: Sequence[Record]) -> Plan:
        plan = Plan(await self._expiry.take(partition, self.state), [])
        for record in records:
            try:
                outcome: Outcome = self.context.decode(Outcome, record)
            except EventError as error:
                plan.sends.append(self.context.dead_letter(self.name, record, error))
                continue
            key = _conversation(outcome.conversation_id)
            stored = plan.rows.get(key) or self.state.get(partition, key)
            history = msgspec.json.decode(stored, type=History) if stored else History()
            history = history.after(outcome.response_id, rejected=outcome.rejected, at=outcome.occurred_at)
            plan.rows[key] = msgspec.json.encode(history)
            at = self._parts.clock.clamped(outcome.occurred_at, record.at)
            self._expiry.set(partition, key, at, again=stored is not None)
        return plan


def _other_text(first: Decision) -> EventError:
    """Say why a response has no decision though its id has; where we failed, it may be the one that we failed on."""
    return Internal("not processable") if first.reasons[1:] == (Internal.code,) else IdReused()


def _rest(record: Record, error: EventError) -> dict[str, Any]:
    """What is left of a message that breaks the contract: at best, whose it is. One that keeps to it is there whole."""
    try:
        if isinstance(error, IdReused | Internal):
            return msgspec.structs.asdict(decode(Response, record.value))
        return parse(record.value, limit=MAX_REST)
    except EventError:
        return {"response_id": record.headers.get("ce_id", b"").decode("ascii", "replace")}


def _decided(response_id: str) -> bytes:
    return f"r/{response_id}".encode()


def _conversation(conversation_id: str) -> bytes:
    return f"c/{conversation_id}".encode()


def read_time(key: bytes, value: bytes) -> Any:
    """Return the event time of a row, from which it expires."""
    if key.startswith(b"r/"):
        return msgspec.json.decode(value, type=Decision).occurred_at
    return msgspec.json.decode(value, type=History).last
