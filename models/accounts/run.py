"""What the accounts cannot see in the stream: how the run was set up, and what was planted in it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from models.accounts.selection import Selection
from models.events import Tier
from models.policy import Policy

PromiseStatus = Literal["within", "open", "above", "below"]
"""An interval lies inside the promised band, overlaps its edge, or excludes it on one side."""


class Promise(NamedTuple):
    """The policy's cuts on the risk: green stays below `green`, red lies from `red` on. Probabilities."""

    green: float = 0.05
    red: float = 0.20

    @classmethod
    def of(cls, policy: Policy) -> "Promise":
        """Return what a policy promises."""
        return cls(policy.green, policy.red)

    def band(self, tier: Tier) -> tuple[float, float]:
        """Return the realised rates that keep a tier's promise.

        >>> Promise().band("yellow")
        (0.05, 0.2)
        """
        return {"green": (0.0, self.green), "yellow": (self.green, self.red), "red": (self.red, 1.0)}[tier]

    def status(self, tier: Tier, lower: float, upper: float) -> PromiseStatus:
        """Say how an interval of the realised rate stands to a tier's promise.

        >>> promise = Promise()
        >>> promise.status("green", 0.01, 0.04), promise.status("green", 0.03, 0.07)
        ('within', 'open')
        >>> promise.status("green", 0.06, 0.09), promise.status("red", 0.10, 0.15)
        ('above', 'below')
        """
        low, high = self.band(tier)
        if lower > high:
            return "above"
        if upper < low:
            return "below"
        return "within" if low <= lower and upper <= high else "open"


class Drift(NamedTuple):
    """A change planted in the demonstration: from `at` (event time) on, in `scope`, e.g. `category=dosing`."""

    at: datetime
    scope: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run around the accounts.

    `broker` names it in words (never an address with credentials). `seconds` is wall time. `settings` and `versions`
    are shown as they are, so hand in nothing secret. `dead_letters_planted` and `drift` are None on real input.
    """

    title: str
    broker: str
    promise: Promise = field(default_factory=Promise)
    seconds: float = 0.0
    drift: Drift | None = None
    asked: Selection | None = None
    """Of a running system: what the report is about. Its inputs, which hold text, are not read, nothing is timed, and
    what has not come to its end is pending."""
    dead_letters_planted: int | None = None
    oracle_differences: int | None = None
    """What `models.oracle` found in the run's topics."""
    note: str = ""
    """Where the data come from, in one sentence, e.g. that delays are simulated."""
    settings: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
