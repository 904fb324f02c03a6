"""The calibrator's state as versioned JSON types, checked strictly on the way back in.

Floats survive JSON bit for bit (shortest round-trip representation), so restore(state) continues exactly as the
original would have.
"""

from math import inf, isfinite
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from models.calibration.belief import Curve, Offset
from models.calibration.serving import Key
from models.calibration.settings import FilterSettings
from models.errors import StateError

SCHEMA: Final = 2

Count = Annotated[int, Meta(ge=0, le=2**53)]
GroupState = tuple[float, float, Count, list[tuple[int, float, float]], float | None, bool]
"""Mean, variance, clock, evidence above 1 (alternative, evidence, since), born (null: never jumped), quarantined."""


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `Filter.state` returns, as a type."""

    schema: Literal[2] = 2
    settings: FilterSettings
    clock: Count
    ignored: Count
    curve: list[float]
    covariance: list[float]
    everyone: GroupState
    audits: GroupState
    newest: float | None
    even: bool
    delays: dict[str, Any]
    groups: dict[str, dict[str, GroupState]]


def pack(block: Offset) -> GroupState:
    """Return an offset as JSON types; evidence at rest is left out."""
    rising = [(j, value, block.since[j]) for j, value in enumerate(block.evidence) if value > 1.0]
    return block.mean, block.var, block.clock, rising, None if block.born == -inf else block.born, block.quarantined


def unpack(state: GroupState, block: Offset) -> Offset:
    """Set a new offset to what `pack` returned. Raises `StateError` for impossible numbers."""
    mean, var, clock, rising, born, quarantined = state
    if var < 0.0 or clock < 0 or any(not 0 <= j < 4 for j, _, _ in rising):
        raise StateError("calibrator state is damaged: a group's variance, clock or evidence is impossible")
    _finite([mean, var, born or 0.0, *(number for _, *pair in rising for number in pair)])
    block.mean, block.var, block.clock = mean, var, clock
    for j, value, since in rising:
        block.evidence[j], block.since[j] = value, since
    block.born, block.quarantined = -inf if born is None else born, quarantined
    return block


def read(state: object) -> State:
    """Check a JSON object. Raises `StateError` if it is of another version or not whole."""
    version = state.get("schema") if isinstance(state, dict) else None
    if version != SCHEMA:
        raise StateError(
            f"calibrator state of schema {version!r}; this version reads {SCHEMA}: rebuild from the labels"
        )
    try:
        return msgspec.convert(state, State)
    except msgspec.ValidationError as error:
        raise StateError(f"calibrator state is damaged: {error}") from None


def read_curve(state: State) -> Curve:
    """Return the curve. Raises `StateError` if a number is missing, not finite, or a variance negative."""
    if len(state.curve) != 4 or len(state.covariance) != 10:
        raise StateError("calibrator state is damaged: the curve needs 4 means and 10 covariances")
    _finite(state.curve + state.covariance)
    if min(state.covariance[k] for k in (0, 4, 7, 9)) < 0.0:
        raise StateError("calibrator state is damaged: a variance is negative")
    return Curve(list(state.curve), list(state.covariance))


def nest(blocks: dict[Key, Offset]) -> dict[str, dict[str, GroupState]]:
    """Return the groups by name, then value."""
    nested: dict[str, dict[str, GroupState]] = {}
    for (name, value), block in sorted(blocks.items()):
        nested.setdefault(name, {})[value] = pack(block)
    return nested


def _finite(values: list[float]) -> None:
    if not all(map(isfinite, values)):
        raise StateError("calibrator state is damaged: a number is not finite")
