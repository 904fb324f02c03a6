"""Names of headers that are no UTF-8. Kafka takes them, as librdkafka sends any bytes, and Java reads them leniently.

Both of our clients end at such a name, begin again at the same offset, and end again (aiokafka 0.14, kafka-python
3.0.12). To import this mends both: the record goes on, with `?` in place of each byte of the name that is not ASCII.
"""

from collections.abc import Iterator
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy
from aiokafka.record.util import decode_varint
from kafka.record import default_records, memory_records

ASCII: Final = bytes(byte if byte < 0x80 else ord("?") for byte in range(256))


class _Mending:
    """A batch that writes over names that it cannot read."""

    __slots__ = ()
    _buffer: bytearray
    _pos: int

    def _read_msg(self, *args: Any) -> Any:
        try:
            return super()._read_msg(*args)  # type: ignore[misc]
        except UnicodeDecodeError:
            _rename(self._buffer, self._pos)
            return super()._read_msg(*args)  # type: ignore[misc]


def _rename(buffer: bytearray, at: int) -> None:
    """Make the names of headers ASCII, of the record that begins `at`; see the format in kafka-python's source."""
    for _ in ("length", "attributes", "time", "offset"):
        _, at = decode_varint(buffer, at)
    for _ in ("key", "value"):
        at = _field(buffer, at).stop
    count, at = decode_varint(buffer, at)
    for _ in range(count):
        name = _field(buffer, at)
        buffer[name] = buffer[name].translate(ASCII)
        at = _field(buffer, name.stop).stop


def _field(buffer: bytearray, at: int) -> slice:
    """Return where the bytes lie whose length stands `at`: none, if it is negative."""
    length, begin = decode_varint(buffer, at)
    return slice(begin, begin + max(length, 0))


class _MendingBatch(_Mending, _DefaultRecordBatchPy):  # type: ignore[misc]
    """aiokafka's own in Python, which takes ten times as long as its own in C."""


class _Python(_MemoryRecordsPy):  # type: ignore[misc]
    """A fetch, read in Python."""

    def next_batch(self, *_: Any) -> Any:
        """Return the next batch; those older than version 2 know no headers."""
        part, batch = self._next_slice, super().next_batch()
        return _MendingBatch(part) if part and isinstance(batch, DefaultRecordBatch) else batch


class _Kept(MemoryRecords):  # type: ignore[misc, valid-type]
    """A fetch, read in C, whose bytes can be read once more."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


class _Mended(fetcher.PartitionRecords):
    """What was fetched of a partition; from a name on that C cannot read, read in Python."""

    def _unpack_records(self) -> Iterator[Any]:
        try:
            yield from super()._unpack_records()  # type: ignore[no-untyped-call]
        except UnicodeDecodeError:
            first = self.next_fetch_offset
            self._records = _Python(self._records.data)
            for record in super()._unpack_records():  # type: ignore[no-untyped-call]
                if record.offset >= first:  # each batch says anew what comes next
                    yield record


class _KafkaPythonBatch(_Mending, default_records.DefaultRecordBatch):
    """kafka-python's own."""

    __slots__ = ()


_aiokafka: Any = fetcher
_aiokafka.MemoryRecords, _aiokafka.PartitionRecords = _Kept, _Mended
_kafka_python: Any = memory_records
_kafka_python.DefaultRecordBatch = _KafkaPythonBatch
