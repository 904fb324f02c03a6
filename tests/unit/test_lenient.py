"""Names of headers that are no UTF-8: every record is read once, and all else of it as it was sent."""

from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from hypothesis import given
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords

from streams import lenient
from tests.batches import batch_of

TP = TopicPartition("feedback", 0)
LATIN = "Größe".encode("latin-1")
CODECS = {"none": 0, "gzip": 1}


def aiokafka(data: bytes, begin: int) -> list[Any]:
    return list(
        fetcher.PartitionRecords(
            TP, fetcher.MemoryRecords(data), [], begin, None, None, check_crcs=True, isolation_level=0
        )
    )


def kafka_python(data: bytes, begin: int) -> list[Any]:
    return list(Fetcher.PartitionRecords(begin, TP, MemoryRecords(data)).take())


READERS = [aiokafka, kafka_python]


def told(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.translate(lenient.ASCII).decode()


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("codec", CODECS)
@given(
    st.lists(
        st.lists(st.sampled_from([LATIN, b"ce_id", b"", "é".encode(), b"\xff"]) | st.binary(), min_size=1), min_size=1
    ),
    st.integers(0, 5),
)
def test_every_record_is_read_once_with_its_values(read: Any, codec: str, names: list[list[bytes]], begin: int) -> None:
    data, sent, begin = b"", [], min(begin, len(names[0]) - 1)  # no broker sends batches that are wholly before it
    for some in names:
        data += batch_of(some, some, CODECS[codec], first=len(sent))
        sent += [(len(sent) + n, name, ((told(name), name),)) for n, name in enumerate(some)]
    found = [(one.offset, one.value, tuple(one.headers)) for one in read(data, begin)]
    assert found == sent[begin:]


@pytest.mark.parametrize("read", READERS)
def test_what_cannot_be_read_was_written_over_and_no_more(read: Any) -> None:
    (found,) = read(batch_of([LATIN], [LATIN]), 0)
    assert (found.key, found.value, found.headers[0]) == (b"k", LATIN, ("Gr??e", LATIN))


@pytest.mark.parametrize("read", READERS)
def test_a_batch_that_was_damaged_is_still_refused(read: Any) -> None:
    data = bytearray(batch_of([b"0", b"1"], [LATIN, LATIN]))
    data[-1] ^= 1
    with pytest.raises(Exception, match=r"CRC|crc"):
        read(bytes(data), 0)
