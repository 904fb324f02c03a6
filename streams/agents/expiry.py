"""Rows that expire: kept for a while of event time, and of real time, so that repeats are known; then deleted."""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from msgspec import Struct

from streams.agents.common import gently
from streams.clock import Clock
from streams.state import State
from streams.timers import EPOCH, GRACE_S

MIN_BUCKETS: Final = 256
"""Into which a horizon is cut at least: rows of one are deleted together, so they live up to 1/256 longer."""
BUCKET_SIZE: Final = 256
"""Rows of one at most."""
MAX_DELETIONS: Final = 4096
"""Rows deleted with a batch, and the rest of a bucket: as many as a batch brings, and no stall after a long pause."""


class Bucket(Struct):
    """Rows that are over at almost the same time."""

    first: datetime
    last: datetime
    keys: list[bytes]


class ExpiryQueue:
    """The rows of a partition in the order in which they are over: time never goes back, and each is kept as long.

    Of a row only its key is held, for there may be millions.
    """

    def __init__(self, keep: timedelta, clock: Clock) -> None:
        self.watermark = EPOCH
        self._keep = keep
        self._span = keep / MIN_BUCKETS
        self._clock = clock
        self._live = deque[Bucket]()
        self._in_grace = deque[tuple[float, Bucket]]()
        self._latest: dict[bytes, Bucket] = {}
        """Where the rows stand last that were kept more than once."""

    def add(self, key: bytes, at: datetime, *, again: bool) -> datetime:
        """Keep a row from `at`, or from now if that is later, and return which; time comes that far."""
        self.watermark = max(self.watermark, at)
        until = self.watermark + self._keep
        bucket = self._live[-1] if self._live else None
        if bucket is None or len(bucket.keys) == BUCKET_SIZE or until - bucket.first > self._span:
            bucket = Bucket(until, until, [])
            self._live.append(bucket)
        bucket.last = until
        bucket.keys.append(key)
        if again:
            self._latest[key] = bucket
        return self.watermark

    def is_expired(self, at: datetime) -> bool:
        """Whether a row that was kept from then may be deleted by now."""
        return at + self._keep <= self.watermark

    async def load(self, rows: Iterable[tuple[datetime, bytes]]) -> None:
        """Keep the rows that stand, in the order of their times."""
        dated = sorted([(self._clock.clamped(at), key) async for at, key in gently(rows)])
        async for at, key in gently(dated):
            self.add(key, at, again=False)

    def take_expired(self) -> list[bytes]:
        """Take the keys of the rows that may go now."""
        now = self._clock.monotonic()
        while self._live and self._live[0].last <= self.watermark:
            self._in_grace.append((now, self._live.popleft()))
        gone: list[bytes] = []
        while len(gone) < MAX_DELETIONS and self._in_grace and self._in_grace[0][0] <= now - GRACE_S:
            _, bucket = self._in_grace.popleft()
            gone += [key for key in bucket.keys if self._latest.get(key, bucket) is bucket]
        for key in gone:
            self._latest.pop(key, None)
        return gone


class Expiry:
    """Deletes rows `keep` after their event time, or after they came if they came late: they may still be repeated.

    `read` tells a row's time when the partition is new to us.
    """

    def __init__(self, keep: timedelta, read: Callable[[bytes, bytes], datetime | None], clock: Clock) -> None:
        self.keep = keep
        self._read = read
        self._make = partial(ExpiryQueue, keep, clock)
        self._queues: dict[int, ExpiryQueue] = {}

    @property
    def watermark(self) -> datetime:
        """The latest event time seen in any partition."""
        return max((queue.watermark for queue in self._queues.values()), default=EPOCH)

    def set(self, partition: int, key: bytes, at: datetime, *, again: bool = False) -> datetime:
        """Note that a row lives on from `at`, or from now if that is later, and return which; time comes that far.

        `again`: it stood already.
        """
        if (queue := self._queues.get(partition)) is None:
            return at  # forgotten meanwhile: whoever takes the partition up again reads the row itself
        return queue.add(key, at, again=again)

    async def take(self, partition: int, state: State) -> dict[bytes, bytes | None]:
        """Return the rows to delete now."""
        if (queue := self._queues.get(partition)) is None:
            dated = ((self._read(key, value), key) for key, value in state.items(partition))
            queue = self._make()
            await queue.load((at, key) for at, key in dated if at is not None)
            self._queues[partition] = queue
        return dict.fromkeys(queue.take_expired())

    def is_expired(self, partition: int, at: datetime) -> bool:
        """Whether a row that was set for this time may be deleted by now."""
        queue = self._queues.get(partition)
        return queue is not None and queue.is_expired(at)

    def forget(self, *partitions: int) -> None:
        """Drop what is cached of these partitions, or of all."""
        for partition in partitions or tuple(self._queues):
            self._queues.pop(partition, None)
