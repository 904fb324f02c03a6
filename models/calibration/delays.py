"""Does one kind of verdict arrive before the other? Then what is in hand of the latest responses misstates their risk.

If rejections come within minutes and acceptances within hours, young labels are mostly rejections, most of all just
after a change. Two exponentially weighted means of log delay, of rejections and of acceptances, are compared; they
differ while they are more than `RATIO` and `SIGMAS` standard errors apart.
"""

from math import log, sqrt
from typing import Any, Final

import msgspec

from models.errors import StateError
from models.events import Count

MEMORY: Final = 200.0
"""Labels of each kind that the means look back on."""

RATIO: Final = log(2.0)
SIGMAS: Final = 4.0
MIN_LABELS: Final = 50
MIN_DELAY_S: Final = 1.0
"""Shorter delays count as one second: a logarithm needs a floor."""

MAX_DELAY_S: Final = 1e9
"""Longer ones count as thirty years: such a date is a mistake."""


class Delay(msgspec.Struct, array_like=True):
    """Exponentially weighted mean and variance of log delay of one kind of verdict."""

    count: Count = 0
    mean: float = 0.0
    var: float = 0.0

    def add(self, delay_s: float) -> None:
        """Count one delay in seconds."""
        self.count = count = self.count + 1
        step = 1.0 / count if count < MEMORY else 1.0 / MEMORY
        if not MIN_DELAY_S <= delay_s <= MAX_DELAY_S:
            delay_s = MAX_DELAY_S if delay_s > MAX_DELAY_S else MIN_DELAY_S
        mean = self.mean
        gap = log(delay_s) - mean
        self.mean = mean + step * gap
        self.var = (1.0 - step) * (self.var + step * gap * gap)

    @property
    def error(self) -> float:
        """Variance of the mean."""
        return self.var / min(self.count, MEMORY / 2.0)


class Delays:
    """How long rejections and acceptances take.

    >>> delays = Delays()
    >>> for i in range(200):
    ...     delays.add(60.0 * (1 + i % 9), rejected=True)
    ...     delays.add(600.0 * (1 + i % 9), rejected=False)
    >>> delays.known, delays.differ
    (True, True)
    """

    __slots__ = ("_accepted", "_rejected")

    def __init__(self) -> None:
        self._rejected = Delay()
        self._accepted = Delay()

    def add(self, delay_s: float, *, rejected: bool) -> None:
        """Count the delay of one verdict."""
        (self._rejected if rejected else self._accepted).add(delay_s)

    @property
    def known(self) -> bool:
        """Whether there are delays enough of both kinds to compare."""
        return min(self._rejected.count, self._accepted.count) >= MIN_LABELS

    @property
    def differ(self) -> bool:
        """Whether one kind is known to take longer than the other."""
        if not self.known:
            return False
        gap = abs(self._rejected.mean - self._accepted.mean)
        return gap > RATIO and gap > SIGMAS * sqrt(self._rejected.error + self._accepted.error)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON types."""
        return {"rejected": msgspec.to_builtins(self._rejected), "accepted": msgspec.to_builtins(self._accepted)}

    @classmethod
    def restore(cls, state: object) -> "Delays":
        """Continue from `state`, bit for bit. Raises `StateError` if it is damaged."""
        try:
            saved = msgspec.convert(state, dict[str, Delay])
            self = cls()
            self._rejected, self._accepted = saved["rejected"], saved["accepted"]
        except (msgspec.ValidationError, KeyError) as error:
            raise StateError(f"label delays are damaged: {error}") from None
        return self
