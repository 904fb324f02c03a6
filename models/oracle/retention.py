"""Since when a log is whole: what is older than its first record may be beyond retention, what is younger may not.

Live, a record's timestamp says when it was written, and nothing that belongs to an event is written before it; the
clocks that date events may be fast, for which an orphan's wait is allowed. In a replay all is written at once: there
the edge is what the first record says of its time. Inputs come in some disorder then, for which that wait is allowed as
well, and what the stages write in more: their partitions may be a response's horizon apart.
"""

from bisect import bisect_left
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from models.events import WRITTEN_BY_OTHERS
from models.oracle.logs import Entry, Found, Rules, Topics

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FOREVER: Final = datetime(9000, 1, 1, tzinfo=UTC)
LAST_MS: Final = (FOREVER - EPOCH) // timedelta(milliseconds=1)
SKEW: Final = timedelta(minutes=5)
"""How far an event from the future moves the stages' time, live."""
CLOCKS: Final = timedelta(minutes=1)
"""How far the clocks of workers and brokers may differ."""


class Retention:
    """The beginnings of all logs."""

    def __init__(self, topics: Topics, rules: Rules) -> None:
        self._topics = topics
        self._rules = rules
        self._edges: dict[str, dict[int, datetime]] = defaultdict(dict)
        for (topic, partition), start in topics.logs.starts.items():
            if start > 0:
                self._edges[topic][partition] = self._left_out(topic, partition) or self._edge(topic, partition)

    def covers(self, topic: str, since: datetime | None, partition: int | None = None) -> bool:
        """Whether all that was written of `since` and later still stands: in one partition, or in every one."""
        edges = self._edges[topic]
        cut = list(edges) if partition is None else [partition] if partition in edges else []
        return not cut or (since is not None and since > max(self.lost_until(topic, one) for one in cut))

    def lost_until(self, topic: str, partition: int) -> datetime:
        """Return how far the time of what is beyond retention may have come; `EPOCH` if nothing is."""
        edge = self._edges[topic].get(partition)
        return EPOCH if edge is None else edge + self._slack(topic)

    def time(self, found: Found[Any]) -> datetime | None:
        """Return when a record was written, or, in a replay, what it says of its time; None if it does not."""
        if self._is_dated(found.entry):
            return moment(found.entry)
        said: datetime | None = getattr(found.event, "occurred_at", None) or getattr(found.event, "closed_at", None)
        return said

    def since(self, entry: Entry, said: datetime) -> datetime:
        """Return since when what belongs to an event may have been written; `entry` says when that was.

        Live, a date after it was written is from a fast clock and tells nothing: within a response's horizon, then.
        """
        wrong = self._is_dated(entry) and said > moment(entry)
        return moment(entry) - self._rules.horizons.response if wrong else said

    def _is_dated(self, entry: Entry) -> bool:
        return not self._rules.replayed and entry.at_ms > 0

    def _left_out(self, topic: str, partition: int) -> datetime | None:
        """Since when all was read of a log whose beginning was left out; None if it has expired."""
        period = self._topics.logs.period
        start = self._topics.logs.starts[topic, partition]
        if period is None or start <= period.begins.get((topic, partition), 0):
            return None
        return EPOCH + timedelta(milliseconds=period.read_ms)

    def _edge(self, topic: str, partition: int) -> datetime:
        """The time of the first record that can be read; for ever if nothing is left."""
        found = self._topics.found.get(topic, [])
        place = bisect_left(found, (partition, 0), key=lambda one: one.entry.place)
        left = place < len(found) and found[place].entry.partition == partition
        return (left and self.time(found[place])) or FOREVER

    def _slack(self, topic: str) -> timedelta:
        horizons = self._rules.horizons
        return horizons.response if self._rules.replayed and topic not in WRITTEN_BY_OTHERS else horizons.orphan


def moment(entry: Entry) -> datetime:
    """Return a record's timestamp. Whoever writes may set it: to no moment at all, or to none that is a date."""
    return EPOCH + timedelta(milliseconds=max(0, min(entry.at_ms, LAST_MS)))
