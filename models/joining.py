"""The join of a response's decision with its feedback: one row per response, one pure `step`.

    input      | waiting (no decision) | open (decision)             | settled                          | closed
    -----------+-----------------------+-----------------------------+----------------------------------+-----------
    decision   | open                  | (repeat: nothing)           | (repeat: nothing)                | waiting → open
    feedback   | park it               | park it                     | new clinician: label; later      | orphan
               |                       |                             | verdict: correction; earlier:    |
               |                       |                             | superseded                       |
    same id    | duplicate             | duplicate                   | duplicate                        | duplicate
    time ≥ due | orphan each; closed   | settle: a label a clinician;| closed                           |
               |                       | at the horizon: unlabelled, |                                  |
               |                       | closed                      |                                  |

Settling waits `settle` after the first verdict, so that within it the order of arrival does not matter: the last
verdict of a clinician by (occurred_at, feedback_id) wins. Redelivered input (same id, same origin) returns the same
outcomes again, byte for byte: at-least-once delivery with idempotent outcomes. Time is event time: the watermark.
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain
from typing import NamedTuple

import msgspec
from msgspec import Struct

from models.events import Closure, Decision, Ending, Feedback, Label, Outcome, Scored, Verb
from models.labels import Reason, Verdict, reason_of, verdict
from models.salience import digest

Effect = Label | Outcome | Closure


class Horizons(NamedTuple):
    """How long the join waits, in event time."""

    settle: timedelta
    """After the first verdict on a response, for contradictions and further clinicians."""
    response: timedelta
    """For feedback after a response, before it is closed as unlabelled."""
    orphan: timedelta
    """For the decision of a response whose feedback came first."""


class Heard(Struct, frozen=True, array_like=True):
    """One feedback, without its text: what the verdict needs. `origin` is its position, topic-unique."""

    feedback_id: str
    origin: str
    clinician: str
    action: Verb
    reason: Reason | None
    edit_digest: str | None
    occurred_at: datetime


class Known(Struct, frozen=True, array_like=True):
    """What the join keeps of a decision."""

    deployment: str
    salience_digest: str
    scored: Scored


class Row(Struct, frozen=True, array_like=True, omit_defaults=True):
    """The state of one response."""

    response_id: str
    known: Known | None = None
    heard: tuple[Heard, ...] = ()
    settled: tuple[str, ...] = ()
    """Feedback ids whose verdicts have become labels, in the order of their labels."""
    shares: tuple[int, ...] = ()
    """For each label, among how many clinicians its weight is shared."""
    orphans: tuple[Heard, ...] = ()
    """Feedback that ended without a response, or came after the end."""
    closed: bool = False
    sequence: int = 0
    """The batch whose timers last changed this row; its outcomes are sent again if that batch did not finish."""

    def due(self, horizons: Horizons) -> datetime | None:
        """Return when time next changes this row, or None when it is closed."""
        if self.closed:
            return None
        if self.known is None:
            return min(h.occurred_at for h in self.heard) + horizons.orphan
        horizon = self.known.scored.occurred_at + horizons.response
        if self.heard and not self.settled:
            return min(h.occurred_at for h in self.heard) + horizons.settle
        return horizon


def known(decision: Decision) -> Known:
    """Return the part of a decision that the join keeps."""
    scored = msgspec.convert(decision, Scored, from_attributes=True)
    return Known(decision.deployment, decision.salience_digest, scored)


def heard(feedback: Feedback, origin: str, key: bytes) -> Heard:
    """Reduce feedback to what its verdict needs; `key` keys the digest of the edited text."""
    edited = feedback.edited_response
    return Heard(
        feedback.feedback_id,
        origin,
        feedback.clinician,
        feedback.action,
        reason_of(feedback.reason_code),
        None if edited is None else digest(edited, key),
        feedback.occurred_at,
    )


def on_decision(row: Row, decision: Known) -> Row:
    """Take in a decision; the first one stands (repeats are byte-identical by contract)."""
    return row if row.known is not None else msgspec.structs.replace(row, known=decision, closed=False)


def on_feedback(row: Row, new: Heard, horizons: Horizons) -> tuple[Row, tuple[Effect, ...]]:
    """Take in one feedback."""
    for old in (*row.heard, *row.orphans):
        if old.feedback_id == new.feedback_id:
            repeated = old.origin != new.origin
            again = (_close(row, "duplicate", new, new.occurred_at),) if repeated else _followed(row, old, horizons)
            return row, again
    if row.closed:
        row = msgspec.structs.replace(row, orphans=(*row.orphans, new))
    else:
        row = msgspec.structs.replace(row, heard=(*row.heard, new))
        if row.settled and new is _winner(row, new.clinician):
            row = _also_settled(row, new)
    return row, _followed(row, new, horizons)


def on_time(row: Row, watermark: datetime, horizons: Horizons, sequence: int) -> tuple[Row, tuple[Effect, ...]]:
    """Let time reach a row that is due: settle it or close it."""
    due = row.due(horizons)
    if due is None or due > watermark:
        return row, ()
    if row.known is None:
        row = msgspec.structs.replace(row, heard=(), orphans=row.heard, closed=True, sequence=sequence)
        return row, outcomes(row, horizons)
    if row.heard and not row.settled:
        row = _settle(row, sequence)
        return row, outcomes(row, horizons)
    row = msgspec.structs.replace(row, closed=True, sequence=sequence)
    return row, _ending(row, horizons)


def outcomes(row: Row, horizons: Horizons) -> tuple[Effect, ...]:
    """Return everything that a row has led to; equal rows give equal bytes, so sending it again changes nothing."""
    followed = (_followed(row, h, horizons) for h in (*row.orphans, *row.heard))
    return (*chain.from_iterable(followed), *_ending(row, horizons))


def order(row: Row) -> tuple[datetime, str]:
    """Sort rows as their timers went off, so that what is sent again keeps its order."""
    when = [h.occurred_at for h in (*row.heard, *row.orphans)]
    if row.known is not None and not when:
        when = [row.known.scored.occurred_at]
    return min(when), row.response_id


def _ending(row: Row, horizons: Horizons) -> tuple[Effect, ...]:
    """What followed from the end of a response's horizon."""
    if not row.closed or row.known is None or row.settled:
        return ()
    return (_close(row, "unlabelled", None, row.known.scored.occurred_at + horizons.response),)


def _followed(row: Row, h: Heard, horizons: Horizons) -> tuple[Effect, ...]:
    """What followed from one feedback."""
    if h in row.orphans:
        return (_close(row, "orphan", h, h.occurred_at + horizons.orphan),)
    return tuple(_outcomes(row, h))


def _settle(row: Row, sequence: int) -> Row:
    clinicians = sorted({h.clinician for h in row.heard})
    winners = [_winner(row, c) for c in clinicians]
    voices = sum(_verdict(row, w).weight > 0 for w in winners)
    settled = tuple(w.feedback_id for w in winners)
    shares = (max(voices, 1),) * len(settled)
    return msgspec.structs.replace(row, settled=settled, shares=shares, sequence=sequence)


def _also_settled(row: Row, h: Heard) -> Row:
    """Add a verdict that came after settling: it shares as its clinician's earlier one, or one more shares now."""
    mine = [i for i, f in enumerate(row.settled) if _by_id(row)[f].clinician == h.clinician]
    share = row.shares[mine[0]] if mine else max(row.shares) + 1
    return msgspec.structs.replace(row, settled=(*row.settled, h.feedback_id), shares=(*row.shares, share))


def _by_id(row: Row) -> dict[str, Heard]:
    return {h.feedback_id: h for h in row.heard}


def _winner(row: Row, clinician: str) -> Heard:
    mine = (h for h in row.heard if h.clinician == clinician)
    return max(mine, key=lambda h: (h.occurred_at, h.feedback_id))


def _verdict(row: Row, h: Heard) -> Verdict:
    assert row.known is not None
    changed = None if h.edit_digest is None else h.edit_digest != row.known.salience_digest
    return verdict(h.action, reason=h.reason, edit_changed=changed)


def _outcomes(row: Row, h: Heard) -> Iterator[Effect]:
    """What one feedback led to in a settled row."""
    if not row.settled:
        return
    if h.feedback_id not in row.settled:
        yield _close(row, "superseded", h, h.occurred_at)
        return
    label = _label(row, h)
    yield label
    if label.kind == "verdict" and label.weight > 0:
        yield _outcome(label)


def _label(row: Row, h: Heard) -> Label:
    assert row.known is not None
    by_id = _by_id(row)
    mine = [f for f in row.settled if by_id[f].clinician == h.clinician]
    place = mine.index(h.feedback_id)
    revises = _label_id(row, by_id[mine[place - 1]], place - 1) if place else None
    found = _verdict(row, h)
    return Label(
        label_id=_label_id(row, h, place),
        feedback_id=h.feedback_id,
        response_id=row.response_id,
        deployment=row.known.deployment,
        clinician=h.clinician,
        action=h.action,
        rejected=found.rejected,
        depth=found.depth,
        weight=found.weight / row.shares[row.settled.index(h.feedback_id)],
        kind="verdict" if revises is None else "revocation" if h.action == "retracted" else "correction",
        revises=revises,
        delay_s=max(0.0, (h.occurred_at - row.known.scored.occurred_at).total_seconds()),
        occurred_at=h.occurred_at,
        decision=row.known.scored,
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


def _close(row: Row, reason: Ending, h: Heard | None, closed_at: datetime) -> Closure:
    """Only endings that follow from a decision tell of it: one that may come before must have the same bytes after."""
    origin = f"{h.feedback_id}@{h.origin}" if h else ""
    known = row.known if reason in {"unlabelled", "superseded"} else None
    return Closure(
        closure_id=_id(row.response_id, reason, origin),
        reason=reason,
        response_id=row.response_id,
        feedback_id=h.feedback_id if h else None,
        deployment=known.deployment if known else None,
        tier=known.scored.tier if known else None,
        groups=known.scored.groups if known else {},
        closed_at=closed_at,
    )


def _label_id(row: Row, h: Heard, place: int) -> str:
    """The first verdict of a clinician on a response has one id whatever its content: it can count only once."""
    return _id(row.response_id, h.clinician, h.feedback_id if place else "")


def _id(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
