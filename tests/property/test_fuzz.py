"""Hostile input for everything that reads: quick here, a million in `make fuzz`; each crash that was found stays."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import SettingsError
from models.training.data import read
from streams.health import Health, serve
from streams.metrics import Metrics
from streams.settings import load
from tests.fuzz.__main__ import passes
from tests.fuzz.nasty import GOOD, Nasty, dump
from tests.fuzz.targets import TARGETS, decoding, files, flow, oracle, stages, versions
from tests.rehearsal import Rehearsal

json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(sorted({name for event in GOOD for name in event}))
near = st.builds(
    lambda event, changed: dump(event | changed), st.sampled_from(GOOD), st.dictionaries(names, json, max_size=3)
)
messages = st.lists(st.binary(max_size=100) | near | st.builds(dump, json), max_size=10)


CRASHED = (("stages", 187),)
"""A time of our own, in the year 9999, to which no horizon could be added."""


@pytest.mark.parametrize(("name", "seed"), [*((name, 0) for name in TARGETS), *CRASHED])
def test_pieces_of_the_long_run(name: str, seed: int) -> None:
    assert passes(TARGETS[name][0], seed)


@pytest.mark.parametrize("target", [decoding, stages, flow, oracle, files, versions])
def test_whatever_comes_it_ends_in_a_result_or_in_an_error_of_ours(target: Callable[..., None]) -> None:
    @given(messages, st.integers(0, 10**6))
    def hold(values: list[bytes], seed: int) -> None:
        target(values, Nasty(seed))

    hold()


BROKEN: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "settings that are not text": (load, b"model = '\xb8'"),
    "verdicts that are not text": (read, b'{"id": "\xed\xa0\x80"}'),
    "verdicts nested too deep": (read, b'{"id":' + b"[" * 5000),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_once_ended_in_a_traceback_ends_in_one_sentence(name: str, tmp_path: Path) -> None:
    reads, content = BROKEN[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="file"):
        reads(path)


@pytest.mark.parametrize("topic", ["responses", "feedback"])
@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_an_event_of_another_age_stops_no_stage(topic: str, at: str) -> None:
    """Horizons were added to its time, and the sum was no date."""
    event = next(e for e in GOOD if e["type"] == topic.removesuffix("s"))
    stages = Rehearsal(partitions=1, crashes=False)
    stages.put(topic, b"k", dump(event | {"occurred_at": at}), [])
    stages.run()
    assert len(stages.logs["dead-letters"][0]) == 1


REQUESTS = (
    b"", b"\x00" * 100, b"GET /healthz\r\n\r\n", b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\n",
    b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET /metrics HTTP/1.1\r\nAccept: \xff\xfe\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"GET /healthz HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Bad HTTP")
async def test_whatever_is_asked_of_the_health_port_it_goes_on_answering() -> None:
    rng = Nasty(1)
    async with serve(load(http_port=0), Health({}), Metrics()) as url:
        host, port = urlsplit(url).hostname, urlsplit(url).port
        for asked in (*REQUESTS, *(rng.value() for _ in range(100))):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(asked)
            writer.write_eof()
            async with asyncio.timeout(5):
                answer = await reader.read()
            writer.close()
            assert b"Traceback" not in answer
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
