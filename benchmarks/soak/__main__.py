"""The whole stream on Apache Kafka at a steady share of what it can do, for long: is memory flat, is lag bounded, does
the oracle agree at the end? A week of the synthetic hospital passes in five minutes, so that horizons end all the time.

Ends with status 1 if not. Fewer than 30 minutes are too short to judge memory.
"""

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import psutil

from benchmarks.soak.judging import LAG_S, STEADY_S, Sample, complaints, growth, second_half
from benchmarks.stream import log
from benchmarks.stream.feed import PARTITIONS, Item, item
from models.errors import DemurError
from models.events import Response
from models.training import synth
from models.training.reference import ensure_reference
from streams import topics
from streams.broker import Child, free_port
from streams.drive import PARTS, await_ready, launch
from streams.feed import end_of
from streams.settings import Settings, load
from streams.stages import CACHE, changelogs
from streams.verify import all_read, committed_by, sentence, verify
from tests.apache_kafka import apache_kafka
from tests.chaos.run import ends, finish, until

WEEK_S: Final = 300.0
"""Seconds in which a week of the hospital passes."""
HORIZON_S: Final = 3 * 86_400.0
TRIAL: Final = 34_000
"""Messages that show what is more than enough: 20,000 responses with their feedback."""
A_RESPONSE: Final = 1.7
"""Messages, with its feedback; somewhat more come."""
SEARCH_S: Final = 480.0
"""Seconds of search for the capacity: rows are deleted as fast as they come by then, as they are in the long run."""
WINDOW: Final = 3 / 8
"""Share of those, at their end: what is fed then is the capacity."""
STEP: Final = 0.05
"""Share by which the feed changes every ten seconds."""
SAMPLE_S: Final = 10.0
REST_S: Final = 300.0
GRACE_S: Final = 30.0


def main() -> int:
    """Measure what the stream can do, run it at a share of that, judge."""
    options = parse()
    ensure_reference(CACHE)  # what a worker would do, but it is given a minute to be ready
    with TemporaryDirectory() as folder:
        (Path(folder) / "broker").mkdir()
        with apache_kafka(Path(folder) / "broker") as kafka:
            able = capacity(kafka.bootstrap, Path(folder), options.seed, min(SEARCH_S, 60 * options.minutes))
            print(f"capacity: {able:.0f} messages a second; now {options.load:.0%} of it", flush=True)
            settings = prepare(kafka.bootstrap, "soak.", Path(folder))
            found = soak(settings, options, options.load * able)
    shown = {"capacity_per_s": able, "load": options.load, "minutes": options.minutes, **found}
    print("; ".join(f"{name} {value}" for name, value in shown.items() if name != "samples"))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(shown), indent=1) + b"\n")
    return int(bool(found["complaints"]))


def prepare(bootstrap: str, prefix: str, folder: Path) -> Settings:
    """Make topics and return the settings of workers on them."""
    settings = load(
        bootstrap=bootstrap,
        topic_prefix=prefix,
        partitions=PARTITIONS,
        data_dir=folder / prefix,
        time_source="event",
        horizon_s=HORIZON_S,
        store="rocksdb",
        deadline_s=30.0,  # a trial floods it
    )
    settings.data_dir.mkdir()
    topics.create(settings, changelogs(settings))
    return settings


@contextmanager
def at_work(settings: Settings) -> Iterator[dict[str, Child]]:
    """Start a worker with the encoder and one with the rest, by the name of their first stage."""
    children: dict[str, Child] = {}
    try:
        for stages in PARTS:
            own = {"stages": stages, "http_port": free_port(), "data_dir": settings.data_dir / stages[0]}
            mine = settings.model_copy(update=own)
            children[stages[0]] = launch(mine, settings.data_dir / f"{stages[0]}.log")
            await_ready(children[stages[0]], mine)
        yield children
    finally:
        for child in children.values():
            child.end(grace_s=GRACE_S)


def week(messages: float, seconds: float, seed: int) -> tuple[list[Item], Any]:
    """Return at least so many messages in order of arrival, for so many seconds, and an event time past horizons."""
    found = synth.generate(synth.Config(responses=round(messages / A_RESPONSE), days=7 * seconds / WEEK_S, seed=seed))
    keyed = [
        (event, event.conversation_id if isinstance(event, Response) else event.response_id)
        for _, event in found.arrivals
    ]
    return [item(event, key) for event, key in keyed], end_of(found.arrivals, load(horizon_s=HORIZON_S))


def capacity(bootstrap: str, folder: Path, seed: int, seconds: float) -> float:
    """Return the messages a second that can be fed evenly while half of what may lie unread does; rows come and go."""
    items, _ = week(TRIAL, WEEK_S, seed)
    most = trial(prepare(bootstrap, "first.", folder), items)
    settings = prepare(bootstrap, "second.", folder)
    items, _ = week(most * seconds, seconds, seed)
    left, rate, fed = iter(items), most / 2, list[tuple[float, int]]()
    with at_work(settings):
        began = time.monotonic()
        while (at := time.monotonic() - began) < seconds:
            some = list(islice(left, round(rate * SAMPLE_S)))
            feed(settings, some, rate).join()
            fed.append((at, len(some)))
            behind = lag(settings)
            print(f"{at:7.1f} s  lag {behind:6d}  fed {rate:.0f} a second  speed {speed():.0f}", flush=True)
            rate = min(most, rate * (1 - STEP if behind > rate * LAG_S / 2 else 1 + STEP))
    late = [(when, count) for when, count in fed if when >= seconds * (1 - WINDOW)]
    return sum(count for _, count in late) / (at - late[0][0])


def trial(settings: Settings, items: Sequence[Item]) -> float:
    """Return the messages a second from the first one to rest, if all come at once: rows only come."""
    with at_work(settings):
        began = time.monotonic()
        log.fill(settings.bootstrap, settings.topic_prefix, items)
        rest(settings)
        return len(items) / (time.monotonic() - began)


def feed(settings: Settings, items: Sequence[Item], rate: float) -> threading.Thread:
    """Start to feed so many a second."""
    thread = threading.Thread(
        target=log.fill, args=(settings.bootstrap, settings.topic_prefix, items, rate), daemon=True
    )
    thread.start()
    return thread


def rests(settings: Settings) -> bool:
    """Wait until nothing is unread; return whether that came in time."""
    return until(lambda: lag(settings) == 0, REST_S)


def rest(settings: Settings) -> None:
    """Wait for it in a trial. Raises `DemurError` when that takes too long."""
    if not rests(settings):
        raise DemurError(f"the trial did not end in {REST_S:.0f} s")


def soak(settings: Settings, options: argparse.Namespace, rate: float) -> dict[str, Any]:
    """Feed at `rate`, look at it, let it come to rest, ask the oracle."""
    seconds = options.minutes * 60
    items, end = week(rate * seconds, seconds, options.seed + 1)
    items = items[: round(rate * seconds)]
    count = len(items)
    with at_work(settings) as workers:
        feeder = feed(settings, items, rate)
        samples = list(watch(settings, workers, feeder))
        rested = rests(settings)
        finish(settings, end)
        rested = rests(settings) and rested
    late = second_half(samples)
    del items, feeder  # the oracle needs the room
    report = verify(settings, at_rest=True)
    wrong = [*complaints(samples, rate), *(["it did not come to rest"] if not rested else [])]
    wrong += [f"oracle: {difference}" for difference in report.differences[:10]]
    return {
        "rate_per_s": rate,
        "messages": count,
        "lag_highest": max(sample.lag for sample in late),
        "speed_lowest_highest": [pick(sample.speed for sample in late) for pick in (min, max)],
        "growth": {name: round(growth(late, name), 4) for name in workers},
        "memory_judged": late[0].at_s >= STEADY_S,
        "oracle": sentence(report),
        "complaints": wrong,
        "samples": samples,
    }


def watch(settings: Settings, workers: dict[str, Child], feeder: threading.Thread) -> Iterator[Sample]:
    """Sample until the feed ends. Raises `DemurError` if a worker does."""
    began = time.monotonic()
    while feeder.is_alive():
        feeder.join(SAMPLE_S)
        for name, child in workers.items():
            if not child.running:
                raise DemurError(f"the worker of {name} ended: {child.last_words()}")
        rss = {name: psutil.Process(child.pid).memory_info().rss / 1e6 for name, child in workers.items()}
        sample = Sample(round(time.monotonic() - began, 1), lag(settings), rss, speed())
        sizes = "  ".join(f"{n} {m:.0f} MB" for n, m in rss.items())
        print(f"{sample.at_s:7.1f} s  lag {sample.lag:6d}  {sizes}  speed {sample.speed:.0f}", flush=True)
        yield sample


def speed() -> float:
    """Return how often a second of this thread's processor time holds a fixed piece of work."""
    began = time.thread_time()
    sum(range(200_000))
    return round(1 / (time.thread_time() - began), 1)


def lag(settings: Settings) -> int:
    """Return the messages that some stage has not committed yet; 0 only if all have read all."""
    done, written = committed_by(settings), ends(settings)
    if all_read(done, written):
        return 0
    behind = [max(0, written[topic, n] - at) for (_, topic, n), at in done.items() if (topic, n) in written]
    return max(1, sum(behind))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=0.8, help="share of the measured capacity (default .8)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures and every sample")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
