"""Which stages each response has reached: one small integer per response, and a count per combination.

>>> lives = Lives()
>>> lives.mark("r1", ARRIVED), lives.mark("r1", ARRIVED), lives.mark("r2", DECIDED)
(True, False, True)
>>> lives.count(ARRIVED), lives.lacking(ARRIVED, DECIDED), lives.lacking(DECIDED, ARRIVED)
(1, 1, 1)
"""

from collections import Counter
from typing import Final

ARRIVED: Final = 1
"""A response was read, or a dead letter names it."""
DECIDED: Final = 2
LABELLED: Final = 4
UNLABELLED: Final = 8
"""Closed: no verdict came within the horizon."""
JUDGED: Final = 16
"""A label says something: it has weight."""


class Lives:
    """Marks of every response. Marking twice changes nothing, and the order of marks does not matter."""

    def __init__(self) -> None:
        self._marks: dict[str, int] = {}
        self._counts: Counter[int] = Counter()

    def __contains__(self, response_id: str | None) -> bool:
        """Whether a response is known."""
        return response_id in self._marks

    def mark(self, response_id: str, stage: int) -> bool:
        """Note that a response reached a stage; return whether that is news."""
        before = self._marks.get(response_id, 0)
        after = before | stage
        if after == before:
            return False
        self._marks[response_id] = after
        self._counts[before] -= 1
        self._counts[after] += 1
        return True

    def count(self, stage: int) -> int:
        """Responses that reached a stage."""
        return sum(n for marks, n in self._counts.items() if marks & stage)

    def lacking(self, reached: int, missed: int) -> int:
        """Responses that reached any stage of `reached` and none of `missed`."""
        return sum(n for marks, n in self._counts.items() if marks & reached and not marks & missed)
