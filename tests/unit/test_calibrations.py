"""What a scorer knows of the calibrators, without a broker."""

from types import SimpleNamespace
from typing import Any

import msgspec
import orjson
import pytest
from aiokafka.errors import KafkaError

from models.calibration.ledger import Ledger
from models.events import Calibration, encode
from models.policy import Policy
from streams import calibrations
from streams.calibrations import Calibrations
from streams.settings import load
from tests.stagecraft import record
from tests.unit.test_fold import label, newest, theatre


def version(labels: int) -> Calibration:
    """A calibrator's version after so many labels."""
    ledger = Ledger("ward", Policy())
    for n in range(1, labels + 1):
        ledger.apply(label(n))
    found = ledger.calibration()
    assert found
    return found


async def test_the_newest_version_serves() -> None:
    known = Calibrations(load())
    for value in (encode(version(2)), encode(version(3)), encode(version(1)), b"{}", b"\xff"):
        known.take(value)
    held = known.of("ward").calibration
    assert held
    assert held.version == 3


@pytest.mark.parametrize("damage", [{"parameters": {}}, {"schema": 99}, {"labels": -1}])
async def test_where_the_newest_version_cannot_be_read_no_older_one_serves(damage: dict[str, Any]) -> None:
    """LEARN was upgraded first, say: what it has found out since may have tightened the cuts."""
    known = Calibrations(load())
    known.take(encode(version(2)))
    assert known.of("ward").calibration is not None
    known.take(orjson.dumps({**orjson.loads(encode(version(3))), **damage}))
    assert known.of("ward").calibration is None
    known.take(encode(version(4)))
    assert known.of("ward").calibration is not None


@pytest.mark.parametrize("value", [b'{"deployment":"\xed\xa0\x80","version":3}', b"[" * 100_000, b"7", b"\xff"])
async def test_what_is_no_calibration_ends_nothing(value: bytes) -> None:
    """Found by fuzzing: bytes that are no UTF-8 within a name raise what msgspec does not call its own."""
    known = Calibrations(load())
    known.take(encode(version(2)))
    known.take(value)
    assert known.of("ward").calibration is not None


async def test_a_deployment_whose_calibrator_was_taken_away_has_none() -> None:
    known = Calibrations(load())
    known.take(encode(version(2)))
    known.hear(SimpleNamespace(key=b"ward", value=None, headers=[]))
    known.hear(SimpleNamespace(key=None, value=None, headers=[]))
    assert known.of("ward").calibration is None


async def test_what_was_taken_away_is_known_until_a_newer_version_comes() -> None:
    """To LEARN, which must not put it back: Kafka forgets that it was taken away where it stands again."""
    known = Calibrations(load())
    assert not known.took_away("ward")
    known.hear(SimpleNamespace(key=b"ward", value=None, headers=[]))
    assert known.took_away("ward")
    known.take(encode(version(3)))
    assert not known.took_away("ward")
    known.hear(SimpleNamespace(key=b"ward", value=None, headers=[]))
    known.take(encode(version(3)))
    assert known.took_away("ward")
    known.take(encode(version(4)))
    assert (known.took_away("ward"), known.took_away("icu")) == (False, False)


async def test_an_older_version_does_not_serve_where_a_newer_one_was_taken_away() -> None:
    """It is signed as well, and may be sent again."""
    known = Calibrations(load())
    known.take(encode(version(3)))
    known.hear(SimpleNamespace(key=b"ward", value=None, headers=[]))
    for old in (2, 3):
        known.take(encode(version(old)))
        assert known.of("ward").calibration is None
    known.take(encode(version(4)))
    assert known.of("ward").calibration is not None


async def test_of_two_that_say_they_are_the_same_version_the_first_serves() -> None:
    known = Calibrations(load())
    first, other = version(2), msgspec.structs.replace(version(2), labels=99)
    for value in (encode(first), encode(other), encode(first)):
        known.take(value)
        assert known.of("ward").calibration == first


class Topic:
    """Holds versions of which one is read at a time."""

    def __init__(self, versions: int, partitions: int = load().partitions) -> None:
        self.read, self.versions, self.partitions = 0, versions, partitions
        self.seen: list[bool] = []

    def partitions_for_topic(self, topic: str) -> set[int]:
        assert topic == "calibrations"
        return set(range(self.partitions))

    async def end_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return {partitions[0]: self.versions}

    async def position(self, _: Any) -> int:
        return self.read

    async def getmany(self, **_: Any) -> dict[Any, list[Any]]:
        if self.read == self.versions:
            raise KafkaError
        self.read += 1
        self.seen.append(self.known.in_contact)
        return {None: [SimpleNamespace(key=b"ward", value=encode(version(self.read)), headers=[])]}

    known: Calibrations


async def test_no_version_is_current_before_all_are_read() -> None:
    """The broker answers before the topic is read: of what stands in it, the last may have tightened the cuts."""
    topic = Topic(3)
    topic.known = known = Calibrations(load())
    with pytest.raises(KafkaError):
        await known._read(topic)
    assert topic.seen == [False, False, False]
    assert (known.in_contact, known.caught_up) == (True, True)


async def test_where_the_topic_has_grown_no_version_is_current() -> None:
    """Newer ones may lie in partitions that are not read: half of all deployments, of eight instead of four."""
    topic = Topic(3, partitions=8)
    topic.known = known = Calibrations(load())
    with pytest.raises(KafkaError):
        await known._read(topic)
    assert (known.in_contact, known.caught_up) == (False, False)


async def test_without_word_from_the_broker_no_version_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Any = Calibrations(load())
    known.take(encode(version(2)))
    assert not known.of("ward").current, "before the first contact"
    known._contact = 0.0
    monkeypatch.setattr(calibrations, "LOST_S", float("inf"))
    assert known.of("ward").current
    monkeypatch.setattr(calibrations, "LOST_S", 0.0)
    assert not known.of("ward").current, "too long ago"


async def test_a_machine_that_was_suspended_has_no_contact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds that timers count stand still meanwhile."""
    at, topic = [100.0], Topic(3)
    monkeypatch.setattr("streams.clock.time.clock_gettime", lambda _: at[0])
    topic.known = known = Calibrations(load())
    with pytest.raises(KafkaError):
        await known._read(topic)
    assert known.of("ward").current
    at[0] += calibrations.LOST_S
    assert not known.of("ward").current


def test_learn_begun_anew_on_a_cut_log_is_heard_at_once_and_nothing_old_comes_back() -> None:
    """Counted from 1 again, its versions were passed over for as many labels as had expired: a jump among them, too."""
    log = [record(label(n, calibrator_version=max(0, n - 3)), n) for n in range(30)]
    lost, anew = theatre(), theatre()
    known = Calibrations(load())
    for stage, labels in ((lost, log), (anew, log[10:])):
        for one in labels:
            stage.run([one])
        for sent in stage.sent:
            if sent.topic == "calibrations":
                known.take(sent.value or b"")
        assert known.of("ward").calibration == newest(stage)
    known.take(encode(newest(lost)))
    assert known.of("ward").calibration == newest(anew)
