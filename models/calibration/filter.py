"""The calibrator proper: a filter over one deployment's labels. Mathematics: `basis`, `belief`, `jumps`, `serving`."""

from collections.abc import Iterable, Mapping
from math import inf, isfinite, log
from typing import Any, Final, Literal

import msgspec

from models.calibration.basis import basis, clip
from models.calibration.belief import Curve, Offset, noisy_proximal_step, proximal_step, pull
from models.calibration.delays import Delays
from models.calibration.jumps import (
    ALL,
    FAR,
    REACH,
    UPWARD,
    Jump,
    accumulate,
    compare,
    restart,
    same_direction,
    size,
    strongest,
)
from models.calibration.offsets import Offsets
from models.calibration.serving import MAX_ETA, Groups, Key, Moments, Thresholds, deviation, evaluate
from models.calibration.settings import DEFAULTS, FilterSettings
from models.calibration.state import SCHEMA, State, pack, read, read_curve, unpack

BIAS_VARIANCE: Final = 0.5
"""The first guess of the organic bias is right to about +-0.7 logits."""

ALONE: Final = 0.75
"""A rater with three quarters of the log evidence needed explains a jump alone; without the strongest rater, half of it
must be left. In a true jump each of three raters has a third."""

BROAD: Final = 0.5
"""Half of the log evidence needed: if all responses have it, the change is not one of a single group, however large."""

SPARED: Final = 4
"""Of the acceptances, which are many, one in four is enough to know their delay."""

CHECK: Final = 64
"""Labels between two looks at whether both kinds of verdict take equally long. Where one comes sooner, young labels are
mostly of that kind, and evidence that passed over the old ones would take that for a change: so it passes over none."""

DOUBTED: Final = (0.015, 0.03)
"""Variances of intercept and first slope while a change of all, or of the slope, is suspected: labels then count two to
three times as much, so that a change too small to prove is soon learnt all the same."""

SOONER: Final = 1.0 / 6.0
"""Share of `suspicion` at which flatter scores are suspected: evidence of ten, which two unlucky greens do not make."""

WAVERING: Final = 0.03
"""Variance of the first slope while they are suspected; that of intercept and second slope follows."""

FADING: Final = 0.99
"""What a label leaves of the evidence while they are suspected: else the suspicion would outlast its cause."""

Candidate = tuple[Key | None, Offset]

MAX_WEIGHT: Final = 100.0
"""More repetitions than any resampling wrapper asks for; keeps every product finite."""


class Observation(msgspec.Struct, frozen=True, gc=False):
    """A label as the filter sees it. `at`: event time in seconds (None: labels are their own clock).

    `weight` lies in [0, 1] but for resampling wrappers; `forced` marks an audited verdict, not a volunteered one.
    """

    logit: float
    groups: Groups
    rejected: bool
    weight: float = 1.0
    at: float | None = None
    forced: bool = False


class Filter:
    """State and fold of one calibrator. Mutable: a label costs ten microseconds, a copy would cost a hundred.

    >>> calibrator = Filter()
    >>> for _ in range(100):
    ...     jump = calibrator.observe(Observation(-2.0, (("site", "north"),), rejected=False))
    >>> [round(p, 3) for p in calibrator.risk(-2.0, [("site", "north")])]
    [0.024, 0.026]
    >>> Filter.restore(calibrator.state()).state() == calibrator.state()
    True
    """

    __slots__ = (
        "_audits",
        "_curve",
        "_delays",
        "_even",
        "_everyone",
        "_late",
        "_newest",
        "_offsets",
        "_slope",
        "_uneven",
        "clock",
        "ignored",
        "settings",
    )

    def __init__(self, settings: FilterSettings = DEFAULTS) -> None:
        self.settings = settings
        self.clock = 0
        self.ignored = 0
        self._curve = Curve.prior(settings.intercept_variance)
        self._curve.keep_monotone(settings.z)
        self._everyone = common(settings, settings.threshold_all)
        self._slope = common(settings, settings.threshold_slope)
        self._audits = Offset(0.0, 0.0, 0)
        self._offsets = Offsets(settings)
        self._delays = Delays()
        self._newest = -inf
        self._late = 0
        self._even = self._uneven = False

    def observe(self, seen: Observation) -> Jump | None:
        """Fold one label. Returns the jump that it revealed, if any.

        A label of an event older than a jump of one of its blocks, of a quarantined group, or without weight changes
        nothing but `ignored` and what is known of delays.
        """
        keys, blocks = self._offsets.find(seen.groups, self.clock)
        at = float(self.clock) if seen.at is None or not isfinite(seen.at) else seen.at
        if not seen.weight > 0.0 or self._stale(blocks, at):
            self._set_aside(seen, blocks, at)
            return None
        self.clock = clock = self.clock + 1
        newest = self._newest
        if at > newest:
            self._newest = at
        elif at < newest and (seen.rejected or not clock % SPARED or not self._late):
            self._note(newest - at, rejected=seen.rejected)
        if not clock % CHECK:
            self._uneven = self._delays.differ
            self._even = self._delays.known and not self._uneven
        eta = self._absorb(seen, blocks)
        if clock <= self._late + self.settings.grace:
            return None
        return self._judge(keys, blocks, eta, seen, at)

    def risk(self, logit: float, groups: Iterable[Key]) -> Moments:
        """Return (risk, upper risk) as of now; for many readings of one version take `thresholds()`."""
        settings, offset, spread = self.settings, 0.0, 0.0
        for key in sorted(groups):
            if key[0] not in settings.raters:
                mean, var = self._offsets.moments(key, self.clock)
                offset, spread = offset + mean, spread + var
        return evaluate(self._curve.coefficients(), offset, spread, settings.z, logit)

    def thresholds(self) -> Thresholds:
        """Return the frozen, fast reading of this version for the scorers."""
        settings = self.settings
        groups = self._offsets.served(self.clock)
        return Thresholds(self._curve.coefficients(), groups, settings.group_variance, settings.raters, settings.z)

    def deviation(self, level: float) -> float:
        """What `thresholds()` tells by that name, at less cost."""
        return deviation(self._curve.coefficients(), level)

    def state(self) -> dict[str, Any]:
        """Return the whole state as versioned JSON types."""
        return {
            "schema": SCHEMA,
            "settings": self.settings.overrides(),
            "clock": self.clock,
            "ignored": self.ignored,
            "curve": list(self._curve.mean),
            "covariance": list(self._curve.cov),
            "everyone": pack(self._everyone),
            "slope": pack(self._slope),
            "audits": pack(self._audits),
            "newest": None if self._newest == -inf else self._newest,
            "late": self._late,
            "even": self._even,
            "uneven": self._uneven,
            "delays": self._delays.state(),
            "groups": self._offsets.state(),
        }

    @classmethod
    def restore(cls, state: object) -> "Filter":
        """Continue from `state`, bit for bit. Raises `StateError` if it is damaged or of another version."""
        return cls._of(read(state))

    def served(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what scorers need of what `state` has just returned: all but the raters, most of the groups."""
        raters = self.settings.raters
        return {**state, "groups": {name: values for name, values in state["groups"].items() if name not in raters}}

    @classmethod
    def reading(cls, state: object) -> Thresholds:
        """Return what `restore(state).thresholds()` does, of what `served` returned too."""
        saved = read(state)
        served = {name: values for name, values in saved.groups.items() if name not in saved.settings.raters}
        return cls._of(msgspec.structs.replace(saved, groups=served)).thresholds()

    @classmethod
    def _of(cls, checked: State) -> "Filter":
        self = cls(checked.settings)
        self.clock, self.ignored = checked.clock, checked.ignored
        self._curve = read_curve(checked)
        unpack(checked.everyone, self._everyone)
        unpack(checked.slope, self._slope)
        unpack(checked.audits, self._audits)
        self._newest = -inf if checked.newest is None else checked.newest
        self._late, self._even, self._uneven = checked.late, checked.even, checked.uneven
        self._delays = Delays.restore(checked.delays)
        self._offsets.restore(checked.groups, self.clock)
        return self

    def release(self, name: str, value: str) -> bool:
        """End a group's quarantine, as a person decided. Returns whether there was one."""
        block = self._offsets.by_key.get((name, value))
        if block is None or not block.quarantined:
            return False
        block.quarantined = False
        restart(block)
        return True

    def quarantined(self, groups: Iterable[Key]) -> list[Key]:
        """Return which of these groups are in quarantine."""
        known = self._offsets.by_key
        return [key for key in groups if key in known and known[key].quarantined]

    def _stale(self, blocks: list[Offset], at: float) -> bool:
        """Whether the event is older than a jump, or of a quarantined group.

        No event is too old where one kind of verdict takes longer: the jump may be nothing but the other kind, coming
        first, and only the old events' labels can put it right.
        """
        uneven = self._uneven
        for block in blocks:  # not any(): a generator would cost more than the loop
            if block.quarantined or (at < block.valid_since and not uneven):
                return True
        return at < self._everyone.valid_since and not uneven

    def _set_aside(self, seen: Observation, blocks: list[Offset], at: float) -> None:
        self.ignored += 1
        counts = seen.weight > 0.0 and not any(block.quarantined for block in blocks)
        if counts and at < self._newest and (seen.rejected or not self.ignored % SPARED):
            self._note(self._newest - at, rejected=seen.rejected)

    def _note(self, delay_s: float, *, rejected: bool) -> None:
        """Count how late a label is. With the first late one the detector's grace begins anew.

        For what comes first is not a fair sample of what will come, even if years of history were learnt before.
        """
        self._late = self._late or self.clock
        self._delays.add(delay_s, rejected=rejected)

    def _absorb(self, seen: Observation, blocks: list[Offset]) -> float:
        """Update curve and offsets with one label. Returns the log-odds that were expected of it."""
        settings, curve, clock = self.settings, self._curve, self.clock
        organic, bias_walk = (0.0, settings.bias_walk) if seen.forced else (1.0, 0.0)
        curve.walk(settings.intercept_walk, settings.slope_walk, bias_walk)
        x1, x2 = basis(seen.logit)
        gain = u0, u1, u2, u3 = curve.gain(x1, x2, organic)
        b0, b1, b2, b3 = curve.mean
        eta = b0 + b1 * x1 + b2 * x2 + b3 * organic
        variance = u0 + u1 * x1 + u2 * x2 + u3 * organic
        severity = 0.0
        for block in blocks:
            block.advance(clock)
            eta += block.mean
            variance += block.var
            if block.is_rater:
                severity += block.mean
        if not -MAX_ETA < eta < MAX_ETA:
            eta = clip(eta, MAX_ETA)
        weight = seen.weight if seen.weight <= 1.0 else min(seen.weight, MAX_WEIGHT)
        step, shrink = (
            noisy_proximal_step(eta, variance, seen.rejected, weight, settings.noise)
            if settings.noise
            else proximal_step(eta, variance, seen.rejected, weight)
        )
        curve.update(gain, step, shrink)
        curve.keep_monotone(settings.z)
        common = step + pull(severity, eta, variance, weight) if severity else step
        for block in blocks:
            block.update(step if block.is_rater else common, shrink)
        return eta

    def _judge(self, keys: list[Key], blocks: list[Offset], eta: float, seen: Observation, at: float) -> Jump | None:
        """Fold the label into every block's evidence and act on the strongest that passes its threshold."""
        settings, passing = self.settings, self._even
        values, tilt = compare(eta, settings.noise, seen.weight, seen.rejected)
        best = accumulate(self._everyone, values, at, passing)
        slope = accumulate(self._slope, tilt, at, passing)
        best = best if best > slope else slope  # noqa: FURB136  # the hot path: max() costs a call
        if best > SOONER * settings.suspicion and not self._offsets.compares:  # else one rater alone could raise it
            self._suspect_change(best, slope)
        for block in blocks:
            score = accumulate(block, values + tilt if block.is_rater else values, at, passing)
            best = best if best > score else score  # noqa: FURB136  # as above
        if best > settings.threshold:
            return self._fire(keys, blocks)
        if (
            seen.forced
            and not self._curve.biased
            and accumulate(self._audits, values, at, passing) > settings.audit_threshold
        ):
            return self._suspect()
        return None

    def _suspect_change(self, best: float, slope: float) -> None:
        """Widen the curve while its evidence, `best` of all and `slope` of the slope, is too small to prove a change.

        Scores that say less than they did make low ones riskier than they look, so that is suspected sooner; and since
        the labels that then count more move the null, the evidence against it fades.
        """
        suspicion = self.settings.suspicion
        if slope > SOONER * suspicion and strongest(self._slope)[1] >= UPWARD:
            self._curve.widen_slope(WAVERING)
            self._slope.evidence = [max(1.0, FADING * value) for value in self._slope.evidence]
        elif best > suspicion:
            self._curve.floor_variance(*DOUBTED)
        else:
            return
        self._curve.keep_monotone(self.settings.z)

    def _fire(self, keys: list[Key], blocks: list[Offset]) -> Jump | None:
        """Act on the block that jumped, if it is clear which did."""
        if (found := self._find(keys, blocks)) is None:
            return None
        key, block = found[0]
        jump = self._describe("jump", *found)
        if key is not None and key[0] in self.settings.guarded and jump.delta < 0.0:
            block.mean, block.quarantined = max(0.0, block.mean), True  # a known risk stays
            jump = msgspec.structs.replace(jump, kind="quarantine")
        else:
            self._shift(key, block, jump.delta)
            (self._everyone if key is None else block).valid_since = jump.since
        # Whoever turned lenient is in the evidence of all, too: left there, it would soon be blamed on everybody.
        # The audits' evidence stands: cleared, a true bias is found thousands of labels later where jumps recur.
        concerned = self._offsets.by_key.values() if key is None else blocks
        for touched in (self._everyone, self._slope, block, *concerned):
            restart(touched)
        return jump

    def _find(self, keys: list[Key], blocks: list[Offset]) -> tuple[Candidate, int, float] | None:
        """Return the block that jumped, its alternative, and the strongest evidence of all."""
        slope = [self._slope] if self._is_shared(self._slope) else []
        whole: list[Candidate] = [(None, block) for block in (self._everyone, *slope)]
        best = max((*whole, *zip(keys, blocks, strict=True)), key=lambda pair: strongest(pair[1]))
        score, j = strongest(best[1])
        culprit = self._culprit(best, score, j) if score > self.settings.threshold else None
        if culprit is None:
            return None
        if (block := culprit[1]).is_rater and block is not best[1]:
            _, j = same_direction(block, j)
        return culprit, j, score

    def _shift(self, key: Key | None, block: Offset, delta: float) -> None:
        """Move a block by most of its jump, and widen it."""
        shift, spread = self.settings.shift * delta, self.settings.widening * delta**2
        if block is self._slope:
            self._curve.rescale(1.0 - shift / REACH, spread / REACH**2)
        elif key is None:
            self._curve.move(shift, spread, self.settings.slope_widening)
        else:
            block.move(shift, spread)
        self._curve.keep_monotone(self.settings.z)

    def _is_shared(self, block: Offset) -> bool:
        """Whether half of a block's log evidence is left without the rater who has most of it.

        One clinician's flipped verdicts look like scores that say less.
        """
        if not self._offsets.compares:
            return True
        _, j = strongest(block)
        left = block.evidence[j]
        return all(same_direction(one, j)[0] ** 2 <= left for one in self._offsets.by_key.values() if one.is_rater)

    def _culprit(self, best: Candidate, score: float, j: int) -> Candidate | None:
        """Return the block that jumped: usually the one with the strongest evidence, `score` for alternative `j`.

        But a rater who accounts for most of it comes first: else one clinician who changes their mind, or is not one,
        would move everybody's risk. And all responses come before a group, if they too have half of the log evidence.
        None: too much of the evidence is one rater's, too little of it is left; wait for more.
        """
        needed = log(self.settings.threshold)
        raters = [pair for pair in self._offsets.by_key.items() if pair[0][0] in self.settings.raters]
        if self._offsets.compares and best not in raters and best[1] is not self._slope:
            top = max(raters, key=lambda pair: same_direction(pair[1], j))
            alone = log(same_direction(top[1], j)[0])
            if alone >= ALONE * needed:
                return top
            if log(score) - alone < 2.0 * (1.0 - ALONE) * needed:
                return None
        if best[0] is not None and best not in raters and log(self._everyone.evidence[j]) >= BROAD * needed:
            return None, self._everyone
        return best

    def _suspect(self) -> Jump:
        """Audited verdicts contradict organic ones: from now on estimate the bias of the latter."""
        score, j = strongest(self._audits)
        jump = self._describe("bias", (None, self._audits), j, score)
        self._curve.enable_bias(-self.settings.shift * jump.delta, BIAS_VARIANCE)
        for touched in (self._audits, self._everyone, self._slope, *self._offsets.by_key.values()):
            restart(touched)
        return jump

    def _describe(self, kind: Literal["jump", "bias"], culprit: Candidate, j: int, score: float) -> Jump:
        key, block = culprit
        return Jump(
            kind=kind,
            scope=ALL if key is None else "=".join(key),
            delta=size(block, j),
            statistic=score,
            threshold=self.settings.threshold if kind == "jump" else self.settings.audit_threshold,
            since=block.since[j],
        )


def common(settings: FilterSettings, threshold: float) -> Offset:
    """Return a block of all responses: its alternatives downwards, and the far ones, need more evidence."""
    up, lenient = settings.threshold / threshold, settings.threshold / settings.threshold_down
    return Offset(0.0, 0.0, 0, weights=(FAR * up * lenient, up * lenient, up, FAR * up))
