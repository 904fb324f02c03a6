"""Versions side by side: what an older worker cannot read is left to a newer one, for nobody sends it again."""

import asyncio
from itertools import chain

import pytest

from models.errors import DeliveryError, UnknownSchema
from models.events import WRITTEN_BY_OTHERS, DeadLetter, decode
from models.oracle import Entry, Logs, check
from models.oracle.logs import READERS
from models.signing import Keys
from streams.delivery import Plan
from streams.stages import INPUTS
from streams.wire import outgoing
from tests.rehearsal import RULES, Rehearsal
from tests.stagecraft import context, record

NEWER = b'{"schema":2,"type":"of_tomorrow"}'
READ = [(stage, topic) for stage, topics in INPUTS.items() for topic in topics]
OLDER = UnknownSchema("field `schema` is 2; this version reads 1: upgrade the older side")
KEYS = Keys.read({"demur": {"secret": "d" * 32}})


def taken(stage: str, topic: str, value: bytes = NEWER, keys: Keys | None = None) -> Plan:
    """What a stage of this version makes of a record."""
    made = Rehearsal(partitions=1).stages[stage].stage
    made.context = made.context._replace(keys=keys)  # type: ignore[attr-defined]
    return asyncio.run(made.handle(0, [record(value, 7, topic=topic)]))


def letters(plan: Plan) -> list[DeadLetter]:
    return [decode(DeadLetter, send.value or b"") for send in plan.sends if send.topic == DeadLetter.topic]


@pytest.mark.parametrize(("stage", "topic"), [one for one in READ if one[1] not in WRITTEN_BY_OTHERS])
def test_a_record_of_ours_in_a_newer_schema_ends_the_older_worker(stage: str, topic: str) -> None:
    """Ten decisions of a newer SCORE were dead letters of an older JOIN, and their feedback orphans, for good."""
    with pytest.raises(DeliveryError, match=rf"records of {topic}, partition 0 from offset 7 on: written by another"):
        taken(stage, topic)


@pytest.mark.parametrize(("stage", "topic"), [one for one in READ if one[1] in WRITTEN_BY_OTHERS])
def test_what_others_send_in_another_schema_is_set_aside(stage: str, topic: str) -> None:
    """They can send it again; and no sender may stop the stream."""
    assert [letter.code for letter in letters(taken(stage, topic))] == ["unknown_schema"]


@pytest.mark.parametrize(("stage", "topic"), READ)
def test_whoever_cannot_sign_cannot_end_a_worker(stage: str, topic: str) -> None:
    assert [letter.code for letter in letters(taken(stage, topic, keys=KEYS))] == ["forged"]


NONE = [b"0", b"-1", b'"2"', b"1.5", b"2.0", b"true", b"null", b"[2]", b'{"2":2}', b"1" + b"0" * 30]
"""What no version gives as its `schema`."""


@pytest.mark.parametrize("value", [b"{}", b'{"schema":1}', b"\xff", b"[2]", *(b'{"schema":%b}' % one for one in NONE)])
@pytest.mark.parametrize(("stage", "topic"), READ)
def test_what_no_version_writes_ends_nothing(stage: str, topic: str, value: bytes) -> None:
    assert [letter.code for letter in letters(taken(stage, topic, value))] in (["invalid"], ["undecodable"])


def test_every_input_of_every_stage_is_tried() -> None:
    assert set(chain.from_iterable(INPUTS.values())) >= {*WRITTEN_BY_OTHERS, "decisions", "labels", "outcomes"}


@pytest.mark.parametrize("set_aside", [False, True])
def test_an_older_oracle_names_a_newer_record_once(*, set_aside: bool) -> None:
    """No dead letter of it is missed; those that stages before this one wrote are right as they are."""
    newer = Entry("decisions", 0, 0, b"r1", NEWER)
    logs = {"decisions": [newer]}
    if set_aside:
        sends = [
            outgoing("", context().letter(stage, record(NEWER, 0, topic="decisions"), OLDER))
            for stage in READERS["decisions"]
        ]
        logs["dead-letters"] = [
            Entry(s.topic, 0, n, s.key, s.value or b"", tuple(s.headers or ())) for n, s in enumerate(sends)
        ]
    found = [str(one) for one in check(Logs(logs), RULES).differences]
    assert found == [f"decisions/0/0: not a record that a stage of this version writes: {OLDER} (I12)"]
