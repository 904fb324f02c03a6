"""What it brings to know who judges: the same text model with and without a severity per rater, on grouped folds.

    python -m benchmarks.raters --data FILE --json OUT [--folds 5] [--seeds 0,1,2]

A question is never in two folds, a rater may be. `text` does not know raters; `typical` learns beside them and sets
them aside; `known` adds the severity of the rater who judges; `rater` knows nothing else.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.training import raters
from models.training.data import read
from models.training.examples import Example, folds
from models.training.metrics import Metrics, measure, sigmoid

TOPICS = 16
"""Dimensions of the answers' and questions' latent topics (LSA): files with raters are small."""

Risks = dict[str, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args(arguments)
    examples = [example for example in read(options.data) if example.rater]
    rows = compare(examples, options.folds, [int(seed) for seed in options.seeds.split(",")])
    for name, row in rows.items():
        print(f"{name:10} AUROC {row.auroc:.3f}  AP {row.average_precision:.3f}  Brier {row.brier:.3f}")
    options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))


def compare(examples: Sequence[Example], count: int, seeds: Sequence[int]) -> dict[str, Metrics]:
    """Mean measures over seeds of each model's out-of-fold risks."""
    runs = [_run(examples, count, seed) for seed in seeds]
    rejected = _rejected(examples)
    return {name: _mean([measure(rejected, run[name]) for run in runs]) for name in runs[0]}


def _mean(found: Sequence[Metrics]) -> Metrics:
    names = [name for name in Metrics.__struct_fields__ if name != "count"]
    return Metrics(count=found[0].count, **{name: float(np.mean([getattr(m, name) for m in found])) for name in names})


def _run(examples: Sequence[Example], count: int, seed: int) -> Risks:
    risks = {name: np.zeros(len(examples)) for name in ("text", "typical", "known", "rater")}
    for fold in folds(examples, count, seed):
        outside = sorted(set(range(len(examples))) - set(fold))
        for name, values in _fold([examples[i] for i in outside], [examples[i] for i in fold]).items():
            risks[name][fold] = values
    return risks


def _fold(train: Sequence[Example], test: Sequence[Example]) -> Risks:
    topics = make_pipeline(
        TfidfVectorizer(stop_words="english", sublinear_tf=True), TruncatedSVD(TOPICS, random_state=0)
    )
    topics.fit([_text(example) for example in train])
    tables = [np.hstack([topics.transform([_text(e) for e in part]), _shape(part)]) for part in (train, test)]
    scaler = StandardScaler().fit(tables[0])
    known, shown = (scaler.transform(table) for table in tables)
    names, rejected = [example.rater for example in train], _rejected(train)
    judges = [example.rater for example in test]
    blind = raters.fit(known, rejected, names, spread=0.0)
    aware = raters.fit(known, rejected, names)
    only = raters.fit(known * 0, rejected, names)
    logits = {
        "text": raters.log_odds(blind, shown),
        "typical": raters.log_odds(aware, shown),
        "known": raters.log_odds(aware, shown, judges),
        "rater": raters.log_odds(only, shown * 0, judges),
    }
    return {name: sigmoid(values) for name, values in logits.items()}


def _shape(part: Sequence[Example]) -> np.ndarray:
    """Length of both texts and the share of the question's words that the answer repeats."""
    pairs = [(set(e.event.query.lower().split()), set((e.event.response or "").lower().split())) for e in part]
    return np.array([[np.log1p(len(q)), np.log1p(len(a)), len(q & a) / max(1, len(q))] for q, a in pairs])


def _text(example: Example) -> str:
    return f"{example.event.query} {example.event.response or ''}"


def _rejected(examples: Sequence[Example]) -> np.ndarray:
    return np.array([example.rejected for example in examples])


if __name__ == "__main__":
    main()
