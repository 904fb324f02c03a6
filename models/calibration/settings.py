"""The calibrator's settings, each with the reason for its default. Tuned on synthetic streams only."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from models.errors import SettingsError
from models.events import Group

MAX_COUNT: Final = 1_000_000_000
"""Of any whole number: the calibrator's log and state hold it as JSON, where numbers beyond 2^53 are not exact."""
Variance = Annotated[float, Meta(ge=0.0, le=4.0)]
Positive = Annotated[float, Meta(gt=0.0, le=4.0)]
Evidence = Annotated[float, Meta(ge=10.0, le=1e100)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Known = Literal[Group, "clinician"]
"""What a label tells apart: what its decision names, and who judged."""


class FilterSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, cache_hash=True):
    """Settings of one deployment's calibrator. Variances are in squared logits, walks in the same per label.

    >>> FilterSettings.read({"z": 1.0}).z
    1.0
    >>> FilterSettings.read({"half_live": 5.0})
    Traceback (most recent call last):
    models.errors.SettingsError: calibrator settings: Object contains unknown field `half_live`
    """

    z: Annotated[float, Meta(ge=0.0, le=3.0)] = 0.15
    """Standard deviations by which the upper risk exceeds the mean: buys safety for coverage, openly.

    On the test bed 0.5 costs 6 % of the greens and takes 0.2 points off the worst window."""
    intercept_walk: Variance = 4e-6
    slope_walk: Variance = 3e-6
    bias_walk: Variance = 1e-4
    """Per forced label. Volunteered verdicts show risk and bias together: without audits a drift counts as the risk's.

    With 3 % of the responses audited both are followed about equally well: for each logit that they drift in 20,000
    responses, the served log-odds are a tenth of a logit too low meanwhile."""
    intercept_variance: Positive = 1.0
    """Prior of the intercept around the identity map: the encoder's base rate may be off by a factor of e."""
    group_variance: Positive = 0.1
    """Prior of a group's offset: standard deviation 0.32 logits."""
    rater_variance: Positive = 1.0
    """Prior of a rater's severity: reject rates of .04 to .43, 2.9 logits apart, are on record for six at one task."""
    half_life: Annotated[float, Meta(ge=1.0, le=1e9)] = 20_000.0
    """Labels after which a group that is not heard of has lost half of its offset."""
    rater_half_life: Annotated[float, Meta(ge=1.0, le=1e9)] = 500.0
    """Labels after which a rater's severity is half forgotten in variance, not in mean: it is kept mobile, so that one
    who changes moves their own offset, not everybody's curve."""
    threshold: Evidence = 1e5
    """Evidence at which a group is held to have jumped: at least that many labels between false jumps, per group."""
    threshold_all: Evidence = 3e3
    """The same for all responses: one block among many, and the one whose change matters most."""
    threshold_slope: Evidence = 2e3
    """The same for the slope of all."""
    suspicion: Evidence = 3e3
    """Evidence, in units of `threshold`, at which a change of all, or of the slope, is suspected: labels count more."""
    threshold_down: Evidence = 2e5
    """The same downwards, where a missed jump costs coverage, not safety. Guarded groups keep `threshold`: for them a
    jump downwards ends in quarantine, which is the safe side. For all responses and the slope both ratios apply."""
    audit_threshold: Evidence = 1e3
    """Evidence at which forced verdicts are held to contradict volunteered ones; there are far fewer of them."""
    shift: Share = 0.8
    """Share of a detected jump that the mean moves at once; the labels decide the rest."""
    widening: Variance = 0.2
    """Variance that a jump adds to its block, in units of the squared jump."""
    slope_widening: Variance = 0.03
    """Variance that a jump of all adds to the first slope."""
    floor: Annotated[float, Meta(ge=-6.0, le=0.0)] = -0.3
    """Lowest offset served for a guarded group: leniency alone buys little green."""
    guarded: tuple[Known, ...] = ("site", "clinician")
    """Group names whose jump downwards is not believed (rubber-stamping): their labels are ignored from then on."""
    raters: tuple[Known, ...] = ("clinician",)
    """Group names whose offsets are learnt but not served: who judges, not what is judged."""
    noise: Annotated[float, Meta(ge=0.0, lt=0.5)] = 0.0
    """Known share of verdicts flipped at random."""
    grace: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 500
    """Labels before the jump detector starts: a curve that is still being found jumps all the time."""
    max_groups: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 1000
    """Offsets kept; beyond, the one longest without a label returns to its prior."""

    @classmethod
    def read(cls, value: object) -> "FilterSettings":
        """Check a table of settings. Raises `SettingsError` naming the field."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise SettingsError(f"calibrator settings: {error}") from None

    def overrides(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON types; with the state's schema number it says everything.

        >>> FilterSettings(z=1.0).overrides()
        {'z': 1.0}
        """
        defaults = msgspec.to_builtins(FilterSettings())
        return {name: value for name, value in msgspec.to_builtins(self).items() if value != defaults[name]}


DEFAULTS = FilterSettings()
"""Part of the state's schema: a changed default needs a new schema number (a test holds them together)."""
