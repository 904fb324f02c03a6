"""A share that should stay small: an exponentially weighted mean of yes or no, with an alarm that re-arms.

>>> watch = Share(limit=0.2)
>>> [n for n in range(300) if watch.count(yes=n >= 200)]
[222]
>>> watch.count(yes=True)
False
"""

from typing import Final

from msgspec import Struct

FADING: Final = 0.01
"""Weight of one observation: the mean spans about the last hundred."""


class Share(Struct):
    """`mean` is the weighted share, in [0, 1]; it starts at 0, so that a few early ones raise no alarm."""

    limit: float
    mean: float = 0.0
    raised: bool = False

    def count(self, *, yes: bool) -> bool:
        """Count one observation; return whether an alarm is due. It re-arms below half of the limit."""
        self.mean += FADING * (yes - self.mean)
        due = not self.raised and self.mean > self.limit
        self.raised = due or (self.raised and self.mean > self.limit / 2)
        return due
