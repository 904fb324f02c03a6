"""A seeded hospital with known truth: a week of responses and feedback, in order of arrival.

The log odds that a clinician rejects an answer are the sum of the category's intercept, the site's mood, the
clinician's severity, the effect of the defect, `EARLIER` if an earlier answer of the conversation was rejected, and
the drift. A conversation is about one patient; a later turn carries in `earlier` what was said before, as far as the
template reads it.

>>> week = generate(Config(responses=50, seed=7))
>>> len(week.truths), week == generate(Config(responses=50, seed=7))
(50, True)
>>> week.arrivals == sorted(week.arrivals, key=lambda arrival: arrival.arrives_at)
True
"""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from inspect import cleandoc
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from models.encoder.template import MAX_EARLIER
from models.errors import SettingsError
from models.events import Depth, Feedback, Response, encode
from models.training.artifact_files import make_folder
from models.training.cases import Case, Defect, Patient, admit, compose
from models.training.draw import Draw
from models.training.hospital import (
    CATEGORIES,
    EARLIER,
    EFFECT,
    FAST,
    LLM_MODELS,
    WARDS,
    Category,
    Clinician,
    Config,
    Drift,
    Site,
    intercepts,
    shares,
    sites,
)
from models.training.reactions import Arrival, Scene, depth_of, orphan, react

__all__ = ["FAST", "Arrival", "Config", "Drift", "Truth", "Week", "generate", "write"]

HOURS: Final = (1, 1, 1, 1, 1, 2, 4, 8, 12, 13, 13, 12, 9, 11, 12, 11, 9, 7, 5, 4, 3, 3, 2, 1)
"""How busy each hour of the day is."""

CONTINUES: Final = 0.35
"""Probability that a conversation goes on after a turn; at most `LONGEST` turns."""

LONGEST: Final = 5


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What the generator knows of one response: a line of `truth.jsonl`.

    Args:
        response_id, deployment, site, category, occurred_at: the response's own.
        clinician: who has it in front of them.
        probability: that this clinician rejects it.
        rejected: whether they do, said or not; a `defect` that is not rejected was accepted in silence.
        depth: what bothers them, `surface` or `deep`; `none` if nothing does.
        defect: what is wrong with the answer, see `models.training.cases`; `none` if it is sound.
        drifted: whether the drift moved the probability.
    """

    response_id: str
    deployment: str
    site: str
    category: str
    clinician: str
    probability: float
    rejected: bool
    depth: Depth
    defect: Defect
    drifted: bool
    occurred_at: datetime


class Week(NamedTuple):
    """Events in order of arrival, and the truth by response id."""

    config: Config
    arrivals: list[Arrival]
    truths: dict[str, Truth]

    @property
    def responses(self) -> list[Response]:
        """The responses, in order of arrival."""
        return [arrival.event for arrival in self.arrivals if isinstance(arrival.event, Response)]

    @property
    def feedback(self) -> list[Feedback]:
        """The feedback, in order of arrival."""
        return [arrival.event for arrival in self.arrivals if isinstance(arrival.event, Feedback)]


def generate(config: Config | None = None) -> Week:
    """Generate a week (or what `config` says); the same configuration gives the same week on every machine."""
    simulation = _Simulation(config or Config())
    arrivals = sorted(simulation.run(), key=lambda arrival: arrival.arrives_at)
    return Week(simulation.config, arrivals, simulation.truths)


def write(week: Week, folder: Path) -> None:
    """Write `responses.jsonl`, `feedback.jsonl` (in order of arrival), `truth.jsonl`, and `README.md` into a folder.

    Raises `SettingsError` if it has files of such names that are not of an earlier week, or cannot be made.
    """
    make_folder(folder)
    truths = map(msgspec.json.encode, week.truths.values())
    named = {"responses": map(encode, week.responses), "feedback": map(encode, week.feedback), "truth": truths}
    about = folder / "README.md"
    _check(about, *(folder / f"{name}.jsonl" for name in named))
    settings = msgspec.json.format(msgspec.json.encode(week.config)).decode()
    about.write_text(_ABOUT.format(truth=cleandoc(Truth.__doc__ or ""), settings=settings), encoding="utf-8")
    for name, lines in named.items():
        (folder / f"{name}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def _check(about: Path, *others: Path) -> None:
    """A hospital's own export has these very names: only beside our own page are they ours."""
    if about.exists() and about.read_bytes().startswith(_MARK.encode()):
        return
    for path in (about, *others):
        if path.exists():
            raise SettingsError(f"{path} is not of `demur synth` and would be overwritten: give another folder")


_MARK: Final = "# A synthetic hospital\n\nMade by `demur synth`; nobody's data."
_ABOUT: Final = f"""{_MARK} `responses.jsonl` and `feedback.jsonl` hold events of the wire contract in order
of arrival, with late, repeated, contradictory and missing feedback. `truth.jsonl` holds what only the generator knows.

{{truth}}

Settings:

```
{{settings}}
```
"""


class _Conversation(NamedTuple):
    start: datetime
    turns: int


class _Setting(NamedTuple):
    """What all turns of one conversation share."""

    conversation_id: str
    site: Site
    clinician: Clinician
    category: Category
    patient: Patient
    specialty: str
    ward: str
    llm_model: str


class _Now(NamedTuple):
    """Where in its conversation a response stands."""

    turn: int
    at: datetime
    earlier: tuple[str, ...]


class _Simulation:
    """Walks through the conversations in order of time."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.truths: dict[str, Truth] = {}
        self._draw = Draw(config.seed)
        self._sites = sites(config, self._draw)
        self._intercepts = intercepts()
        self._shares = shares()
        self._hours = [edge / sum(HOURS) for edge in accumulate(HOURS)]

    def run(self) -> Iterator[Arrival]:
        for number, conversation in enumerate(sorted(self._conversations())):
            yield from self._converse(self._setting(number), conversation)
        for number in range(round(self.config.responses * self.config.orphans)):
            yield orphan(self._draw, self._moment(), number)

    def _conversations(self) -> Iterator[_Conversation]:
        left = self.config.responses
        while left > 0:
            turns = min(left, self._turns())
            yield _Conversation(self._moment(), turns)
            left -= turns

    def _turns(self) -> int:
        return 1 + next(n for n in range(LONGEST) if n == LONGEST - 1 or not self._draw.chance(CONTINUES))

    def _moment(self) -> datetime:
        """A point in the period, by day at even odds and by the hour's rush."""
        at = math.inf
        while at > self.config.days:  # the last day may be a part of one
            day = math.floor(self._draw.unit() * self.config.days)
            at = day + (self._draw.weighted(self._hours) + self._draw.unit()) / 24
        return self.config.start + timedelta(days=at)

    def _setting(self, number: int) -> _Setting:
        draw = self._draw
        site, category = draw.pick(self._sites), CATEGORIES[draw.weighted(self._shares)]
        return _Setting(
            conversation_id=f"{site.deployment}-v{number:06d}",
            site=site,
            clinician=draw.pick(site.clinicians),
            category=category,
            patient=admit(draw, category.name),
            specialty=draw.pick(category.specialties),
            ward=draw.pick(WARDS),
            llm_model=draw.pick(LLM_MODELS),
        )

    def _converse(self, setting: _Setting, conversation: _Conversation) -> Iterator[Arrival]:
        at, refused = conversation.start, 0
        earlier: tuple[str, ...] = ()
        for turn in range(conversation.turns):
            case = self._case(setting)
            response = self._response(setting, case, _Now(turn, at, earlier))
            truth = self._judge(setting, case, response, refused)
            self.truths[response.response_id] = truth
            yield Arrival(self._arrival(at), response)
            yield from react(self._draw, self.config, _scene(setting, case, response, truth))
            refused += truth.rejected
            earlier = (*earlier, *_said(response))[-MAX_EARLIER:]
            at += timedelta(seconds=round(30 + self._draw.lognormal(120.0, 0.8)))

    def _case(self, setting: _Setting) -> Case:
        defective = self._draw.chance(setting.category.defects)
        return compose(self._draw, setting.category.name, setting.patient, defective=defective)

    def _response(self, setting: _Setting, case: Case, now: _Now) -> Response:
        return Response(
            response_id=f"{setting.conversation_id}-t{now.turn}",
            conversation_id=setting.conversation_id,
            turn=now.turn,
            deployment=setting.site.deployment,
            site=setting.site.name,
            department=setting.ward,
            specialty=setting.specialty,
            llm_model=setting.llm_model,
            category=setting.category.name,
            query=case.query,
            response=None if self._draw.chance(self.config.pre_response) else case.response,
            earlier=now.earlier,
            occurred_at=now.at,
        )

    def _judge(self, setting: _Setting, case: Case, response: Response, refused: int) -> Truth:
        drift = self._drift(setting.category, response.occurred_at)
        seen = 1.0 if case.defect == "none" else 1.0 - self.config.silent
        probability = seen * _sigmoid(self._log_odds(setting, case, refused=refused) + drift)
        rejected = self._draw.chance(probability)
        return Truth(
            response_id=response.response_id,
            deployment=setting.site.deployment,
            site=setting.site.name,
            category=setting.category.name,
            clinician=setting.clinician.name,
            probability=probability,
            rejected=rejected,
            depth=depth_of(self._draw, case, rejected=rejected),
            defect=case.defect,
            drifted=drift != 0.0,
            occurred_at=response.occurred_at,
        )

    def _log_odds(self, setting: _Setting, case: Case, *, refused: int) -> float:
        place = self._intercepts[setting.category.name] + setting.site.shift + setting.clinician.severity
        return place + EFFECT[case.defect] + EARLIER * (refused > 0)

    def _drift(self, category: Category, at: datetime) -> float:
        """Log odds that the drift adds at a moment."""
        drift, since = self.config.drift, self.config.drift_at
        if drift is None or since is None or at < since or drift.category not in {None, category.name}:
            return 0.0
        over = timedelta(days=self.config.days * drift.over)
        return drift.shift * min(1.0, (at - since) / over) if over else drift.shift

    def _arrival(self, at: datetime) -> datetime:
        """Mostly within a second; a few responses come minutes late, after their own feedback."""
        late = self._draw.chance(self.config.late)
        return at + timedelta(milliseconds=round(1000 * self._draw.lognormal(300.0 if late else 0.4, 0.5)))


def _scene(setting: _Setting, case: Case, response: Response, truth: Truth) -> Scene:
    colleagues = tuple(person.name for person in setting.site.clinicians if person is not setting.clinician)
    return Scene(response, case, setting.clinician.name, colleagues or (setting.clinician.name,), truth.depth)


def _said(response: Response) -> tuple[str, ...]:
    return (response.query,) if response.response is None else (response.query, response.response)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
