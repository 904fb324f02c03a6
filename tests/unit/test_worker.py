"""A worker that makes no progress, or lost touch while it wrote, ends, so that another takes over."""

import asyncio
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.errors import DeliveryError, SettingsError
from streams import watchdog, worker
from streams.settings import load
from streams.stages import Built
from streams.state import rows_in


def stage(*progress: Any, rebalancing: bool = False, writes_without_lease: bool = False) -> Built:
    """A stage that shows each progress in turn, the last one for ever."""
    left = list(progress)

    def lowest_in_flight() -> Any:
        return left.pop(0) if len(left) > 1 else left[0]

    app: Any = SimpleNamespace(
        rebalancing=rebalancing,
        conf=SimpleNamespace(id="demur-join"),
        consumer=SimpleNamespace(lowest_in_flight=lowest_in_flight),
        delivery=SimpleNamespace(writes_without_lease=lambda: writes_without_lease, progress_count=lambda: 7),
    )
    return Built(app, {})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience for one look, no waiting between two, and an exit that can be seen."""
    sleep = asyncio.sleep
    monkeypatch.setattr(watchdog, "PATIENCE_S", 0.0)
    monkeypatch.setattr(worker.asyncio, "sleep", lambda _: sleep(0.001))
    monkeypatch.setattr(worker.os, "_exit", leave)


def leave(status: int) -> None:
    raise SystemExit(status)


@pytest.mark.parametrize(
    "ill",
    [stage("offset 3"), stage("offset 3", rebalancing=True), stage(None, writes_without_lease=True)],
    ids=["stands still", "rebalances for ever", "writes after its session"],
)
async def test_a_worker_that_harms_ends(ill: Built) -> None:
    with pytest.raises(SystemExit):
        async with asyncio.timeout(5.0):
            await worker._watch([stage(None), ill])


async def test_a_stage_that_works_or_has_nothing_to_do_goes_on() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(worker._watch([stage(*range(1000)), stage(None)]), 0.1)


def test_an_error_of_others_is_named_and_not_quoted() -> None:
    assert worker._reason(ValueError("Zebulon Quagga")) == "ValueError"
    assert worker._reason(DeliveryError("8 records to labels: TimeoutError")) == "8 records to labels: TimeoutError"


@pytest.fixture
def few_files() -> Iterator[None]:
    """A soft limit of open files that leaves room for ten more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 10, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("few_files")
def test_a_worker_may_open_the_rows_of_many_partitions(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no broker listens"):
        worker.run(load(bootstrap="127.0.0.1:1"))
    make = rows_in("rocksdb", tmp_path)
    for rows in [make(partition) for partition in range(20)]:
        rows.close()
