"""What clinicians do with an answer: verdicts, edits, reasons, and all the ways in which feedback is untidy."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final, NamedTuple

from models.events import Depth, Feedback, FeedbackAction, Response
from models.labels import REASONS
from models.training.cases import Case
from models.training.draw import Draw
from models.training.hospital import Config


class Arrival(NamedTuple):
    """An event and when it reaches the stream; `occurred_at` is when its source says it happened."""

    arrives_at: datetime
    event: Response | Feedback


class Scene(NamedTuple):
    """One answer in front of one clinician, who rejects it or not, and how deeply."""

    response: Response
    case: Case
    clinician: str
    colleagues: tuple[str, ...]
    depth: Depth


class _Act(NamedTuple):
    """What was done, by whom."""

    clinician: str
    action: FeedbackAction
    edited: str | None = None
    reason: str | None = None


DELAYS: Final = ((0.75, 90.0, 1.2), (0.20, 3 * 3600.0, 1.0), (0.05, 1.7 * 86400.0, 0.5))
"""Mixture of log-normals: weight, median in seconds, sigma. At once, the same shift, days later."""

_EDGES: Final = tuple(accumulate(weight for weight, _, _ in DELAYS))
CONTENT: Final = tuple(code for code, against in REASONS.items() if against == "content")
CONTEXT: Final = tuple(code for code, against in REASONS.items() if against == "context")
REASON_SHARE: Final = 0.4
"""Share of rejections that carry an HL7 override reason."""


def depth_of(draw: Draw, case: Case, *, rejected: bool) -> Depth:
    """A rejected defect is mostly a deep matter, a rejected sound answer mostly one of wording."""
    if not rejected:
        return "none"
    return "deep" if draw.chance(0.25 if case.defect in {"none", "vague"} else 0.9) else "surface"


def react(draw: Draw, config: Config, scene: Scene) -> Iterator[Arrival]:
    """Yield the feedback on one answer, if there is any."""
    if not draw.chance(config.feedback):
        return
    first = _feedback(draw, config, scene.response, "f1", _first_act(draw, config, scene))
    yield from _sent(draw, config, first)
    if draw.chance(config.contradicted):
        yield from _sent(draw, config, _later(draw, first, "f2", _opposite(first)))
    if draw.chance(config.retracted):
        yield from _sent(draw, config, _later(draw, first, "f3", _Act(first.clinician, "retracted")))
    if draw.chance(config.second_opinion):
        second = _act(draw, scene)._replace(clinician=draw.pick(scene.colleagues))
        yield from _sent(draw, config, _feedback(draw, config, scene.response, "f4", second))


def orphan(draw: Draw, at: datetime, number: int) -> Arrival:
    """Feedback for a response that the stream never saw."""
    act = _Act("c00-00", "accepted")
    return Arrival(_network(draw, at), _event(draw, f"unknown-{number}", "f1", act, at))


def delay(draw: Draw) -> float:
    """Seconds from an answer to its feedback."""
    _, median, sigma = DELAYS[draw.weighted(_EDGES)]
    return draw.lognormal(median, sigma)


def _first_act(draw: Draw, config: Config, scene: Scene) -> _Act:
    return _Act(scene.clinician, "abandoned") if draw.chance(config.abandoned) else _act(draw, scene)


def _act(draw: Draw, scene: Scene) -> _Act:
    """Rejections are edits (two in three), disagreements, or flags; wording is never flagged."""
    if scene.depth == "none":
        return _Act(scene.clinician, "accepted")
    deep = scene.depth == "deep"
    reason = draw.pick(CONTENT if deep else CONTEXT) if draw.chance(REASON_SHARE) else None
    fate = draw.unit()
    if fate < 0.65:
        return _Act(scene.clinician, "edited", scene.case.corrected if deep else scene.case.reworded, reason)
    if not deep:
        return _Act(scene.clinician, "disagreed", None, draw.pick(CONTEXT))
    return _Act(scene.clinician, "disagreed" if fate < 0.9 else "flagged", None, reason)


def _opposite(feedback: Feedback) -> _Act:
    return _Act(feedback.clinician, "disagreed" if feedback.action == "accepted" else "accepted")


def _feedback(draw: Draw, config: Config, response: Response, suffix: str, act: _Act) -> Feedback:
    seconds = -draw.unit() * 5 if draw.chance(config.skewed) else delay(draw)
    return _event(draw, response.response_id, suffix, act, response.occurred_at + _seconds(seconds))


def _later(draw: Draw, feedback: Feedback, suffix: str, act: _Act) -> Feedback:
    """Within minutes of an earlier feedback."""
    at = feedback.occurred_at + _seconds(30 + 500 * draw.unit())
    return _event(draw, feedback.response_id, suffix, act, at)


def _event(draw: Draw, response_id: str, suffix: str, act: _Act, at: datetime) -> Feedback:
    return Feedback(
        feedback_id=f"{response_id}-{suffix}",
        response_id=response_id,
        clinician=act.clinician,
        action=act.action,
        edited_response=act.edited,
        reason_code=act.reason,
        dwell_ms=int(draw.lognormal(9000.0, 0.8)),
        occurred_at=at,
    )


def _sent(draw: Draw, config: Config, feedback: Feedback) -> Iterator[Arrival]:
    """An event arrives once or, with its very same id, twice."""
    yield Arrival(_network(draw, feedback.occurred_at), feedback)
    if draw.chance(config.duplicated):
        yield Arrival(_network(draw, feedback.occurred_at + _seconds(draw.lognormal(60.0, 1.0))), feedback)


def _network(draw: Draw, at: datetime) -> datetime:
    """Transport takes a second or so."""
    return at + _seconds(draw.lognormal(0.8, 0.7))


def _seconds(value: float) -> timedelta:
    return timedelta(milliseconds=round(value * 1000))
