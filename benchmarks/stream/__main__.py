"""The stream beside its peers, what each stage costs, and what that cost depends on."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.stream.jobs import ENGINES, JOBS
from benchmarks.stream.runs import Bench
from streams.broker import embedded
from tests.apache_kafka import apache_kafka, missing

STAMPED = "log.message.timestamp.type=LogAppendTime\n"
"""Times are the broker's own."""
SHOWN: dict[str, tuple[str, Callable[[Any], str]]] = {
    "events_per_s": ("events/s", "{:,.0f}".format),
    "cpu_us_per_event": ("µs of processor an event", "{:.0f}".format),
    "rss_mb": ("MB", "{:.0f}".format),
}
EXTRA = ("labels", "pending", "deployments", "bytes_per_pending", "disk_bytes_per_pending", "lag_p50_ms", "lag_p99_ms")


@contextmanager
def broker(kind: str, folder: Path) -> Iterator[str]:
    """Run a broker and yield its address."""
    if kind == "embedded":
        with embedded(folder) as bootstrap:
            yield bootstrap
        return
    if lacking := missing():
        raise SystemExit(f"Apache Kafka needs {' and '.join(lacking)}: install them, or say --broker embedded")
    with apache_kafka(folder, STAMPED) as kafka:
        yield kafka.bootstrap


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [f"| job | engine | {' | '.join(title for title, _ in SHOWN.values())} | equal | |", "|---" * 7 + "|"]
    for row in rows:
        cells = [cell(row, name, form) for name, (_, form) in SHOWN.items()]
        more = [f"{name} {row[name]:,.0f}" for name in EXTRA if name in row]
        equal = {True: "yes", False: "no", None: ""}[row["outputs_equal"]]
        lines.append(
            f"| {row['job']} | {row['engine']} | {' | '.join(cells)} | {equal} | {'; '.join([*more, row['note']])} |"
        )
    return "\n".join(lines)


def cell(row: dict[str, Any], name: str, form: Callable[[Any], str]) -> str:
    """Return a figure, and over several runs the lowest and the highest of it."""
    if row[name] is None:
        return "-"
    span = f" ({form(row[f'{name}_lowest'])}, {form(row[f'{name}_highest'])})" if row["runs"] > 1 else ""
    return form(row[name]) + span


def main() -> None:
    """Run the jobs, print the table, write what was asked for."""
    options = parse()
    rows = []
    with TemporaryDirectory() as folder:
        (Path(folder) / "broker").mkdir()
        with broker(options.broker, Path(folder) / "broker") as bootstrap:
            bench = Bench(options.broker, bootstrap, Path(folder))
            engines = [ENGINES[name] for name in options.engines]
            for job in options.jobs:
                for row in JOBS[job](bench, engines, options.events, options.runs):
                    rows.append(row)
                    print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000, help="messages of a run (default 20,000)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each engine and job, in turn (default 3)")
    parser.add_argument("--engines", type=some_of(ENGINES), default=list(ENGINES), help=",".join(ENGINES))
    parser.add_argument("--jobs", type=some_of(JOBS), default=list(JOBS), help=",".join(JOBS))
    parser.add_argument("--broker", choices=("kafka", "embedded"), default="kafka")
    parser.add_argument("--json", type=Path, help="write one row a job and engine")
    return parser.parse_args()


def some_of(known: dict[str, Any]) -> Callable[[str], list[str]]:
    """Return a reader of names with commas between them."""

    def read(given: str) -> list[str]:
        names = given.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}; there are {', '.join(known)}")
        return names

    return read


if __name__ == "__main__":
    main()
