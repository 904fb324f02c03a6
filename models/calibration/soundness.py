"""Can a state that a person hands over have been learnt?

`state.read` checks shape and finiteness, which is enough for what we wrote ourselves. An instruction comes from
outside: with a covariance that is none, or a date beyond the calendar, LEARN would stop at one of the next labels, and
again at each start.
"""

from typing import Final

import numpy as np

from models.calibration.state import GroupState, State
from models.errors import StateError

LOGITS: Final = 100.0
"""Far beyond any mean (they are clipped at 12) and any variance (at 4)."""
EVIDENCE: Final = 1e101
"""Beyond every threshold, and far from where a product is no number any more."""
YEAR_2200_S: Final = 7.3e9
LOG_DELAY: Final = 25.0
"""Thirty years, in log seconds, are 21."""
ROUNDING: Final = -1e-9
UPPER: Final = np.triu_indices(4)


def check_sound(state: State) -> None:
    """Raise `StateError` for a state that no labels lead to."""
    alone = (state.everyone, state.slope, state.audits)
    bounded = [*state.curve, *state.covariance, *(number for block in alone for number in _moments(block))]
    for values in state.groups.values():
        bounded += [number for group in values.values() for number in _moments(group)]
    if not all(abs(number) <= LOGITS for number in bounded):
        raise StateError("no labels lead to these parameters: a mean or variance is out of all bounds")
    if np.linalg.eigvalsh(_matrix(state.covariance)).min() < ROUNDING or state.covariance[0] <= 0.0:
        raise StateError("no labels lead to these parameters: the covariance is not one")
    groups = [*alone, *(group for values in state.groups.values() for group in values.values())]
    dated = all(_is_dated(group, state.clock) for group in groups) and state.late <= state.clock
    if not dated or not 0.0 <= (state.newest or 0.0) <= YEAR_2200_S:
        raise StateError("no labels lead to these parameters: a date or an evidence is out of all bounds")
    delays = [number for delay in state.delays.values() for number in delay[1:]]
    if not all(0.0 <= number <= LOG_DELAY**2 for number in delays):
        raise StateError("no labels lead to these parameters: a delay is out of all bounds")


def _moments(group: GroupState) -> tuple[float, float]:
    return group.mean, group.var


def _is_dated(group: GroupState, clock: int) -> bool:
    times = [group.born or 0.0, *group.rising[2::3]]
    known = all(0.0 <= at <= YEAR_2200_S for at in times) and all(e <= EVIDENCE for e in group.rising[1::3])
    return known and group.clock <= clock


def _matrix(covariance: list[float]) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """From the upper triangle, by rows, to the whole."""  # (10,) -> (4, 4)
    whole = np.zeros((4, 4))
    whole[UPPER] = covariance
    return whole + np.triu(whole, 1).T
