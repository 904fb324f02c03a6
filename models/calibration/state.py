"""The calibrator's state as versioned JSON types, checked strictly on the way back in.

Floats survive JSON bit for bit (shortest round-trip representation), so restore(state) continues exactly as the
original would have.
"""

from collections.abc import Iterator
from math import inf, isfinite
from typing import Any, Final, Literal

import msgspec

from models.calibration.belief import Curve, Offset
from models.calibration.serving import Key
from models.calibration.settings import FilterSettings
from models.errors import StateError
from models.events import Count, unquoted

SCHEMA: Final = 4


class GroupState(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An offset. What is at rest at its end is left out: most groups never jumped.

    `rising`: evidence above 1, as alternative, evidence, since, and again; `born`: None if it never jumped.
    """

    mean: float
    var: float
    clock: Count
    rising: list[float] = []
    born: float | None = None
    quarantined: bool = False

    def evidence(self) -> Iterator[tuple[float, float, float]]:
        """Return alternative, evidence, since of each that rises."""
        numbers = iter(self.rising)
        return zip(numbers, numbers, numbers, strict=True)


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `Filter.state` returns, as a type."""

    schema: Literal[4] = 4
    settings: FilterSettings
    clock: Count
    ignored: Count
    curve: list[float]
    covariance: list[float]
    everyone: GroupState
    slope: GroupState
    audits: GroupState
    newest: float | None
    late: Count
    even: bool
    uneven: bool
    delays: dict[str, Any]
    groups: dict[str, dict[str, GroupState]]


def pack(block: Offset) -> list[Any]:
    """Return an offset as JSON types, as `GroupState` reads it."""
    rising: list[float] = []
    if max(block.evidence) > 1.0:
        rising = [x for j, value in enumerate(block.evidence) if value > 1.0 for x in (j, value, block.since[j])]
    born = None if block.valid_since == -inf else block.valid_since
    head = [block.mean, block.var, block.clock]
    if block.quarantined:
        return [*head, rising, born, True]
    return head if not rising and born is None else [*head, rising] if born is None else [*head, rising, born]


def unpack(state: GroupState, block: Offset) -> Offset:
    """Set a new offset to what `pack` returned. Raises `StateError` for impossible numbers."""
    known = len(state.rising) % 3 == 0 and set(range(len(block.evidence))).issuperset(state.rising[::3])
    if not known or state.var < 0.0:
        raise StateError("calibrator state is damaged: a group's variance or evidence is impossible")
    _finite([state.mean, state.var, state.born or 0.0, *state.rising])
    block.mean, block.var, block.clock = state.mean, state.var, state.clock
    for j, value, since in state.evidence():
        block.evidence[int(j)], block.since[int(j)] = value, since
    block.valid_since, block.quarantined = -inf if state.born is None else state.born, state.quarantined
    return block


def read(state: object) -> State:
    """Check a JSON object. Raises `StateError` if it is of another version or not whole."""
    version = state.get("schema") if isinstance(state, dict) else None
    if version != SCHEMA:
        shown = version if isinstance(version, int) else "of another type"
        raise StateError(
            f"calibrator state of schema {shown}; this version reads {SCHEMA}: only the labels lead to it again"
        )
    try:
        return msgspec.convert(state, State)
    except msgspec.ValidationError as error:
        what = "it has an unknown field" if "unknown field" in str(error) else unquoted(error)  # whose name is not ours
        raise StateError(f"calibrator state is damaged: {what}") from None


def read_curve(state: State) -> Curve:
    """Return the curve. Raises `StateError` if a number is missing, not finite, or a variance negative."""
    if len(state.curve) != 4 or len(state.covariance) != 10:
        raise StateError("calibrator state is damaged: the curve needs 4 means and 10 covariances")
    _finite(state.curve + state.covariance)
    if min(state.covariance[k] for k in (0, 4, 7, 9)) < 0.0:
        raise StateError("calibrator state is damaged: a variance is negative")
    return Curve(list(state.curve), list(state.covariance))


def nest(blocks: dict[Key, Offset]) -> dict[str, dict[str, list[Any]]]:
    """Return the groups by name, then value."""
    nested: dict[str, dict[str, list[Any]]] = {}
    for (name, value), block in sorted(blocks.items()):
        nested.setdefault(name, {})[value] = pack(block)
    return nested


def _finite(values: list[float]) -> None:
    if not all(map(isfinite, values)):
        raise StateError("calibrator state is damaged: a number is not finite")
