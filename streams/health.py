"""`/healthz` and `/metrics` on a port of their own, on loopback by default. Faust's own server stays off."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, cast

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from models.errors import SettingsError
from streams.connection import https_context
from streams.metrics import Metrics
from streams.protocol import Protocol, TooMany
from streams.settings import Settings

IDLE_S: Final = 75.0
"""A connection on which nothing was asked, or no head came to its end; proxies keep theirs for a minute."""
MAX_CONNECTIONS: Final = 1_024
"""Of which each is a file, and may hold a body: who has no token could open any number."""


SHUTDOWN_S: Final = 65.0
"""For what is under way when a gateway is told to stop: longer than `DEMUR_DEADLINE_S` can let anybody wait."""


class Health:
    """Ready when every check holds: the model is loaded, the calibrations are caught up, the stages run."""

    def __init__(self, checks: Mapping[str, Callable[[], bool]]) -> None:
        self._checks = checks

    def missing(self) -> list[str]:
        """Return the names of the checks that do not hold; one that fails does not hold.

        >>> Health({"model": lambda: True, "calibrations": lambda: False}).missing()
        ['calibrations']
        """
        return [name for name, check in self._checks.items() if not _holds(check)]


@asynccontextmanager
async def serve(
    settings: Settings, health: Health, metrics: Metrics, app: web.Application | None = None
) -> AsyncIterator[str]:
    """Serve health and metrics, beside what `app` serves, and yield their address.

    Raises `SettingsError` when the port is taken, or a certificate cannot be used.
    """

    async def healthz(_: web.Request) -> web.Response:
        missing = health.missing()
        return web.json_response({"ready": not missing, "missing": missing}, status=503 if missing else 200)

    async def exposition(request: web.Request) -> web.Response:
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(metrics.registry), headers={"Content-Type": kind})

    app = web.Application() if app is None else app
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", exposition)])
    runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        async with _listening(cast("web.Server", runner.server), settings) as address:
            yield address
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _listening(manager: web.Server, settings: Settings) -> AsyncIterator[str]:
    """Take connections, each as a `Protocol`, which aiohttp's own sites know no way to ask for."""
    context, loop = https_context(settings), asyncio.get_running_loop()

    def connected() -> asyncio.Protocol:
        if len(manager.connections) >= MAX_CONNECTIONS:
            return TooMany()
        return Protocol(manager, loop=loop, access_log=None, keepalive_timeout=IDLE_S)  # type: ignore[arg-type]

    try:
        server = await loop.create_server(connected, settings.http_host, settings.http_port, ssl=context)
    except OSError as error:
        place = f"{settings.http_host}:{settings.http_port}"
        raise SettingsError(
            f"DEMUR_HTTP_PORT: cannot listen at {place} ({error.strerror}): choose another, or 0 for any"
        ) from None
    try:
        host, port, *_ = server.sockets[0].getsockname()
        yield f"{'https' if context else 'http'}://{host}:{port}"
    finally:
        server.close()


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:  # noqa: BLE001  whatever it is, the worker is not ready
        return False
