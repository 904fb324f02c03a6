"""Ends a worker that makes no progress, so that its supervisor starts another.

What counts as progress is any change: of the rows that were read from a changelog, or of what was written or settled. A
stage without anything to do needs none.
"""

from collections.abc import Hashable
from typing import Any, Final

PATIENCE_S: Final = 60.0
"""A group that rebalances waits up to a minute for a member that does not answer; a delivery gives up before."""


class Watchdog:
    """Watches one stage.

    >>> dog = Watchdog()
    >>> dog.is_stuck("offset 3", 0.0), dog.is_stuck("offset 3", 59.0), dog.is_stuck("offset 4", 61.0)
    (False, False, False)
    >>> dog.is_stuck("offset 4", 130.0), dog.is_stuck(None, 131.0)
    (True, False)
    """

    def __init__(self) -> None:
        self._last: Hashable = None
        self._since = 0.0

    def is_stuck(self, progress: Hashable, now: float) -> bool:
        """Whether `progress` has stood still for too long at `now` (seconds); None: there is nothing to do."""
        if progress is None or progress != self._last:
            self._last, self._since = progress, now
        return progress is not None and now - self._since > PATIENCE_S


def progress(app: Any) -> Hashable:
    """Return what changes while a stage works, or None when it has nothing to do."""
    if app.rebalancing:
        return "rebalancing"
    lowest = app.consumer.lowest_in_flight()
    return None if lowest is None else (lowest, app.delivery.progress_count())
