"""How a log is known again: by a record that no other has at the same place, of the same time and content.

An offset alone proves nothing. A log may have been restored from a backup and written on since, made anew under its old
name, or be another cluster's; names and ids of cluster and topic survive a restore.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from models.events import digest
from streams.topics import TOMBSTONE_RETENTION

MARGIN: Final = timedelta(hours=1)
"""Between the broker's clock and ours, and between reading that a row is on disk and that it was deleted."""
UNDATED: Final = -1
"""Time of a record that the broker did not date: whoever wrote it may have had a wrong clock."""


class ChangelogMismatch(StrEnum):
    """Why rows are not of a changelog as it is now, or may not be."""

    SHORT = "records that the broker had acknowledged are gone from the changelog"
    OTHER = "the changelog is not the one that they are of: it was restored from a backup, or made anew"
    COMPACTED = "the record that they end with was compacted away"
    AGED = "what tells of deletions may be gone, the broker does not date records, or a clock is wrong"

    @property
    def is_loss(self) -> bool:
        """Whether what was durable is not any more: somebody must hear of it."""
        return self in {ChangelogMismatch.SHORT, ChangelogMismatch.OTHER}


class ChangelogRecord(NamedTuple):
    """One record of a changelog; a value of None deletes. `at`: when the broker took it, in ms since the epoch."""

    offset: int
    at: int
    key: bytes
    value: bytes | None


class Checkpoint(NamedTuple):
    """What is remembered of a record; `at` as in `ChangelogRecord`.

    >>> checkpoint = Checkpoint.of(ChangelogRecord(7, 1_700_000_000_000, b"key", b"value"))
    >>> Checkpoint.decode(checkpoint.encode()) == checkpoint
    True
    """

    offset: int
    at: int
    digest: str

    @classmethod
    def of(cls, change: ChangelogRecord) -> "Checkpoint":
        """Return the checkpoint of a record."""
        return cls(change.offset, change.at, digest(b"\0".join((change.key, change.value or b""))))

    @classmethod
    def decode(cls, said: bytes) -> "Checkpoint":
        """Read what `encode` wrote."""
        offset, at, found = said.decode().split()
        return cls(int(offset), int(at), found)

    def encode(self) -> bytes:
        """Return it in bytes."""
        return f"{self.offset} {self.at} {self.digest}".encode()

    def mismatch(self, found: ChangelogRecord | None) -> ChangelogMismatch | None:
        """Return why a log that was read from here on is not known again, if so. `found`: the first record of it."""
        if found is None or found.offset < self.offset:
            return ChangelogMismatch.SHORT
        if found.offset > self.offset:
            return ChangelogMismatch.COMPACTED
        return None if Checkpoint.of(found) == self else ChangelogMismatch.OTHER

    def is_old(self, now: int) -> bool:
        """Whether it may be forgotten at `now` (as `at`) that a row was deleted after this record. In doubt, it may."""
        age = timedelta(milliseconds=now - self.at)
        return self.at == UNDATED or not -MARGIN < age < TOMBSTONE_RETENTION - 2 * MARGIN
