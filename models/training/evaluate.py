"""How good an artifact is on judged answers, beside what is simpler: measures with intervals, tiers, parts.

Each model has the same figures: the field's measures with 95 % limits by question, MEDIQA's own, and seconds. The
baselines are fitted to the files given for that, or else to the other questions of the same data, fold by fold, which
spares them every change between the places where an artifact is trained and used.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray

from models.encoder.artifact import verify
from models.encoder.loading import load
from models.errors import SettingsError
from models.events import TIERS, Tier
from models.training.baselines import BASELINES, Judge, out_of_fold
from models.training.examples import Example, digest, has_both_verdicts, pending, unseen
from models.training.intervals import Interval, bootstrap, rate_interval
from models.training.metrics import Metrics, measure, sigmoid

GREEN, RED = 0.05, 0.20
"""The default cuts between green, yellow and red."""

SMALLEST: Final = 20
"""Parts with fewer answers are not measured: their figures would be noise."""

Clock = Callable[[], float]
"""Seconds since some start."""

Part = Literal["category", "site", "rater"]
_KEYS: Final[dict[Part, Callable[[Example], str]]] = {
    "category": lambda example: example.event.category or "-",
    "site": lambda example: example.event.site,
    "rater": lambda example: example.rater or "-",
}


class TierRow(msgspec.Struct, frozen=True, kw_only=True):
    """One tier: its share of all answers, how often they were rejected, and its share of all rejections.

    The limits of `rejected` hold for independent answers, see `rate_interval`; a bootstrap by question would call a
    tier without any rejection certain.
    """

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


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One model on the data. `intervals`: each measure's 95 % limits, NaN if it has none; `seconds`, what it took."""

    auroc: float
    average_precision: float
    accuracy: float
    brier: float
    ece: float
    log_loss: float
    intervals: dict[str, tuple[float, float]]
    official: Official
    seconds: float


class PartRow(msgspec.Struct, frozen=True, kw_only=True):
    """One category, site or rater."""

    measures: Metrics
    tiers: tuple[TierRow, ...]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole result. `review_load` is the share of answers in red; `deep`, the AUROC for deep rejections alone.

    `learnt`: the model learnt from these very answers, so that its figures promise too much.
    """

    count: int
    rate: float
    learnt: bool
    model_hash: str
    models: dict[str, Figures]
    pre_response: Metrics
    deep: float
    tiers: tuple[TierRow, ...]
    review_load: float
    parts: dict[str, dict[str, PartRow]]


class Scored(NamedTuple):
    """Judged answers and their risks (N,)."""

    examples: Sequence[Example]
    rejected: NDArray[np.bool_]
    risk: NDArray[np.float64]


def evaluate(
    artifact: str,
    examples: Sequence[Example],
    *,
    clock: Clock,
    train: Sequence[Example] = (),
    cuts: tuple[float, float] = (GREEN, RED),
) -> Evaluation:
    """Score and measure; `train` is what the baselines are fitted to, but for answers that are measured.

    Risks are the sigmoid of the raw logit: no calibrator has learnt yet. Raises `SettingsError` if the data have one
    verdict only, or what the baselines learn from, or no word in common.
    """
    _check(examples)
    lessons = _lessons(train, examples) if train else ()
    encoder = load(artifact)
    start = clock()
    scored = _score(encoder, examples)
    ours = figures(scored, clock() - start)
    tiers = tier_table(scored, cuts)
    return Evaluation(
        count=len(examples),
        rate=float(scored.rejected.mean()),
        learnt=verify(Path(artifact)).get("data_digest") == digest(examples),
        model_hash=encoder.model_hash,
        models={"demur": ours, **baselines(lessons, examples, clock)},
        pre_response=_measured(_score(encoder, [pending(example) for example in examples])),
        deep=measure([example.rejected_deeply for example in examples], scored.risk).auroc,
        tiers=tiers,
        review_load=tiers[-1].share,
        parts={name: _parts(scored, key, cuts) for name, key in _KEYS.items()},
    )


def _check(examples: Sequence[Example]) -> None:
    if not has_both_verdicts(examples):
        raise SettingsError(
            f"{len(examples)} answers of one verdict cannot be measured: give accepted and rejected ones"
        )


def _lessons(train: Sequence[Example], test: Sequence[Example]) -> list[Example]:
    kept = unseen(train, test)
    if not has_both_verdicts(kept):
        raise SettingsError(
            f"--train: {len(kept)} answers of one verdict, beside those measured, teach nothing: give accepted and "
            "rejected ones, or leave it out"
        )
    return kept


def baselines(train: Sequence[Example], test: Sequence[Example], clock: Clock) -> dict[str, Figures]:
    """Fit and measure each baseline, by folds of `test` where there is no `train`."""
    return {name: judged(judge, train, test, clock) for name, judge in BASELINES.items()}


def judged(judge: Judge, train: Sequence[Example], test: Sequence[Example], clock: Clock) -> Figures:
    """Fit and measure one model."""
    start = clock()
    risk = judge(train, test) if train else out_of_fold(judge, test)
    return figures(Scored(test, np.array([example.rejected for example in test]), risk), clock() - start)


def figures(scored: Scored, seconds: float) -> Figures:
    """Measure risks, with limits by question."""
    found = bootstrap(scored.rejected, scored.risk, [example.question for example in scored.examples])
    values = {name: interval.value for name, interval in found.items()}
    limits = {name: (interval.lower, interval.upper) for name, interval in found.items()}
    return Figures(**values, intervals=limits, official=official(scored), seconds=seconds)


def tier_table(scored: Scored, cuts: tuple[float, float]) -> tuple[TierRow, ...]:
    """Green, yellow, red by risk."""
    tier = np.digitize(scored.risk, cuts)
    return tuple(_tier(name, scored.rejected, tier == index) for index, name in enumerate(TIERS))


def _tier(name: Tier, rejected: NDArray[np.bool_], inside: NDArray[np.bool_]) -> TierRow:
    count, bad = int(inside.sum()), int(rejected[inside].sum())
    share, caught = count / inside.size, bad / max(1, int(rejected.sum()))
    return TierRow(tier=name, count=count, share=share, rejected=rate_interval(bad, count), caught=caught)


def official(scored: Scored) -> Official:
    """MEDIQA's own measures; questions without a good answer do not enter the mean reciprocal rank."""
    good, shown = ~scored.rejected, scored.risk < 0.5
    groups = _grouped(scored, lambda example: example.question).values()
    ranks = [_reciprocal_rank(good[rows], scored.risk[rows]) for rows in groups if good[rows].any()]
    return Official(
        accuracy=float((good == shown).mean()),
        precision=float((good & shown).sum() / max(1, int(shown.sum()))),
        mrr=float(np.mean(ranks)) if ranks else 0.0,
    )


def _reciprocal_rank(good: NDArray[np.bool_], risk: NDArray[np.float64]) -> float:
    """Of the first good answer when sorted by risk; the mean over all orders of those with its risk.

    McSherry and Najork, *Computing information retrieval performance measures efficiently in the presence of tied
    scores*, ECIR 2008.
    """
    least = risk[good].min()
    ahead, tied = int((risk < least).sum()), good[risk == least]
    count, bad = len(tied), int((~tied).sum())
    orders = comb(count, bad)
    return sum(comb(count - 1 - place, bad - place) / orders / (ahead + place + 1) for place in range(bad + 1))


def _parts(scored: Scored, key: Callable[[Example], str], cuts: tuple[float, float]) -> dict[str, PartRow]:
    groups = sorted(_grouped(scored, key).items())
    return {name: _part(_take(scored, rows), cuts) for name, rows in groups if len(rows) >= SMALLEST}


def _part(scored: Scored, cuts: tuple[float, float]) -> PartRow:
    return PartRow(measures=_measured(scored), tiers=tier_table(scored, cuts))


def _take(scored: Scored, rows: list[int]) -> Scored:
    return Scored([scored.examples[row] for row in rows], scored.rejected[rows], scored.risk[rows])


def _grouped(scored: Scored, key: Callable[[Example], str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for row, example in enumerate(scored.examples):
        groups[key(example)].append(row)
    return groups


def _measured(scored: Scored) -> Metrics:
    return measure(scored.rejected, scored.risk)


def _score(encoder: Any, examples: Sequence[Example]) -> Scored:
    logits = [score.logit for score in encoder.score([example.event for example in examples])]
    return Scored(examples, np.array([example.rejected for example in examples]), sigmoid(logits))


def write(evaluation: Evaluation, json: Path | None = None, html: Path | None = None) -> None:
    """Write the result for programs, for people, or both."""
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(_flat(evaluation))))
    if html is not None:
        templates = Environment(loader=PackageLoader("models.training", "."), autoescape=True)
        html.write_text(templates.get_template("evaluation.html.j2").render(it=evaluation), encoding="utf-8")


def _flat(evaluation: Evaluation) -> dict[str, Any]:
    """Models stand at the top, so that `demur evaluate` and `benchmarks.mediqa` name the same figures by one path."""
    fields: dict[str, Any] = msgspec.structs.asdict(evaluation)
    return {**fields.pop("models"), **fields}
