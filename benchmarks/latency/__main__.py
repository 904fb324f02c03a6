"""How long a response waits for its score, against load: our batcher, and the usual one that waits for a batch to fill.

The encoder's cost (processor seconds a call and a token, tokenising included) is measured on a real one first; then a
stand-in sleeps for that cost, so that both batchers run side by side and a busy neighbour does not turn 95 % into an
overload. What is compared is the policy; queueing, threads and event loop are real.

With `--device cuda` the encoder itself scores, and the batchers take turns. Without it, a third one is computed: a
server that takes one response after the other at the cost of a token in full calls. None that keeps their order can be
faster.
"""

import argparse
import asyncio
import gc
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time, sleep
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.encoder.__main__ import naive_pipeline
from benchmarks.encoder.subjects import SHAPES, make, pairs
from models.deciding import Failed
from models.encoder.base import Encoder, Score
from models.encoder.batches import BATCH_TOKENS
from models.encoder.loading import load
from models.events import Response
from streams.allocator import keep_memory
from streams.metrics import Metrics
from streams.scorer import Scorer

ROWS, WAIT_S = 32, 0.05
"""The fixed batcher's: so many rows, or so long after the first of them."""
LOADS = (0.5, 0.8, 0.95)


Runs = dict[str, list[list[float]]]
"""Seconds that each response of each run waited, by batcher."""


class Batcher(Protocol):
    async def score(self, response: Response) -> Score | Failed: ...

    def close(self) -> None: ...


class Cost(NamedTuple):
    """Seconds of a call: `call` + `token` times its tokens."""

    call: float
    token: float

    def of(self, tokens: int) -> float:
        """Seconds that a call of so many tokens takes."""
        return self.call + self.token * tokens


class Sized(NamedTuple):
    """Stands for a tokenised response."""

    size: int


class Timed:
    """An encoder that takes as long as the real one was measured to take."""

    model_hash = "timed"

    def __init__(self, encoder: Encoder[Any], events: Sequence[Response]) -> None:
        tokens = encoder.count_tokens(events)
        self._sizes = {event.response_id: Sized(size) for event, size in zip(events, tokens, strict=True)}
        self.cost = cost_of(encoder, events)
        self.mean = fmean(tokens)

    def prepare(self, responses: Sequence[Response]) -> list[Sized]:
        return [self._sizes[response.response_id] for response in responses]

    def infer(self, prepared: Sequence[Sized]) -> list[Score]:
        sleep(self.cost.of(sum(found.size for found in prepared)))
        return [Score(0.0, truncated=False, unknown=0.0)] * len(prepared)


class FixedWait:
    """What serving frameworks do by default: wait until a batch is full, or for so long."""

    def __init__(self, encoder: Timed) -> None:
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(1)
        self._queue: asyncio.Queue[tuple[Response, asyncio.Future[Score]]] = asyncio.Queue()
        self._task = asyncio.create_task(self._serve())

    async def score(self, response: Response) -> Score:
        answer: asyncio.Future[Score] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((response, answer))
        return await answer

    def close(self) -> None:
        self._task.cancel()
        self._thread.shutdown()

    async def _serve(self) -> None:
        while True:
            batch = [await self._queue.get()]
            end = perf_counter() + WAIT_S
            while len(batch) < ROWS and (left := end - perf_counter()) > 0:
                try:
                    batch.append(await asyncio.wait_for(self._queue.get(), left))
                except TimeoutError:
                    break
            responses = [response for response, _ in batch]
            scores = await asyncio.get_running_loop().run_in_executor(self._thread, self._scored, responses)
            for (_, answer), score in zip(batch, scores, strict=True):
                answer.set_result(score)

    def _scored(self, responses: list[Response]) -> list[Score]:
        return self._encoder.infer(self._encoder.prepare(responses))


def spread(encoder: Encoder[Any], events: Sequence[Response], count: int) -> list[Response]:
    """Return so many of the responses, from short to long, for all of them."""
    ordered = sorted(zip(encoder.count_tokens(events), range(len(events)), strict=True))
    return [events[ordered[(2 * n + 1) * len(events) // (2 * count)][1]] for n in range(count)]


def cost_of(encoder: Encoder[Any], events: Sequence[Response]) -> Cost:
    """Measure a call of one response and of ten, and draw the line through both medians."""
    few, many = spread(encoder, events, 1), spread(encoder, events, 10)
    tokens = [sum(encoder.count_tokens(part)) for part in (few, many)]
    seconds = [median(_seconds(encoder.score, part) for _ in range(9)) for part in (few, many)]
    token = (seconds[1] - seconds[0]) / (tokens[1] - tokens[0])
    return Cost(max(0.0, seconds[0] - token * tokens[0]), token)


def _seconds(
    score: Callable[[Sequence[Response]], Any], events: Sequence[Response], clock: Callable[[], float] = process_time
) -> float:
    start = clock()
    score(events)
    return clock() - start


def arrivals(count: int, rate: float, seed: int) -> NDArray[np.float64]:
    """When each of them comes, in seconds."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


async def waits(batcher: Batcher, events: Sequence[Response], rate: float, seed: int) -> list[float]:
    """Send events at random times, `rate` a second on the mean; return the seconds that each waits."""
    at = arrivals(len(events), rate, seed)
    gc.collect()
    gc.freeze()  # as a worker does
    start = perf_counter() + 1e-4 * len(events)  # by when all tasks are made

    async def one(response: Response, when: float) -> float:
        await asyncio.sleep(max(0.0, start + when - perf_counter()))
        await batcher.score(response)
        return perf_counter() - start - when

    found = await asyncio.gather(*(one(response, when) for response, when in zip(events, at, strict=True)))
    batcher.close()
    return found


Kinds = dict[str, Callable[[], Batcher]]


def batchers(encoder: Any, budget: int) -> Kinds:
    """Return what makes each batcher; both want a running loop."""
    ours = partial(Scorer, encoder, Metrics(), budget=budget, deadline_s=60.0)
    return {"ours": ours, "fixed wait": partial(FixedWait, encoder)}


async def beside(kinds: Kinds, events: Sequence[Response], rate: float, runs: int) -> Runs:
    """Run the batchers side by side, several times; no more at once, or they would wait for Python's lock."""
    found: Runs = {name: [] for name in kinds}
    for seed in range(runs):
        each = await asyncio.gather(*(waits(kind(), events, rate, seed) for kind in kinds.values()))
        for name, took in zip(kinds, each, strict=True):
            found[name].append(took)
    return found


async def in_turn(kinds: Kinds, events: Sequence[Response], rate: float, runs: int) -> Runs:
    """Run both batchers one after the other, several times each."""
    found: Runs = {name: [] for name in kinds}
    for seed in range(runs):
        for name in kinds:
            found[name].append(await waits(kinds[name](), events, rate, seed))
    return found


def ideal(timed: Timed, events: Sequence[Response], full: float, rate: float, runs: int) -> list[list[float]]:
    """What each response would wait for a server of `full` responses a second without calls (Lindley 1952)."""
    sizes = [found.size for found in timed.prepare(events)]
    found = []
    for seed in range(runs):
        free, waited = 0.0, []
        for at, size in zip(arrivals(len(events), rate, seed), sizes, strict=True):
            free = max(free, at) + size / timed.mean / full
            waited.append(free - at)
        found.append(waited)
    return found


def figures(runs: Sequence[Sequence[float]]) -> dict[str, float]:
    """Percentiles of each run: their mean, lowest and highest, in milliseconds."""
    figures: dict[str, float] = {}
    for percent in (50, 99):
        each = [float(np.percentile(run, percent)) * 1e3 for run in runs]
        figures |= {f"p{percent}_ms": fmean(each), f"p{percent}_lowest": min(each), f"p{percent}_highest": max(each)}
    return figures


def measure(model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a load and batcher."""
    events = pairs(options.events)
    with TemporaryDirectory() as folder:
        made = make(model, Path(folder))
        encoder = load(made, options.device, batch_tokens=options.budget)
        naive = naive_pipeline(made, 1, options.device)
    encoder.warm()
    clock = process_time if options.device == "cpu" else perf_counter
    known = {"model": model, "precision": encoder.runtime.precision}
    some = spread(encoder, events, 50)
    known["naive_ms"] = fmean(_seconds(naive, [event], clock) for event in some) * 1e3
    known["alone_ms"] = median(_seconds(encoder.score, [event], clock) for event in some) * 1e3
    return (_stand_in if options.device == "cpu" else _itself)(known, encoder, events, options)


def _stand_in(
    known: dict[str, Any], encoder: Encoder[Any], events: Sequence[Response], options: Any
) -> list[dict[str, Any]]:
    timed = Timed(encoder, events)
    full = options.budget / timed.mean / timed.cost.of(options.budget)  # responses a second when every call is full

    async def run(rate: float, runs: int) -> Runs:
        found = await beside(batchers(timed, options.budget), events, rate, runs)
        return found | {"ideal": ideal(timed, events, full, rate, runs)}

    return _rows(known, full, run, options.runs)


def _itself(
    known: dict[str, Any], encoder: Encoder[Any], events: Sequence[Response], options: Any
) -> list[dict[str, Any]]:
    kinds = batchers(encoder, options.budget)
    busy = [max(asyncio.run(_made_and_waits(kinds["ours"], events))) for _ in range(3)]
    known["device"] = torch.cuda.get_device_name()
    return _rows(known, len(events) / median(busy), partial(in_turn, kinds, events), options.runs)


async def _made_and_waits(kind: Callable[[], Batcher], events: Sequence[Response]) -> list[float]:
    return await waits(kind(), events, 1e9, 0)


def _rows(known: dict[str, Any], full: float, run: Callable[[float, int], Any], runs: int) -> list[dict[str, Any]]:
    rows = []
    for share in LOADS:
        found = asyncio.run(run(share * full, runs))
        rate = {"load": share, "events_per_s": share * full}
        rows += [{**known, **rate, "batcher": name, **figures(taken)} for name, taken in found.items()]
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| model | load | batcher | p50 ms (lowest, highest) | p99 ms (lowest, highest) |", "|---" * 5 + "|"]
    for r in rows:
        spans = [f"{r[f'{p}_ms']:.1f} ({r[f'{p}_lowest']:.1f}, {r[f'{p}_highest']:.1f})" for p in ("p50", "p99")]
        load_ = f"{r['load']:.0%}, {r['events_per_s']:.1f}/s"
        model = f"{r['model']}, {r['alone_ms']:.1f} ms alone, {r['naive_ms']:.1f} naive"
        lines.append(f"| {model} | {load_} | {r['batcher']} | {' | '.join(spans)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all models, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--models", default="MiniLM-L6,tiny", help="some of " + ", ".join(SHAPES))
    parser.add_argument("--events", type=int, default=500, help="responses of a run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--budget", type=int, default=BATCH_TOKENS, help="tokens a call")
    parser.add_argument("--runs", type=int, default=3, help="runs of each load and batcher, with seeds of their own")
    parser.add_argument("--json", type=Path, help="write one row a model, load and batcher")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    rows = [row for model in options.models.split(",") for row in measure(model, options)]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
