"""What lies in another partition than its key's is set aside: it would be joined with nothing, or folded anew."""

import asyncio
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import example, given
from hypothesis import strategies as st

from models.events import CONTRACT, DeadLetter, Decision, Watermark, decode
from models.oracle.wire import KEYS
from models.partitions import home
from streams.agents.common import Context
from streams.metrics import Metrics
from tests.stagecraft import Theatre, at, context, decision, feedback, record
from tests.unit import test_fold, test_join, test_score

KAFKAS = DefaultPartitioner()
OF = 4


def elsewhere(event: Any) -> int:
    return (home(event.key.encode(), OF) + 1) % OF


def placed(theatre: Theatre, event: Any, partition: int, offset: int = 0) -> list[Any]:
    """Return what a stage of four partitions sends when an event comes in one of them."""
    stage: Any = theatre.stage
    stage.context = context(partitions=OF)
    plan = asyncio.run(stage.handle(partition, [record(event, offset, partition=partition)]))
    return [decode(CONTRACT[send.topic], send.value or b"") for send in plan.sends]


@example(b"x" * 131, 1000)
@example(b"x" * 132, 1000)
@example(b"y" * 270, 1000)
@given(st.binary(max_size=140), st.integers(1, 1000))
def test_places_are_those_of_kafkas_clients(key: bytes, partitions: int) -> None:
    assert home(key, partitions) == KAFKAS(key, list(range(partitions)), [])


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
     (b"a-little-bit-longer-string", -1486304829), (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
     (b"abc", 479470107)],
)  # fmt: skip
def test_places_are_those_of_java(key: bytes, murmur2: int) -> None:
    """From Kafka's own `UtilsTest`."""
    assert home(key, 1000) == (murmur2 & 0x7FFFFFFF) % 1000


def test_a_response_elsewhere_is_red_and_told_how_to_place_it() -> None:
    asked = test_score.response()
    letter, decided = placed(test_score.theatre(), asked, wrong := elsewhere(asked))
    assert isinstance(letter, DeadLetter)
    assert (letter.code, letter.response_id) == ("misplaced", "r1")
    right = home(b"c1", OF)
    assert letter.detail.startswith(f"by field `conversation_id` it belongs in partition {right} of {OF}, not {wrong}:")
    assert "partitioner=murmur2_random" in letter.detail
    assert isinstance(decided, Decision)
    assert (decided.tier, decided.reasons) == ("red", ("invalid_input", "misplaced"))
    [decided] = placed(test_score.theatre(), asked, right)
    assert decided.tier != "red"


def test_feedback_elsewhere_reaches_no_row() -> None:
    stage, said = test_join.theatre(), feedback("f1")
    [letter] = placed(stage, said, elsewhere(said))
    assert letter.code == "misplaced"
    assert not any(b"f1" in value for value in stage.state.rows.values())


def test_labels_elsewhere_make_no_version() -> None:
    """What is signed can be copied; there, no id of it is known."""
    [letter] = placed(test_fold.theatre(), test_fold.label(1), elsewhere(test_fold.label(1)))
    assert (letter.code, letter.stage) == ("misplaced", "learn")


def test_a_watermark_lies_anywhere() -> None:
    mark = Watermark(occurred_at=at(0))
    known = Context("", Metrics(), partitions=OF)
    assert all(known.decode(Watermark, record(mark, 0, partition=one)) == mark for one in range(OF))


def test_events_are_keyed_by_what_the_oracle_says() -> None:
    letter = DeadLetter(
        source_topic="labels", partition=1, offset=7, stage="learn", code="x", detail="", digest="", size_bytes=0
    )
    for event in (decision(), test_fold.label(1), test_score.outcome(), letter):
        assert event.key == KEYS[event.topic](event)
    assert feedback("f1").key == "r1"
    assert Watermark(occurred_at=at(0)).key is None
