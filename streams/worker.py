"""A worker: stages in one event loop, with health and metrics, until told to stop or one of them fails."""

import asyncio
import gc
import os
import resource
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

import mode.loop
import structlog

from models.errors import DemurError, SettingsError
from streams import topics
from streams.health import Health, serve
from streams.metrics import Metrics
from streams.settings import Settings
from streams.stages import Built, build, changelogs, keys_in
from streams.watchdog import PATIENCE_S, Watchdog, progress

GRACE_S: Final = 50.0
"""Less than what a supervisor grants (`stop_grace_period` in docker-compose.yml)."""

LOOK_S: Final = 0.2
DATED: Final = "message.timestamp.type"

log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. If a stage fails the process ends with status 1: start again, nothing is lost."""
    open_many_files()
    if settings.create_topics:
        topics.create(settings, changelogs(settings))
    found = topics.describe(settings, changelogs(settings))
    topics.check(found)
    topics.warn(found)
    check_dates(settings, found)
    metrics = Metrics()
    built = [build(stage, settings, metrics) for stage in settings.stages]
    gc.collect()
    gc.freeze()  # half a million objects of libraries: to look through them again takes a quarter of a second each time
    gc.set_threshold(20_000)  # a batch makes thousands of objects, nearly none of them in cycles
    mode.loop.use("uvloop")
    asyncio.run(_run(settings, built, metrics))


def open_many_files() -> None:
    """Take all that we may: RocksDB opens six files or more for each partition of a stage, and 1,024 is usual; so does
    each connection to a gateway.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS may name no limit, and then takes none
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def check_dates(settings: Settings, found: Iterable[topics.Found]) -> None:
    """Raise `SettingsError` if records are taken unsigned by their date, and that may be what their producer says."""
    keys = keys_in(settings.keys)
    if not (keys and keys.unsigned_until):
        return
    if wrong := next((one.topic.name for one in found if one.configs.get(DATED) != topics.BROKER_CONFIGS[DATED]), None):
        raise SettingsError(
            f"DEMUR_KEYS: `unsigned_until` goes by the broker's dates, and those of {wrong} may be the producers', who "
            "could date back what they write: run `demur topics`, or take it out"
        )
    log.warning("records without a signature are taken that lay there before", until=keys.unsigned_until.isoformat())


def told_to_stop() -> asyncio.Event:
    """Return what is set by SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _run(settings: Settings, built: Sequence[Built], metrics: Metrics) -> None:
    stop = told_to_stop()
    health = Health(checks={name: check for b in built for name, check in _checks(b).items()})
    async with serve(settings, health, metrics):
        try:
            await asyncio.gather(*(b.app.start() for b in built))
            log.info("working", stages=settings.stages, bootstrap=settings.bootstrap)
            await _until(stop, built)
            if failed := next((b.app for b in built if b.app.crashed), None):
                _quit(f"stage {failed.conf.id} failed ({_reason(failed.crash_reason)})")
        finally:
            await _end(built)


def _reason(error: BaseException | None) -> str:
    """Name an error; quote it only if it is ours: others may quote patients' text."""
    return str(error) if isinstance(error, DemurError) else type(error).__name__


def _checks(built: Built) -> dict[str, Callable[[], bool]]:
    app = built.app
    return {f"stage {app.conf.id}": lambda: app.started and not app.rebalancing, **built.checks}


async def _until(stop: asyncio.Event, built: Sequence[Built]) -> None:
    """Wait for the signal, or for the first stage that fails."""
    ends = [stop.wait(), _watch(built), *(b.app.wait_until_stopped() for b in built)]
    waits = [asyncio.ensure_future(end) for end in ends]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _watch(built: Sequence[Built]) -> None:
    """End the process when a stage makes no progress, or writes what may be another's by now."""
    dogs = [Watchdog() for _ in built]
    while True:
        await asyncio.sleep(LOOK_S)
        now = asyncio.get_running_loop().time()
        for b, dog in zip(built, dogs, strict=True):
            if dog.is_stuck(progress(b.app), now):
                _quit(f"stage {b.app.conf.id} made no progress for {PATIENCE_S:.0f} s")
            if b.app.delivery.writes_without_lease():
                _quit(f"stage {b.app.conf.id} was cut off from the broker while it wrote")


async def _end(built: Sequence[Built]) -> None:
    """Stop gracefully; what does not stop is left behind: nothing that is durable depends on it."""
    stopping = asyncio.gather(*(b.app.stop() for b in built))
    try:
        await asyncio.wait_for(stopping, GRACE_S)
    except TimeoutError:
        _quit("stages did not stop in time")


def _quit(why: str) -> None:
    """End at once, as `kill -9` would: a graceful stop would send what is still held for others' partitions."""
    log.error("the worker ends: start it again, nothing is lost", why=why)
    os._exit(1)
