"""How good an artifact is on judged answers: measures with intervals, tiers, parts, and MEDIQA's own measures."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray

from models.encoder import load
from models.events import Tier
from models.training.examples import Example, pending
from models.training.intervals import Interval, bootstrap, rate_interval
from models.training.metrics import measure, sigmoid

GREEN, RED = 0.05, 0.20
"""The default cuts between green, yellow and red."""

SMALLEST: Final = 20
"""Parts with fewer answers are not measured: their figures would be noise."""

Part = Literal["category", "site", "rater"]
_KEYS: Final[dict[Part, Callable[[Example], str]]] = {
    "category": lambda example: example.event.category or "-",
    "site": lambda example: example.event.site,
    "rater": lambda example: example.rater or "-",
}


class TierRow(msgspec.Struct, frozen=True, kw_only=True):
    """One tier: its share of all answers, how often they were rejected, and its share of all rejections."""

    tier: Tier
    count: int
    share: float
    rejected: Interval
    caught: float


class Official(msgspec.Struct, frozen=True, kw_only=True):
    """MEDIQA 2019, task 3: accuracy and precision of "accepted" at risk 0.5; mean reciprocal rank of a good answer."""

    accuracy: float
    precision: float
    mrr: float


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole result. `review_load` is the share of answers in red."""

    count: int
    rate: float
    model_hash: str
    measures: dict[str, Interval]
    pre_response: dict[str, float]
    tiers: tuple[TierRow, ...]
    review_load: float
    parts: dict[str, dict[str, dict[str, float]]]
    official: Official


class Scored(NamedTuple):
    """Judged answers and their risks (N,)."""

    examples: Sequence[Example]
    rejected: NDArray[np.bool_]
    risk: NDArray[np.float64]


def evaluate(artifact: str, examples: Sequence[Example], *, cuts: tuple[float, float] = (GREEN, RED)) -> Evaluation:
    """Score and measure. Risks are the sigmoid of the raw logit: no calibrator has learnt yet."""
    encoder = load(artifact)
    scored = _score(encoder, examples)
    before = _score(encoder, [pending(example) for example in examples])
    tiers = tier_table(scored, cuts)
    return Evaluation(
        count=len(examples),
        rate=float(scored.rejected.mean()),
        model_hash=encoder.model_hash,
        measures=bootstrap(scored.rejected, scored.risk, [example.question for example in examples]),
        pre_response=_plain(before),
        tiers=tiers,
        review_load=tiers[-1].share,
        parts={name: _parts(scored, key) for name, key in _KEYS.items()},
        official=official(scored),
    )


def tier_table(scored: Scored, cuts: tuple[float, float]) -> tuple[TierRow, ...]:
    """Green, yellow, red by risk."""
    tier = np.digitize(scored.risk, cuts)
    names: tuple[Tier, ...] = ("green", "yellow", "red")
    return tuple(_tier(name, scored.rejected, tier == index) for index, name in enumerate(names))


def _tier(name: Tier, rejected: NDArray[np.bool_], inside: NDArray[np.bool_]) -> TierRow:
    count, bad = int(inside.sum()), int(rejected[inside].sum())
    share, caught = count / inside.size, bad / max(1, int(rejected.sum()))
    return TierRow(tier=name, count=count, share=share, rejected=rate_interval(bad, count), caught=caught)


def official(scored: Scored) -> Official:
    """MEDIQA's own measures; questions without a good answer do not enter the mean reciprocal rank."""
    good, shown = ~scored.rejected, scored.risk < 0.5
    ranks = [
        rank for rows in _grouped(scored, lambda example: example.question).values() if (rank := _rank(scored, rows))
    ]
    return Official(
        accuracy=float((good == shown).mean()),
        precision=float((good & shown).sum() / max(1, int(shown.sum()))),
        mrr=float(np.mean([1 / rank for rank in ranks])) if ranks else 0.0,
    )


def _rank(scored: Scored, rows: list[int]) -> int:
    """Place of the first good answer when sorted by risk, from 1; 0 if there is none."""
    ordered = sorted(rows, key=lambda row: scored.risk[row])
    return next((place for place, row in enumerate(ordered, 1) if not scored.rejected[row]), 0)


def _parts(scored: Scored, key: Callable[[Example], str]) -> dict[str, dict[str, float]]:
    groups = sorted(_grouped(scored, key).items())
    return {name: _plain(_take(scored, rows)) for name, rows in groups if len(rows) >= SMALLEST}


def _take(scored: Scored, rows: list[int]) -> Scored:
    return Scored([scored.examples[row] for row in rows], scored.rejected[rows], scored.risk[rows])


def _grouped(scored: Scored, key: Callable[[Example], str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for row, example in enumerate(scored.examples):
        groups[key(example)].append(row)
    return groups


def _plain(scored: Scored) -> dict[str, float]:
    fields: dict[str, float] = msgspec.to_builtins(measure(scored.rejected, scored.risk))
    return fields


def _score(encoder: Any, examples: Sequence[Example]) -> Scored:
    logits = [score.logit for score in encoder.score([example.event for example in examples])]
    return Scored(examples, np.array([example.rejected for example in examples]), sigmoid(logits))


def write(evaluation: Evaluation, json: Path | None = None, html: Path | None = None) -> None:
    """Write the result for programs, for people, or both."""
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(evaluation)))
    if html is not None:
        templates = Environment(loader=PackageLoader("models.training", "."), autoescape=True)
        html.write_text(templates.get_template("evaluation.html.j2").render(it=evaluation), encoding="utf-8")
