"""What it brings to know who judges: the same model with and without a severity per rater, on grouped folds.

    python -m benchmarks.raters --data FILE --json OUT [--encoder FOLDER] [--folds 5] [--seeds 0,1,2]

A question is never in two folds, a rater may be. `text` does not know raters; `typical` learns beside them and sets
them aside, as every artifact does; `known` adds the severity of the rater who judges; `rater` knows nothing else. The
model is linear on latent topics, the one that severities are learnt with; with `--encoder`, the late-interaction head
on that sentence encoder stands beside it. Each seed deals the questions into other folds; a model's figures are those
of its mean log odds over the seeds, and the gain by the rater is stated for each seed apart.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from models.encoder.late import logit
from models.encoder.loading import open_sentences
from models.errors import DemurError
from models.training import raters
from models.training.data import read
from models.training.evaluate import Figures, Scored, figures
from models.training.examples import Example, folds
from models.training.late import Lesson, fit_weights, prepare
from models.training.metrics import measure, sigmoid
from models.training.topics import Topics

Rows = Sequence[int]
Risks = dict[str, np.ndarray]
Model = Callable[[Rows, Rows], Risks]
"""(training rows, test rows) → log odds of the test rows by name."""


class Compared(NamedTuple):
    """Figures by name, and by seed what AUROC gains by the rater."""

    models: dict[str, Figures]
    gains: dict[str, list[float]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--encoder", help="folder or hub id of a sentence encoder")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args(arguments)
    examples = [example for example in read(options.data) if example.rater]
    models: list[Model] = [partial(_linear, examples)]
    if options.encoder:
        models.append(partial(_late, prepare(examples, *open_sentences(options.encoder))))
    found = compare(examples, models, options.folds, [int(seed) for seed in options.seeds.split(",")])
    for name, row in found.models.items():
        print(f"{name:13} AUROC {row.auroc:.3f}  AP {row.average_precision:.3f}  Brier {row.brier:.3f}")
    for name, gains in found.gains.items():
        print(f"{name:13} gains {np.mean(gains):+.3f}, by seed {' '.join(f'{gain:+.3f}' for gain in gains)}")
    options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found._asdict())))


def compare(examples: Sequence[Example], models: Sequence[Model], count: int, seeds: Sequence[int]) -> Compared:
    """Measure each model's out-of-fold log odds."""
    runs = [_run(examples, models, count, seed) for seed in seeds]
    rejected = np.array([example.rejected for example in examples])
    means = {name: sigmoid(np.mean([run[name] for run in runs], axis=0)) for name in runs[0]}
    return Compared(
        {name: figures(Scored(examples, rejected, risk), 0.0) for name, risk in means.items()},
        {name: [_gain(rejected, run, name) for run in runs] for name in means if name.endswith("known")},
    )


def _gain(rejected: np.ndarray, run: Risks, name: str) -> float:
    """By how much to know the rater is better than to see the text alone."""
    aware, blind = (measure(rejected, sigmoid(run[each])).auroc for each in (name, name.replace("known", "text")))
    return aware - blind


def _run(examples: Sequence[Example], models: Sequence[Model], count: int, seed: int) -> Risks:
    found: Risks = {}
    for fold in folds(examples, count, seed):
        rest = sorted(set(range(len(examples))) - set(fold))
        for model in models:
            for name, values in model(rest, fold).items():
                found.setdefault(name, np.zeros(len(examples)))[fold] = values
    return found


def _linear(examples: Sequence[Example], rest: Rows, fold: Rows) -> Risks:
    train, test = [examples[i] for i in rest], [examples[i] for i in fold]
    topics = Topics(train)
    known, shown = topics(train), topics(test)
    rejected, names = np.array([example.rejected for example in train]), [example.rater for example in train]
    judges = [example.rater for example in test]
    blind, aware = raters.fit(known, rejected, names, spread=0.0), raters.fit(known, rejected, names)
    only = raters.fit(known * 0, rejected, names)
    return {
        "text": raters.log_odds(blind, shown),
        "typical": raters.log_odds(aware, shown),
        "known": raters.log_odds(aware, shown, judges),
        "rater": raters.log_odds(only, shown * 0, judges),
    }


def _late(lesson: Lesson, rest: Rows, fold: Rows) -> Risks:
    part = lesson.only(rest)
    unnamed = [msgspec.structs.replace(example, rater=None) for example in part.examples]
    blind, (aware, severity) = fit_weights(part._replace(examples=unnamed), 0)[0], fit_weights(part, 0)
    text, typical = (np.array([logit(w, lesson.readings[i]) for i in fold]) for w in (blind, aware))
    judged = np.array([severity.get(lesson.examples[i].rater or "", 0.0) for i in fold])
    return {"late_text": text, "late_typical": typical, "late_known": typical + judged}


if __name__ == "__main__":
    try:
        main()
    except DemurError as error:
        sys.exit(str(error))
