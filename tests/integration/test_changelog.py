"""Rows on a worker's disk beside a changelog that went on, was made anew, or restored: they are what the log holds."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from streams.app import create_app
from streams.clock import LiveClock
from streams.settings import Settings, load
from streams.stages import changelogs
from streams.state import State
from streams.topics import administrator, create
from tests.apache_kafka import ApacheKafka

Rows = dict[bytes, bytes]


@asynccontextmanager
async def opened(settings: Settings, folder: Path | None) -> AsyncIterator[State]:
    """The rows of partition 0, on disk or, without a folder, in memory: what the changelog holds."""
    where = {"store": "rocksdb", "data_dir": folder} if folder else {"data_dir": settings.data_dir}
    mine = settings.model_copy(update=where)
    app = create_app(mine, "learn", [], lambda state: SimpleNamespace(name="learn", state=state, batch=1), LiveClock())
    await app.producer.start()
    state = app.stage.state
    try:
        await state.open(0)
        yield state
    finally:
        state.close()
        await app.producer.stop()


async def write(settings: Settings, folder: Path, name: str, times: int) -> int:
    """Write so many rows, and one that changes each time; return how many changes were read before."""
    async with opened(settings, folder) as state:
        for n in range(times):
            await state.write(0, {b"%s/%d" % (name.encode(), n): b"x", b"newest": b"%s %d" % (name.encode(), n)})
        return state.recovered


async def rows(settings: Settings, folder: Path | None) -> Rows:
    async with opened(settings, folder) as state:
        return dict(state.items(0))


@pytest.fixture
def mine(settings: Settings, tmp_path: Path) -> Settings:
    made = settings.model_copy(update={"data_dir": tmp_path / "memory", "partitions": 1})
    create(made, changelogs(made))
    return made


@pytest.mark.kafka
async def test_a_restart_reads_only_what_came_since(mine: Settings, tmp_path: Path) -> None:
    await write(mine, tmp_path / "a", "one", 20)
    await write(mine, tmp_path / "b", "two", 5)
    assert await write(mine, tmp_path / "a", "three", 1) == 1 + 2 * 5, "what it ended with, and what another wrote"
    assert await rows(mine, tmp_path / "a") == await rows(mine, None)


@pytest.mark.kafka
@pytest.mark.parametrize("times", [0, 3, 10, 30], ids=["empty", "shorter", "as long", "longer"])
async def test_a_changelog_made_anew_is_the_truth(mine: Settings, tmp_path: Path, times: int) -> None:
    await write(mine, tmp_path / "a", "old", 10)
    with administrator(mine) as admin:
        admin.delete_topics(changelogs(mine))
    create(mine, changelogs(mine))
    await write(mine, tmp_path / "b", "new", times)
    assert await rows(mine, tmp_path / "a") == await rows(mine, None)


@pytest.mark.kafka
async def test_a_broker_restored_from_a_backup_is_the_truth(own_kafka: ApacheKafka, tmp_path: Path) -> None:
    """Another worker may write beyond the place that a folder has reached, in that very log."""
    mine = load(bootstrap=own_kafka.bootstrap, data_dir=tmp_path / "memory", partitions=1)
    create(mine, changelogs(mine))
    await write(mine, tmp_path / "a", "before", 10)
    own_kafka.stop()
    shutil.copytree(tmp_path / "data", tmp_path / "backup")
    own_kafka.start()
    await write(mine, tmp_path / "a", "lost", 10)
    own_kafka.kill()
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "backup").rename(tmp_path / "data")
    own_kafka.start()
    shutil.copytree(tmp_path / "a", tmp_path / "short")
    assert await rows(mine, tmp_path / "short") == await rows(mine, None)
    await write(mine, tmp_path / "b", "after", 20)
    assert await rows(mine, tmp_path / "a") == await rows(mine, None)
