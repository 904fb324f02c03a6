"""The join of a response's decision with its feedback: one row per response, one pure `step`.

    input      | waiting (no decision) | open (decision)             | settled                          | closed
    -----------+-----------------------+-----------------------------+----------------------------------+-----------
    decision   | open                  | (repeat: nothing)           | (repeat: nothing)                | waiting → open
    feedback   | park it               | park it                     | park it                          | orphan
    same id    | duplicate             | duplicate                   | duplicate                        | duplicate
    time ≥ due | orphan; last: closed  | settle: a label a clinician;| each parked verdict: new         | closed
               |                       | at the horizon: unlabelled, | clinician: label; later verdict: |
               |                       | closed                      | correction; earlier: superseded  |

Nothing is judged on arrival. Feedback is due `settle` after it occurred; the first one settles the response with all
that occurred until then, the last verdict of a clinician by (occurred_at, feedback_id) winning, and whatever occurred
later is judged singly, in the order in which it occurred: a correction, unless its clinician had said nothing yet. Time
is event time: the lower of two watermarks, that of decisions and that of feedback. So the result depends neither on how
fast the two inputs are read nor on the order of arrival, for disorder of up to `settle`; what comes later still is
judged as it comes. Redelivered input (same id, same origin) returns the same outcomes again, byte for byte:
at-least-once delivery with idempotent outcomes.
"""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from models.errors import Excessive
from models.events import Closure, ClosureReason, Decision, Feedback, FeedbackAction, Label, Outcome, Scored
from models.labels import Reason, Verdict, is_evidence, reason_of, verdict
from models.salience import digest

Effect = Label | Outcome | Closure

MAX_FEEDBACK: Final = 1000
"""Feedback that is kept of one response: half a megabyte of state, which brokers take in one message."""

MAX_SKEW: Final = timedelta(minutes=5)
"""By which a clock may be ahead. Those of hospital systems under NTP agree far better; what is dated further ahead must
neither wait for years itself nor, as the time of a stream, expire what others sent."""


class Horizons(NamedTuple):
    """How long the join waits, in event time."""

    settle: timedelta
    """After a verdict, for contradictions, further clinicians, and disorder of arrival."""
    response: timedelta
    """For feedback after a response, before it is closed as unlabelled."""
    orphan: timedelta
    """For the decision of a response whose feedback came first."""


class StoredFeedback(Struct, frozen=True, array_like=True):
    """One feedback, without its text: what the verdict needs. `origin` is its position, topic-unique."""

    feedback_id: str
    origin: str
    clinician: str
    action: FeedbackAction
    reason: Reason | None
    edit_digest: str | None
    """Of the edited text; several, by several keys, with blanks between them."""
    occurred_at: datetime
    latest: datetime | None = None
    """The latest that it can have been said, if it is dated later: else it would wait for years for a response."""

    def orphaned(self, horizons: Horizons) -> datetime:
        """Return until when it waits for its response."""
        return (self.latest or self.occurred_at) + horizons.orphan


class StoredDecision(Struct, frozen=True, array_like=True):
    """What the join keeps of a decision."""

    deployment: str
    salience_digest: str
    scored: Scored
    latest: datetime | None = None
    """The latest that the response can have been shown, if it is dated ahead: else it would wait for years."""


class Row(Struct, frozen=True, array_like=True, omit_defaults=True):
    """The state of one response."""

    response_id: str
    decision: StoredDecision | None = None
    feedback: tuple[StoredFeedback, ...] = ()
    settled: tuple[str, ...] = ()
    """Feedback ids whose verdicts have become labels, in the order of their labels."""
    shares: tuple[int, ...] = ()
    """For each label, among how many clinicians its weight is shared."""
    superseded: tuple[str, ...] = ()
    """Feedback ids whose verdicts gave way to others of the same clinician."""
    orphans: tuple[StoredFeedback, ...] = ()
    """Feedback that ended without a response, or came after the end."""
    closed: bool = False
    sequence: int = 0
    """The batch whose timers last changed this row; its outcomes are sent again if that batch did not finish."""

    def parked(self) -> list[StoredFeedback]:
        """Return feedback that waits for its judgement, in the order in which it occurred."""
        judged = {*self.settled, *self.superseded}
        return sorted((h for h in self.feedback if h.feedback_id not in judged), key=_when)

    def due(self, horizons: Horizons) -> datetime | None:
        """Return when time next changes this row, or None when it is closed or has nothing in it (yet, or again)."""
        if self.closed or not (self.decision or self.feedback):
            return None
        if self.decision is None:
            return min(h.orphaned(horizons) for h in self.feedback)
        parked = [h.occurred_at for h in self.parked()]
        return min([*parked, self.end(horizons)]) + horizons.settle

    def end(self, horizons: Horizons) -> datetime:
        """Return the end of the response's horizon: what occurs later is an orphan."""
        assert self.decision is not None
        return (self.decision.latest or self.decision.scored.occurred_at) + horizons.response


def stored_decision(decision: Decision, came_at: datetime) -> StoredDecision:
    """Return the part of a decision that the join keeps.

    `came_at`: when the broker took it. A response that is not dated ahead of that is not dated ahead at all: if it is
    of the time at which it was decided, then the scorer's clock is behind, and its horizon must not end before it.
    """
    scored = msgspec.convert(decision, Scored, from_attributes=True)
    latest = decision.decided_at + MAX_SKEW
    is_ahead = max(latest, came_at + MAX_SKEW) < decision.occurred_at
    return StoredDecision(decision.deployment, decision.salience_digest, scored, latest if is_ahead else None)


def stored_feedback(feedback: Feedback, origin: str, keys: Iterable[bytes], latest: datetime) -> StoredFeedback:
    """Reduce feedback to what its verdict needs.

    `keys`: those by which a decision's digest may have been made; `latest`: it cannot have been said after that,
    whatever it is dated.
    """
    edited = feedback.edited_response
    return StoredFeedback(
        feedback.feedback_id,
        origin,
        feedback.clinician,
        feedback.action,
        reason_of(feedback.reason_code),
        None if edited is None else " ".join(digest(edited, key) for key in keys),
        feedback.occurred_at,
        latest if latest < feedback.occurred_at else None,
    )


def on_decision(row: Row, decision: StoredDecision) -> Row:
    """Take in a decision; the first one stands (repeats are byte-identical by contract)."""
    return row if row.decision is not None else msgspec.structs.replace(row, decision=decision, closed=False)


def on_feedback(row: Row, new: StoredFeedback, horizons: Horizons) -> tuple[Row, tuple[Effect, ...]]:
    """Take in one feedback; returns what follows at once, which for news is only the end of an orphan.

    Raises `Excessive` if there is too much on this response already.
    """
    for old in (*row.feedback, *row.orphans):
        if old.feedback_id == new.feedback_id:
            repeated = old.origin != new.origin
            again = (_close(row, "duplicate", new, new.occurred_at),) if repeated else _followed(row, old, horizons)
            return row, again
    if len(row.feedback) + len(row.orphans) >= MAX_FEEDBACK:
        raise Excessive(f"response has {MAX_FEEDBACK} feedback events already: is a client sending in a loop?")
    place = "orphans" if row.closed else "feedback"
    row = msgspec.structs.replace(row, **{place: (*getattr(row, place), new)})
    return row, _followed(row, new, horizons)


def on_time(row: Row, now: datetime, horizons: Horizons, sequence: int) -> tuple[Row, tuple[Effect, ...]]:
    """Let time reach a row that is due: judge what is parked, or close it. One step; it may be due again."""
    due = row.due(horizons)
    if due is None or due > now:
        return row, ()
    after = msgspec.structs.replace(_moved(row, horizons), sequence=sequence)
    judged = {h.feedback_id for h in row.parked()} - {h.feedback_id for h in after.parked()}
    return after, (*_of(after, judged, horizons), *_ending(after, horizons))


def outcomes(row: Row, horizons: Horizons) -> list[tuple[datetime, Effect]]:
    """Return everything that a row has led to, each with the time at which it did.

    Equal rows give equal bytes, so sending it again changes nothing.
    """
    told = sorted((*row.orphans, *row.feedback), key=_when)
    first = told[0].occurred_at + horizons.settle if told else None
    found = [(_judged_at(row, h, first, horizons), effect) for h in told for effect in _followed(row, h, horizons)]
    if row.decision is not None:
        found += [(row.end(horizons) + horizons.settle, effect) for effect in _ending(row, horizons)]
    return found


def _when(h: StoredFeedback) -> tuple[datetime, str]:
    return h.occurred_at, h.feedback_id


def _judged_at(row: Row, h: StoredFeedback, settled_at: datetime | None, horizons: Horizons) -> datetime:
    if row.decision is None:
        return h.orphaned(horizons)
    if h in row.orphans:
        return row.end(horizons) + horizons.settle
    if settled_at is not None and h.occurred_at <= settled_at:
        return settled_at
    return h.occurred_at + horizons.settle


def _of(row: Row, judged: set[str], horizons: Horizons) -> Iterator[Effect]:
    for h in sorted((*row.feedback, *row.orphans), key=_when):
        if h.feedback_id in judged:
            yield from _followed(row, h, horizons)


def _moved(row: Row, horizons: Horizons) -> Row:
    """Take the step that is due."""
    parked = row.parked()
    if row.decision is None:
        due = min(h.orphaned(horizons) for h in row.feedback)
        over = tuple(h for h in row.feedback if h.orphaned(horizons) <= due)
        kept = tuple(h for h in row.feedback if h not in over)
        return msgspec.structs.replace(row, feedback=kept, orphans=(*row.orphans, *over), closed=not kept)
    if not parked or parked[0].occurred_at > row.end(horizons):
        kept = tuple(h for h in row.feedback if h not in parked)
        return msgspec.structs.replace(row, feedback=kept, orphans=(*row.orphans, *parked), closed=True)
    if row.settled:
        return _judge(row, parked[0])
    return _settle(row, [h for h in parked if h.occurred_at <= parked[0].occurred_at + horizons.settle])


def _ending(row: Row, horizons: Horizons) -> tuple[Effect, ...]:
    """What followed from the end of a response's horizon."""
    if not row.closed or row.decision is None or row.settled:
        return ()
    return (_close(row, "unlabelled", None, row.end(horizons)),)


def _followed(row: Row, h: StoredFeedback, horizons: Horizons) -> tuple[Effect, ...]:
    """What followed from one feedback."""
    if h in row.orphans:
        return (_close(row, "orphan", h, h.occurred_at + horizons.orphan),)
    return tuple(_outcomes(row, h))


def _settle(row: Row, window: list[StoredFeedback]) -> Row:
    """Judge what occurred in the first window: the last verdict of each clinician counts."""
    winners = [max((h for h in window if h.clinician == c), key=_when) for c in sorted({h.clinician for h in window})]
    voices = sum(_says(row, w) for w in winners)
    settled = tuple(w.feedback_id for w in winners)
    beaten = tuple(h.feedback_id for h in window if h.feedback_id not in settled)
    return msgspec.structs.replace(
        row, settled=settled, shares=(max(voices, 1),) * len(settled), superseded=(*row.superseded, *beaten)
    )


def _judge(row: Row, h: StoredFeedback) -> Row:
    """Judge a verdict after settling: it shares as its clinician's earlier one, or with all who have said something."""
    by_id = _by_id(row)
    if any(by_id[f].clinician == h.clinician and _when(by_id[f]) > _when(h) for f in row.settled):
        return msgspec.structs.replace(row, superseded=(*row.superseded, h.feedback_id))
    spoken = [
        (by_id[f].clinician, share) for f, share in zip(row.settled, row.shares, strict=True) if _says(row, by_id[f])
    ]
    mine = [share for clinician, share in spoken if clinician == h.clinician]
    share = mine[0] if mine else len({clinician for clinician, _ in spoken}) + 1
    return msgspec.structs.replace(row, settled=(*row.settled, h.feedback_id), shares=(*row.shares, share))


def _by_id(row: Row) -> dict[str, StoredFeedback]:
    return {h.feedback_id: h for h in row.feedback}


def _verdict(row: Row, h: StoredFeedback) -> Verdict:
    assert row.decision is not None
    changed = None if h.edit_digest is None else row.decision.salience_digest not in h.edit_digest.split()
    return verdict(h.action, reason=h.reason, edit_changed=changed)


def _says(row: Row, h: StoredFeedback) -> bool:
    """Whether a feedback says anything of its response: who abandons it, or takes back, does not."""
    return _verdict(row, h).weight > 0


def _outcomes(row: Row, h: StoredFeedback) -> Iterator[Effect]:
    """What one feedback led to, once it was judged."""
    if h.feedback_id in row.superseded:
        yield _close(row, "superseded", h, h.occurred_at)
    if h.feedback_id not in row.settled:
        return
    label = _label(row, h)
    yield label
    if is_evidence(label):
        yield _outcome(label)


def _label(row: Row, h: StoredFeedback) -> Label:
    assert row.decision is not None
    by_id = _by_id(row)
    mine = [f for f in row.settled if by_id[f].clinician == h.clinician]
    place = mine.index(h.feedback_id)
    found = _verdict(row, h)
    first = not place or (found.weight > 0 and not any(_says(row, by_id[f]) for f in mine[:place]))
    revises = None if first else _label_id(row, by_id[mine[place - 1]], place - 1)
    return Label(
        label_id=_label_id(row, h, place),
        feedback_id=h.feedback_id,
        response_id=row.response_id,
        deployment=row.decision.deployment,
        clinician=h.clinician,
        action=h.action,
        rejected=found.rejected,
        depth=found.depth,
        weight=found.weight / row.shares[row.settled.index(h.feedback_id)],
        kind="verdict" if revises is None else "revocation" if h.action == "retracted" else "correction",
        revises=revises,
        delay_s=max(0.0, (h.occurred_at - row.decision.scored.occurred_at).total_seconds()),
        occurred_at=h.occurred_at,
        decision=row.decision.scored,
    )


def _outcome(label: Label) -> Outcome:
    return Outcome(
        label_id=label.label_id,
        conversation_id=label.decision.conversation_id,
        response_id=label.response_id,
        turn=label.decision.turn,
        rejected=label.rejected,
        depth=label.depth,
        occurred_at=label.occurred_at,
    )


def _close(row: Row, reason: ClosureReason, h: StoredFeedback | None, closed_at: datetime) -> Closure:
    """Only endings that follow from a decision tell of it: one that may come before must have the same bytes after."""
    origin = f"{h.feedback_id}@{h.origin}" if h else ""
    decision = row.decision if reason in {"unlabelled", "superseded"} else None
    return Closure(
        closure_id=_id(row.response_id, reason, origin),
        reason=reason,
        response_id=row.response_id,
        feedback_id=h.feedback_id if h else None,
        deployment=decision.deployment if decision else None,
        tier=decision.scored.tier if decision else None,
        groups=decision.scored.groups if decision else {},
        closed_at=closed_at,
    )


def _label_id(row: Row, h: StoredFeedback, place: int) -> str:
    """The first label of a clinician on a response has one id whatever its content: it can count only once."""
    return _id(row.response_id, h.clinician, h.feedback_id if place else "")


def _id(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
