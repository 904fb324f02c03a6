"""A decision carries its response's `traceparent` on, so that a trace goes through; and no other text of a header."""

from typing import Any

import pytest

from models.events import Decision
from tests.stagecraft import record
from tests.unit.test_score import response, theatre

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def traced(value: Any, offset: int, trace: bytes | None) -> Any:
    headers = {"traceparent": trace, "tracestate": b"vendor=Zebulon"} if trace is not None else {}
    return record(value, offset, topic="responses")._replace(headers=headers)


def passed_on(*records: Any, crash: str = "no") -> list[dict[str, bytes]]:
    stage = theatre()
    stage.run(records, crash=crash)
    return [dict(send.headers or ()) for send in stage.sent if send.topic == Decision.topic]


@pytest.mark.parametrize("value", [response(), b'{"response_id":"r1"}'])
@pytest.mark.parametrize("crash", ["no", "early", "written", "sent"])
def test_a_decision_carries_it_on_each_time(value: Any, crash: str) -> None:
    found = passed_on(traced(value, 0, TRACE), crash=crash)
    assert len(found) == (2 if crash == "sent" else 1)
    assert [(told["traceparent"], "tracestate" in told) for told in found] == [(TRACE, False)] * len(found)


def test_a_response_that_is_sent_again_is_in_the_trace_of_its_own() -> None:
    other = TRACE.replace(b"4bf9", b"ffff")
    told = passed_on(traced(response(), 0, TRACE), traced(response(), 1, None), traced(response(), 2, other))
    assert [one.get("traceparent") for one in told] == [TRACE, None, other]
    assert len({one["ce_id"] for one in told}) == 1


@pytest.mark.parametrize(
    "trace",
    [
        b"", b"Zebulon", TRACE.upper(), TRACE + b"-01", TRACE + b"\n", TRACE[:-1], b"01" + TRACE[2:],
        TRACE.replace(b"4bf92f3577b34da6a3ce929d0e0e4736", b"0" * 32), TRACE.replace(b"00f067aa0ba902b7", b"0" * 16),
        TRACE.replace(b"4bf9", b"4bfg"), TRACE.replace(b"4bf9", "\u0664".encode() * 2),
    ],
)  # fmt: skip
def test_what_is_no_trace_is_dropped(trace: bytes) -> None:
    [told] = passed_on(traced(response(), 0, trace))
    assert "traceparent" not in told
