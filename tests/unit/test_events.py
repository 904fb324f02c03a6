"""The wire contract's bytes."""

import ctypes
import sys
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Invalid
from models.events import YEARS, Closure, Decision, Event, decode, encode
from tests.stagecraft import decision


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
