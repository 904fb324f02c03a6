"""Prequential calibration on real verdicts: every answer is forecast first, its verdict is learnt later.

    python -m benchmarks.real_verdicts --data FOLDER --json OUT

The folder holds `mediqa_train`, `mediqa_validation`, `medquad`, `expertqa`, `oncqa` (.jsonl; `label` 1 = reject).
The order is fixed: the first source of `mediqa_train` trains the scorer, once; then the stream is the rest of
`mediqa_train`, `mediqa_validation`, `medquad`, `expertqa`, `oncqa`, each in file order. So the reject rate moves from
about .6 to .85 and down to .2, and the judges change from NLM experts to 321 domain experts to six oncologists.

The scorer is deliberately plain and frozen (hashed words and overlap, logistic regression): what is compared is how
the calibrators cope with it. Groups are the source and the category; the sources have no timestamps, so a verdict is
taken to arrive 20 answers later. Figures are on all answers of the stream: log-loss and expected calibration error
(15 bins of equal count), and both within each file.
"""

import argparse
import json
from collections import deque
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.calibration.__main__ import METHODS
from benchmarks.calibration.method import Method, Row

FILES = ("mediqa_train", "mediqa_validation", "medquad", "expertqa", "oncqa")
DELAY = 20
"""Answers between a forecast and the arrival of its verdict."""

WARM_UP = 100
"""Verdicts of the stream's beginning that every method may fit on before it forecasts."""

HASH_BITS = 12


def read(folder: Path) -> list[dict[str, str]]:
    """Return the rows of all files in the documented order."""
    rows = []
    for name in FILES:
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows += [{**json.loads(line), "file": name} for line in lines]
    return rows


def features(rows: list[dict[str, str]]) -> csr_matrix:
    """Return hashed words of query and response, and how much they share."""
    words = HashingVectorizer(n_features=2**HASH_BITS, alternate_sign=False, norm="l2")
    shared = np.array([overlap(row["query"], row["response"]) for row in rows])
    return hstack(
        [words.transform(row["query"] for row in rows), words.transform(row["response"] for row in rows), shared]
    )


def overlap(query: str, response: str) -> list[float]:
    """Return the share of the query's words in the response, and the response's log length."""
    asked, said = set(query.lower().split()), response.lower().split()
    return [len(asked & set(said)) / max(len(asked), 1), np.log1p(len(said)) / 10.0]


def scored(rows: list[dict[str, str]]) -> tuple[list[Row], list[str]]:
    """Train the scorer on the first source and return the rest as (logit, groups, verdict), with their files."""
    first = rows[0]["source"]
    known = [row["file"] == FILES[0] and row["source"] == first for row in rows]
    matrix, verdicts = features(rows).tocsr(), np.array([int(row["label"]) for row in rows])
    scorer = LogisticRegression(C=1.0, max_iter=1000).fit(matrix[known], verdicts[known])
    logits = scorer.decision_function(matrix).tolist()
    stream = [
        (logit, (("category", row.get("category") or "none"), ("source", row["file"])), int(row["label"]))
        for logit, row, seen in zip(logits, rows, known, strict=True)
        if not seen
    ]
    return stream, [row["file"] for row, seen in zip(rows, known, strict=True) if not seen]


def forecast(method: Method, stream: list[Row]) -> NDArray[np.float64]:
    """Return the forecasts of a prequential pass."""
    method.warm_up(stream[:WARM_UP])
    waiting: deque[tuple[int, Row]] = deque()
    risks = []
    for now, row in enumerate(stream[WARM_UP:]):
        while waiting and waiting[0][0] <= now - DELAY:
            at, known = waiting.popleft()
            method.learn(known, float(at), float(now), 2, audit=False)
        risks.append(method.predict(row[0], row[1])[0])
        waiting.append((now, row))
    return np.array(risks).clip(1e-4, 1.0 - 1e-4)


def log_loss(verdicts: NDArray[np.int64], risks: NDArray[np.float64]) -> float:
    """Mean log-loss in nats."""
    return float(-np.where(verdicts == 1, np.log(risks), np.log(1.0 - risks)).mean())


def calibration_error(verdicts: NDArray[np.int64], risks: NDArray[np.float64], bins: int = 15) -> float:
    """Mean |forecast - rate| over bins of equal count."""
    chunks = np.array_split(np.argsort(risks, kind="stable"), bins)
    return fmean(abs(float(risks[chunk].mean() - verdicts[chunk].mean())) for chunk in chunks)


def figures(verdicts: NDArray[np.int64], risks: NDArray[np.float64]) -> dict[str, float]:
    """Return both figures and the count."""
    return {
        "answers": len(verdicts),
        "log_loss": log_loss(verdicts, risks),
        "ece": calibration_error(verdicts, risks),
    }


def main() -> None:
    """Run every method, print a table, write the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_verdicts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the files")
    parser.add_argument("--json", type=Path, help="write one row per method and file")
    args = parser.parse_args()
    stream, files = scored(read(args.data))
    verdicts, origin = np.array([row[2] for row in stream[WARM_UP:]]), np.array(files[WARM_UP:])
    lines = []
    for name, make in METHODS.items():
        risks = forecast(make(), stream)
        lines.append({"method": name, "file": "all", **figures(verdicts, risks)})
        for file in dict.fromkeys(origin.tolist()):
            here = origin == file
            lines += [{"method": name, "file": file, **figures(verdicts[here], risks[here])}]
    for line in lines:
        if line["file"] == "all":
            print(f"{line['method']:24} log-loss {line['log_loss']:.4f}  ECE {100.0 * line['ece']:.2f} %")
    if args.json:
        args.json.write_text(json.dumps(lines, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
