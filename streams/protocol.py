"""HTTP as we speak it: every error is a problem (RFC 9457) that quotes nothing and lets nothing be shown.

What is no HTTP is answered, and logged, before any handler of ours: aiohttp quotes it in both. It is patients' text if
a client counts characters for its `Content-Length`, so that the end of a body is read as the next request.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

import structlog
from aiohttp import web

log = structlog.get_logger(__name__)


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Say what is wrong, by a code for programs and a sentence for people, and that nothing may be shown."""
    body = {"status": status, "code": code, "detail": detail, "action": "review"}
    return web.json_response(body, status=status, headers=headers, content_type="application/problem+json")


class TooMany(asyncio.Protocol):
    """A connection more than are held: it is closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hang up."""
        transport.close()


class Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  it quotes what came
    ) -> web.StreamResponse:
        """Answer what no handler did, and close the connection: where the next request begins is not known."""
        log.warning("a connection is closed", status=status, error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun: another cannot follow it")
        answer = problem(status, "http", HTTPStatus(status).phrase)
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Put a problem in the place of an error of aiohttp's own, such as of an `Expect` that it does not know."""
        if isinstance(resp, web.HTTPException):
            resp = problem(resp.status, "http", HTTPStatus(resp.status).phrase)
        return await super().finish_response(request, resp, start_time)
