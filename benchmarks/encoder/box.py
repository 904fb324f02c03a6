"""The whole box: one worker a core, against the naive pipeline with all cores, and beside a busy neighbour.

    python -m benchmarks.encoder.box --models MiniLM-L6,tiny --json box.json

Wall time, so on a quiet machine only. The naive pipeline and the workers take turns. All score the same texts, again
and again in an order drawn once. Whoever stops among them has scored longer or shorter ones than others: so tokens are
counted, and a rate is given in pairs of mean length.
"""

import argparse
import json
import multiprocessing as mp
import os
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from random import Random
from statistics import fmean, median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import torch

from benchmarks.encoder.__main__ import naive_pipeline
from benchmarks.encoder.subjects import SEED, SHAPES, make, pairs
from models.encoder.batches import BATCH_TOKENS, packs
from models.encoder.loading import load
from streams.allocator import keep_memory

CORES = len(os.sched_getaffinity(0))
TEXTS = 96


class Subject(NamedTuple):
    """A model, and the tokens of each text."""

    folder: str
    tokens: list[int]

    @classmethod
    def of(cls, folder: str) -> "Subject":
        """Count tokens."""
        return cls(folder, load(folder, precision="float32").count_tokens(pairs(TEXTS)))


def rate(score: Callable[[Any], Any], calls: list[list[int]], tokens: list[int], seconds: float) -> float:
    """Pairs of mean length a second."""
    events = pairs(TEXTS)
    Random(SEED).shuffle(calls)
    done, start = 0, perf_counter()
    while (taken := perf_counter() - start) < seconds:
        score([events[n] for n in calls[done % len(calls)]])
        done += 1
    return sum(tokens[n] for call in range(done) for n in calls[call % len(calls)]) / fmean(tokens) / taken


def naive(subject: Subject, device: str, seconds: float, ready: Barrier, found: Any) -> None:
    """One process with all cores, one response at a time."""
    torch.set_num_threads(CORES)
    score = naive_pipeline(subject.folder, 1, device)
    score(pairs(1))
    ready.wait()
    found.put(rate(score, [[n] for n in range(TEXTS)], subject.tokens, seconds))


def worker(subject: Subject, seconds: float, ready: Barrier, found: Any) -> None:
    """One of as many as there are cores; each scores what its queue would hold."""
    keep_memory()
    encoder = load(subject.folder, threads=1)
    encoder.warm()
    encoder.score(pairs(1))
    ready.wait()
    found.put(rate(encoder.score, list(packs(subject.tokens, BATCH_TOKENS)), subject.tokens, seconds))


def neighbour(ready: Barrier) -> None:
    """Keep one core busy with matrices, until killed."""
    torch.set_num_threads(1)
    x = torch.randn(512, 512)
    ready.wait()
    while True:
        x @ x


def run(targets: list[Callable[..., None]], *, busy: bool = False) -> float:
    """Pairs a second of all processes together, started at once."""
    context = mp.get_context("spawn")
    ready, found = context.Barrier(len(targets) + busy), context.Queue()
    started = [context.Process(target=target, args=(ready, found)) for target in targets]
    beside = context.Process(target=neighbour, args=(ready,), daemon=True)
    for process in [*started, beside] if busy else started:
        process.start()
    total = sum(found.get(timeout=600) for _ in targets)
    for process in started:
        process.join()
    if busy:
        beside.kill()
    return float(total)


def measure(name: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the row of a model."""
    with TemporaryDirectory() as folder:
        subject = Subject.of(make(name, Path(folder)))
        workers: list[Callable[..., None]] = [partial(worker, subject, seconds)] * CORES
        pipeline: list[Callable[..., None]] = [partial(naive, subject, "cpu", seconds)]
        taken = [(run(pipeline), run(workers), run(workers, busy=True)) for _ in range(rounds)]
    ratios = sorted(ours / theirs for theirs, ours, _ in taken)
    beside = sorted(busy / ours for _, ours, busy in taken)
    return {
        "model": name,
        "cores": CORES,
        "naive_pairs_per_s": median(theirs for theirs, _, _ in taken),
        "pairs_per_s": median(ours for _, ours, _ in taken),
        "ratio_to_naive": median(ratios),
        "ratio_lowest": ratios[0],
        "ratio_highest": ratios[-1],
        "beside_a_busy_neighbour": median(beside),
        "beside_lowest": beside[0],
        "beside_highest": beside[-1],
    }


def main() -> None:
    """Measure, print a row a model, write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder.box", description=__doc__)
    parser.add_argument("--models", default=",".join(SHAPES), help="some of " + ", ".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=3, help="turns")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each turn")
    parser.add_argument("--json", type=Path, help="write one row a model")
    options = parser.parse_args()
    rows = []
    for name in options.models.split(","):
        rows.append(measure(name, options.rounds, options.seconds))
        print(rows[-1])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
