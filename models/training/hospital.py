"""Who works in the synthetic hospital, how strict they are, and how often each kind of answer is rejected."""

import math
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Final, NamedTuple

import msgspec
import numpy as np

from models.training.draw import Draw


class Category(NamedTuple):
    """`share` of the volume; `base` rejection rate; `defects`, the share of answers with a defect; who asks."""

    name: str
    share: float
    base: float
    defects: float
    specialties: tuple[str, ...]


CATEGORIES: Final = (
    Category("patient message", 0.20, 0.04, 0.03, ("family medicine", "internal medicine", "dermatology")),
    Category("medication reconciliation", 0.19, 0.25, 0.26, ("internal medicine", "pharmacy", "geriatrics")),
    Category("discharge summary", 0.15, 0.06, 0.05, ("surgery", "orthopaedics", "internal medicine")),
    Category("lab interpretation", 0.12, 0.05, 0.04, ("internal medicine", "endocrinology", "nephrology")),
    Category("triage", 0.08, 0.14, 0.13, ("emergency medicine", "family medicine")),
    Category("scheduling", 0.10, 0.05, 0.04, ("front office", "family medicine")),
    Category("imaging follow-up", 0.08, 0.05, 0.04, ("radiology", "pulmonology", "oncology")),
    Category("paediatric dosing", 0.08, 0.30, 0.32, ("paediatrics", "pharmacy")),
)
"""Shares and rates are made up; medication reconciliation, scheduling and paediatric dosing span 5 to 30 %."""

EFFECT: Final = {
    "none": 0.0,
    "vague": 0.7,
    "wrong_fact": 4.3,
    "contradiction": 4.5,
    "wrong_dose": 5.0,
    "wrong_drug": 5.0,
    "missed_allergy": 4.5,
    "other_question": 5.5,
}
"""What a defect adds to the log odds of rejection. A vague answer pleases: it is accepted although it says nothing."""

MIXTURE: Final = {"vague": 0.09, "other_question": 0.18, "wrong_fact": 0.73}
"""Rough mix of defects, `wrong_fact` standing for all that weigh about the same: enough to place the intercepts."""

SEVERITY: Final = 0.4
"""Standard deviation between clinicians of one site, in log odds."""

EARLIER: Final = 0.8
"""Log odds added when an earlier answer of the conversation was rejected."""

WARDS: Final = ("inpatient", "outpatient")
LLM_MODELS: Final = ("large", "small")


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """From `after` on, the log odds of rejection move by `shift`, at once or evenly over the time `over`.

    Times are shares of the period. `category` None: all categories.
    """

    category: str | None = "discharge summary"
    after: float = 0.5
    shift: float = 2.5
    over: float = 0.0


SCENARIOS: Final[dict[str, Drift | None]] = {
    "none": None,
    "sudden": Drift(),
    "gradual": Drift(over=0.4),
    "relief": Drift(category="medication reconciliation", shift=-2.0),
    "everywhere": Drift(category=None, shift=1.2),
}
"""Named drifts: one category worsens at once or slowly, one gets better, or all worsen, as after a change of model."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a synthetic week depends on. Rates are shares in [0, 1] of what their name says.

    `skewed`: feedback whose clock runs behind the response's. `late`: responses that arrive minutes after they
    occurred. `silent`: defects that the clinician would not let pass, but does not see: about 40 % of erroneous drafts
    were sent unedited (10.1038/s41746-025-01586-2), of which .15 pass here by the odds alone.
    """

    seed: int = 0
    responses: int = 6000
    days: float = 7.0
    start: datetime = datetime(2026, 1, 5, tzinfo=UTC)
    deployments: tuple[str, ...] = ("general-hospital",)
    sites: tuple[str, ...] = ("central", "north", "riverside")
    clinicians: int = 8
    feedback: float = 0.65
    second_opinion: float = 0.04
    duplicated: float = 0.02
    contradicted: float = 0.02
    retracted: float = 0.01
    abandoned: float = 0.04
    orphans: float = 0.005
    skewed: float = 0.005
    late: float = 0.02
    pre_response: float = 0.03
    silent: float = 0.0
    drift: Drift | None = Drift()

    @property
    def drift_at(self) -> datetime | None:
        """When the drift begins."""
        return None if self.drift is None else self.start + timedelta(days=self.days * self.drift.after)


FAST: Final = Config(responses=2500, feedback=0.85, drift=Drift(shift=3.0))
"""A week for the impatient."""


class Clinician(NamedTuple):
    """`severity`: log odds of rejection against a typical colleague."""

    name: str
    severity: float


class Site(NamedTuple):
    """A place with its staff; `shift` is what its mood adds to all log odds of rejection."""

    deployment: str
    name: str
    shift: float
    clinicians: tuple[Clinician, ...]


def sites(config: Config, draw: Draw) -> list[Site]:
    """Draw the staff of all sites of all deployments."""
    pairs = [(deployment, name) for deployment in config.deployments for name in config.sites]
    return [_site(index, deployment, name, config, draw) for index, (deployment, name) in enumerate(pairs)]


def _site(index: int, deployment: str, name: str, config: Config, draw: Draw) -> Site:
    people = (Clinician(f"c{index:02d}-{n:02d}", draw.normal(0.0, SEVERITY)) for n in range(config.clinicians))
    return Site(deployment, name, (-0.25, 0.0, 0.25)[index % 3], tuple(people))


def shares() -> list[float]:
    """Cumulative shares of the categories."""
    return list(accumulate(category.share for category in CATEGORIES))


def intercepts() -> dict[str, float]:
    """Log odds of a sound answer per category, so that its mean rate is the base rate over defects and clinicians."""
    return {category.name: _intercept(category) for category in CATEGORIES}


def _intercept(category: Category) -> float:
    """Bisection: the mean rate grows with the intercept."""
    low, high = -12.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _mean_rate(category, middle) > category.base else (middle, high)
    return (low + high) / 2


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)  # quadrature over a standard normal


def _mean_rate(category: Category, intercept: float) -> float:
    mix = {"none": 1 - category.defects, **{name: category.defects * share for name, share in MIXTURE.items()}}
    spread = math.hypot(SEVERITY, 0.2)  # clinicians and sites
    logits = np.array([intercept + EFFECT[name] for name in mix])[:, None] + spread * _NODES  # (defects, nodes)
    rates = (_WEIGHTS / (1 + np.exp(-logits))).sum(axis=1) / _WEIGHTS.sum()
    return float(np.dot(list(mix.values()), rates))
