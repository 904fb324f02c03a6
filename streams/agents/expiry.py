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

SHEAVES: Final = 256
"""Into which a horizon is cut at least: rows of one are deleted together, so they live up to 1/256 longer."""
SHEAF: Final = 256
"""Rows of one at most."""
AT_ONCE: Final = 4096
"""Rows deleted with a batch, and the rest of a sheaf: as many as a batch brings, and no stall after a long pause."""


class Sheaf(Struct):
    """Rows that are over at almost the same time."""

    first: datetime
    last: datetime
    keys: list[bytes]


class Shelf:
    """The rows of a partition in the order in which they are over: time never goes back, and each is kept as long.

    Of a row only its key is held, for there may be millions.
    """

    def __init__(self, keep: timedelta, clock: Clock) -> None:
        self.watermark = EPOCH
        self._keep = keep
        self._span = keep / SHEAVES
        self._clock = clock
        self._live = deque[Sheaf]()
        self._over = deque[tuple[float, Sheaf]]()
        self._again: dict[bytes, Sheaf] = {}
        """Where the rows stand last that were kept more than once."""

    def keep(self, key: bytes, at: datetime, *, again: bool) -> datetime:
        """Keep a row from `at`, or from now if that is later, and return which; time comes that far."""
        self.watermark = max(self.watermark, at)
        until = self.watermark + self._keep
        sheaf = self._live[-1] if self._live else None
        if sheaf is None or len(sheaf.keys) == SHEAF or until - sheaf.first > self._span:
            sheaf = Sheaf(until, until, [])
            self._live.append(sheaf)
        sheaf.last = until
        sheaf.keys.append(key)
        if again:
            self._again[key] = sheaf
        return self.watermark

    def forgets(self, at: datetime) -> bool:
        """Whether a row that was kept from then may be deleted by now."""
        return at + self._keep <= self.watermark

    async def fill(self, rows: Iterable[tuple[datetime, bytes]]) -> None:
        """Keep the rows that stand, in the order of their times."""
        dated = sorted([(self._clock.bounded(at), key) async for at, key in gently(rows)])
        async for at, key in gently(dated):
            self.keep(key, at, again=False)

    def clear(self) -> list[bytes]:
        """Take the keys of the rows that may go now."""
        now = self._clock.passed()
        while self._live and self._live[0].last <= self.watermark:
            self._over.append((now, self._live.popleft()))
        gone: list[bytes] = []
        while len(gone) < AT_ONCE and self._over and self._over[0][0] <= now - GRACE_S:
            _, sheaf = self._over.popleft()
            gone += [key for key in sheaf.keys if self._again.get(key, sheaf) is sheaf]
        for key in gone:
            self._again.pop(key, None)
        return gone


class Expiry:
    """Deletes rows `keep` after their event time, or after they came if they came late: they may still be repeated.

    `read` tells a row's time when the partition is new to us.
    """

    def __init__(self, keep: timedelta, read: Callable[[bytes, bytes], datetime | None], clock: Clock) -> None:
        self.keep = keep
        self._read = read
        self._clock = clock
        self._make = partial(Shelf, keep, clock)
        self._shelves: dict[int, Shelf] = {}

    @property
    def watermark(self) -> datetime:
        """The latest event time seen in any partition."""
        return max((shelf.watermark for shelf in self._shelves.values()), default=EPOCH)

    def set(self, partition: int, key: bytes, at: datetime, *, again: bool = False) -> datetime:
        """Note that a row lives on from `at`, or from now if that is later, and return which; time comes that far.

        `again`: it stood already.
        """
        if (shelf := self._shelves.get(partition)) is None:
            return at  # forgotten meanwhile: whoever takes the partition up again reads the row itself
        return shelf.keep(key, at, again=again)

    async def take(self, partition: int, state: State) -> dict[bytes, bytes | None]:
        """Return the rows to delete now."""
        if (shelf := self._shelves.get(partition)) is None:
            dated = ((self._read(key, value), key) for key, value in state.items(partition))
            shelf = self._make()
            await shelf.fill((at, key) for at, key in dated if at is not None)
            self._shelves[partition] = shelf
        return dict.fromkeys(shelf.clear())

    async def idle(self, partition: int, state: State) -> dict[bytes, bytes | None]:
        """Return the rows to delete while no records come: none of a partition that is new to us while nobody tells
        the time, for all in it would be dated by a clock that may be years behind.
        """
        return await self.take(partition, state) if partition in self._shelves or self._clock.is_told else {}

    def forgets(self, partition: int, at: datetime) -> bool:
        """Whether a row that was set for this time may be deleted by now."""
        shelf = self._shelves.get(partition)
        return shelf is not None and shelf.forgets(at)

    def forget(self, *partitions: int) -> None:
        """Drop what is cached of these partitions, or of all."""
        for partition in partitions or tuple(self._shelves):
            self._shelves.pop(partition, None)
