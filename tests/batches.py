"""Batches of records as no client of ours would send them."""

from collections.abc import Sequence

from kafka.record import MemoryRecordsBuilder


class Raw(str):
    """A name of a header that is any bytes, of which this holds each as a character."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return super().encode("latin-1")


def batch_of(values: Sequence[bytes], names: Sequence[bytes] = (), codec: int = 0, first: int = 0) -> bytes:
    """Return a batch in format 2; each record has a header of its name. `codec`: 1 for gzip. `first`: its offset."""
    made = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=2**20)
    for value, *name in zip(values, *([names] if names else []), strict=True):
        made.append(timestamp=1000, key=b"k", value=value, headers=[(Raw(one, "latin-1"), one) for one in name])
    made.close()
    batch = bytearray(made.buffer())
    batch[:8] = first.to_bytes(8, "big")  # which its checksum does not cover
    return bytes(batch)
