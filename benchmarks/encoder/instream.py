"""The encoder inside the running stream: saturated SCORE workers on a broker, against the naive pipeline.

    python -m benchmarks.encoder.instream --json instream.json
    python -m benchmarks.encoder.instream --device cuda --workers 4 --broker embedded --json instream-gpu.json

Wall time, so on a quiet machine only. Of each model: the naive pipeline with all cores, the encoder alone in as many
processes as there are workers (on a processor), and the workers, which take responses from a full topic and write
decisions, with the deadline that they have by default: what it lets them take at once is written at once. The decisions
of the middle four fifths count: at the ends some worker has nothing to do. All score the same texts, and rates are of
pairs of mean length, as in `box`.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.encoder import box
from benchmarks.encoder.subjects import SHAPES, make, pairs
from benchmarks.stream import log
from benchmarks.stream.__main__ import broker
from benchmarks.stream.feed import PARTITIONS, Item, item
from benchmarks.stream.meter import Meter, cpu_between
from benchmarks.stream.runs import until
from models.events import Decision
from streams import topics
from streams.broker import free_port
from streams.drive import await_ready, worker
from streams.settings import Settings, load
from streams.stages import changelogs

ENOUGH: Final = 0.95
"""Of the decisions: the embedded broker forgets the last ones when it is asked how many there are."""
MIDDLE: Final = (10, 90)
"""Percent of the decisions, in order of time, between which they count."""


def responses(count: int) -> list[Item]:
    """Return the texts of `box` again and again, each a response and a conversation of its own."""
    found = zip(map(str, range(count)), cycle(pairs(box.TEXTS)), strict=False)
    return [item(msgspec.structs.replace(pair, response_id=n, conversation_id=n), n) for n, pair in found]


def run(settings: Settings, workers: int, items: Sequence[Item], tokens: Sequence[int]) -> dict[str, float]:
    """Let workers decide on all; return decisions a second and what a decision takes of the processors."""
    settings.data_dir.mkdir()
    topics.create(settings, changelogs(settings))
    with ExitStack() as stack:
        children = []
        for number in range(workers):
            mine = settings.model_copy(update={"data_dir": settings.data_dir / str(number), "http_port": free_port()})
            mine.data_dir.mkdir()
            children.append(stack.enter_context(worker(mine, mine.data_dir)))
            await_ready(children[-1], mine)
        meters = [Meter(child.pid) for child in children]
        for meter in meters:
            meter.start()
        log.fill(settings.bootstrap, settings.topic_prefix, items)
        where = settings.bootstrap, settings.topic_prefix, [Decision.topic]
        until(lambda: log.count(*where) >= ENOUGH * len(items), "decisions")
        samples = [meter.stop() for meter in meters]
    written = [(record.at, msgspec.json.decode(record.value)) for record in log.read(*where)]
    unscored = sum(decision["logit"] is None for _, decision in written)
    first, last = np.percentile([at for at, _ in written], MIDDLE).tolist()
    texts = [int(decision["response_id"]) % box.TEXTS for at, decision in written if first < at <= last]
    done = sum(tokens[text] for text in texts) / fmean(tokens)
    cpu = sum(cpu_between(each, first, last) for each in samples)
    return {"pairs_per_s": done / (last - first), "cpu_us_per_pair": cpu / done * 1e6, "unscored": unscored}


def measure(name: str, options: argparse.Namespace, bootstrap: str, folder: Path) -> dict[str, Any]:
    """Return the row of a model."""
    subject = box.Subject.of(make(name, folder / name))
    naive, alone, found = [], [], []
    items: list[Item] = []
    for turn in range(options.rounds):
        naive.append(box.run([partial(box.naive, subject, options.device, options.seconds)]))
        if options.device == "cpu":
            alone.append(box.run([partial(box.worker, subject, options.seconds)] * options.workers))
        items = items or responses(options.pairs or round(options.seconds * 4 * alone[0]))
        settings = load(
            bootstrap=bootstrap,
            topic_prefix=f"{name}-{turn}.",
            partitions=PARTITIONS,
            stages=("score",),
            model=subject.folder,
            device=options.device,
            time_source="event",
            data_dir=folder / f"{name}-{turn}",
        )
        found.append(run(settings, options.workers, items, subject.tokens))
    return {"model": name, "device": options.device, "workers": options.workers, "pairs": len(items)} | dict(
        figures(naive, alone, found)
    )


def figures(
    naive: Sequence[float], alone: Sequence[float], found: Sequence[dict[str, float]]
) -> Iterator[tuple[str, float]]:
    """Yield medians over the turns, and the lowest and highest ratio."""
    ratios = [one["pairs_per_s"] / other for one, other in zip(found, naive, strict=True)]
    yield "naive_pairs_per_s", median(naive)
    for name in found[0]:
        yield name, median(one[name] for one in found)
    yield from {"ratio_to_naive": median(ratios), "ratio_lowest": min(ratios), "ratio_highest": max(ratios)}.items()
    if alone:
        yield "of_encoder_alone", median(one["pairs_per_s"] / by for one, by in zip(found, alone, strict=True))


def main() -> None:
    """Measure, print a row a model, write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder.instream", description=__doc__)
    parser.add_argument("--models", default=",".join(SHAPES), help="some of " + ", ".join(SHAPES))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=box.CORES)
    parser.add_argument("--rounds", type=int, default=3, help="turns")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn of what runs without a broker")
    parser.add_argument("--pairs", type=int, help="responses of a turn (default: what takes four times as long)")
    parser.add_argument("--broker", choices=("kafka", "embedded"), default="kafka")
    parser.add_argument("--json", type=Path, help="write one row a model")
    options = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        (Path(folder) / "broker").mkdir()
        with broker(options.broker, Path(folder) / "broker") as bootstrap:
            for name in options.models.split(","):
                rows.append(measure(name, options, bootstrap, Path(folder)))
                print(rows[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
