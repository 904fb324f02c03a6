"""Do rejections arrive before acceptances? Then a young response's labels lie, and have to mature first.

If rejections come within minutes and acceptances within hours, the labels in hand over-state the risk of the latest
responses, most of all just after a change. Waiting until a response is old enough for both kinds of verdict undoes it.

Two exponentially weighted means of log delay, of rejections and of acceptances, are compared. Maturing is switched on
when they differ by more than `RATIO` and `SIGMAS` standard errors, off when they no longer do; a label is then held
until its response is as old as the mean delay of the slower kind. While nothing differs, nothing is held.
"""

from math import exp, log, sqrt
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

SLOWEST: Final = exp(0.5772156649)
"""Mean over geometric mean of exponential delays (Euler's constant)."""


class Delays(msgspec.Struct, array_like=True):
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


class Maturity:
    """How long to hold labels, learnt from their delays.

    >>> maturity = Maturity()
    >>> for i in range(200):
    ...     maturity.add(60.0 * (1 + i % 9), rejected=True)
    ...     maturity.add(600.0 * (1 + i % 9), rejected=False)
    >>> round(maturity.hold_s() / 60.0)
    73
    """

    __slots__ = ("_accepted", "_rejected")

    def __init__(self) -> None:
        self._rejected = Delays()
        self._accepted = Delays()

    def add(self, delay_s: float, *, rejected: bool) -> None:
        """Count the delay of one verdict."""
        (self._rejected if rejected else self._accepted).add(delay_s)

    @property
    def known(self) -> bool:
        """Whether there are delays enough of both kinds to compare."""
        return min(self._rejected.count, self._accepted.count) >= MIN_LABELS

    def hold_s(self) -> float:
        """Return the age in seconds that a response must have before its label is folded; 0: none."""
        fast, slow = sorted((self._rejected, self._accepted), key=lambda delays: delays.mean)
        if not self.known:
            return 0.0
        gap = slow.mean - fast.mean
        significant = gap > RATIO and gap > SIGMAS * sqrt(fast.error + slow.error)
        return SLOWEST * exp(slow.mean) if significant else 0.0

    def state(self) -> dict[str, Any]:
        """Return the state as JSON types."""
        return {"rejected": msgspec.to_builtins(self._rejected), "accepted": msgspec.to_builtins(self._accepted)}

    @classmethod
    def restore(cls, state: object) -> "Maturity":
        """Continue from `state`, bit for bit. Raises `StateError` if it is damaged."""
        try:
            saved = msgspec.convert(state, dict[str, Delays])
            self = cls()
            self._rejected, self._accepted = saved["rejected"], saved["accepted"]
        except (msgspec.ValidationError, KeyError) as error:
            raise StateError(f"label delays are damaged: {error}") from None
        return self
