"""The wire contract's bytes."""

import ctypes
import sys
from datetime import UTC

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.events import Decision, decode, encode
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
    st.datetimes(timezones=st.just(UTC)),
)
def test_encoding_says_what_was_meant(logit: float, risk: float, groups: dict[str, str], at: object) -> None:
    event = decision(logit=logit, risk=risk, groups=groups, decided_at=at)
    assert decode(Decision, encode(event)) == event
    assert orjson.dumps(orjson.loads(encode(event))) == encode(event)
