"""The gateway over real HTTP: whatever is wrong, nothing may be shown. The broker is a double; see `integration`."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from models.deciding import MAX_WAIT, input_digest
from models.errors import IdReused, SettingsError
from models.events import MAX_MESSAGE_BYTES, DeadLetter, Decision, Event, Feedback, Response, decode, digest, encode
from models.partitions import home
from models.signing import Keys, Producer
from streams import answers, gateway
from streams.agents.common import Context
from streams.answers import Answers
from streams.clock import EventClock
from streams.gateway import Gateway
from streams.health import Health, serve
from streams.metrics import Metrics
from streams.settings import Settings, load
from streams.wire import outgoing
from tests.stagecraft import HospitalClock, at
from tests.stagecraft import feedback as given
from tests.unit.test_score import response

CANARY = "patient-canary"
KEY, FORMER = b"key", b"former"
PARTITIONS = 3
TOKEN = "t" * 32
FEEDBACK = given("f1")
CDS = orjson.dumps(
    {"feedback": [{"card": c, "outcome": "overridden", "outcomeTimestamp": "2026-01-05T08:00:00Z"} for c in ("a", "b")]}
)
KEYS = Keys({"demur": Producer(secret="s" * 32)})


def decided(on: Response, **fields: Any) -> Decision:
    known: dict[str, Any] = {
        "response_id": on.response_id, "conversation_id": on.conversation_id, "deployment": on.deployment,
        "tier": "green", "action": "show", "input_digest": input_digest(on, KEY), "occurred_at": on.occurred_at,
        "decided_at": at(501),
    }  # fmt: skip
    return Decision(**(known | fields))


def letter(on: Response, **fields: Any) -> DeadLetter:
    known: dict[str, Any] = {
        "source_topic": "responses", "partition": 0, "offset": 1, "stage": "score", "code": IdReused.code,
        "detail": str(IdReused()), "digest": digest(encode(on)), "size_bytes": 1, "response_id": on.response_id,
    }  # fmt: skip
    return DeadLetter(**(known | fields))


def record(event: Event, keys: Keys | None = None, *, astray: int = 0, taken_at: float = 0.0) -> Any:
    send = outgoing("", event, keys)
    place = (home(send.key or b"", PARTITIONS) + astray) % PARTITIONS
    return SimpleNamespace(
        topic=send.topic,
        key=send.key,
        value=send.value,
        headers=send.headers,
        partition=place,
        timestamp=round(1000 * taken_at),
    )


@dataclass
class Broker:
    """What a producer is given; `then` happens as soon as it has a record."""

    then: Callable[[Response], None] = lambda _: None
    fails: bool = False
    hangs: bool = False
    taken: list[tuple[str, Event, int]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    headers: dict[str, bytes] = field(default_factory=dict)

    async def has(self, records: int) -> None:
        while len(self.taken) < records:
            await self.news.wait()
            self.news.clear()

    async def send(self, topic: str, value: bytes, key: bytes, partition: int, headers: Any) -> asyncio.Future[None]:
        if self.fails:
            raise KafkaConnectionError(CANARY)
        if len(value) > MAX_MESSAGE_BYTES:
            raise MessageSizeTooLargeError
        event = decode({"responses": Response, "feedback": Feedback}[topic], value)
        self.taken.append((topic, event, partition))
        self.headers = dict(headers)
        self.news.set()
        if not self.hangs and isinstance(event, Response):
            self.then(event)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self.hangs:
            done.set_result(None)
        return done


class Site:
    """A gateway, and who answers in SCORE's place."""

    def __init__(self, keys: Keys | None = None) -> None:
        self.metrics = Metrics()
        context = Context("", self.metrics, keys, PARTITIONS)
        self.settings = load(http_port=0, deadline_s=0.01)
        self.clock: HospitalClock | EventClock = HospitalClock(at(502))
        self.answers = Answers(self.settings, context, (KEY, FORMER), self.clock)
        self.answers.listening = True
        self.broker = Broker()
        self.context = context

    def says(self, *make: Callable[[Response], Any]) -> None:
        def then(asked: Response) -> None:
            for one in make:
                self.answers.hear(one(asked))

        self.broker.then = then

    @asynccontextmanager
    async def open(self, settings: Settings | None = None) -> AsyncIterator["Client"]:
        chosen = settings or self.settings
        self.gateway = Gateway(chosen, self.context, self.answers, self.broker)
        app = self.gateway.app()
        async with serve(chosen, Health({}), self.metrics, app) as url, aiohttp.ClientSession(url) as session:
            yield Client(session)

    async def unanswered(self, client: "Client") -> tuple[int, Any]:
        """Ask and wait for what never comes, not for long."""
        patience, self.gateway._patience_s = self.gateway._patience_s, 0.1
        try:
            return await client.ask(response())
        finally:
            self.gateway._patience_s = patience


class Client:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        async with self._session.post(
            path, data=body, headers={"Content-Type": "application/json"} | headers
        ) as answer:
            found = await answer.read()
            return answer.status, orjson.loads(found) if found else None

    async def ask(self, asked: Response) -> tuple[int, Any]:
        return await self.post("/responses", encode(asked))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MARGIN_S", 60.0)


async def test_a_response_is_answered_with_the_decision_on_it() -> None:
    site = Site()
    site.says(lambda asked: record(decided(asked)))
    async with site.open() as client:
        status, body = await client.ask(response())
    assert (status, body) == (200, orjson.loads(encode(decided(response()))))
    assert site.broker.taken == [("responses", response(), home(b"c1", PARTITIONS))]


@pytest.mark.parametrize(
    "other",
    [
        lambda asked: record(decided(asked, response_id="r2")),
        lambda asked: record(decided(response(query="Another?"))),
        lambda asked: record(decided(response(response=None))),
        lambda asked: record(decided(response(earlier=("Before",)))),
        lambda asked: record(decided(asked, conversation_id="c2")),
        lambda asked: record(decided(asked, turn=1)),
        lambda asked: record(decided(asked, deployment="another")),
        lambda asked: record(decided(asked, groups={"site": "another"})),
        lambda asked: record(decided(asked, groups={"category": "another"})),
        lambda asked: record(decided(asked, groups={"of another version": "any"})),
        lambda asked: record(decided(asked, input_digest="")),
        lambda asked: record(decided(asked), astray=1),
        lambda asked: SimpleNamespace(topic="decisions", value=None),
        lambda asked: SimpleNamespace(topic="decisions", value=b"{", partition=0, headers=()),
        lambda asked: SimpleNamespace(topic="decisions", value=b'{"schema":2}', partition=0, offset=7, headers=()),
        lambda asked: record(letter(asked, digest=digest(b"other bytes"))),
        lambda asked: record(letter(asked, response_id=None)),
    ],
)
async def test_what_is_not_on_this_very_text_is_no_answer(other: Callable[[Response], Any]) -> None:
    site = Site()
    site.says(other)
    async with site.open() as client:
        status, body = await site.unanswered(client)
        assert (status, body["code"], body["action"]) == (504, "no_decision", "review")
        site.says(other, lambda asked: record(decided(asked)), lambda asked: record(decided(asked)))
        assert (await client.ask(response()))[0] == 200


LONG = MAX_WAIT.total_seconds()


@pytest.mark.parametrize(
    ("decided_s", "taken_s", "fresh"),
    [
        (502 - LONG, 502 - LONG, True),
        (501 - LONG, 502, False),  # SCORE keeps a decision for days, and repeats it
        (503 + LONG, 502, False),  # one of the clocks is wrong: nobody knows how old it is
        (502 - LONG, 503, False),  # this machine's clock is behind the broker's
    ],
)
async def test_a_decision_of_long_ago_says_nothing_of_now(decided_s: float, taken_s: float, *, fresh: bool) -> None:
    site = Site()
    taken_at = at(taken_s).timestamp()
    site.says(lambda asked: record(decided(asked, decided_at=at(decided_s)), taken_at=taken_at))
    async with site.open() as client:
        status, said = await client.ask(response())
        assert (status, said["action"]) == ((200, "show") if fresh else (409, "review"))
        assert fresh or said["code"] == "stale"
        site.answers._clock = EventClock()
        assert (await client.ask(response()))[0] == 200, "in a replay only the events tell the time"


async def test_a_text_that_comes_again_is_answered_though_the_key_of_the_digests_was_changed() -> None:
    site = Site()
    site.says(lambda asked: record(decided(asked, input_digest=input_digest(asked, FORMER))))
    async with site.open() as client:
        assert (await client.ask(response()))[0] == 200
    site.says(lambda asked: record(decided(asked, input_digest=input_digest(asked, b"nobody's"))))
    async with site.open() as client:
        assert (await site.unanswered(client))[0] == 504


async def test_two_texts_under_one_id_at_once_each_get_their_own_answer() -> None:
    site, texts = Site(), [response(response=f"Take {n} mg.") for n in (5, 50)]
    async with site.open() as client:
        asking = [asyncio.create_task(client.ask(text)) for text in texts]
        await site.broker.has(2)
        for one in (record(decided(texts[0])), record(letter(texts[1]))):
            site.answers.hear(one)
        first, second = [await one for one in asking]
    assert (first[0], first[1]["action"]) == (200, "show")
    assert (second[0], second[1]["action"], second[1]["code"]) == (409, "review", "id_reused")


async def test_where_records_are_signed_only_a_signed_decision_answers() -> None:
    site = Site(KEYS)
    forger = Keys({"demur": Producer(secret="f" * 32)})
    async with site.open() as client:
        for keys in (None, forger):
            site.says(lambda asked, keys=keys: record(decided(asked), keys))
            assert (await site.unanswered(client))[0] == 504
        site.says(lambda asked: record(decided(asked), KEYS))
        assert (await client.ask(response()))[0] == 200


async def test_nothing_is_asked_before_answers_can_be_heard() -> None:
    site = Site()
    site.answers.listening = False
    async with site.open() as client:
        status, body = await client.ask(response())
    assert (status, body["action"], site.broker.taken) == (503, "review", [])


async def test_decisions_are_read_only_while_the_broker_answers_for_every_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that waits in vain for a broker raises nothing, for ever."""
    site, polled, listened = Site(), dict.fromkeys(Site().answers._partitions, 0), []
    one, *_ = polled

    class Consumer:
        last_poll_timestamp = staticmethod(polled.get)

        async def seek_to_end(self, *_: Any) -> bool:
            return True

        async def getmany(self, timeout_ms: int) -> dict[Any, Any]:
            listened.append(site.answers.listening)
            clock[0] += 1.0
            if len(listened) == 20:
                raise asyncio.CancelledError
            for partition in polled:
                if len(listened) < 5 or len(listened) > 15 or partition != one:
                    polled[partition] += 1
            return {}

    @asynccontextmanager
    async def standalone_consumer(*_: Any, **__: Any) -> AsyncIterator[Consumer]:
        yield Consumer()

    clock = [0.0]
    monkeypatch.setattr(answers, "standalone_consumer", standalone_consumer)
    monkeypatch.setattr(answers, "monotonic", lambda: clock[0])
    monkeypatch.setattr(answers, "SILENT_S", 3.0)
    with pytest.raises(asyncio.CancelledError):
        await site.answers.follow()
    assert listened == 7 * [True] + 9 * [False] + 4 * [True]
    assert not site.answers.listening


@pytest.mark.parametrize("path", ["/responses", "/feedback", "/cds-services/demur/feedback"])
async def test_a_broker_that_does_not_answer_is_said_so_in_time(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "ACK_S", 0.01)
    site = Site()
    site.broker.hangs = True
    body = {"/responses": encode(response()), "/feedback": encode(FEEDBACK)}.get(path, CDS)
    async with site.open() as client:
        status, said = await client.post(path, body)
    assert (status, said["code"], said["action"]) == (503, "broker", "review")


async def test_a_broker_that_is_away_is_said_so_and_nothing_else() -> None:
    site = Site()
    site.broker.fails = True
    async with site.open() as client:
        for path, body in (("/responses", encode(response())), ("/feedback", encode(FEEDBACK))):
            status, said = await client.post(path, body)
            assert (status, said["code"], said["action"]) == (503, "broker", "review")
            assert CANARY not in str(said)


BROKEN = [
    ("/responses", b"{", 400, "undecodable"),
    ("/responses", encode(response(response_id="a b")), 400, "invalid"),
    ("/responses", encode(FEEDBACK), 400, "invalid"),
    ("/responses", encode(response(schema=9)), 400, "unknown_schema"),
    ("/responses", b'{"query":"' + b"x" * MAX_MESSAGE_BYTES + b'"}', 413, "oversized"),
    ("/feedback", encode(response()), 400, "invalid"),
    ("/feedback", encode(FEEDBACK).replace(b"accepted", CANARY.encode()), 400, "invalid"),
    ("/cds-services/demur/feedback", b'{"feedback":[{"card":"' + CANARY.encode() + b' "}]}', 400, "invalid"),
    ("/elsewhere", b"", 404, "http"),
    ("/metrics/", b"", 404, "http"),
]


@pytest.mark.parametrize(("path", "body", "status", "code"), BROKEN)
async def test_bad_input_is_named_never_quoted_and_never_sent(path: str, body: bytes, status: int, code: str) -> None:
    site = Site()
    async with site.open() as client:
        found, said = await client.post(path, body)
    assert (found, said["status"], said["code"], said["action"]) == (status, status, code, "review")
    assert said["detail"]
    assert CANARY not in str(said)
    assert site.broker.taken == []


ENTRIES = orjson.loads(CDS)["feedback"]


@pytest.mark.parametrize(
    "bad", [{"card": "b d"}, {"card": CANARY + " "}, {"outcome": CANARY}, {"outcomeTimestamp": "2500-01-01T00:00:00Z"}]
)
async def test_one_bad_card_keeps_no_other_from_being_counted(bad: dict[str, str]) -> None:
    """The client has nobody who would correct it; what is sent again counts once."""
    site = Site()
    body = orjson.dumps({"feedback": [ENTRIES[0], ENTRIES[1] | bad, ENTRIES[1]]})
    async with site.open() as client:
        status, said = await client.post("/cds-services/demur/feedback", body)
    assert (status, said["code"]) == (400, "invalid")
    assert said["detail"].startswith("entry 1 of `feedback`")
    assert said["detail"].endswith("(2 of 3 entries are taken)")
    assert CANARY not in str(said)
    assert [event.response_id for _, event, _ in site.broker.taken] == ["a", "b"]


async def test_a_comment_that_is_too_long_keeps_no_verdict_from_being_counted() -> None:
    site = Site()
    why = {"overrideReason": {"reason": {"code": "cds-not-applicable"}, "userComment": "x" * 300_000}}
    async with site.open() as client:
        body = orjson.dumps({"feedback": [ENTRIES[0] | why]})
        assert (await client.post("/cds-services/demur/feedback", body))[0] == 200
    [(_, event, _)] = site.broker.taken
    assert (event.reason_code, event.comment) == ("cds-not-applicable", None)


async def test_what_is_too_large_only_as_it_is_sent_on_is_said_so() -> None:
    """`1e9` becomes `1000000000.0`."""
    numbers = b",".join(b'"%d":1e9' % n for n in range(70_000))
    body = encode(response())[:-1] + b',"context":{' + numbers + b"}}"
    assert len(body) < MAX_MESSAGE_BYTES
    site = Site()
    async with site.open() as client:
        status, said = await client.post("/responses", body)
    assert (status, said["code"], said["action"], site.broker.taken) == (413, "oversized", "review", [])


@pytest.mark.parametrize(
    ("encoding", "body", "status", "code"),
    [
        ("gzip", b"no gzip", 400, "undecodable"),
        ("deflate", b"no deflate", 400, "undecodable"),
        ("gzip", gzip.compress(encode(FEEDBACK), mtime=0)[:40], 400, "undecodable"),
        ("gzip", gzip.compress(b"x" * (MAX_MESSAGE_BYTES + 1), mtime=0), 413, "oversized"),
        ("gzip", gzip.compress(encode(FEEDBACK), mtime=0), 204, None),
    ],
)
async def test_a_body_that_does_not_unpack_is_the_senders_fault(
    encoding: str, body: bytes, status: int, code: str | None
) -> None:
    site = Site()
    async with site.open() as client:
        found, said = await client.post("/feedback", body, **{"Content-Encoding": encoding})
    assert (found, said and (said["code"], said["action"])) == (status, code and (code, "review"))


async def test_an_error_of_ours_is_closed_too(capsys: pytest.CaptureFixture[str]) -> None:
    site = Site()

    def fail(_: Response) -> None:
        raise ArithmeticError(CANARY)

    site.broker.then = fail
    async with site.open() as client:
        status, said = await client.ask(response())
    assert (status, said["code"], said["action"]) == (500, "internal", "review")
    out = capsys.readouterr()
    assert "ArithmeticError" in out.out + out.err
    assert CANARY not in str(said) + out.out + out.err


TRACED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(("sent", "goes_on"), [(TRACED, TRACED.encode()), (CANARY, None), (None, None)])
async def test_a_response_goes_on_with_the_trace_of_its_request(sent: str | None, goes_on: bytes | None) -> None:
    site = Site()
    site.says(lambda asked: record(decided(asked)))
    async with site.open() as client:
        await client.post("/responses", encode(response()), **({"traceparent": sent} if sent else {}))
    assert site.broker.headers.get("traceparent") == goes_on


async def test_records_are_named_as_the_contract_asks_of_a_gateway() -> None:
    """What cannot be read is named by its `ce_id`: a response's red decision too."""
    site = Site()
    site.says(lambda asked: record(decided(asked)))
    async with site.open() as client:
        await client.ask(response())
        assert site.broker.headers["ce_id"] == b"r1"
        await client.post("/feedback", encode(FEEDBACK))
        assert site.broker.headers["ce_id"] == b"f1"


async def test_a_cloud_event_in_structured_mode_is_read() -> None:
    site, whole = Site(), orjson.loads(encode(FEEDBACK))
    body = orjson.dumps({"specversion": "1.0", "id": "x", "source": "/ehr", "type": "any", "data": whole})
    async with site.open() as client:
        assert await client.post("/feedback", body, **{"Content-Type": "application/cloudevents+json"}) == (204, None)
    assert [event for _, event, _ in site.broker.taken] == [FEEDBACK]


async def test_feedback_is_taken_in_by_its_key() -> None:
    site = Site()
    async with site.open() as client:
        assert await client.post("/feedback", encode(FEEDBACK)) == (204, None)
    assert site.broker.taken == [("feedback", FEEDBACK, home(FEEDBACK.response_id.encode(), PARTITIONS))]


async def test_whoever_has_no_token_is_refused_but_for_health() -> None:
    site = Site()
    site.says(lambda asked: record(decided(asked)))
    guarded = load(http_port=0, deadline_s=0.01, gateway_token=TOKEN)
    async with site.open(guarded) as client:
        for sent in ({}, {"Authorization": "Bearer " + "u" * 32}, {"Authorization": TOKEN}):
            status, said = await client.post("/responses", encode(response()), **sent)
            assert (status, said["action"]) == (401, "review")
        assert site.broker.taken == []
        for scheme in ("Bearer", "bearer", "BEARER "):
            right = {"Authorization": f"{scheme} {TOKEN}", "Host": "any.example"}
            assert (await client.post("/responses", encode(response()), **right))[0] == 200
        async with client._session.get("/healthz") as health:
            assert health.status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_page_of_somebody_else_sends_nothing_through_a_browser(kind: str) -> None:
    """Of these types a browser lets any page send to any address; of JSON it asks first, and is told nothing."""
    site = Site()
    async with site.open() as client:
        status, said = await client.post("/feedback", encode(FEEDBACK), **{"Content-Type": kind})
        async with client._session.options("/feedback", headers={"Origin": "http://evil.example"}) as asked:
            assert not [name for name in asked.headers if name.lower().startswith("access-control")]
    assert (status, said["action"], site.broker.taken) == (415, "review", [])


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.2", "[::1]:8321", "ehr.internal:8322"])
async def test_without_a_token_it_answers_under_its_own_names_only(host: str) -> None:
    """Else a page of somebody else, whose name is made to mean loopback, could have a browser send and read for it."""
    site = Site()
    async with site.open() as client:
        assert (await client.post("/feedback", encode(FEEDBACK), Host=host))[0] == (204 if "ehr" not in host else 421)
        for name in ("evil.example", "localhost.evil.example:8321", "127.0.0.1.evil.example", "", "[::"):
            status, said = await client.post("/feedback", encode(FEEDBACK), Host=name)
            assert (status, said["code"], said["action"]) == (421, "http", "review")
    assert len(site.broker.taken) == ("ehr" not in host)


async def test_more_than_can_be_held_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MAX_WAITING", 1)
    site = Site()
    async with site.open() as client:
        waiting = asyncio.create_task(client.ask(response()))
        await site.broker.has(1)
        status, said = await client.ask(response("r2"))
        assert (status, said["code"], said["action"]) == (503, "busy", "review")
        site.answers.hear(record(decided(response())))
        assert (await waiting)[0] == 200
        site.says(lambda asked: record(decided(asked)))
        assert (await client.ask(response("r2")))[0] == 200


async def test_feedback_is_taken_in_though_all_that_may_wait_for_decisions_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MAX_WAITING", 1)
    site = Site()
    async with site.open() as client:
        waiting = asyncio.create_task(client.ask(response()))
        await site.broker.has(1)
        assert (await client.ask(response("r2")))[1]["code"] == "busy"
        assert (await client.post("/feedback", encode(FEEDBACK)))[0] == 204
        site.answers.hear(record(decided(response())))
        assert (await waiting)[0] == 200


async def test_nothing_is_remembered_of_what_was_answered() -> None:
    site = Site()
    async with site.open() as client:
        await site.unanswered(client)
        site.says(lambda asked: record(decided(asked)))
        await client.ask(response())
    assert not site.answers._open
    value = site.metrics.registry.get_sample_value
    assert [value("demur_http_answers_total", {"path": "/responses", "status": s}) for s in ("200", "504")] == [1, 1]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "DEMUR_GATEWAY_TOKEN"),
        ({"gateway_token": TOKEN}, "DEMUR_HTTP_CERTFILE"),
        ({"gateway_token": TOKEN, "allow_plaintext": True}, "DEMUR_HTTP_CERTFILE"),  # which is of the broker
        ({"gateway_token": TOKEN, "http_allow_plaintext": True}, None),
        ({"http_allow_plaintext": True}, "DEMUR_GATEWAY_TOKEN"),
    ],
)
def test_it_does_not_listen_beyond_this_machine_unguarded(given: dict[str, Any], named: str | None) -> None:
    refusal = gateway._unguarded(load(http_host="0.0.0.0", **given))
    assert isinstance(refusal, SettingsError) if named else refusal is None
    assert (named or "") in str(refusal)
    assert gateway._unguarded(load(**given)) is None


def test_an_empty_address_is_refused_for_it_means_every_one() -> None:
    with pytest.raises(SettingsError, match="DEMUR_HTTP_HOST"):
        load(http_host="")
    unchecked = load().model_copy(update={"http_host": ""})
    assert isinstance(gateway._unguarded(unchecked), SettingsError)


def test_a_certificate_goes_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "one.pem"
    file.touch()
    with pytest.raises(SettingsError, match="DEMUR_HTTP_KEYFILE"):
        load(http_certfile=file)
    with pytest.raises(SettingsError, match="DEMUR_HTTP_CERTFILE"):
        load(http_keyfile=file)


async def test_a_certificate_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "one.pem"
    file.write_text("no certificate")
    with pytest.raises(SettingsError, match="DEMUR_HTTP_CERTFILE, DEMUR_HTTP_KEYFILE: not usable"):
        async with serve(load(http_port=0, http_certfile=file, http_keyfile=file), Health({}), Metrics()):
            pass
