"""From a response and its score to a decision: groups, risk, tier, action, and why. Pure, so that a replay agrees.

>>> from datetime import datetime, timezone
>>> now = datetime(2026, 1, 5, 8, tzinfo=timezone.utc)
>>> asked = Response(response_id="r1", conversation_id="c1", deployment="ward", site="north", query="Dose?",
...                  response="5 mg", occurred_at=now)
>>> found = decide(asked, Failed("model_missing"), Calibrated(), History(), DecisionContext(Policy(), "m", b"", now))
>>> found.tier, found.action, found.reasons
('red', 'review', ('score_missing', 'model_missing'))
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from math import isfinite
from typing import Any, Final, NamedTuple, get_args

import msgspec
import orjson
from msgspec import Struct

from models.calibration.filter import Filter
from models.calibration.serving import Thresholds
from models.calibration.settings import FilterSettings
from models.encoder.base import Score
from models.encoder.template import clean
from models.errors import EventError
from models.events import MAX_MESSAGE_BYTES, Calibration, Decision, Group, Response, as_id, digest
from models.policy import EDITION, Policy, act, audited
from models.salience import digest as salience
from models.tiers import Facts, by_risk, tier

MAX_UNKNOWN: Final = 0.3
"""Share of characters that the encoder cannot read above which a text is unlike what it was trained on."""
MAX_WAIT: Final = timedelta(minutes=5)
"""From a response to its decision, or back. What waited longer in the topic was answered without us; a date further
ahead is wrong, and nothing can be said of its age."""
MAX_REST: Final = 4 * MAX_MESSAGE_BYTES
"""Of a message that breaks the contract, to see whose it is. Only one that a producer packed can be larger, and how
large it is then nobody knows: its header may say whose it is."""
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
MAX_TURNS: Final = 64
"""Turns of a conversation whose outcomes are kept."""


class Failed(NamedTuple):
    """No score, and why: a reason for the decision."""

    reason: str


class Calibrated(NamedTuple):
    """The calibrator version that a scorer holds for a deployment; without one, the prior serves and nothing is green.

    `current` is False when the scorer has lost contact with the topic: newer versions may exist.
    """

    calibration: Calibration | None = None
    thresholds: Thresholds | None = None
    current: bool = True


class DecisionContext(NamedTuple):
    """A decision's circumstances: the deployment's policy, the model, the key of its digests, the time.

    `is_live` is False when nobody waits for it: then a response may be of any age.
    """

    policy: Policy
    model_hash: str
    key: bytes
    now: datetime
    is_live: bool = True

    @property
    def config_hash(self) -> str:
        """The hash of everything that decides beside model and calibrator."""
        return config_hash(self.policy)


class History(Struct, frozen=True):
    """What became of a conversation's earlier responses: response_id → rejected."""

    outcomes: dict[str, bool] = {}
    last: datetime | None = None

    def word(self) -> str:
        """Return the group value that the calibrator sees."""
        if not self.outcomes:
            return "none"
        return "rejected" if any(self.outcomes.values()) else "accepted"

    def after(self, response_id: str, *, rejected: bool, at: datetime) -> "History":
        """Return the history with one more outcome; a rejection by any clinician stays one."""
        known = {**self.outcomes, response_id: rejected or self.outcomes.get(response_id, False)}
        kept = dict(list(known.items())[-MAX_TURNS:])
        return History(kept, at if self.last is None else max(at, self.last))


def groups(response: Response, history: History, chosen: tuple[Group, ...]) -> dict[str, str]:
    """Return the groups whose offsets the calibrator learns: those chosen, and the moment if there is no answer yet.

    Their values are brought to one form, as texts are: spelt in other bytes, a group that is braked would be a new one.
    """
    known: dict[str, str] = {
        "history": history.word(),
        "turn": "first" if response.turn == 0 else "second" if response.turn == 1 else "later",
    }
    found: dict[str, str] = {
        name: known.get(name) or clean(getattr(response, name) or "") or "unknown" for name in sorted(chosen)
    }
    if response.response is None:
        found["moment"] = "pre-response"
    return found


def decide(
    response: Response, score: Score | Failed, by: Calibrated, history: History, context: DecisionContext
) -> Decision:
    """Return the decision on a response. Any doubt, and it is not green (invariant I6 of the design)."""
    scored = score if isinstance(score, Score) and isfinite(score.logit) else None
    policy = context.policy
    found = groups(response, history, policy.groups)
    risk, upper = _risk(scored, by, found, policy)
    level, reasons = tier(_facts(response, scored, upper, by, context), policy)
    if isinstance(score, Failed):
        reasons = (*reasons, score.reason)
    audit = audited(response.response_id, policy)
    return Decision(
        response_id=response.response_id,
        conversation_id=response.conversation_id,
        turn=response.turn,
        deployment=response.deployment,
        groups=found,
        logit=scored.logit if scored else None,
        risk=risk,
        upper=upper,
        tier=level,
        action=act(level, policy.plan, audit=audit),
        reasons=reasons,
        audit=audit,
        propensity=policy.audit_rate if audit else 1.0,
        calibrator_version=by.calibration.version if by.calibration else 0,
        model_hash=context.model_hash,
        config_hash=context.config_hash,
        input_digest=input_digest(response, context.key),
        salience_digest=salience(response.response or "", context.key),
        truncated=bool(scored and scored.truncated),
        occurred_at=response.occurred_at,
        decided_at=context.now,
    )


def tier_is_rounding_sensitive(decision: Decision, by: Calibrated, policy: Policy, tolerance: float) -> bool:
    """Whether a logit that is off by `tolerance` would give another tier, by its risk."""
    if decision.logit is None:
        return False
    thresholds = _thresholds(by, policy)
    low, high = (thresholds.risk(decision.logit + step, decision.groups)[1] for step in (-tolerance, tolerance))
    return by_risk(low, policy)[0] != by_risk(high, policy)[0]


def refuse(found: Mapping[str, Any], error: EventError, context: DecisionContext) -> Decision | None:
    """Return the red decision on a response that breaks the contract, if what is left of it says whose it is."""
    ids = {name: as_id(found.get(name)) for name in ("response_id", "conversation_id", "deployment")}
    if ids["response_id"] is None:
        return None
    return Decision(
        response_id=ids["response_id"],
        conversation_id=ids["conversation_id"] or "unknown",
        deployment=ids["deployment"] or "unknown",
        tier="red",
        action="review",
        reasons=("invalid_input", error.code),
        model_hash=context.model_hash,
        config_hash=context.config_hash,
        occurred_at=context.now,
        decided_at=context.now,
    )


def is_refusal(decision: Decision) -> bool:
    """Whether a decision is `refuse`'s: on a record, not on a text."""
    return decision.reasons[:1] == ("invalid_input",)


@lru_cache(maxsize=1024)
def _prior(settings: FilterSettings) -> Thresholds:
    """What serves a deployment that has no calibration yet."""
    return Filter(settings).thresholds()


@lru_cache(maxsize=1024)
def config_hash(policy: Policy) -> str:
    """Return the hash of a policy that its decisions carry; a key that a version adds does not change it."""
    return digest(msgspec.json.encode([EDITION, policy.overrides()], order="deterministic"))[:32]


def _risk(
    score: Score | None, by: Calibrated, found: dict[str, str], policy: Policy
) -> tuple[float | None, float | None]:
    if score is None:
        return None, None
    return _thresholds(by, policy).risk(score.logit, found)


def _thresholds(by: Calibrated, policy: Policy) -> Thresholds:
    return by.thresholds or _prior(policy.calibrator)


def _facts(
    response: Response, score: Score | None, upper: float | None, by: Calibrated, context: DecisionContext
) -> Facts:
    known = by.calibration
    return Facts(
        upper=upper,
        truncated=bool(score and score.truncated),
        in_distribution=score is None or score.unknown <= MAX_UNKNOWN,
        same_model=known is None or known.model_hash in {"", context.model_hash},
        calibrated=known is not None and by.current,
        same_basis=known is None or known.basis == context.policy.basis,
        missing_labels=_missing(known, context.policy),
        calibration_age_s=(response.occurred_at - known.as_of).total_seconds() if known else 0.0,
        on_time=not context.is_live or abs(context.now - response.occurred_at) <= MAX_WAIT,
    )


def _missing(known: Calibration | None, policy: Policy) -> int:
    """Return how many labels are missing, by what LEARN was told or by what we are: it may run with an older policy."""
    if known is None:
        return policy.warm_up_labels
    return max(known.missing_labels, policy.warm_up_labels - known.labels)


def input_digest(response: Response, key: bytes) -> str:
    """Return the keyed BLAKE2b of the texts that the encoder sees: short texts could be guessed from a plain hash."""
    seen = orjson.dumps([response.query, response.response, *response.earlier])
    return hashlib.blake2b(seen, key=key, digest_size=16).hexdigest()


def subject(decision: Decision) -> tuple[str, str, int, str, dict[str, str]]:
    """Return what a decision is on, as far as it says. How its conversation went until then is its own to say."""
    lasting = {name: value for name, value in decision.groups.items() if name != "history"}
    return decision.input_digest, decision.conversation_id, decision.turn, decision.deployment, lasting


def is_on(decision: Decision, response: Response, keys: Iterable[bytes]) -> bool:
    """Whether a decision is on this response: on its text, by the digest under one of the keys, and not elsewhere.

    The same text is another response in another conversation, deployment or group: it may be braked there, or never be
    green.
    """
    chosen = tuple(name for name in GROUPS if name in decision.groups and name != "history")
    where = response.conversation_id, response.turn, response.deployment, groups(response, History(), chosen)
    told = subject(decision)
    return any(told == (input_digest(response, key), *where) for key in keys)
