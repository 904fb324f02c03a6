"""From what a clinician did to a verdict: rejected or not, how deeply, and how much it weighs.

Depth is decided by the reason code first, then by the edit, then by the action; but who flags reports a problem, which
is deep whatever the edit keeps. Reason codes are HL7's `non-adherence-reason-codes`: only two of them speak against the
content of the advice.

>>> verdict("edited", reason=None, edit_changed=True)
Verdict(rejected=True, depth='deep', weight=1.0)
>>> verdict("disagreed", reason="context", edit_changed=None)
Verdict(rejected=True, depth='surface', weight=1.0)
>>> verdict("flagged", reason=None, edit_changed=False).depth
'deep'
>>> verdict("abandoned", reason=None, edit_changed=None).weight
0.0
"""

from typing import Final, Literal, NamedTuple

from models.events import Depth, FeedbackAction, Label, Target

Reason = Literal["content", "context"]
"""Whether a reason code speaks against the content of the response, or only against its moment or form."""

REASONS: Final[dict[str, Reason]] = {
    "recipient-disagrees-evidence": "content",
    "recipient-concerns-outcomes": "content",
    "not-convenient-feasible": "context",
    "does-not-align-preferences": "context",
    "cds-suboptimal-context": "context",
    "cds-not-applicable": "context",
}
_BY_ACTION: Final[dict[FeedbackAction, Depth]] = {"edited": "surface", "disagreed": "deep", "flagged": "deep"}


class Verdict(NamedTuple):
    """What one clinician's action says. `weight` 0: it says nothing (abandoned, retracted)."""

    rejected: bool
    depth: Depth
    weight: float


SILENT: Final = Verdict(rejected=False, depth="none", weight=0.0)
ACCEPTED: Final = Verdict(rejected=False, depth="none", weight=1.0)


def reason_of(code: str | None) -> Reason | None:
    """Classify a reason code; an unknown code decides nothing."""
    return REASONS.get(code) if code else None


def verdict(action: FeedbackAction, *, reason: Reason | None, edit_changed: bool | None) -> Verdict:
    """Return the verdict of an action.

    Args:
        action: what the clinician did.
        reason: class of the reason code, if one was given.
        edit_changed: whether the edit changed a number, dose, drug or negation; None without an edited text.
    """
    if action == "accepted":
        return ACCEPTED
    if action == "retracted" or (action == "abandoned" and reason != "content"):
        return SILENT
    return Verdict(rejected=True, depth=_depth(action, reason, edit_changed=edit_changed), weight=1.0)


def _depth(action: FeedbackAction, reason: Reason | None, *, edit_changed: bool | None) -> Depth:
    if reason is not None:
        return "deep" if reason == "content" else "surface"
    if edit_changed is not None and action != "flagged":
        return "deep" if edit_changed else "surface"
    return _BY_ACTION[action]


def is_evidence(label: Label) -> bool:
    """Whether the label counts: a verdict with weight, which no correction, revocation or abandonment is."""
    return label.kind == "verdict" and label.weight > 0.0


def rejects(label: Label, target: Target) -> bool:
    """Whether the label is a rejection of the kind that steers the tiers (`Policy.target`)."""
    return label.rejected if target == "any" else label.depth == "deep"
