"""`demur report`: the accounts of a running system, from its records alone.

The two input topics, which hold patients' text, are not read: a decision tells that a response came, and labels and
closures tell what became of it. Each topic is read once, after the decisions, from where the period begins to its end,
for verdicts come late; only ids are kept: half a kilobyte a response. What happens to a response that is decided on
while we read waits for the next report. Records that are broken, or not signed as they must be, count when they came,
by the broker: what they say of their time cannot be believed.
"""

from typing import Final

from models.accounts import Accounts, Promise, Run, Selection
from models.accounts.selection import moment
from models.events import Alarm, Change, Closure, DeadLetter, Decision, Event, Label
from models.policy import Policies
from streams.clock import WallClock
from streams.formatting import terms
from streams.logbook import judged
from streams.reading import read_each
from streams.settings import Settings
from streams.stages import policies

READ: Final[tuple[type[Event], ...]] = (Decision, Label, Closure, Change, Alarm, DeadLetter)
"""Decisions first: they say which responses the rest may be about. Kafka compacts calibrations: their log tells."""


def survey(settings: Settings, asked: Selection) -> tuple[Accounts, Run]:
    """Read what became of the selected responses. Raises `SettingsError` without the topics, or the broker."""
    known = policies(settings.policy)
    accounts = Accounts(known if asked.deployment is None else Policies(known.of(asked.deployment)))
    for type_ in READ:
        for event, at_ms in judged(settings, read_each(settings, type_.topic, asked.first_ms)):
            if event is None:
                if asked.within(moment(at_ms)):
                    accounts.observe_invalid(type_.topic)
            elif asked.holds(event, at_ms, accounts.lives):
                accounts.observe(type_.topic, event, at_ms, asked.when(event, at_ms))
    return accounts, _run(settings, accounts, asked)


def _run(settings: Settings, accounts: Accounts, asked: Selection) -> Run:
    policy = accounts.policies.default
    models = (f"{name[:12] or 'none'} ({count:,} decisions)" for name, count in accounts.models.most_common())
    return Run(
        title=f"Responses in {asked.deployment or 'all deployments'}",
        broker=f"as configured, topics `{settings.topic_prefix}*`",
        promise=Promise.of(policy),
        asked=asked,
        note=f"Read from the records of a running system at {WallClock().now():%Y-%m-%d %H:%M} UTC.{_others(accounts)}",
        settings={"models": ", ".join(models) or "none", **terms(policy, settings.horizon_s)},
    )


def _others(accounts: Accounts) -> str:
    """Say that the promise shown is today's, where decisions were made under another policy."""
    words = " Promise and target are today's policy's; decisions that were made under another:"
    return f"{words} {accounts.otherwise:,}." if accounts.otherwise else ""
