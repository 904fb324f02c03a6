"""A ledger that keeps only what does not cancel out, so that memory follows what is open, not what has passed.

>>> feedback = Unmatched()
>>> feedback.add("f1", 2), feedback.add("f1", -1), feedback.add("f2", -1)
(None, None, None)
>>> feedback.over, feedback.under
(1, 1)
"""


class Unmatched:
    """Entries in (+1) and outcomes (-1) per id."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def add(self, key: str, amount: int) -> None:
        """Book an entry; what cancels out is forgotten."""
        left = self._open.pop(key, 0) + amount
        if left:
            self._open[key] = left

    @property
    def over(self) -> int:
        """Entries without an outcome."""
        return sum(n for n in self._open.values() if n > 0)

    @property
    def under(self) -> int:
        """Outcomes without an entry."""
        return -sum(n for n in self._open.values() if n < 0)
