"""A worker: stages in one event loop, with health and metrics, until told to stop or one of them fails."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from models.errors import DeliveryError
from streams import topics
from streams.health import Health, serve
from streams.metrics import Metrics
from streams.settings import Settings
from streams.stages import Built, build, changelogs
from streams.watchdog import PATIENCE_S, Watchdog, progress

GRACE_S: Final = 50.0
"""Less than what a supervisor grants (`stop_grace_period` in docker-compose.yml)."""

log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises `DeliveryError` if a stage failed: start again, nothing is lost."""
    if settings.create_topics:
        topics.create(settings, changelogs(settings))
    topics.check(topics.describe(settings, changelogs(settings)))
    metrics = Metrics()
    built = [build(stage, settings, metrics) for stage in settings.stages]
    asyncio.run(_run(settings, built, metrics))


async def _run(settings: Settings, built: Sequence[Built], metrics: Metrics) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    health = Health(checks={name: check for b in built for name, check in _checks(b).items()})
    async with serve(settings, health, metrics):
        try:
            await asyncio.gather(*(b.app.start() for b in built))
            log.info("working", stages=settings.stages, bootstrap=settings.bootstrap)
            await _until(stop, built)
        finally:
            await _end(built)
    if failed := [b.app for b in built if b.app.crashed]:
        raise DeliveryError(f"stage {failed[0].conf.id} failed ({failed[0].crash_reason!r}): start the worker again")


def _checks(built: Built) -> dict[str, Callable[[], bool]]:
    app = built.app
    return {f"stage {app.conf.id}": lambda: app.started and not app.rebalancing, **built.checks}


async def _until(stop: asyncio.Event, built: Sequence[Built]) -> None:
    """Wait for the signal, or for the first stage that fails or is stuck."""
    ends = [stop.wait(), _watch(built), *(b.app.wait_until_stopped() for b in built)]
    waits = [asyncio.ensure_future(end) for end in ends]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _watch(built: Sequence[Built]) -> None:
    """Return when a stage makes no progress."""
    dogs = [Watchdog() for _ in built]
    while True:
        await asyncio.sleep(1)
        now = asyncio.get_running_loop().time()
        for b, dog in zip(built, dogs, strict=True):
            if dog.is_stuck(progress(b.app), now):
                await b.app.crash(DeliveryError(f"no progress for {PATIENCE_S:.0f} s"))
                return


async def _end(built: Sequence[Built]) -> None:
    """Stop gracefully; what does not stop is left behind: nothing that is durable depends on it."""
    stopping = asyncio.gather(*(b.app.stop() for b in built))
    try:
        await asyncio.wait_for(stopping, GRACE_S)
    except TimeoutError:
        log.error("stages did not stop in time: the worker ends without them")  # noqa: TRY400 (no traceback helps)
        os._exit(1)
