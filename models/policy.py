"""What a deployment wants: cuts, target, plan, audit, warm-up. Typed, checked whole at the start, never at run time.

A policy file has one table of defaults and one table per deployment that overrides it, key by key:

>>> policies = Policies.read({"green": 0.04, "deployments": {"icu": {"plan": "green-only", "red": 0.15}}})
>>> policies.of("icu").green, policies.of("icu").plan, policies.of("ward").plan
(0.04, 'green-only', 'full-access')
>>> Policies.read({"green": 0.3})
Traceback (most recent call last):
models.errors.SettingsError: policy: `green` is 0.3 and `red` is 0.2: green must be the smaller
"""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from models.calibration.settings import MAX_COUNT, FilterSettings
from models.errors import SettingsError, StateError
from models.events import Action, Group, Target, Tier, as_id, digest

Cut = Annotated[float, Meta(gt=0.0, lt=1.0)]
Rate = Annotated[float, Meta(ge=0.0, le=1.0)]

WEEK_S: Final = 7 * 86_400.0
LEARNING: Final = ("green", "red", "warm_up_labels", "warm_up_deviation", "max_loosening", "rater_share")
EDITION: Final = 2
"""Of the defaults: it rises when one of them changes, for decisions name a policy by what differs from them."""
UNIT: Final = 2**53
"""Integers below it are exact floats, so the draw is uniform on a grid of 2^-53."""


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, cache_hash=True):
    """One deployment's policy. Risks are probabilities of rejection; green is below `green`, red from `red` on."""

    green: Cut = 0.05
    red: Cut = 0.20
    target: Target = "any"
    groups: tuple[Group, ...] = ("category", "history", "site")
    """What the calibrator tells apart: each value of each learns an offset of its own. Earlier labels know nothing of a
    group that is added. Another `target`, `groups` or `calibrator` takes effect with `demur calibrator rebuild
    NAME --corrected --apply --by WHO`; until then nothing is green."""
    plan: Literal["full-access", "green-only"] = "full-access"
    audit_rate: Rate = 0.03
    """Share of responses, of all tiers, whose verdict is forced: the only unselected labels there are."""
    audit_key: Annotated[str, Meta(min_length=1, max_length=64)] = "demur"
    """Keys the draw of the audit sample; keep it from those who are audited."""
    warm_up_labels: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 300
    """No green before that many labels: twelve rejections are expected among 300 responses at risk .04."""
    warm_up_deviation: Annotated[float, Meta(gt=0.0, le=2.0)] = 0.35
    """Nor before the curve at the green cut is known to that many logits: a true .05 reads .036 to .070."""
    max_calibration_age_s: Annotated[float, Meta(gt=0.0)] = WEEK_S
    """Nor when the last label is older than this: nobody would have noticed a change since."""
    max_loosening: Annotated[float, Meta(ge=0.0, le=20.0)] = 0.5
    """Logits by which a green threshold may rise within a day; 0: never without a person. Tightening is immediate.
    It holds for groups and for combinations of them that had labels before; for others nearly (`calibration.brake`)."""
    rater_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.2
    """Largest share of the recent evidence that any one clinician carries (1: no bound)."""
    calibrator: FilterSettings = FilterSettings()

    def __post_init__(self) -> None:
        if self.green >= self.red:
            raise ValueError(f"`green` is {self.green:g} and `red` is {self.red:g}: green must be the smaller")

    @property
    def learning(self) -> dict[str, float]:
        """What LEARN goes by beside the basis; a change holds from a label on that the calibrator's log names."""
        return {name: getattr(self, name) for name in LEARNING}

    def with_learning(self, values: Mapping[str, float]) -> "Policy":
        """Return the policy with what LEARN went by at another time. Raises `StateError` for what no policy says.

        >>> Policy().with_learning({"green": 0.1}).green
        0.1
        """
        own = {name: values[name] for name in LEARNING if name in values}
        try:
            return msgspec.convert(msgspec.to_builtins(self) | own, Policy)
        except msgspec.ValidationError as error:
            raise StateError(f"no policy says this: {error}") from None

    def overrides(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON types; with `EDITION` it says everything.

        >>> Policy(green=0.04, calibrator=FilterSettings(z=1.0)).overrides()
        {'green': 0.04, 'calibrator': {'z': 1.0}}
        """
        usual = msgspec.to_builtins(type(self)())
        found = {name: value for name, value in msgspec.to_builtins(self).items() if value != usual[name]}
        return found | ({"calibrator": self.calibrator.overrides()} if "calibrator" in found else {})

    @property
    def basis(self) -> str:
        """The digest of what a calibrator must have been learnt for, to be trusted under this policy."""
        return basis(self.target, self.groups, self.calibrator)


@lru_cache(maxsize=1024)
def basis(target: Target, groups: tuple[str, ...], calibrator: FilterSettings) -> str:
    """Return the digest of what a calibrator is learnt for: which rejections, of which groups, by which settings.

    >>> basis("any", ("site", "category"), FilterSettings()) == basis("any", ("category", "site"), FilterSettings())
    True
    """
    whole = [target, sorted(set(groups)), calibrator.overrides()]
    return digest(msgspec.json.encode(whole, order="deterministic"))[:16]


class Policies(Struct, frozen=True):
    """The policy of every deployment: its own, or the default."""

    default: Policy = Policy()
    deployments: dict[str, Policy] = {}

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> "Policies":
        """Check a parsed policy file. Raises `SettingsError`: one sentence that names the field."""
        common = {key: given for key, given in value.items() if key != "deployments"}
        named = value.get("deployments", {})
        if not isinstance(named, Mapping) or not all(isinstance(own, Mapping) for own in named.values()):
            raise SettingsError("policy: `deployments` must be a table of tables, one per deployment")
        if wrong := [str(name) for name in named if as_id(name) is None]:
            raise SettingsError(
                f"policy: no deployment can be called `{wrong[0]}`: write the name that its responses have, in "
                "ASCII and without blanks"
            )
        own = {str(name): _check(f"policy of `{name}`", _merge(common, table)) for name, table in named.items()}
        return cls(_check("policy", common), own)

    def of(self, deployment: str) -> Policy:
        """Return the policy that governs `deployment`."""
        return self.deployments.get(deployment, self.default)

    def omits(self, deployment: str) -> bool:
        """Whether deployments have policies of their own, and this one has none.

        >>> policies = Policies.read({"deployments": {"icu": {}}})
        >>> policies.omits("icu"), policies.omits("ICU"), Policies().omits("ICU")
        (False, True, False)
        """
        return bool(self.deployments) and deployment not in self.deployments


def _merge(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**common, **own}
    if isinstance(common.get("calibrator"), Mapping) and isinstance(own.get("calibrator"), Mapping):
        merged["calibrator"] = {**common["calibrator"], **own["calibrator"]}
    return merged


def _check(where: str, value: Mapping[str, Any]) -> Policy:
    try:
        return msgspec.convert(value, Policy)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {error}") from None


ACTIONS: Final[dict[str, dict[Tier, Action]]] = {
    "full-access": {"green": "show", "yellow": "banner", "red": "review"},
    "green-only": {"green": "show", "yellow": "withhold", "red": "withhold"},
}
"""What happens to a response, by plan and tier."""


def act(tier: Tier, plan: str, *, audit: bool) -> Action:
    """Return the action. The audit sample is always reviewed: a person gives a verdict before the response is used.

    So an audit never shows what the plan would have withheld, and its verdict cannot be skipped.

    >>> act("green", "full-access", audit=False), act("green", "full-access", audit=True)
    ('show', 'review')
    """
    return "review" if audit else ACTIONS[plan][tier]


def draw(response_id: str, key: str) -> float:
    """Return a number in [0, 1) that is uniform over response ids and the same at every replay (keyed BLAKE2b).

    >>> draw("r-1", "demur") == draw("r-1", "demur") != draw("r-1", "other")
    True
    """
    drawn = blake2b(response_id.encode(), key=key.encode()[:64], digest_size=8).digest()
    return (int.from_bytes(drawn, "big") >> 11) / UNIT


def audited(response_id: str, policy: Policy) -> bool:
    """Whether the response belongs to the audit sample. Its propensity, to be logged, is `policy.audit_rate`.

    >>> sum(audited(f"r-{i}", Policy()) for i in range(10_000))
    276
    """
    return draw(response_id, policy.audit_key) < policy.audit_rate
