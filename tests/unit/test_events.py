"""The wire contract's bytes."""

import ctypes
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final, get_args

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from models.errors import Invalid, Oversized
from models.events import (
    MAX_MESSAGE_BYTES,
    YEARS,
    Calibration,
    Closure,
    Decision,
    Event,
    Feedback,
    Group,
    Instruction,
    Label,
    Scored,
    _ids,
    as_id,
    build,
    decode,
    encode,
)
from tests.stagecraft import START, decision, feedback


@pytest.mark.parametrize("group", [*get_args(Group), "clinician"])
def test_the_longest_scope_can_be_released(group: str) -> None:
    order = Instruction(
        instruction_id="i", deployment="d", order="release", version=1, scope=f"{group}={'x' * 128}", by="A. Schmidt",
        occurred_at=START,
    )  # fmt: skip
    assert decode(Instruction, encode(order)) == order


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc how large a block is")
def test_what_is_kept_of_an_event_takes_no_more_room_than_its_bytes() -> None:
    """SCORE keeps a decision for each response; orjson leaves eight kilobytes to each of its results."""
    kept = [
        encode(decision(f"r{n}", conversation_id="c" * 120, model_hash="m" * 64, input_digest="f" * 64))
        for n in range(100)
    ]
    size = ctypes.CDLL(None).malloc_usable_size
    size.restype, size.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    assert all(len(value) > 512 for value in kept), "below, Python has pools of its own"
    assert max(size(id(value)) / len(value) for value in kept) < 2


@given(
    st.floats(-1e15, 1e15),
    st.floats(0.0, 1.0),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    st.datetimes(datetime(YEARS[0], 1, 2), datetime(YEARS[-1], 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 (as it wants them)
)
def test_encoding_says_what_was_meant(logit: float, risk: float, groups: dict[str, str], at: object) -> None:
    event = decision(logit=logit, risk=risk, groups=groups, decided_at=at)
    assert decode(Decision, encode(event)) == event
    assert orjson.dumps(orjson.loads(encode(event))) == encode(event)


REST: Final = {
    "action": "accepted", "rejected": False, "depth": "none", "weight": 1.0, "delay_s": 1.0, "reason": "orphan",
    "labels": 1, "version": 1, "missing_labels": 0, "cause": "labels", "parameters": {},
    **dict.fromkeys(("occurred_at", "closed_at", "as_of"), "2026-01-05T08:00:00Z"),
}  # fmt: skip
"""What events need beside ids."""
ID = re.compile(r"[\x21-\x7e]{1,128}")
PLACES = {
    Feedback: ["feedback_id", "response_id", "clinician"],
    Closure: ["closure_id", "response_id", "feedback_id", "deployment"],
    Label: ["label_id", "feedback_id", "response_id", "deployment", "clinician", "revises", "decision.conversation_id"],
    Calibration: ["deployment"],
}
NEARLY = st.text("a~ \x7f\n\u00a0\u2028\u00e9", max_size=3) | st.integers(126, 130).map("a".__mul__)


@given(st.sampled_from([(type_, place) for type_, places in PLACES.items() for place in places]), NEARLY)
def test_an_id_is_printable_ascii_without_spaces_wherever_it_stands(where: tuple[Any, str], text: str) -> None:
    type_, place = where
    scored = msgspec.to_builtins(msgspec.convert(decision(), Scored, from_attributes=True))
    event = {name: f"{name}-1" for name in PLACES[type_]} | REST | {"decision": scored}
    *outer, inner = place.split(".")
    (scored if outer else event)[inner] = text
    if ID.fullmatch(text):
        decode(type_, orjson.dumps(event))
    else:
        with pytest.raises(Invalid, match=f"`(\\$.)?{re.escape(place)}`"):
            decode(type_, orjson.dumps(event))
    assert as_id(text) == (text if ID.fullmatch(text) else None)


@pytest.mark.parametrize("type_", Event.__subclasses__())
def test_no_id_stands_where_it_is_not_looked_at(type_: Any) -> None:
    assert str(inspect.type_info(type_)).count("StrType(min_length=1, max_length=128,") == len(_ids(type_)[0])


def test_what_is_missing_is_no_id_that_cannot_be() -> None:
    nowhere = Closure(closure_id="x", response_id="r", reason="superseded", deployment="a b", closed_at=START)
    with pytest.raises(Invalid, match="field `deployment`"):
        decode(Closure, encode(nowhere))


def test_a_message_is_as_large_as_the_bound_and_no_larger() -> None:
    value = encode(decision()).ljust(MAX_MESSAGE_BYTES)
    assert decode(Decision, value) == decision()
    with pytest.raises(Oversized):
        decode(Decision, value + b" ")


SAID = msgspec.to_builtins(feedback("f1"))


def test_whatever_offset_a_sender_writes_the_time_is_in_utc() -> None:
    """A state that was restored gave other bytes than the one before it, and reports mixed the hours of two zones."""
    fields = SAID | {"occurred_at": "2026-07-01T23:30:00+05:30"}
    for event in (build(Feedback, fields), decode(Feedback, msgspec.json.encode(fields))):
        assert event.occurred_at.isoformat() == "2026-07-01T18:00:00+00:00"


@pytest.mark.parametrize("at", ["1970-01-01T00:00:00+14:00", "2198-12-31T20:00:00-05:00", "0001-01-01T00:00:00+14:00"])
def test_the_years_of_an_event_are_those_of_utc(at: str) -> None:
    """What is written of it has to be read again."""
    with pytest.raises(Invalid, match="field `occurred_at` is not in the years"):
        build(Feedback, SAID | {"occurred_at": at})


def test_what_follows_from_an_event_of_the_last_year_can_be_read() -> None:
    """An orphan is closed a day after it was said: of the year 2200, JOIN wrote what no stage of this version reads."""
    with pytest.raises(Invalid, match="field `occurred_at` is not in the years 1970 to 2198"):
        build(Feedback, SAID | {"occurred_at": "2199-12-31T12:00:00Z"})
    closed = Closure(closure_id="x", response_id="r", reason="orphan", closed_at=datetime(2199, 1, 1, 12, tzinfo=UTC))
    assert decode(Closure, encode(closed)) == closed


@pytest.mark.parametrize("year", [1, YEARS[0] - 1, YEARS[-1] + 1, 9999])
@pytest.mark.parametrize("field", ["occurred_at", "decided_at", "closed_at"])
def test_no_time_lies_so_far_off_that_a_horizon_cannot_be_added(field: str, year: int) -> None:
    far = datetime(year, 6, 1, tzinfo=UTC)
    closed = Closure(closure_id="x", response_id="r", reason="orphan", closed_at=far)
    event: Event = closed if field == "closed_at" else decision(**{field: far})
    with pytest.raises(Invalid, match=f"field `{field}` is not in the years"):
        decode(type(event), encode(event))


def test_a_number_that_other_readers_of_json_would_change_is_refused() -> None:
    with pytest.raises(Invalid, match=r"`int` <= 9007199254740992 - at `\$.turn`"):
        decode(Decision, encode(decision(turn=2**53 + 1)))
    assert decode(Decision, encode(decision(turn=2**53))).turn == 2**53
