"""`python -m tests.chaos`: break the real stream on real Kafka in every way of the table, and account for every event.

Prints a line a fault and writes `chaos.json`, one row a fault. Ends with status 1 if anything was lost, counted twice,
green in doubt, or different from what the oracle recomputes.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
import numpy as np
from rich.console import Console

from streams import topics
from streams.broker import HOST, free_port
from streams.reading import read_all
from streams.settings import Settings, load
from streams.stages import changelogs
from streams.verify import committed_by
from tests import tiny_model
from tests.apache_kafka import VERSION, ApacheKafka, apache_kafka
from tests.chaos.company import Company
from tests.chaos.faults import FAULTS, LEAN, Scene
from tests.chaos.proxy import Proxy
from tests.chaos.run import Row, run

LISTENERS = """
listeners=PLAINTEXT://$host:$port,CONTROLLER://$host:$controller,PROXIED://$host:{behind}
advertised.listeners=PLAINTEXT://$host:$port,PROXIED://$host:{front}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
"""
"""Workers reach the broker through the proxy, the harness directly."""
POLICY = "green = 0.15\nred = 0.4\nwarm_up_labels = 40\nwarm_up_deviation = 2.0\n"
"""A model with random weights has greens only under such a policy."""
REPLAYED: dict[str, Any] = {"time_source": "event", "horizon_s": 3 * 86_400.0}
LIVE: dict[str, Any] = {"time_source": "wall", "settle_s": 1.0, "horizon_s": 60.0, "orphan_s": 60.0}
PLACES = (LEAN, LEAN, LEAN, ("score",), ("score",))
DISK_MB = 256
OUT = Console(width=250)


def main() -> int:
    """Run the table."""
    options = parse()
    rows = []
    with TemporaryDirectory() as folder, ExitStack() as stack:
        base = Path(folder)
        behind, front = free_port(), free_port()
        (base / "kafka").mkdir()
        kafka = stack.enter_context(apache_kafka(base / "kafka", LISTENERS.format(behind=behind, front=front)))
        proxy = stack.enter_context(Proxy(front, behind).running())
        OUT.print(f"broker: Apache Kafka {VERSION}; {len(PLACES)} workers; seed {options.seed}", highlight=False)
        house = House(kafka, proxy, f"{HOST}:{front}", base, tiny_model.make(base / "model"))
        (base / "policy.toml").write_text(POLICY)
        for name in options.faults:
            row = Row(name)
            for n in range(options.runs):
                once(row, house, options, options.seed + n)
            rows.append(row)
            say(row)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode([plain(row) for row in rows])))
    return int(not all(row.holds for row in rows))


class House(NamedTuple):
    """What all runs share: the broker, the proxy before it and its address, a folder, a model."""

    kafka: ApacheKafka
    proxy: Proxy
    front: str
    base: Path
    model: Path


def once(row: Row, house: House, options: argparse.Namespace, seed: int) -> None:
    """Run one fault once, on topics and workers of its own."""
    folder = house.base / f"{row.fault}-{seed}"
    folder.mkdir()
    with disk(folder / "state", wanted=row.fault == "fill_disk") as small:
        settings = load(
            bootstrap=house.front,
            topic_prefix=f"{row.fault}-{seed}.",
            model=str(house.model),
            policy=house.base / "policy.toml",
            store="rocksdb" if small or options.rocksdb else "memory",
            session_timeout_s=6.0,
            deadline_s=30.0,
            **(LIVE if row.fault == "wrong_clock" else REPLAYED),
        )
        direct = settings.model_copy(update={"bootstrap": house.kafka.bootstrap})
        topics.create(direct, changelogs(direct))
        company = Company(settings, small or folder, PLACES)
        with company.at_work():
            scene = Scene(company, house.kafka, house.proxy, small, Random(seed))
            run(row, direct, scene, seed=seed, responses=options.responses)
        if options.keep and not row.holds:
            keep(options.keep / f"{row.fault}-{seed}", company, direct)


def keep(folder: Path, company: Company, settings: Settings) -> None:
    """Keep what tells how a run failed: the workers' logs, every record of every topic, and what is committed."""
    folder.mkdir(parents=True, exist_ok=True)
    for member in company.members:
        (folder / f"{member.log.parent.name}.log").write_bytes(member.log.read_bytes())
    bare = settings.model_copy(update={"topic_prefix": ""})
    for name, *_ in topics.plan(settings, changelogs(settings)):
        lines = [str((r.partition, r.offset, r.timestamp, r.key, r.value)) for r in read_all(bare, name)]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    (folder / "committed.txt").write_text(str(committed_by(settings)))


@contextmanager
def disk(folder: Path, *, wanted: bool) -> Iterator[Path | None]:
    """Mount a small file system, which needs an administrator's rights."""
    if not wanted:
        yield None
        return
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def plain(row: Row) -> dict[str, Any]:
    """Return a row as the table shows it."""
    facts = {name: getattr(row, name) for name in row.__struct_fields__ if name != "recoveries_s"}
    middle, worst = np.percentile(row.recoveries_s, [50, 99])
    return facts | {"recovery_p50_s": round(float(middle), 2), "recovery_p99_s": round(float(worst), 2)}


def say(row: Row) -> None:
    """Print a row."""
    found = {name: value for name, value in plain(row).items() if name != "differences"}
    OUT.print("  ".join(f"{name} {value}" for name, value in found.items()), highlight=False)
    for difference in row.differences:
        OUT.print(f"    {difference}", highlight=False)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs a fault (default 3)")
    parser.add_argument("--responses", type=int, default=400, help="responses a run, fed 25 events a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rocksdb", action="store_true", help="state in RocksDB everywhere")
    parser.add_argument("--faults", type=lambda names: names.split(","), default=list(FAULTS), help=",".join(FAULTS))
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--keep", type=Path, help="folder for the logs of runs that failed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
