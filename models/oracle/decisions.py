"""Responses against decisions: each response has one, and it says of the response what the response says."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Final, NamedTuple, get_args

import orjson

from models.encoder.template import clean
from models.errors import EventError, IdReused
from models.events import DeadLetter, Decision, Group, Outcome, Response, as_id, parse
from models.oracle.calibrators import Versions
from models.oracle.logs import Entry, Found, Refused, Report, Rules, Source, Topics, fields_that_differ
from models.oracle.retention import Retention
from models.oracle.tiering import complaints, complaints_of_any, config_hash, policy_of
from models.policy import Policy
from models.salience import digest as salience

Complaint = tuple[str, str]
MAX_REST: Final = 4_000_000
"""Bytes of a message that breaks the contract which are read to see whose it is."""
TURNS: Final = ("first", "second", "later")


class Ids(NamedTuple):
    """What a record says of whose it is."""

    response_id: str | None
    conversation_id: str | None
    deployment: str | None


class ResponseRecord(NamedTuple):
    """A record of `responses` that says whose it is: a response, or what is left of one that breaks the contract."""

    entry: Entry
    response: Response | None
    ids: Ids
    codes: frozenset[str]
    """Why it may be refused."""


class Decisions:
    """The check of every decision."""

    def __init__(self, topics: Topics, rules: Rules, versions: Versions, retention: Retention, report: Report) -> None:
        self._topics = topics
        self._retention = retention
        self._rules = rules
        self._versions = versions
        self._report = report
        self._asked: dict[str, list[ResponseRecord]] = defaultdict(list)
        self._histories = _histories(topics)
        self._letters = {(d.source_topic, d.partition, d.offset): d.code for d in _letters(topics)}
        self._all = list(self._found())
        for asked in self._all:
            self._asked[str(asked.ids.response_id)].append(asked)
        self.reused = list(self._set_apart())
        """Texts under the id of another one, which was decided on: each must have its dead letter."""

    def check(self) -> None:
        """Hold responses and decisions against each other, both ways."""
        for asked in self._all:
            self._check_asked(asked)
        for decided in self._topics.decisions.values():
            self._check_decided(decided)

    def _found(self) -> Iterator[ResponseRecord]:
        for found in self._topics.found[Response.topic]:
            code = self._letters.get(self._place(found.entry))
            yield ResponseRecord(*found, ids_of(found), frozenset({code} if code else ()))
        for refused in self._topics.refused[Response.topic]:
            if (rest := ids_of(refused)).response_id is not None:
                yield ResponseRecord(refused.entry, None, rest, frozenset({refused.error.code, "internal"}))

    def _place(self, entry: Entry) -> tuple[str, int, int]:
        return self._topics.logs.prefix + entry.topic, entry.partition, entry.offset

    def _check_asked(self, asked: ResponseRecord) -> None:
        if asked.ids.response_id in self._topics.decisions:
            self._report.note(self._report.checked, "responses", asked.entry)
        elif not self._retention.covers(Decision.topic, self._asked_since(asked)):
            self._report.note(self._report.beyond, "responses", asked.entry)
        elif self._topics.logs.consumed("score", asked.entry):
            self._report.differ("I1", asked.entry, "a response without a decision, though its offset is committed")
        else:
            self._report.note(self._report.pending, "responses", asked.entry)

    def _asked_since(self, asked: ResponseRecord) -> datetime | None:
        """Return since when its decision may have been written: that of its id stands for as long as SCORE keeps it."""
        came = self._retention.time(Found(asked.entry, asked.response))
        is_first = asked.response is not None and IdReused.code not in asked.codes
        return came if is_first or came is None else came - self._rules.horizons.response

    def _set_apart(self) -> Iterator[Refused]:
        """Take from the candidates of each decision the texts that it is not on, and yield those."""
        for response_id, asked in self._asked.items():
            decided = self._topics.decisions.get(response_id)
            others = self._others(decided.event, asked) if decided else self._perhaps_others(asked)
            self._asked[response_id] = [one for one in asked if one not in others]
            yield from (Refused(one.entry, IdReused()) for one in others)

    def _others(self, decision: Decision, asked: Sequence[ResponseRecord]) -> list[ResponseRecord]:
        """Return the texts that a decision is not on: if the one that it is on is there, or as far as SCORE says so."""
        if decision.reasons == ("invalid_input", "internal"):
            return []  # on any of them: what could not be processed has no digest
        keys = self._rules.digest_keys
        texts = [(one, _is_on(decision, one.response, keys)) for one in asked if one.response is not None]
        is_there = any(is_on for _, is_on in texts)
        is_there = is_there or (decision.reasons[:1] == ("invalid_input",) and len(texts) < len(asked))
        others = [one for one, is_on in texts if not is_on]
        return [one for one in others if is_there or IdReused.code in one.codes or not self._is_told(one)]

    def _perhaps_others(self, asked: Sequence[ResponseRecord]) -> list[ResponseRecord]:
        """Return the texts of which SCORE says so, where the decision that it means may be beyond retention."""
        named = [one for one in asked if one.response is not None and IdReused.code in one.codes]
        return [one for one in named if not self._retention.covers(Decision.topic, self._asked_since(one))]

    def _check_decided(self, decided: Found[Decision]) -> None:
        logs, candidates = self._topics.logs, self._asked.get(decided.event.response_id, [])
        if not logs.judged(decided.entry):
            self._report.note(self._report.pending, "decisions", decided.entry)
        elif not (candidates or self._retention.covers(Response.topic, self._since(decided))):
            self._report.note(self._report.beyond, "decisions", decided.entry)
        elif not candidates:
            self._report.differ("I1", decided.entry, "decides on a response that is not in the log")
        else:
            found = [list(self._complaints(decided, asked)) for asked in candidates]
            self._report.note(self._report.checked, "decisions", decided.entry)
            for invariant, what in min(found, key=len):
                self._report.differ(invariant, decided.entry, what)

    def _complaints(self, decided: Found[Decision], asked: ResponseRecord) -> Iterator[Complaint]:
        decision = decided.event
        refused = decision.reasons[:1] == ("invalid_input",)
        if refused or asked.response is None:
            yield from self._refusal(decision, asked)
            return
        yield from _echo(decision, asked.response, self._rules.digest_keys)
        if self._rules.replayed and decision.decided_at != decision.occurred_at:
            yield "I7", "`decided_at` is not the time of the event, in a replay"
        policy = policy_of(decision, self._rules)
        if policy is None:
            yield "I7", "`config_hash` names no policy that was given: pass every policy that was in force"
            return
        yield from _groups(decision, asked.response, policy, self._words(decided, asked.entry.partition))
        cited = self._versions.cited(decision)
        if cited is None:
            yield "I8", f"cites version {decision.calibrator_version}, to which no beginning of the label log leads"
            return
        if not cited:
            self._report.note(self._report.beyond, "risks", decided.entry)
            yield from complaints_of_any(decision, policy)
            return
        found = [list(complaints(decision, policy, one)) for one in cited]
        yield from min(found, key=len)

    def _since(self, decided: Found[Decision]) -> datetime:
        """Return since when its response may have been written."""
        return self._retention.since(decided.entry, decided.event.occurred_at)

    def _words(self, decided: Found[Decision], partition: int) -> set[str]:
        """Return what the decision may say of its conversation's outcomes.

        How far they had come is not in the logs, so any beginning of them will do; nor are those beyond retention.
        """
        outcomes = self._histories.get(decided.event.conversation_id, [])
        rejected = {one.rejected for one in outcomes if one.response_id != decided.event.response_id}
        since = self._since(decided) - self._rules.horizons.response
        known = self._retention.covers(Outcome.topic, since, partition) and not outcomes
        if self._topics.logs.is_truncated(Outcome.topic, partition) and not known:
            rejected = {True, False}
        return {"none", *("rejected" if one else "accepted" for one in rejected)}

    def _is_told(self, asked: ResponseRecord) -> bool:
        """Whether a dead letter on it must still stand."""
        return self._retention.covers(DeadLetter.topic, self._retention.time(Found(asked.entry, None)))

    def _refusal(self, decision: Decision, asked: ResponseRecord) -> Iterator[Complaint]:
        """What holds of the red decision on a message that breaks the contract."""
        if decision.reasons[:1] != ("invalid_input",) or len(decision.reasons) != 2:
            yield "I6", "the response breaks the contract, and `reasons` do not say so"
            return
        code = decision.reasons[1]
        told = self._letters.get(self._place(asked.entry), None if self._is_told(asked) else code)
        if code not in asked.codes or told != code:
            yield "I1", "refused for a reason that its record and its dead letter do not give"
        wanted = Decision(
            response_id=decision.response_id,
            conversation_id=asked.ids.conversation_id or "unknown",
            deployment=asked.ids.deployment or "unknown",
            tier="red",
            action="review",
            reasons=decision.reasons,
            model_hash=decision.model_hash,
            config_hash=config_hash(Policy()),
            occurred_at=decision.decided_at,
            decided_at=decision.decided_at,
        )
        for name in fields_that_differ(decision, wanted):
            yield ("I6" if name in {"tier", "action"} else "I7"), f"`{name}` is not what a refusal says"


def _echo(decision: Decision, response: Response, keys: Sequence[bytes]) -> Iterator[Complaint]:
    """What a decision repeats of its response."""
    for name in ("conversation_id", "turn", "deployment", "occurred_at"):
        if getattr(decision, name) != getattr(response, name):
            yield "I7", f"`{name}` is not that of the response"
    seen = _seen(response, keys)
    if decision.input_digest not in seen:
        yield "I7", "`input_digest` is not that of the response (under the given DEMUR_SALIENCE_KEY)"
    key = seen.get(decision.input_digest, keys[0])
    if decision.salience_digest != salience(response.response or "", key):
        yield "I7", "`salience_digest` is not that of the response (under the given DEMUR_SALIENCE_KEY)"


def _is_on(decision: Decision, response: Response, keys: Sequence[bytes]) -> bool:
    """Whether a decision is on this text, and in this place: all that it repeats of it agrees, but for the time."""
    same = all(getattr(decision, name) == getattr(response, name) for name in ("conversation_id", "turn", "deployment"))
    told = {name: value for name, value in decision.groups.items() if name not in {"history", "moment"}}
    agree = all(name in get_args(Group) and _group(response, name) == value for name, value in told.items())
    return same and agree and decision.input_digest in _seen(response, keys)


def _group(response: Response, name: str) -> str:
    """Return what a response says of its group of this name."""
    if name == "turn":
        return TURNS[min(response.turn, len(TURNS) - 1)]
    return clean(getattr(response, name) or "") or "unknown"


def _seen(response: Response, keys: Sequence[bytes]) -> dict[str, bytes]:
    """Return the digests of what the encoder saw, each with its key."""
    seen = orjson.dumps([response.query, response.response, *response.earlier])
    return {blake2b(seen, key=key, digest_size=16).hexdigest(): key for key in keys}


def _groups(decision: Decision, response: Response, policy: Policy, words: set[str]) -> Iterator[Complaint]:
    """Groups; `words`: what `history` may say."""
    chosen = set(policy.groups)
    wanted: dict[str, str] = {name: _group(response, name) for name in chosen - {"history"}}
    if response.response is None:
        wanted["moment"] = "pre-response"
    found = dict(decision.groups)
    if found.pop("history", None) not in (words if "history" in chosen else {None}):
        yield "I7", "`groups.history` is not what any beginning of the conversation's outcomes gives"
    if found != wanted:
        yield "I7", "`groups` are not those of the response"


def ids_of(source: Source) -> Ids:
    """Return whose a response is, or what is left of one, as far as that says so."""
    entry, response = source
    if isinstance(response, Response):
        return Ids(response.response_id, response.conversation_id, response.deployment)
    try:
        found = parse(entry.value, limit=MAX_REST)
    except EventError:
        found = {"response_id": dict(entry.headers).get("ce_id", b"").decode("ascii", "replace")}
    return Ids(*(as_id(found.get(name)) for name in Ids._fields))


def _histories(topics: Topics) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = defaultdict(list)
    for _, outcome in topics.found[Outcome.topic]:
        found[outcome.conversation_id].append(outcome)
    return found


def _letters(topics: Topics) -> Iterator[DeadLetter]:
    return (letter for _, letter in topics.found[DeadLetter.topic] if letter.stage == "score")
