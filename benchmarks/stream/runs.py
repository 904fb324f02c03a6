"""One run of one engine: topics filled, its program started, watched until its outputs stand still, and read."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from kafka.errors import KafkaError

from benchmarks.stream import log, peers
from benchmarks.stream.engines.spec import BEGAN, Spec
from benchmarks.stream.feed import HORIZONS, PARTITIONS, Item
from benchmarks.stream.meter import Meter, Sample, cpu_between, peak_rss
from models.errors import DemurError
from streams import topics
from streams.broker import Child, free_port
from streams.drive import await_ready
from streams.settings import Settings, Stage, environment, load
from streams.stages import changelogs

ROOT: Final = Path(__file__).parents[2]
LIMIT_S: Final = 150.0
STILL_S: Final = 6.0
"""Nothing has been written for so long: the engine is done, or never will be."""
LOOK_S: Final = 0.5
GRACE_S: Final = 20.0

_numbers = count()


class Bench(NamedTuple):
    """Where everything runs."""

    broker: str
    bootstrap: str
    folder: Path


class Engine(NamedTuple):
    """A program. `module` of the peers' environment; ours has none and runs `stages` as a worker does."""

    name: str
    module: str | None = None
    store: str = "memory"


class Work(NamedTuple):
    """What an engine is to do. `expected`: how many records come out at least, if that is known."""

    job: str
    items: Sequence[Item]
    outputs: Sequence[str]
    stages: tuple[Stage, ...] = ()
    expected: int | None = None


class Run(NamedTuple):
    """What a run showed. `first`: when the first message was taken; `last`: when the last output was written."""

    written: list[log.Written]
    samples: list[Sample]
    first: float
    last: float

    def figures(self, events: int) -> dict[str, float]:
        """Return rates of `events`."""
        return {
            "events_per_s": events / max(1e-3, self.last - self.first),
            "cpu_us_per_event": cpu_between(self.samples, self.first, self.last) / events * 1e6,
            "rss_mb": peak_rss(self.samples, self.first, self.last) / 1e6,
        }


def run(bench: Bench, engine: Engine, work: Work) -> tuple[Run, str]:
    """Run an engine on filled topics of its own; return what it showed, and their prefix. Raises `DemurError`."""
    settings = prepare(bench, engine, work.stages)
    prefix = settings.topic_prefix
    log.fill(bench.bootstrap, prefix, work.items)
    with working(engine, work.job, settings) as child:
        samples = watch(child, settings, work)
    written = log.read(bench.bootstrap, prefix, work.outputs)
    return shown(written, samples, float((settings.data_dir / BEGAN).read_text())), prefix


def shown(written: list[log.Written], samples: list[Sample], first: float) -> Run:
    """Return what records and samples show of a run that began at `first`. Raises `DemurError` if there is nothing."""
    if not written:
        raise DemurError("nothing came out")
    return Run(written, samples, first, max(record.at for record in written))


def prepare(bench: Bench, engine: Engine, stages: tuple[Stage, ...]) -> Settings:
    """Make topics of a new prefix and return the settings of a worker on them."""
    prefix = f"{engine.name}-{next(_numbers)}."
    settings = load(
        bootstrap=bench.bootstrap,
        topic_prefix=prefix,
        partitions=PARTITIONS,
        stages=stages or ("join",),
        store=engine.store,
        data_dir=bench.folder / prefix,
        time_source="event",
        http_port=free_port(),
        settle_s=HORIZONS.settle.total_seconds(),
        horizon_s=HORIZONS.response.total_seconds(),
        orphan_s=HORIZONS.orphan.total_seconds(),
    )
    settings.data_dir.mkdir()
    topics.create(settings, [*changelogs(settings), f"{prefix}passed", f"{prefix}demur-pass-state-changelog"])
    return settings


@contextmanager
def working(engine: Engine, job: str, settings: Settings) -> Iterator[Child]:
    """Start an engine's program; stop it at the end."""
    child = Child(*_program(engine, job, settings))
    try:
        yield child
    finally:
        child.end(grace_s=GRACE_S if engine.module is None else 3.0)


def _program(engine: Engine, job: str, settings: Settings) -> tuple[list[str], Path, Mapping[str, str] | None]:
    out = settings.data_dir.with_name(f"{settings.topic_prefix}log")
    if engine.module:
        spec = Spec(job, settings.bootstrap, settings.topic_prefix, str(settings.data_dir))
        command = ["/usr/bin/env", f"PYTHONPATH={ROOT}", str(peers.python()), "-m", engine.module]
        return [*command, msgspec.json.encode(spec).decode()], out, None
    what = "pass" if job == "pass" else "worker"
    return [sys.executable, "-m", "benchmarks.stream.engines.ours", what], out, environment(settings)


def watch(child: Child, settings: Settings, work: Work) -> list[Sample]:
    """Sample a program until it is done: see `settle`."""
    meter = Meter(child.pid)
    meter.start()
    try:
        settle(child, settings, work)
    finally:
        meter.stop()
    return meter.samples


def settle(child: Child, settings: Settings, work: Work) -> None:
    """Wait until the outputs are complete or stand still. Raises `DemurError` if the program ends or takes for ever."""
    found, moved, deadline = 0, None, time.monotonic() + LIMIT_S
    while work.expected is None or found < work.expected:
        time.sleep(LOOK_S)
        if not child.running:
            raise DemurError(f"the program ended: {child.last_words()}")
        if (latest := log.count(settings.bootstrap, settings.topic_prefix, work.outputs)) != found:
            found, moved = latest, time.monotonic()
        if moved and time.monotonic() - moved > STILL_S:
            return
        if time.monotonic() > deadline:
            raise DemurError(f"{found} outputs after {LIMIT_S:.0f} s: {child.last_words()}")


@contextmanager
def ready(engine: Engine, job: str, settings: Settings) -> Iterator[Child]:
    """Start one of our own workers and wait until it is ready."""
    with working(engine, job, settings) as child:
        await_ready(child, settings)
        yield child


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait. Raises `DemurError` when it does not come true; a broker that does not answer counts as not yet."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with suppress(KafkaError, DemurError):
            if holds():
                return
        time.sleep(LOOK_S)
    raise DemurError(f"{what}: not after {LIMIT_S:.0f} s")


def spread(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return the median of each figure over runs, with the lowest and the highest.

    >>> spread([{"events_per_s": 3.0}, {"events_per_s": 1.0}, {"events_per_s": 2.0}])
    {'events_per_s': 2.0, 'events_per_s_lowest': 1.0, 'events_per_s_highest': 3.0}
    """
    found: dict[str, Any] = {}
    for name in runs[0]:
        each = sorted(run[name] for run in runs)
        found |= {name: each[len(each) // 2], f"{name}_lowest": each[0], f"{name}_highest": each[-1]}
    return found
