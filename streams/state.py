"""A stage's rows: a Faust table whose every write is durable in the changelog before it is applied locally.

Faust's own table writes go through a buffer whose flush returns early (`faust.md` F4). Here a write is sent straight
to the changelog, awaited, and then applied by the same road that recovery takes, so that the local store never holds
what the changelog does not. Partitions are explicit: nothing depends on Faust's "current event".
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import faust
from faust.types import TP

from streams.wire import Send, send_all


class _Message(NamedTuple):
    """The shape of a changelog message that Faust's stores read when they recover."""

    tp: TP
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


class _Event(NamedTuple):
    key: bytes | None
    value: bytes | None
    message: _Message


def raw_schema() -> Any:
    """Bytes in, bytes out: nothing is decoded by Faust."""
    return faust.Schema(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


class State:
    """Rows of bytes, each owned by one partition of the stage's input."""

    def __init__(self, app: faust.App, name: str, partitions: int) -> None:
        self._app = app
        self._table = app.Table(name, partitions=partitions, key_type=bytes, value_type=bytes, schema=raw_schema())

    @property
    def changelog(self) -> str:
        """Name of the compacted topic that holds the rows."""
        name: str = self._table.changelog_topic.get_topic_name()
        return name

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return a row, or None."""
        value: bytes | None = (
            self._store._db_for_partition(partition).get(key) if self._on_disk else self._store.data.get(key)
        )
        return value

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the rows of a partition."""
        if self._on_disk:
            rows = self._store._db_for_partition(partition).items()
            yield from ((k, v) for k, v in rows if k != self._store.offset_key)  # Faust keeps its offset among them
            return
        owner = self._store._key_partition
        yield from ((k, v) for k, v in list(self._store.data.items()) if owner.get(k) == partition)

    async def write(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Make rows durable, then apply them; None deletes. Raises `DeliveryError`."""
        sends = [Send(self.changelog, key, value, partition=partition) for key, value in rows.items()]
        done = await send_all(self._app, sends)
        events = [
            _Event(s.key, s.value, _Message(TP(s.topic, partition), partition, meta.offset, s.key, s.value))
            for s, meta in zip(sends, done, strict=True)
        ]
        self._store.apply_changelog_batch(events, to_key=_same, to_value=_same)

    @property
    def _store(self) -> Any:
        return self._table.data

    @property
    def _on_disk(self) -> bool:
        return hasattr(self._store, "_db_for_partition")


def _same(value: bytes | None) -> bytes | None:
    return value
