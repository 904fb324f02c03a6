"""No clinician carries more than a set share of the recent evidence (invariant I10).

Each clinician's granted weight decays with the count of labels (half-life `HALF_LIFE`). A label of weight w is granted
at most what keeps own <= cap (BASE + total), both taken after the grant:

    granted = min(w, (cap (BASE + total) - own) / (1 - cap)),    cap = max(share, 2 / number of clinicians)

So in a pilot of two nobody is muted, and in a large deployment a flood of labels by one, honest or not, is worth at
most `share` of the evidence. `BASE` stands for evidence that is there before the first label, so that it counts.
"""

from typing import Any, Final

import msgspec

from models.errors import StateError

HALF_LIFE: Final = 2_000.0
"""Labels after which a granted weight counts half: some days of a hospital."""

DECAY: Final = 0.5 ** (1.0 / HALF_LIFE)

BASE: Final = 100.0
FORGOTTEN: Final = 0.05
"""Decayed weight below which a clinician is dropped: nothing for four half-lives or more."""

SWEEP: Final = 1_000
"""Labels between two sweeps of the forgotten."""

Weights = dict[str, tuple[float, int]]


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Influence.state` as a type: label count, decayed total, and per clinician (weight, label count of it)."""

    clock: int
    total: float
    weights: Weights


class Influence:
    """Decayed weight per clinician of one deployment.

    >>> influence = Influence(share=0.2)
    >>> for i in range(400):
    ...     granted = influence.grant(f"c{i % 20}", 1.0)
    >>> round(sum(influence.grant("c7", 1.0) for _ in range(400)))
    97
    """

    __slots__ = ("_clock", "_total", "_weights", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self._clock = 0
        self._total = 0.0
        self._weights: Weights = {}

    def grant(self, clinician: str, weight: float) -> float:
        """Count one label of `weight`; return the weight it may have, from 0 to `weight`."""
        self._clock += 1
        own, total, weights = self._own(clinician), self._total * DECAY, self._weights
        cap = max(self.share, 2.0 / (len(weights) + (clinician not in weights)))
        granted = weight if cap >= 1.0 else min(weight, max(0.0, (cap * (BASE + total) - own) / (1.0 - cap)))
        weights[clinician] = own + granted, self._clock
        self._total = total + granted
        if self._clock % SWEEP == 0:
            self._weights = {who: held for who, held in self._weights.items() if self._own(who) >= FORGOTTEN}
        return granted

    def state(self) -> dict[str, Any]:
        """Return the state as JSON types."""
        return {"clock": self._clock, "total": self._total, "weights": dict(self._weights)}

    @classmethod
    def restore(cls, state: object, share: float) -> "Influence":
        """Continue from `state`, bit for bit. Raises `StateError` if it is damaged."""
        try:
            saved = msgspec.convert(state, Saved)
        except msgspec.ValidationError as error:
            raise StateError(f"clinicians' weights are damaged: {error}") from None
        self = cls(share)
        self._clock, self._total, self._weights = saved.clock, saved.total, saved.weights
        return self

    def _own(self, clinician: str) -> float:
        held = self._weights.get(clinician)
        return held[0] * DECAY ** (self._clock - held[1]) if held else 0.0
