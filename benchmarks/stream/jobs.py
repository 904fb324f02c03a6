"""What is measured: each job yields rows. Runs of engines that are compared alternate."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import orjson
from msgspec import Struct

from benchmarks.stream import feed, log, runs
from benchmarks.stream.meter import Meter
from benchmarks.stream.rule import OUTCOMES, decided, expected
from benchmarks.stream.runs import Bench, Engine, Work, spread
from models.errors import DemurError
from models.events import Label
from streams.verify import committed_by

ENGINES: Final = {
    engine.name: engine
    for engine in (
        Engine("demur"),
        Engine("demur-rocksdb", store="rocksdb"),
        Engine("faust", "benchmarks.stream.engines.faust_tables"),
        Engine("quix", "benchmarks.stream.engines.quix"),
        Engine("bytewax", "benchmarks.stream.engines.bytewax_flow"),
    )
}
NOTES: Final = {
    ("demur", "join"): "state in memory and in a changelog, durable before its outcomes",
    ("demur-rocksdb", "join"): "state in RocksDB and in a changelog, durable before its outcomes",
    ("faust", "join"): "table in RocksDB and in a changelog",
    ("quix", "join"): "state in RocksDB and in a changelog, at checkpoints of 5 s",
    ("bytewax", "join"): "state in memory only: nothing survives a crash",
}
LABELS_PER_S: Final = 1000
WARM: Final = 40
"""Labels before those whose lag is measured."""
HISTORY: Final = 200
"""Labels of a deployment, at least: a calibrator is made with its first, and written into its log."""
DECADES: Final = (1_000, 10_000, 100_000)
Row = dict[str, Any]


class Found(Struct):
    """What the runs of one engine showed. `equal`: whether what came out was right, where that is known."""

    figures: list[dict[str, float]] = []
    equal: bool | None = None
    failed: str = ""
    labels: int = 0


def compare(
    bench: Bench, engines: Sequence[Engine], work: Work, number: int, right: Callable[[str], set[bytes]] | None = None
) -> Iterator[Row]:
    """Run engines side by side on the same work; yield a row each, also for one that cannot.

    `right`: what must come out, given a prefix.
    """
    found = {engine.name: Found() for engine in engines}
    for engine in [engine for _ in range(number) for engine in engines]:
        if not found[engine.name].failed:
            once(bench, engine, work, right, found[engine.name])
    for engine in engines:
        yield row(bench, engine, work, found[engine.name])


def once(bench: Bench, engine: Engine, work: Work, right: Callable[[str], set[bytes]] | None, found: Found) -> None:
    """Run an engine once and add what it shows."""
    try:
        run, prefix = runs.run(bench, engine, work)
    except DemurError as error:
        found.failed = str(error)
        return
    found.figures.append(run.figures(len(work.items)))
    found.labels = sum(record.topic == Label.topic for record in run.written)
    if right:
        found.equal = {record.value for record in run.written} == right(prefix) and found.equal is not False


def row(bench: Bench, engine: Engine, work: Work, found: Found) -> Row:
    """Return a row; what could not be measured is None, with the reason in words."""
    figures = spread(found.figures) if found.figures else dict.fromkeys(("events_per_s", "cpu_us_per_event", "rss_mb"))
    known = {"engine": engine.name, "job": work.job, "broker": bench.broker, "events": len(work.items)}
    note = f"failed: {found.failed}" if found.failed else NOTES.get((engine.name, work.job), "")
    shown = {**known, "runs": len(found.figures), **figures, "outputs_equal": found.equal, "note": note}
    return shown | ({"labels": found.labels} if found.labels else {})


def passing(bench: Bench, engines: Sequence[Engine], events: int, number: int) -> Iterator[Row]:
    """Read and write on."""
    items = feed.responses(events)
    work = Work("pass", items, ("passed",), expected=len(items))
    values = {item.value for item in items}
    once = [engine for engine in engines if engine.store == "memory"]  # nothing is stored
    yield from compare(bench, once, work, number, lambda _: values)


def joining(bench: Bench, engines: Sequence[Engine], events: int, number: int) -> Iterator[Row]:
    """Join decisions with feedback."""
    items = feed.join(events)
    outcomes = len(expected(items))
    work = Work("join", items, OUTCOMES, ("join",), outcomes)
    yield from compare(bench, engines, work, number, partial(expected, items))


def learning(bench: Bench, engines: Sequence[Engine], events: int, number: int) -> Iterator[Row]:
    """Labels become calibrations."""
    work = Work("learn", feed.labels(events), ("calibrations", "alarms"), ("learn",))
    yield from compare(bench, ours(engines)[:1], work, number)


def scoring(bench: Bench, engines: Sequence[Engine], events: int, number: int) -> Iterator[Row]:
    """SCORE, with an encoder that costs nothing: what it takes outside the encoder."""
    items = feed.responses(events)
    work = Work("score", items, ("decisions",), ("score",), len(items))
    yield from compare(bench, ours(engines)[:1], work, number)


def whole(bench: Bench, engines: Sequence[Engine], events: int, number: int) -> Iterator[Row]:
    """Responses are decided on, by an encoder that costs nothing, and joined with their feedback."""
    items = feed.responses(events, feedback=True)
    joins = decided(items)
    work = Work("end_to_end", items, OUTCOMES, ("score", "join"), len(expected(joins)))
    yield from compare(bench, engines, work, number, partial(expected, joins))


def deployments(bench: Bench, engines: Sequence[Engine], events: int, _: int) -> Iterator[Row]:
    """LEARN's cost a label, against deployments."""
    for number in (1, 10, 100, 1000):
        labels = max(events, HISTORY * number)
        work = Work("learn", feed.labels(labels, number), ("calibrations", "alarms"), ("learn",))
        for found in compare(bench, ours(engines)[:1], work, 1):
            yield {**found, "job": "deployments", "deployments": number}


def lengths(bench: Bench, engines: Sequence[Engine], events: int, _: int) -> Iterator[Row]:
    """JOIN's cost an event, against the number of events."""
    for number in (events // 20, events // 2, events * 5):
        items = feed.join(number)
        work = Work("join", items, OUTCOMES, ("join",), len(expected(items)))
        for found in compare(bench, ours(engines)[:1], work, 1):
            yield {**found, "job": "lengths"}


def waiting(bench: Bench, engines: Sequence[Engine], events: int, _: int) -> Iterator[Row]:
    """JOIN's cost an event and its memory, against the joins that wait."""
    for engine in ours(engines):
        rows = [_waiting(bench, engine, number, events // 2) for number in DECADES]
        least, most = rows[0], rows[-1]
        more = most["pending"] - least["pending"]
        most["bytes_per_pending"] = (most["rss_waiting_mb"] - least["rss_waiting_mb"]) * 1e6 / more
        most["disk_bytes_per_pending"] = (most["disk_mb"] - least["disk_mb"]) * 1e6 / more
        yield from rows


def _waiting(bench: Bench, engine: Engine, number: int, events: int) -> Row:
    """Let joins wait, then measure as many events among them, at once."""
    items = feed.join(events, ends=False)
    work = Work("pending", items, OUTCOMES, ("join",))
    settings = runs.prepare(bench, engine, work.stages).model_copy(update={"horizon_s": 30 * 86_400.0})
    parked = feed.pending(number)
    log.fill(bench.bootstrap, settings.topic_prefix, parked)
    with runs.ready(engine, work.job, settings) as child:
        runs.until(lambda: sum(committed_by(settings).values()) >= number, "joins that wait")
        meter = Meter(child.pid)
        meter.start()
        began = log.now()
        log.fill(bench.bootstrap, settings.topic_prefix, items)
        runs.settle(child, settings, work)
        samples = meter.stop()
    run = runs.shown(log.read(bench.bootstrap, settings.topic_prefix, work.outputs), samples, began)
    disk = sum(file.stat().st_size for file in settings.data_dir.rglob("*.sst")) / 1e6
    found = row(bench, engine, work, Found([run.figures(len(items))]))
    return {**found, "pending": number, "rss_waiting_mb": samples[0].rss / 1e6, "disk_mb": disk}


def lagging(bench: Bench, engines: Sequence[Engine], events: int, _: int) -> Iterator[Row]:
    """How long after a label the thresholds have it, at a thousand labels a second."""
    for engine in ours(engines)[:1]:
        items = feed.labels(events)
        work = Work("lag", items[WARM:], ("calibrations",), ("learn",))
        settings = runs.prepare(bench, engine, work.stages)
        with runs.ready(engine, work.job, settings) as child:
            log.fill(bench.bootstrap, settings.topic_prefix, items[:WARM])  # partitions are opened at the first touch
            runs.settle(child, settings, work)
            meter = Meter(child.pid)
            meter.start()
            began = log.now()
            log.fill(bench.bootstrap, settings.topic_prefix, work.items, rate=LABELS_PER_S)
            runs.settle(child, settings, work)
            samples = meter.stop()
        written = log.read(bench.bootstrap, settings.topic_prefix, ("labels", "calibrations"))
        lags = lags_of([(r.topic, r.partition, r.at, r.value) for r in written], began)
        run = runs.shown(written, samples, began)
        found = row(bench, engine, work, Found([run.figures(len(work.items))]))
        middle, high = (float(np.percentile(lags, p)) * 1e3 for p in (50, 99))
        yield {**found, "labels": len(lags), "lag_p50_ms": middle, "lag_p99_ms": high}


def lags_of(written: Sequence[tuple[str, int, float, bytes]], since: float = 0.0) -> list[float]:
    """Return, for each label written `since` then, the seconds until a version of its deployment's calibrator has it.

    Given topic, partition, time and value of labels and calibrations, in the order of their partitions' logs.
    """
    versions: dict[str, list[tuple[float, int]]] = {}
    labels: dict[str, list[float]] = {}
    for topic, _, at, value in written:
        event = orjson.loads(value)
        if topic == "labels":
            labels.setdefault(event["deployment"], []).append(at)
        else:
            versions.setdefault(event["deployment"], []).append((at, event["version"]))
    found = []
    for deployment, times in labels.items():
        reached = iter(versions.get(deployment, ()))
        at, version = 0.0, 0
        for number, label_at in enumerate(times, 1):
            while version < number:
                at, version = next(reached)
            found += [at - label_at] * (label_at >= since)
    return found


def ours(engines: Sequence[Engine]) -> list[Engine]:
    """Return those of the engines that are demur's own."""
    return [engine for engine in engines if engine.module is None]


JOBS: Final[dict[str, Callable[[Bench, Sequence[Engine], int, int], Iterator[Row]]]] = {
    "pass": passing,
    "join": joining,
    "learn": learning,
    "score": scoring,
    "end_to_end": whole,
    "lag": lagging,
    "pending": waiting,
    "deployments": deployments,
    "lengths": lengths,
}
