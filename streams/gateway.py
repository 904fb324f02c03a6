"""HTTP before the topics, for those who have no Kafka client: a response is answered with its decision.

    POST /responses                         a response of the contract; 200 and its decision
    POST /feedback                          a feedback of the contract; 204
    POST /cds-services/{service}/feedback   feedback as CDS Hooks has it; 200

**It fails closed.** Whatever is not 200 with a decision on this very text says `"action": "review"`: a broker that is
away, a score that is late, a decision of long ago, an id that was used for another text. Errors are RFC 9457
problem details, and quote nothing of what was sent. Feedback is taken in when the broker has it, and counts once.
"""

import asyncio
import hmac
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import structlog
from aiohttp import web
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from models.cds_hooks import feedback
from models.errors import DeliveryError, EventError, Invalid, Oversized, SettingsError, Undecodable
from models.events import MAX_MESSAGE_BYTES, Feedback, Response, decode, encode
from models.partitions import home
from streams.agents.common import Context
from streams.answers import TOPICS, Answers, SetAside, Stale
from streams.clock import clock_for
from streams.connection import kafka_options
from streams.health import Health, serve
from streams.metrics import Metrics
from streams.protocol import problem
from streams.reading import partitions_of
from streams.settings import Settings, far
from streams.stages import digest_keys, keys_in
from streams.wire import TRACE, Send, with_trace
from streams.worker import open_many_files, told_to_stop

MARGIN_S: Final = 3.0
"""Beside the score's own deadline, for Kafka on both ways; whoever wants to wait for less may hang up."""
ACK_S: Final = MARGIN_S
"""For the broker to take what is sent: longer than a write takes, and within the patience of who waits."""
MAX_WAITING: Final = 512
"""Requests under way, of responses and of the others each; more are told to come again. Each may hold a megabyte."""

PORT: Final = re.compile(r":\d*\Z")
TYPES: Final = {"application/json", "application/cloudevents+json"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger(__name__)


class Busy(DeliveryError):
    """More requests than can be answered in time."""


class Gateway:
    """Handlers of the requests, around a producer that has started."""

    def __init__(self, settings: Settings, context: Context, answers: Answers, producer: Any) -> None:
        self._context, self._answers, self._producer = context, answers, producer
        self._patience_s = settings.deadline_s + MARGIN_S
        self._token = settings.gateway_token.get_secret_value() if settings.gateway_token else None
        self._host = settings.http_host
        self._under_way = Counter[bool]()

    def app(self) -> web.Application:
        """Return the application that serves them."""
        app = web.Application(middlewares=[self._fail_closed], client_max_size=MAX_MESSAGE_BYTES)
        app.add_routes(
            [
                web.post("/responses", self._response),
                web.post("/feedback", self._feedback),
                web.post("/cds-services/{service}/feedback", self._cds_hooks),
            ]
        )
        return app

    async def _response(self, request: web.Request) -> web.Response:
        response = decode(Response, await request.read())
        traced = {TRACE: request.headers.get(TRACE, "").encode(errors="replace")}
        send = with_trace(traced, self._context.send(response))
        if not self._answers.listening:
            raise DeliveryError("decisions cannot be read from the broker: try again")
        with self._context.metrics.answer_seconds.time(), self._answers.expect(response, send.value or b"") as answer:
            await self._put([send])
            decision = await answer
        return web.Response(body=encode(decision), content_type="application/json")

    async def _feedback(self, request: web.Request) -> web.Response:
        await self._put([self._context.send(decode(Feedback, await request.read()))])
        return web.Response(status=204)

    async def _cds_hooks(self, request: web.Request) -> web.Response:
        found = feedback(await request.read())
        good = [one for one in found if isinstance(one, Feedback)]
        await self._put([self._context.send(one) for one in good])
        if bad := next((one for one in found if isinstance(one, Invalid)), None):
            raise Invalid(f"{bad} ({len(good)} of {len(found)} entries are taken)")
        return web.Response()

    async def _put(self, sends: list[Send]) -> None:
        """Wait until the broker has each record. Raises `Oversized` before it has any, if one is too large for it."""
        partitions = self._context.partitions
        if any(len(s.value or b"") > MAX_MESSAGE_BYTES for s in sends):
            raise Oversized
        try:
            async with asyncio.timeout(ACK_S):
                done = [
                    await self._producer.send(
                        s.topic, s.value, s.key, home(s.key or b"", partitions), headers=s.headers
                    )
                    for s in sends
                ]
                await asyncio.gather(*done)
        except (KafkaError, OSError) as error:  # also that time is up
            raise DeliveryError(
                f"the broker does not take it ({type(error).__name__}): send it again, as it is; it counts once"
            ) from None

    @web.middleware
    async def _fail_closed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in {"/healthz", "/metrics"}:
            return await handler(request)
        try:
            self._authenticate(request)
            with self._counted(is_response=request.path == "/responses"):
                async with asyncio.timeout(self._patience_s):
                    answer = await handler(request)
        except Exception as error:  # noqa: BLE001  whatever it is, nothing may be shown on the strength of it
            answer = _problem(error)
        resource = request.match_info.route.resource
        self._context.metrics.answers.labels(path=resource.canonical if resource else "", status=answer.status).inc()
        return answer

    def _authenticate(self, request: web.Request) -> None:
        """Refuse who has no token, and what a browser would send for a page of somebody else's: of another type than
        JSON, it asks nobody before; of JSON, it does not if that page's name is made to mean this machine.
        """
        if request.method == "POST" and request.content_type not in TYPES:
            raise web.HTTPUnsupportedMediaType(reason="send `Content-Type: application/json`")
        if self._token is None:
            if not self._is_ours(request.host):
                raise web.HTTPMisdirectedRequest
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        is_right = hmac.compare_digest(token.strip().encode(errors="replace"), self._token.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})

    def _is_ours(self, host: str) -> bool:
        """Whether the `Host` of a request is this machine, or what we were told to listen at."""
        name = PORT.sub("", host).strip("[]")
        return name == self._host or far(f"{name}:0") is None

    @contextmanager
    def _counted(self, *, is_response: bool) -> Iterator[None]:
        """Count a request; those that wait for decisions take no place of feedback."""
        if self._under_way[is_response] >= MAX_WAITING:
            raise Busy(f"{MAX_WAITING} requests are under way: try again")
        self._under_way[is_response] += 1
        try:
            yield
        finally:
            self._under_way[is_response] -= 1


def _problem(error: Exception) -> web.Response:
    """Say what is wrong, and that nothing may be shown."""
    status, code, detail = _described(error)
    headers = {
        name: value for name in ("Allow", "WWW-Authenticate") if (value := getattr(error, "headers", {}).get(name))
    }
    return problem(status, code, detail, headers)


def _described(error: Exception) -> tuple[int, str, str]:  # noqa: PLR0911  one for each kind of error
    """Return the status, a code for programs, and a sentence for people."""
    match error:
        case Oversized() | web.HTTPRequestEntityTooLarge():
            return (
                413,
                Oversized.code,
                f"at most {MAX_MESSAGE_BYTES} bytes, packed or not, as JSON is written here: send less",
            )
        case web.RequestPayloadError():
            return 400, Undecodable.code, "the body is not what `Content-Encoding` says, or ends too early"
        case EventError():
            return 400, error.code, str(error)
        case SetAside() | Stale():
            return 409, error.code, str(error)
        case TimeoutError():
            return 504, "no_decision", "no decision in time: a `show` that comes later is void"
        case Busy():
            return 503, "busy", str(error)
        case DeliveryError():
            return 503, "broker", str(error)
        case web.HTTPException():
            return error.status, "http", error.reason
    log.error("a request failed", error=type(error).__name__)
    return 500, "internal", "this version cannot answer: its log says what kind of error it was"


def run(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT. Raises `SettingsError` before it listens where it may not."""
    if refusal := _unguarded(settings):
        raise refusal
    open_many_files()
    partitions = partitions_of(settings, Response.topic, Feedback.topic, *TOPICS)
    asyncio.run(_run(settings, partitions))


def _unguarded(settings: Settings) -> SettingsError | None:
    """Return why this may not listen where it should: patients' text comes in, and verdicts that move the tiers."""
    if far(f"{settings.http_host}:{settings.http_port}") is None:
        return None
    if not settings.gateway_token:
        return SettingsError(
            f"DEMUR_GATEWAY_TOKEN: whoever reaches {settings.http_host} could send verdicts: set 32 characters or more"
        )
    if not (settings.http_certfile or settings.http_allow_plaintext):
        return SettingsError(
            "DEMUR_HTTP_CERTFILE: patients' text would come in the clear: set it and DEMUR_HTTP_KEYFILE, or "
            "DEMUR_HTTP_ALLOW_PLAINTEXT=true behind a proxy that speaks TLS"
        )
    return None


async def _run(settings: Settings, partitions: int) -> None:
    stop = told_to_stop()
    async with answering(settings, partitions) as address:
        log.info("answering", address=address)
        await stop.wait()


@asynccontextmanager
async def answering(settings: Settings, partitions: int) -> AsyncIterator[str]:
    """Serve a gateway and yield its address. `partitions`: of each topic."""
    metrics = Metrics()
    context = Context(settings.topic_prefix, metrics, keys_in(settings.keys), partitions)
    answers = Answers(settings, context, digest_keys(settings), clock_for(settings.time_source))
    producer = AIOKafkaProducer(
        **kafka_options(settings),
        acks="all",
        max_request_size=2 * MAX_MESSAGE_BYTES,
        request_timeout_ms=round(1000 * 2 * ACK_S),  # what nobody waits for any more is not kept
    )
    health = Health({"decisions": lambda: answers.listening})
    async with producer, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(answers.follow())
        async with serve(settings, health, metrics, Gateway(settings, context, answers, producer).app()) as address:
            yield address
        following.cancel()
