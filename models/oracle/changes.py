"""The calibrator's own log anew: which events make an entry, and what each must say, state and all.

An entry is made of each instruction that was followed, of each label that forced a change (a jump, a tightening, a
quarantine, a bias), of another model, of the first version under another policy, of the first that is counted above one
that was lost, and of the first of each day of event time for all the rest.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from models.calibration.jumps import Jump
from models.calibration.settings import FilterSettings
from models.events import MAX_MESSAGE_BYTES, Calibration, Change, Instruction, Label, Standing
from models.oracle.risk import offset
from models.policy import Policy

LARGEST: Final = MAX_MESSAGE_BYTES // 2
"""A state beyond is not recorded: the message might not be read."""
DAY_S: Final = 86_400.0
LINEAGE: Final = 10**9
"""Versions that are counted from one beginning."""
CURVE: Final = ("intercept", "slope_low", "slope_high")
WHOLE: Final = {"parameters", "target", "groups"}
NEEDS: Final = {"rollback": WHOLE, "rebuild": WHOLE | {"last"}, "approval": {"ceilings"}, "release": {"scope"}}
"""What each order needs beside the version that it names."""


class ChangeLog:
    """The entries of one deployment, made as its log is folded. `policy`: by which LEARN folds it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._last: Standing | None = None

    def is_over(self, as_of: datetime | None, version: int) -> bool:
        """Whether there is no entry yet, or its day is over, its policy another, or its version counted otherwise."""
        last = self._last
        return as_of is not None and (
            last is None
            or last.policy != self.policy.learning
            or _day(as_of) > _day(last.as_of)
            or last.version // LINEAGE != version // LINEAGE
        )

    def instructed(self, by: Instruction, now: Calibration, state: Mapping[str, Any]) -> Change:
        """Return the entry of an instruction that was followed. `state`: the fold's, `ledger` and `succession`."""
        named = by.scope or f"version {by.version}"
        evidence = {"by": by.by, "why": by.why} | {f"ceiling {scope}": top for scope, top in by.ceilings.items()}
        found = self._entry(by.instruction_id, f"{by.order}: {named}", evidence, now, state)
        return msgspec.structs.replace(found, ordered_at=by.occurred_at)

    def learnt(
        self, label: Label, found: Sequence[Jump], *, anew: bool, now: Calibration, state: Mapping[str, Any]
    ) -> Change:
        """Return the entry of a label that makes one. `anew`: its model is another one than before."""
        if anew and self._last is not None:
            return self._entry(label.label_id, f"another model: {now.model_hash[:12]}", {}, now, state)
        causes = "; ".join(f"{one.kind}: {one.scope} {one.delta:+.1f}" for one in found)
        return self._entry(label.label_id, causes or now.cause, _strongest(found), now, state)

    def _entry(
        self, last: str, cause: str, evidence: Mapping[str, Any], now: Calibration, state: Mapping[str, Any]
    ) -> Change:
        before, self._last = self._last, standing(now, self.policy)
        old = {} if before is None else before.policy
        moved = [f"policy: {k} {old[k]} → {new}" for k, new in self._last.policy.items() if old.get(k, new) != new]
        recorded = msgspec.to_builtins(self._last)
        whole = {"model": now.model_hash, "ledger": state["ledger"], "recorded": recorded, "last": last}
        whole["succession"] = state["succession"]
        return Change(
            deployment=now.deployment,
            model_hash=now.model_hash,
            cause="; ".join([*moved, cause]),
            evidence={"labels": now.labels - (before.labels if before else 0), **evidence},
            before=before,
            after=self._last,
            last=last,
            state=whole if len(msgspec.json.encode(whole)) <= LARGEST else None,
        )


def standing(version: Calibration, policy: Policy) -> Standing:
    """Return how a version stands: its curve and offsets in words, the rest as published."""
    state = version.parameters["filter"]
    settings = FilterSettings.read(state["settings"])
    parameters = {name: round(state["curve"][n], 4) for n, name in enumerate(CURVE)}
    for name, values in state["groups"].items():
        if name not in settings.raters:
            parameters |= {f"{name}={one}": round(offset(state, settings, name, one)[0], 4) for one in values}
    return Standing(
        version=version.version,
        labels=version.labels,
        missing_labels=version.missing_labels,
        parameters=parameters,
        cuts=version.cuts,
        shares=version.shares,
        as_of=version.as_of,
        basis=version.basis,
        policy=policy.learning,
    )


def superfluous(by: Instruction) -> list[str]:
    """Name the fields of an instruction that its order does not need, and that should be empty."""
    return [
        name
        for name in (*sorted(WHOLE), "last", "ceilings", "scope")
        if getattr(by, name) and name not in NEEDS[by.order]
    ]


def _day(at: datetime) -> float:
    return at.timestamp() // DAY_S


def _strongest(found: Sequence[Jump]) -> dict[str, float | str]:
    if not found:
        return {}
    one = max(found, key=lambda jump: jump.statistic)
    return {"statistic": one.statistic, "threshold": one.threshold, "since": one.since, "scope": one.scope}
