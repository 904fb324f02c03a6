"""CloudEvents in structured mode (`content-type: application/cloudevents+json`): the same events, one level deeper."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from models.errors import Invalid
from models.events import DeadLetter, Response, build, decode, encode, parse
from models.oracle import check
from streams.feed import items
from streams.runs import _events, _is_own
from tests.rehearsal import RULES, Rehearsal, week
from tests.stagecraft import record
from tests.unit.test_score import GOOD, decided, response, theatre

HEADERS = [("content-type", b"application/cloudevents+json; charset=UTF-8")]


def wrapped(value: bytes, **attributes: Any) -> bytes:
    known = {"specversion": "1.0", "id": "e-1", "source": "/gateway", "type": "org.demur.response.v1"}
    return orjson.dumps(known | {"data": orjson.loads(value)} | attributes)


def test_in_either_mode_it_is_the_same_event_with_the_same_decision() -> None:
    stage = theatre()
    stage.run([record(wrapped(encode(response())), 0, topic="responses"), record(response(), 1)])
    first, again = (send.value for send in stage.sent)
    assert first == again
    assert decided(stage)[0].tier == "green"


BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "a field": ({"data": GOOD | {"turn": "first"}}, "r1", "`$.turn`"),
    "data as text": ({"data": encode(response()).decode()}, "e-1", "`data`"),
    "data in base64": ({"data": None, "data_base64": "e30="}, "e-1", "`data`"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_in_it_is_a_dead_letter_and_red(name: str) -> None:
    attributes, response_id, said = BROKEN[name]
    stage = theatre()
    stage.run([record(wrapped(b"{}", **attributes), 5, topic="responses")])
    [found], [letter] = decided(stage), [decode(DeadLetter, s.value) for s in stage.sent if s.topic == "dead-letters"]
    assert (found.response_id, found.tier, found.action) == (response_id, "red", "review")
    assert (letter.response_id, said in letter.detail) == (response_id, True), letter.detail


def test_an_event_that_has_such_fields_too_is_read_as_it_stands() -> None:
    """By all readers: those that take bytes at once, and those that look at the object first."""
    value = orjson.dumps(GOOD | {"specversion": "1.0", "data": GOOD | {"query": "another"}})
    assert decode(Response, value) == build(Response, parse(value)) == response()


def test_what_is_no_event_inside_is_none() -> None:
    with pytest.raises(Invalid, match="`data`"):
        decode(Response, b'{"specversion":"1.0"}')


def test_a_week_of_both_modes_is_what_the_oracle_recomputes() -> None:
    what = list(items(week(120, 5).arrivals))
    mixed = [one._replace(value=wrapped(one.value), headers=HEADERS) if n % 2 else one for n, one in enumerate(what)]
    stages = Rehearsal(5).play(mixed)
    report = check(stages.left(), RULES)
    assert report.differences == []
    assert report.checked["dead letters"] == 0
    assert sum(len(log) for log in stages.logs["labels"]) > 20


def test_a_file_of_them_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_bytes(wrapped(encode(response())) + b"\n")
    assert _is_own(path)
    assert [event for _, event in _events([path], None)] == [response()]
