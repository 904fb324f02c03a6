"""Where a record lies: Kafka's default partitioner, murmur2 of the key, which producers of ours and of Java's use.

What is joined or folded meets in a partition, so a record elsewhere is set aside: labels that are copied there would
be folded anew, in another order, and feedback would never meet its decision. `librdkafka` places by CRC32 unless it is
told otherwise, and a copy keeps its signature wherever it is written.

>>> home(b"21", 4), home(b"foobar", 4)
(0, 2)
"""

from functools import lru_cache
from struct import Struct
from typing import Final

from models.errors import Misplaced
from models.events import Event

M: Final = 0x5BD1E995
SEED: Final = 0x9747B28C
"""Kafka's, in `org.apache.kafka.common.utils.Utils.murmur2`."""
WORD: Final = 0xFFFFFFFF
WORDS: Final = [Struct(f"<{n}I") for n in range(33)]
"""As many as the longest id has."""
KNOWN: Final = 2**14
"""Keys whose place is remembered: deployments and conversations come again and again."""


def misplaced(event: Event, partition: int, partitions: int) -> Misplaced | None:
    """Return what is wrong with the partition of an event, if it has a key and lies in another than its own."""
    key = event.key
    if key is None or (wanted := home(key.encode(), partitions)) == partition:
        return None
    return Misplaced(
        f"by field `{event.keyed_by}` it belongs in partition {wanted} of {partitions}, not {partition}: "
        "let its producer place records by murmur2 of that key, as Kafka does (librdkafka: partitioner=murmur2_random)"
    )


@lru_cache(KNOWN)
def home(key: bytes, partitions: int) -> int:
    """Return the partition, counted from 0, of a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 (Austin Appleby) as Kafka has it, in 32 bits without sign."""
    whole = len(data) // 4
    words = WORDS[whole] if whole < len(WORDS) else Struct(f"<{whole}I")
    h = SEED ^ len(data)
    for word in words.unpack_from(data):
        k = word * M & WORD
        h = (h * M ^ (k ^ k >> 24) * M) & WORD
    if rest := data[4 * whole :]:
        h = (h ^ int.from_bytes(rest, "little")) * M & WORD
    h = (h ^ h >> 13) * M & WORD
    return h ^ h >> 15
