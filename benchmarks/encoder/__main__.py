"""How fast an encoder scores: packed, padded, alone, against the naive pipeline and the measured matrix limit.

All variants of a model take turns in one process, so that a busy neighbour hits them alike; a ratio is formed within a
turn, and the median over the turns is shown with the lowest and the highest. The limit is measured behind each variant.
Seconds are processor time (of one thread, unless `--threads` says more): on a shared machine wall time measures the
neighbours; `--wall` takes it all the same.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import pipeline

from benchmarks.encoder.subjects import SHAPES, Shape, make, pairs
from models.encoder.base import Encoder
from models.encoder.batches import packs
from models.encoder.kernels import Dense
from models.encoder.loading import load, open_model
from models.encoder.runtime import has_bfloat16
from models.encoder.template import segments
from models.events import Response
from streams.allocator import keep_memory

NAIVE = "naive pipeline, one at a time"
PADDED = "pipeline, 32 in arrival order, padded"

Calls = list[list[int]]
"""Which pairs each call takes."""


class Variant(NamedTuple):
    """One way to score. `calls` says which pairs go into each call."""

    score: Callable[[Sequence[Response]], Any]
    calls: Calls
    precision: str = "float32"
    first: bool = False


class Turn(NamedTuple):
    """What a variant did: the seconds of each call, and the limit just then, in operations a second."""

    calls: list[float]
    limit: float


class Stage(NamedTuple):
    """What all variants of a model have in common."""

    shape: Shape
    events: Sequence[Response]
    lengths: Sequence[int]
    clock: Callable[[], float]
    device: str

    def timed(self, work: Callable[[], Any]) -> float:
        """Seconds that some work takes."""
        start = self.clock()
        work()
        return self.clock() - start

    def turn(self, variant: Variant) -> Turn:
        """Let a variant score everything."""
        calls = ([self.events[n] for n in call] for call in variant.calls)
        seconds = [self.timed(lambda call=call: variant.score(call)) for call in calls]
        return Turn(seconds, self.limit(variant.precision))

    @torch.inference_mode()
    def limit(self, precision: str) -> float:
        """Operations a second of the widest matrix of a layer, with its weights laid out: the best of five.

        On a GPU, of matrices that fill it.
        """
        device, hidden = self.device, self.shape.hidden
        rows, hidden, width = (512, hidden, 4 * hidden) if device == "cpu" else [8192] * 3
        kind = {"dtype": getattr(torch, precision), "device": device}
        dense = Dense(torch.nn.Linear(hidden, width).to(device), dtype=kind["dtype"])
        x = torch.randn(rows, hidden, **kind)

        def product() -> None:
            dense(x)
            if device != "cpu":
                torch.cuda.synchronize()

        return 2 * rows * hidden * width / min(self.timed(product) for _ in range(5))


def variants(folder: str, lengths: Sequence[int], budget: int, device: str) -> dict[str, Variant]:
    """Return every variant that this processor or GPU has."""
    alone, whole = [[n] for n in range(len(lengths))], [list(range(len(lengths)))]
    packed = list(packs(lengths, budget))
    chunks = [list(range(start, min(start + 32, len(lengths)))) for start in range(0, len(lengths), 32)]
    found = {
        NAIVE: Variant(naive_pipeline(folder, 1, device), alone),
        PADDED: Variant(naive_pipeline(folder, 32, device), chunks),
    }
    found["plain, by length, padded"] = Variant(_plain(folder, budget, device), whole)
    for precision in _precisions(device):
        encoder = load(folder, device, batch_tokens=budget, precision=precision)
        together = packed if device == "cpu" else whole  # a GPU has several passes under way
        name = f"{encoder.runtime.path}, {precision}"
        found[name] = Variant(encoder.score, together, precision, first=True)
        found[f"{name}, tokenised before"] = Variant(_tokenised(encoder), together, precision, first=True)
        found[f"{name}, one at a time"] = Variant(encoder.score, alone, precision, first=True)
    return found


def _precisions(device: str) -> list[Any]:
    if device != "cpu":
        return ["bfloat16"]
    return ["float32", *(["bfloat16"] if has_bfloat16(torch.device(device)) else [])]


def _tokenised(encoder: Encoder[Any]) -> Callable[[Sequence[Response]], Any]:
    """Inference alone."""
    known: dict[str, Any] = {}

    def score(responses: Sequence[Response]) -> Any:
        if fresh := [response for response in responses if response.response_id not in known]:
            known.update(zip((r.response_id for r in fresh), encoder.prepare(fresh), strict=True))
        return encoder.infer([known[response.response_id] for response in responses])

    return score


def naive_pipeline(folder: str, rows: int, device: str) -> Callable[[Sequence[Response]], Any]:
    """What one writes first: `pipeline("text-classification")`."""
    model, tokenizer = open_model(folder)
    classify: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, device=device)

    def score(responses: Sequence[Response]) -> Any:
        texts = [dict(zip(("text", "text_pair"), segments(r), strict=True)) for r in responses]
        return classify(texts, batch_size=rows, truncation="longest_first", max_length=512)

    return score


def _plain(folder: str, budget: int, device: str) -> Callable[[Sequence[Response]], Any]:
    """What a model of an unknown kind gets."""
    encoder = load(folder, device, batch_tokens=budget)
    return lambda responses: encoder.infer_exactly(encoder.prepare(responses))


def measure(name: str, events: Sequence[Response], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a variant; a first turn of each is thrown away."""
    with TemporaryDirectory() as folder:
        made = make(name, Path(folder))
        lengths = load(made, precision="float32").count_tokens(events)
        stage = Stage(SHAPES[name], events, lengths, perf_counter if options.wall else process_time, options.device)
        found = variants(made, lengths, options.budget, options.device)
        turns = range(options.rounds + 1)
        _, *taken = [{kind: stage.turn(v) for kind, v in found.items()} for _ in turns]
    return [
        {"model": name, "variant": kind, **shares(stage, v, [turn[kind] for turn in taken])}
        | speeds(taken, kind, len(events))
        for kind, v in found.items()
    ]


def shares(stage: Stage, variant: Variant, turns: Sequence[Turn]) -> dict[str, float]:
    """What a variant computes, the limit, and the share of it that is reached: medians over the turns."""
    work = sum(stage.shape.flops(length, first=variant.first) for length in stage.lengths)
    return {
        "gflop_per_pair": work / len(stage.lengths) / 1e9,
        "limit_gflops": median(turn.limit for turn in turns) / 1e9,
        "share_of_limit": median(work / sum(turn.calls) / turn.limit for turn in turns),
    }


def speeds(taken: list[dict[str, Turn]], kind: str, count: int) -> dict[str, float]:
    """Medians over the turns, the spread of the ratio, and how long a call takes."""
    seconds = [sum(turn[kind].calls) for turn in taken]
    ratios = [sum(turn[NAIVE].calls) / sum(turn[kind].calls) for turn in taken]
    calls = np.array([second for turn in taken for second in turn[kind].calls]) * 1e3
    return {
        "pairs_per_s": count / median(seconds),
        "ratio_to_naive": median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "p50_ms": float(np.percentile(calls, 50)),
        "p99_ms": float(np.percentile(calls, 99)),
        "pairs_per_call": count * len(taken) / len(calls),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| model | variant | pairs/s | times naive (lowest, highest) | of the limit | a call, p50 / p99 ms |",
        "|---" * 6 + "|",
    ]
    for r in rows:
        spread = f"{r['ratio_to_naive']:.2f} ({r['ratio_lowest']:.2f}, {r['ratio_highest']:.2f})"
        lines.append(
            f"| {r['model']} | {r['variant']} | {r['pairs_per_s']:.1f} | {spread} | {r['share_of_limit']:.0%} | "
            f"{r['p50_ms']:.1f} / {r['p99_ms']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all models, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder", description=__doc__)
    parser.add_argument("--models", default=",".join(SHAPES), help="some of " + ", ".join(SHAPES))
    parser.add_argument("--pairs", type=int, default=24, help="pairs that each variant scores in a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every variant")
    parser.add_argument("--budget", type=int, default=2048, help="tokens a call")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch; one worker a core has one")
    parser.add_argument("--wall", action="store_true", help="measure wall time")
    parser.add_argument("--json", type=Path, help="write one row a model and variant")
    options = parser.parse_args()
    options.wall |= options.device != "cpu"
    os.environ["TOKENIZERS_PARALLELISM"] = str(options.device != "cpu").lower()  # noqa: TID251 (as a worker sets it)
    torch.set_num_threads(options.threads)
    keep_memory()
    events = pairs(options.pairs)
    rows: list[dict[str, Any]] = [row for name in options.models.split(",") for row in measure(name, events, options)]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
