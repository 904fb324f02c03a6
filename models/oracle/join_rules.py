"""The join of one response, written anew from its rules: what each feedback must end as.

Feedback is judged `settle` after it occurred, in the order in which it occurred. The first one settles the response
with all that occurred within `settle` of it: the last verdict of each clinician by (occurred_at, feedback_id) becomes
a label, the others are superseded, and those who give evidence share the weight. Whatever is judged later is a label
of a further clinician (who takes one share more), a correction or a revocation if it is its clinician's latest, and
superseded if it is not. What occurred after the response's horizon is an orphan, except in that window. What arrives
after its time is judged as it comes: *when* it arrived is in no log, only bounds of it, so `Execution` is asked for
each possibility.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from msgspec.structs import replace

from models.events import Closure, ClosureReason, Decision, Depth, Feedback, Label, Outcome, Scored
from models.oracle.logs import Found
from models.oracle.retention import EPOCH, FOREVER, SKEW, moment
from models.salience import digest

MAX_STEPS: Final = 20_000
"""Steps of executions looked into. A response has a handful of feedback, and most of it comes in its time."""
MAX_FEEDBACK_SEARCHED: Final = 64
"""With more feedback on a response, only the execution is looked into in which nothing came late."""
CONTENT: Final = frozenset({"recipient-disagrees-evidence", "recipient-concerns-outcomes"})
CONTEXT: Final = frozenset({
    "not-convenient-feasible", "does-not-align-preferences", "cds-suboptimal-context", "cds-not-applicable",
})  # fmt: skip
"""HL7 `non-adherence-reason-codes`: against the content of the advice, or only against its moment."""


class Ruling(NamedTuple):
    """What one feedback says."""

    rejected: bool
    depth: Depth
    evidence: bool


def speaks(said: Feedback) -> bool:
    """Whether a feedback says anything of its response: who abandons it does, if the reason is the content."""
    if said.action == "abandoned":
        return said.reason_code in CONTENT
    return said.action != "retracted"


def ruling(said: Feedback, salience: str, keys: Sequence[bytes]) -> Ruling:
    """Decide a feedback: reason code, then edit (not of a flag), then action. `salience`: that of the response's doses.

    >>> from datetime import UTC, datetime
    >>> at = datetime(2026, 1, 5, tzinfo=UTC)
    >>> said = Feedback(feedback_id="f", response_id="r", clinician="c", action="edited", occurred_at=at)
    >>> ruling(said, "", [b""])
    Ruling(rejected=True, depth='surface', evidence=True)
    """
    against = said.reason_code in CONTENT
    if said.action == "accepted" or not speaks(said):
        return Ruling(rejected=False, depth="none", evidence=speaks(said))
    if against or said.reason_code in CONTEXT:
        deep = against
    elif said.edited_response is not None and said.action != "flagged":
        deep = salience not in [digest(said.edited_response, key) for key in keys]
    else:
        deep = said.action != "edited"
    return Ruling(rejected=True, depth="deep" if deep else "surface", evidence=True)


class Judged(NamedTuple):
    """What became of one feedback: a label, or None: superseded; and at which event time it was due."""

    said: Feedback
    label: Label | None
    due: datetime


class Execution(NamedTuple):
    """A settled response on its way: what waits, what has become of the rest, each clinician's labels and share."""

    decision: Decision
    end: datetime
    """Of the response's horizon."""
    settle: timedelta
    digest_keys: Sequence[bytes]
    waiting: tuple[Feedback, ...] = ()
    judged: tuple[Judged, ...] = ()
    chains: tuple[tuple[Feedback, ...], ...] = ()
    shares: tuple[int, ...] = ()

    @property
    def state(self) -> Hashable:
        """What its further way depends on, beside the time."""
        chains = tuple(tuple(map(_id, chain)) for chain in self.chains)
        return tuple(map(_id, self.waiting)), chains, self.shares, frozenset(_id(judged.said) for judged in self.judged)

    def receive(self, said: Feedback) -> "Execution":
        """Let a feedback arrive."""
        return self._replace(waiting=tuple(sorted((*self.waiting, said), key=_when)))

    def advance_to(self, now: datetime) -> "Execution":
        """Let event time reach `now`: judge what is due. What waits longer than the horizon is never judged."""
        execution, last = self, min(now - self.settle, self.end)
        while execution.waiting and execution.waiting[0].occurred_at <= last:
            execution = execution._next() if execution.judged else execution._first()
        return execution

    def _first(self) -> "Execution":
        due = self.waiting[0].occurred_at + self.settle
        window = [said for said in self.waiting if said.occurred_at <= due]
        last = {said.clinician: said for said in window}  # they are in order of time
        chains = tuple((last[who],) for who in sorted(last))
        share = max(1, sum(speaks(chain[-1]) for chain in chains))
        execution = self._replace(chains=chains, shares=(share,) * len(chains), waiting=self.waiting[len(window) :])
        labels = {said.feedback_id: execution.label(place, 0) for place, (said,) in enumerate(chains)}
        return execution._replace(judged=tuple(Judged(said, labels.get(said.feedback_id), due) for said in window))

    def _next(self) -> "Execution":
        said, *rest = self.waiting
        due, execution = said.occurred_at + self.settle, self._replace(waiting=tuple(rest))
        place = next((i for i, chain in enumerate(self.chains) if chain[0].clinician == said.clinician), None)
        if place is not None and max(map(_when, self.chains[place])) > _when(said):
            return execution._replace(judged=(*self.judged, Judged(said, None, due)))
        spoken = [any(map(speaks, chain)) for chain in self.chains]
        if place is None:
            place = len(self.chains)
            execution = execution._replace(chains=(*self.chains, ()), shares=(*self.shares, sum(spoken) + 1))
        elif not spoken[place]:
            shares = (*self.shares[:place], sum(spoken) + 1, *self.shares[place + 1 :])
            execution = execution._replace(shares=shares)
        chains = [chain + (said,) * (i == place) for i, chain in enumerate(execution.chains)]
        execution = execution._replace(chains=tuple(chains))
        label = execution.label(place, len(chains[place]) - 1)
        return execution._replace(judged=(*self.judged, Judged(said, label, due)))

    def label(self, place: int, turn: int) -> Label:
        """Return the label of a clinician's verdict, the `turn`-th."""
        chain = self.chains[place][: turn + 1]
        says = ruling(chain[-1], self.decision.salience_digest, self.digest_keys)
        return _label(self.decision, chain, says, self.shares[place])


def executions(
    start: Execution, arrivals: Sequence[tuple[Feedback, datetime]], fits: Callable[[Judged], bool]
) -> Iterator[Execution | None]:
    """Yield the executions that a row may have taken, likely ones first; None in the end if not all were looked into.

    No state is gone on from twice: whatever is still possible later was possible earlier.

    Args:
        start: nothing has arrived yet.
        arrivals: feedback in its order of arrival, each with the latest event time that may have been reached before.
        fits: whether what became of a feedback is what the logs say; what follows from a misfit is not looked into.
    """
    yield _in_order(start, arrivals)
    looked, open_ = 0, [(0, EPOCH, start)] if len(arrivals) <= MAX_FEEDBACK_SEARCHED else []
    since: dict[Hashable, datetime] = {}
    while open_ and looked < MAX_STEPS:
        at, now, execution = open_.pop()
        if at == len(arrivals):
            yield execution.advance_to(FOREVER)
            continue
        for then, moved in _moves(execution, now, *arrivals[at]):
            looked += 1
            state = at, moved.state
            if since.get(state, FOREVER) > then and all(map(fits, moved.judged[len(execution.judged) :])):
                since[state] = then
                open_.append((at + 1, then, moved))
    if open_ or len(arrivals) > MAX_FEEDBACK_SEARCHED:
        yield None


def _moves(execution: Execution, now: datetime, said: Feedback, high: datetime) -> Iterator[tuple[datetime, Execution]]:
    """Yield where an execution may stand when a feedback has arrived, for each time that matters; the earliest last."""
    dues = {one.occurred_at + execution.settle for one in (*execution.waiting, said)}
    for then in reversed([now, *sorted(due for due in dues if now < due <= high)]):
        yield then, execution.advance_to(then).receive(said).advance_to(then)


def _in_order(execution: Execution, arrivals: Sequence[tuple[Feedback, datetime]]) -> Execution:
    """Return the execution if nothing came late."""
    for said, _ in arrivals:
        execution = execution.receive(said)
    return execution.advance_to(FOREVER)


def outcome(label: Label) -> Outcome | None:
    """Return what the conversation is told of a label, if anything."""
    if label.kind != "verdict" or label.weight == 0.0:
        return None
    return Outcome(
        label_id=label.label_id,
        conversation_id=label.decision.conversation_id,
        response_id=label.response_id,
        turn=label.decision.turn,
        rejected=label.rejected,
        depth=label.depth,
        occurred_at=label.occurred_at,
    )


def shown(decided: Found[Decision]) -> datetime:
    """Return when a response's horizon begins: a date that is minutes ahead of the decision and its record is wrong."""
    decision = decided.event
    if decision.occurred_at <= moment(decided.entry) + SKEW:
        return decision.occurred_at
    return min(decision.occurred_at, decision.decided_at + SKEW)


def unlabelled(decided: Found[Decision], horizon: timedelta) -> Closure:
    """Return the closure of a response that nobody judged in time."""
    decision = decided.event
    return Closure(
        closure_id=name(decision.response_id, "unlabelled", ""),
        reason="unlabelled",
        response_id=decision.response_id,
        deployment=decision.deployment,
        tier=decision.tier,
        groups=decision.groups,
        closed_at=shown(decided) + horizon,
    )


def superseded(decision: Decision, said: Feedback, origin: str) -> Closure:
    """Return the closure of a verdict that another of the same clinician replaces."""
    found = _closed("superseded", said, origin, said.occurred_at)
    return replace(found, deployment=decision.deployment, tier=decision.tier, groups=decision.groups)


def duplicate(said: Feedback, origin: str) -> Closure:
    """Return the closure of a feedback whose id was seen before."""
    return _closed("duplicate", said, origin, said.occurred_at)


def orphan(said: Feedback, origin: str, wait: timedelta) -> Closure:
    """Return the closure of a feedback without a response, or after its end."""
    return _closed("orphan", said, origin, said.occurred_at + wait)


def _closed(reason: ClosureReason, said: Feedback, origin: str, at: datetime) -> Closure:
    return Closure(
        closure_id=name(said.response_id, reason, origin),
        reason=reason,
        response_id=said.response_id,
        feedback_id=said.feedback_id,
        closed_at=at,
    )


def name(*parts: str) -> str:
    """Return the id that derives from these parts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def _id(said: Feedback) -> str:
    return said.feedback_id


def _when(said: Feedback) -> tuple[datetime, str]:
    return said.occurred_at, said.feedback_id


def _label(decision: Decision, chain: Sequence[Feedback], says: Ruling, share: int) -> Label:
    said, place = chain[-1], len(chain) - 1
    first = not place or (says.evidence and not any(map(speaks, chain[:-1])))
    ids = [
        name(said.response_id, said.clinician, ""),
        *(name(said.response_id, said.clinician, later.feedback_id) for later in chain[1:]),
    ]
    return Label(
        label_id=ids[place],
        feedback_id=said.feedback_id,
        response_id=said.response_id,
        deployment=decision.deployment,
        clinician=said.clinician,
        action=said.action,
        rejected=says.rejected,
        depth=says.depth,
        weight=says.evidence / share,
        kind="verdict" if first else "revocation" if said.action == "retracted" else "correction",
        revises=None if first else ids[place - 1],
        delay_s=max(0.0, (said.occurred_at - decision.occurred_at).total_seconds()),
        occurred_at=said.occurred_at,
        decision=Scored(**{field: getattr(decision, field) for field in Scored.__struct_fields__}),
    )
