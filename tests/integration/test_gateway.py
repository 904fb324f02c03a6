"""`demur gateway` beside a real worker: what HTTP answers is what the topics hold."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from models.events import Decision, Feedback, Response, decode, encode
from streams import topics
from streams.broker import Child, free_port
from streams.drive import await_ready, launch
from streams.gateway import answering
from streams.reading import read_all
from streams.settings import Settings, environment, load
from streams.stages import changelogs
from tests.apache_kafka import ApacheKafka
from tests.stagecraft import at, feedback

JSON = {"Content-Type": "application/json"}
CARD = "4e0a3a1e-3283-4575-ab82-028d55fe2719"
CDS = {
    "feedback": [
        {
            "card": CARD,
            "outcome": "overridden",
            "overrideReason": {"reason": {"code": "recipient-concerns-outcomes", "system": "x"}, "userComment": "No."},
            "outcomeTimestamp": "2026-01-05T08:10:00Z",
            "extension": {"org.demur": {"clinician": "dr-4"}},
        },
        {
            "card": "c2",
            "outcome": "accepted",
            "acceptedSuggestions": [{"id": "s"}],
            "outcomeTimestamp": "2026-01-05T08:10:00Z",
        },
    ]
}


def asked(response_id: str = CARD, **fields: Any) -> Response:
    known = {"conversation_id": "c", "deployment": "d", "site": "s", "query": "Dose?", "response": "5 mg"}
    return Response(response_id=response_id, occurred_at=at(0), **(known | fields))


@pytest.fixture
def scoring(settings: Settings, tmp_path: Path, tiny_model: Path) -> Iterator[Settings]:
    """A worker that scores; nothing waits for long, but for it."""
    changes = {"data_dir": tmp_path, "model": str(tiny_model), "deadline_s": 30.0, "stages": ("score",)}
    mine = settings.model_copy(update=changes | {"http_port": free_port(), "time_source": "event"})
    topics.create(mine, changelogs(mine))
    worker = launch(mine, tmp_path / "worker.log")
    try:
        await_ready(worker, mine)
        yield mine.model_copy(update={"http_port": 0})
    finally:
        worker.end(grace_s=30.0)


async def test_what_is_answered_is_what_the_topics_hold(scoring: Settings) -> None:
    async with answering(scoring, scoring.partitions) as url, aiohttp.ClientSession(url) as session:
        await ready(session)
        first, again, other, query = [
            await ask(session, one)
            for one in (asked(), asked(), asked(response="50 mg"), asked("r-query", response=None))
        ]
    decisions = {d.response_id: encode(d) for d in read(scoring, Decision)}
    assert first == again == (200, decisions[CARD])
    assert query == (200, decisions["r-query"])
    assert (other[0], orjson.loads(other[1])["code"]) == (409, "id_reused")


async def test_without_a_score_the_answer_is_review(settings: Settings) -> None:
    topics.create(settings, changelogs(settings))
    hasty = settings.model_copy(update={"deadline_s": 0.1})
    async with answering(hasty, hasty.partitions) as url, aiohttp.ClientSession(url) as session:
        await ready(session)
        status, body = await ask(session, asked())
    assert (status, orjson.loads(body)["action"]) == (504, "review")
    assert read(settings, Response) == [asked()]


@pytest.mark.kafka
async def test_a_broker_that_goes_away_is_noticed_and_so_is_its_return(own_kafka: ApacheKafka) -> None:
    mine = load(bootstrap=own_kafka.bootstrap, partitions=2, http_port=0)
    topics.create(mine, changelogs(mine))
    async with answering(mine, mine.partitions) as url, aiohttp.ClientSession(url) as session:
        await ready(session)
        with own_kafka.paused():
            async with session.post("/feedback", data=encode(feedback("f1")), headers=JSON) as answer:
                assert (answer.status, (await answer.json(content_type=None))["code"]) == (503, "broker")
            await ready(session, status=503)
            status, body = await ask(session, asked())
            assert (status, orjson.loads(body)["code"]) == (503, "broker")
        await ready(session)


def test_the_command_takes_in_feedback_and_ends_when_told(settings: Settings, tmp_path: Path) -> None:
    mine = settings.model_copy(update={"http_port": free_port()})
    topics.create(mine, changelogs(mine))
    gateway = Child([sys.executable, "-P", "-m", "streams", "gateway"], tmp_path / "log", environment(mine))
    try:
        await_ready(gateway, mine)
        asyncio.run(tell(f"http://127.0.0.1:{mine.http_port}"))
    finally:
        gateway.end(grace_s=30.0)
    found = {f.response_id: f for f in read(mine, Feedback)}
    assert len(read(mine, Feedback)) == 2 * len(found) == 4
    assert (found[CARD].action, found[CARD].clinician) == ("disagreed", "dr-4")
    assert (found[CARD].reason_code, found[CARD].comment) == ("recipient-concerns-outcomes", "No.")
    assert (found["c2"].action, found["c2"].clinician) == ("accepted", "unknown")
    assert len({f.feedback_id for f in read(mine, Feedback)}) == 2, "sent again, it is the same"
    assert "No." not in (tmp_path / "log").read_text()


def test_without_topics_or_guard_it_says_so_in_one_sentence(settings: Settings) -> None:
    for change, named in (({}, "does not exist: run `demur topics`"), ({"http_host": "0.0.0.0"}, "GATEWAY_TOKEN")):
        mine = settings.model_copy(update=change)
        command = [sys.executable, "-P", "-m", "streams", "gateway"]
        done = subprocess.run(command, env=environment(mine), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert named in done.stderr
        assert "Traceback" not in done.stderr


async def tell(url: str) -> None:
    async with aiohttp.ClientSession(url) as session:
        for _ in range(2):
            async with session.post("/cds-services/demur/feedback", json=CDS) as answer:
                assert answer.status == 200


async def ready(session: aiohttp.ClientSession, status: int = 200) -> None:
    while True:
        async with session.get("/healthz") as answer:
            if answer.status == status:
                return
        await asyncio.sleep(0.01)


async def ask(session: aiohttp.ClientSession, what: Response) -> tuple[int, bytes]:
    async with session.post("/responses", data=encode(what), headers=JSON) as answer:
        return answer.status, await answer.read()


def read(settings: Settings, type_: Any) -> list[Any]:
    return [decode(type_, record.value) for record in read_all(settings, type_.topic)]
