"""What is no HTTP, on a real socket: nothing of it in an answer or a log, and nothing may be shown."""

import asyncio
import gc
import io
import logging
import sys
from collections.abc import Iterator

import aiohttp
import orjson
import pytest
import structlog

from models.events import encode
from streams import health
from streams.cli import _log_as_json
from tests.unit.test_gateway import FEEDBACK, Client, Site

CANARY = "Señora Zebulon, VIH positivo, 5 mg"
NAMES = ("zebulon", "positivo", "vih")


def head(length: int, *more: str) -> bytes:
    lines = [
        "POST /feedback HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


GOOD = encode(FEEDBACK)
TEXT = orjson.dumps(orjson.loads(GOOD) | {"edited_response": CANARY})
SAID = [
    pytest.param([head(len(TEXT.decode()), "Expect: 100-continue"), TEXT], [100, 400, 400], id="characters for bytes"),
    pytest.param([head(len(GOOD)) + GOOD, head(len(TEXT.decode())) + TEXT], [204, 400], id="in the next request"),
    pytest.param([head(len(GOOD)) + GOOD + CANARY.encode() + b"\r\n\r\n"], [400], id="more than the length says"),
    pytest.param([head(0), TEXT + b"\r\n\r\n"], [400, 400], id="a length of nought"),
    pytest.param([head(2, f"X-Query: {CANARY}\x01")], [400], id="in a header"),
    pytest.param([head(2, f"{CANARY}: x")], [400], id="in a header's name"),
    pytest.param([f"POST /{CANARY} HTTP/9\r\n\r\n".encode()], [400], id="in the first line"),
    pytest.param([head(2, "Expect: Zebulon", "Connection: close") + b"{}"], [417], id="in what is expected"),
    pytest.param([head(7, "Transfer-Encoding: chunked") + b"Zebulon"], [400], id="two lengths"),
]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Log as a worker and a gateway do, and yield what is said."""
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    handlers, logging.root.handlers = logging.root.handlers, []
    before = structlog.get_config()
    _log_as_json()
    yield said
    structlog.configure(**before)
    logging.root.handlers = handlers


@pytest.mark.parametrize(("parts", "statuses"), SAID)
async def test_what_is_no_http_is_repeated_nowhere(
    parts: list[bytes], statuses: list[int], logged: io.StringIO
) -> None:
    async with Site().open() as client:
        url = client._session._base_url
        assert url is not None
        reader, writer = await asyncio.open_connection(url.host, url.port)
        answers = ""
        for part in parts:
            writer.write(part)
            if part is not parts[-1]:
                answers += (await reader.readuntil(b"\r\n\r\n")).decode()
        answers += (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    heads = [part for part in answers.replace("HTTP/1.0", "HTTP/1.1").split("HTTP/1.1 ") if part]
    assert [int(one[:3]) for one in heads] == statuses
    refused = [one.partition("\r\n\r\n")[2] for one in heads if one[0] == "4"]
    assert {orjson.loads(one)["action"] for one in refused} == {"review"}
    assert not [name for name in NAMES if name in (answers + logged.getvalue()).lower()]


async def test_an_error_that_quotes_the_patient_is_logged_by_its_kind(logged: io.StringIO) -> None:
    async def fail() -> None:
        raise ArithmeticError(CANARY)

    lost = asyncio.create_task(fail())
    await asyncio.wait([lost])
    del lost
    gc.collect()
    logging.getLogger("library").error("it failed", exc_info=LookupError(CANARY))
    structlog.get_logger().error("ours", exc_info=LookupError(CANARY))
    told = [orjson.loads(line) for line in logged.getvalue().splitlines()]
    assert [(one["event"], one["error"]) for one in told] == [
        ("Task exception was never retrieved", "ArithmeticError"),
        ("it failed", "LookupError"),
        ("ours", "LookupError"),
    ]
    assert not [name for name in NAMES if name in str(told).lower()]


@pytest.mark.parametrize("sent", [b"", b"POST /feedback HTTP/1.1\r\nHost: x\r\nX"])
async def test_who_sends_nothing_is_hung_up_on(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "IDLE_S", 0.01)
    async with Site().open() as client:
        url = client._session._base_url
        assert url is not None
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(sent)
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_more_connections_than_can_be_held_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who has no token could take every file that the gateway needs for the broker."""
    monkeypatch.setattr(health, "MAX_CONNECTIONS", 2)
    async with Site().open() as client:
        url = client._session._base_url
        assert url is not None
        (_, one), (_, two) = [await asyncio.open_connection(url.host, url.port) for _ in range(2)]
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.post("/feedback", GOOD)
        one.close()
        await one.wait_closed()
        async with asyncio.timeout(60):
            while (await posted(client)) != 204:
                pass
        two.close()
        await two.wait_closed()


async def posted(client: Client) -> int | None:
    try:
        return (await client.post("/feedback", GOOD))[0]
    except aiohttp.ClientConnectionError:
        return None
