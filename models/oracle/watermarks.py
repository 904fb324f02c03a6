"""How far event time had come when JOIN took a record: bounds, because two topics interleave as they like.

JOIN's time in a partition is the lesser of two watermarks: the latest times of what it has consumed of `decisions` and
of `feedback`. Each topic is consumed in order; how they interleave is in no log. In a replay nothing else moves time.
Live, the slower clock of its machine's and the broker's does, and an event may run ahead of that by `SKEW`: then time
had come at most that far beyond the timestamp of what followed (its first record: a retry is later), and an event
counts for the lower bound at most as late as its own record's timestamp.
"""

from bisect import bisect_left
from collections import defaultdict
from datetime import datetime
from itertools import accumulate

from models.events import Decision, Feedback, Watermark
from models.oracle.logs import Entry, Found, Rules, Topics
from models.oracle.retention import CLOCKS, EPOCH, FOREVER, SKEW, Retention, moment

Input = Decision | Feedback | Watermark


class WatermarkBounds:
    """Bounds of the event time in every partition of JOIN."""

    def __init__(self, topics: Topics, rules: Rules, retention: Retention) -> None:
        self._replayed = rules.replayed
        self._retention = retention
        self._lower: dict[tuple[str, int], datetime] = defaultdict(lambda: EPOCH)
        self._decided: dict[int, datetime] = defaultdict(lambda: EPOCH)
        self._offsets: dict[int, list[int]] = defaultdict(list)
        times: dict[int, list[datetime]] = defaultdict(list)
        for topic in (Decision.topic, Feedback.topic):
            for found in topics.found[topic]:
                place = topic, found.entry.partition
                if topics.logs.consumed("join", found.entry):
                    self._lower[place] = max(self._lower[place], self._surely(found))
                if topic == Feedback.topic:
                    self._offsets[found.entry.partition].append(found.entry.offset)
                    times[found.entry.partition].append(found.event.occurred_at)
                else:
                    self._decided[found.entry.partition] = max(self._decided[place[1]], found.event.occurred_at)
        self._told = {partition: list(accumulate(found, max)) for partition, found in times.items()}

    def lower(self, partition: int) -> datetime:
        """Return how far time has surely come."""
        return min(self._lower[Decision.topic, partition], self._lower[Feedback.topic, partition])

    def upper(self, partition: int, before: int | None = None, *, end: Entry | None = None) -> datetime:
        """Return how far it may have come at most, before the feedback at this offset was taken (None: in the end).

        `end`: what JOIN wrote after that moment.
        """
        if not self._replayed:
            return FOREVER if end is None or end.at_ms <= 0 else moment(end) + SKEW + CLOCKS
        offsets = self._offsets[partition]
        place = len(offsets) if before is None else bisect_left(offsets, before)
        told = self._told[partition][place - 1] if place else EPOCH
        lost_until = self._retention.lost_until
        return min(
            max(told, lost_until(Feedback.topic, partition)),
            max(self._decided[partition], lost_until(Decision.topic, partition)),
        )

    def _surely(self, found: Found[Input]) -> datetime:
        at = found.event.occurred_at
        return at if self._replayed else min(at, moment(found.entry))
