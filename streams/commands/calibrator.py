"""`demur calibrator`: a calibrator's log, two versions side by side, the state rebuilt, and a person's word on it."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any
from uuid import uuid4

import typer
from msgspec import to_builtins
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from models.calibration.brake import combined_excess
from models.calibration.control import Difference, compare
from models.calibration.history import History, Revised, differences, gaps
from models.calibration.learning import OVERTAKEN, Learning
from models.errors import EventError, SettingsError, StateError
from models.events import TIERS, Calibration, Change, DeadLetter, Instruction, Order, Standing, decode, encode
from models.policy import Policy
from streams.clock import WallClock
from streams.commands import Config, say
from streams.settings import Settings, load

app = typer.Typer(help="What a calibrator changed and why; back to any version.", no_args_is_help=True)

Deployment = Annotated[str, typer.Argument(help="Name of the deployment.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Corrected = Annotated[bool, typer.Option("--corrected", help="Use the labels as later corrected or revoked.")]
Apply = Annotated[bool, typer.Option("--apply", help="With --corrected: replace the running calibrator.")]
By = Annotated[str, typer.Option("--by", help="Name of the person who orders it, for the log.")]
Why = Annotated[str, typer.Option("--why", help="The reason, in a sentence or two, for the log.")]

SAMPLE = 5000
"""Decisions of each partition on which the shares of two versions are compared."""
LEVELS = {"green": "green below", "red": "red from"}
FIELD_HELP = {
    "by": "--by: give a name of 1 to 128 characters, without line breaks or other control characters",
    "why": "--why: say it in at most 500 characters",
    "scope": "SCOPE: name a group as it was alarmed of, such as site=north",
}
"""What LEARN reads of an instruction's words, by field."""
TRIES = 10
"""Of a rebuild that labels overtake: each reads what came since, and is hundredths of a second behind."""
SHOWN = 12
"""Differences of a rebuilt state that are shown."""


@app.command()
def log(deployment: Deployment, config: Config = None, json: Json = False) -> None:
    """Show the calibrator's log: each change that labels forced or a person ordered, and one a day for the rest."""
    settings = load(config)
    if not (entries := _history(settings, deployment).changes):
        raise StateError(f"the log of {deployment} has no entries: no label has been folded, or the name is another")
    if json:
        Console().print_json(data=[to_builtins(entry) | {"state": entry.state is not None} for entry in entries])
        return
    for entry in entries:
        say(_words(entry))
    for version in gaps(entries):
        Console().print(f"after version {version} entries are missing")


@app.command()
def diff(
    deployment: Deployment,
    before: Annotated[int, typer.Argument(help="Number of a version.")],
    after: Annotated[int, typer.Argument(help="Number of the version to compare it with.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Compare two versions: parameters, cuts, and the tiers that each would give the latest responses."""
    settings = load(config)
    history = _history(settings, deployment)
    versions = [_published(history.at(version)) for version in (before, after)]
    _say_passed_over(history)
    _show(_compare(settings, *versions), json=json)


@app.command()
def rebuild(  # noqa: PLR0913, PLR0917 (one parameter per option)
    deployment: Deployment,
    config: Config = None,
    corrected: Corrected = False,
    apply: Apply = False,
    by: By = "",
    why: Why = "",
) -> None:
    """Fold the label log anew, and say whether that reproduces the running state bit for bit.

    With --corrected, show instead what the log says once corrections replace what they correct, by the policy as it is
    now: with --apply that is also how a changed `target`, `groups` or `calibrator` takes effect.
    """
    from streams.logbook import running

    settings = load(config)
    if corrected:
        _correct(settings, deployment, (by, why) if apply else None)
        return
    state, last = running(settings, deployment)
    history = _history(settings, deployment)
    now = Learning.restore(state, _policy(settings, deployment))
    found = differences(history.after(last).snapshot(), state)
    _say_passed_over(history)
    version = f"{deployment}, version {now.ledger.version} ({now.ledger.labels} labels)"
    if found:
        more = f"; {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise StateError(f"{version} differs from the log (rebuilt, running): {'; '.join(found[:SHOWN])}{more}")
    say(f"{version}: the label log reproduces the running state bit for bit")


@app.command()
def rollback(
    deployment: Deployment,
    version: Annotated[int, typer.Argument(help="Number of the version to return to.")],
    by: By,
    why: Why = "",
    config: Config = None,
) -> None:
    """Take the parameters of an earlier version, as a new version. Loosening stays bounded: `approve` lets it pass."""
    settings = load(config)
    history = _history(settings, deployment)
    then, now = history.at(version), _newest(settings, deployment)
    _say_passed_over(history)
    if then.model_hash != now.model_hash:
        raise StateError(f"version {version} is of another model, whose scores mean something else: put that one back")
    if then.ledger.policy.basis != now.basis:
        raise StateError(f"version {version} was learnt for another target, other groups or settings: rebuild for them")
    _show(_compare(settings, now, _published(then)), json=False)
    _send(settings, now, "rollback", by, why, version=then.ledger.version, **_whole(then))


@app.command()
def approve(deployment: Deployment, by: By, why: Why = "", config: Config = None) -> None:
    """Let green thresholds rise at once to where the newest version has them, beyond the daily bound."""
    settings = load(config)
    now = _newest(settings, deployment)
    brakes: Mapping[str, float] = now.parameters.get("brakes", {})
    if not brakes:
        raise StateError(f"nothing is held back in {deployment}: version {now.version} is in force as it is")
    ceilings = {scope: cut + combined_excess(brakes, [scope]) for scope, cut in _greens(now).items() if scope in brakes}
    _send(settings, now, "approval", by, why, ceilings=ceilings)


@app.command()
def release(
    deployment: Deployment,
    scope: Annotated[str, typer.Argument(help="The group in quarantine, such as site=north.")],
    by: By,
    why: Why = "",
    config: Config = None,
) -> None:
    """End the quarantine of a group: its labels count again."""
    settings = load(config)
    _send(settings, _newest(settings, deployment), "release", by, why, scope=scope)


def _correct(settings: Settings, deployment: str, order: tuple[str, str] | None) -> None:
    """Needs the log and the newest calibration, not LEARN's state: that may be what cannot be read any more."""
    if order is not None and not order[0]:
        raise SettingsError("--apply needs --by: who orders it")
    from streams.logbook import history_of, label_log, labels

    now = _newest(settings, deployment)
    with label_log(settings, deployment) as more:
        history = history_of(settings, deployment, _policy(settings, deployment), more())
        then = history.corrected()
        _say_passed_over(history)
        say(f"{then.revisions} corrections and revocations honoured")
        _show(_compare(settings, now, _published(then.learning)), json=False)
        if order is not None:
            _replace(settings, now, order, history, then, lambda: labels(settings, more()))


def _replace(  # noqa: PLR0913, PLR0917 (what a rebuild is computed from)
    settings: Settings,
    now: Calibration,
    order: tuple[str, str],
    history: History,
    then: Revised,
    more: Callable[[], list[Any]],
) -> None:
    """Order a rebuild; with the labels that came since it was computed, until LEARN has folded no further ones."""
    from streams import orders

    refused: list[str] = []
    with orders.giving(settings) as give:
        for _ in range(TRIES):
            then = history.follow(then, more(), refused)
            by = _instruction(settings, now, "rebuild", *order, last=then.last, **_whole(then.learning))
            refused.append(by.instruction_id)
            answer = give(by)
            if not (isinstance(answer, DeadLetter) and OVERTAKEN in answer.detail):
                break
    _tell(by, answer)


def _whole(then: Learning) -> dict[str, Any]:
    ledger = then.ledger
    return {"parameters": ledger.filter.state(), "target": ledger.policy.target, "groups": ledger.policy.groups}


def _send(settings: Settings, now: Calibration, order: Order, by: str, why: str, **rest: Any) -> None:
    """Send an instruction that keeps to the contract, and say what LEARN did. Raises `StateError` if it could not."""
    from streams import orders

    instruction = _instruction(settings, now, order, by, why, **rest)
    with orders.giving(settings) as give:
        _tell(instruction, give(instruction))


def _instruction(settings: Settings, now: Calibration, order: Order, by: str, why: str, **rest: Any) -> Instruction:
    facts = {"version": now.version, **rest}
    made = Instruction(
        instruction_id=uuid4().hex,
        deployment=now.deployment,
        order=order,
        model_hash=now.model_hash,
        by=by,
        why=why,
        occurred_at=now.as_of if settings.time_source == "event" else WallClock().now(),
        **facts,
    )
    return _checked(made)


def _tell(given: Instruction, answer: Change | DeadLetter | None) -> None:
    from streams.orders import WAIT_S

    match answer:
        case Change(after=after):
            say(f"done: version {after.version}; see `demur calibrator log {given.deployment}`")
        case DeadLetter(detail=detail):
            raise StateError(f"LEARN could not follow the {given.order}, and nothing has changed: {detail}")
        case None:
            say(
                f"sent, and not followed yet: LEARN did not answer within {WAIT_S:.0f} s. The {given.order} lies in "
                f"the label log and is followed when a worker runs: see `demur calibrator log {given.deployment}`"
            )


def _checked(instruction: Instruction) -> Instruction:
    """Return an instruction as LEARN will read it; raises `SettingsError` for one that LEARN would set aside."""
    try:
        return decode(Instruction, encode(instruction))
    except (EventError, UnicodeEncodeError) as error:
        wrong = next((option for name, option in FIELD_HELP.items() if f"`$.{name}`" in str(error)), None)
        raise SettingsError(wrong or f"this {instruction.order} cannot be sent: {error}") from None


def _policy(settings: Settings, deployment: str) -> Policy:
    from streams.stages import policies

    return policies(settings.policy).of(deployment)


def _history(settings: Settings, deployment: str) -> History:
    from streams.logbook import history

    return history(settings, deployment, _policy(settings, deployment))


def _say_passed_over(history: History) -> None:
    """Say what could not be used; on standard error, so that what is printed as JSON stays JSON."""
    if versions := history.passed_over:
        which = f"{len(versions)} entries of versions {min(versions)} to {max(versions)}"
        typer.echo(f"passed over: {which}, which another version of demur wrote", err=True)


def _newest(settings: Settings, deployment: str) -> Calibration:
    from streams.logbook import newest

    if (found := newest(settings).get(deployment)) is None:
        raise StateError(f"there is no calibration of deployment {deployment}")
    return found


def _published(learning: Learning) -> Calibration:
    if (found := learning.calibration()) is None:
        raise StateError("version 0 is the prior: there is nothing to compare")
    return found


def _compare(settings: Settings, before: Calibration, after: Calibration) -> Difference:
    from streams.logbook import decisions

    mine = [one for one in decisions(settings, SAMPLE) if one.deployment == after.deployment]
    sample = [(one.logit, one.groups) for one in mine if one.logit is not None]
    return compare(before, after, sample, _policy(settings, after.deployment))


def _show(found: Difference, *, json: bool) -> None:
    if json:
        Console().print_json(data=to_builtins(found))
        return
    table = Table(escape(found.deployment), f"version {found.before}", f"version {found.after}")
    for name, pair in found.parameters.items():
        table.add_row(Text(name), *map(_number, pair))
    for scope, cuts in found.cuts.items():
        for level, pair in cuts.items():
            table.add_row(Text(f"{LEVELS[level]}, {scope}"), *map(_number, pair))
    for tier in TIERS:
        shares = (effect.tiers.get(tier, 0.0) for effect in (found.effect_before, found.effect_after))
        table.add_row(f"share of {tier}", *(f"{share:.1%}" for share in shares))
    table.add_row("reviews", f"{found.effect_before.review_load:.1%}", f"{found.effect_after.review_load:.1%}")
    Console().print(table)


def _words(entry: Change) -> str:
    """Two lines: what happened and on which evidence; then what was before and after."""
    evidence = ", ".join(f"{name} {_plain(value)}" for name, value in entry.evidence.items() if value != "")
    sides = (entry.before, entry.after)
    cuts = [f"{words} {' → '.join(_cut(side, level) for side in sides)}" for level, words in LEVELS.items()]
    shares = " → ".join(_shares(side) for side in sides)
    return (
        f"version {entry.after.version}, {entry.at:%Y-%m-%d %H:%M}: {entry.cause} ({evidence})\n"
        f"    {', '.join(cuts)}, green/yellow/red {shares}"
    )


def _cut(side: Standing | None, level: str) -> str:
    return _number(side.cuts["all"][level]) if side else "-"


def _shares(side: Standing | None) -> str:
    return "/".join(f"{share:.0%}" for share in side.shares.values()) if side else "-"


def _greens(version: Calibration) -> dict[str, float]:
    return {scope: cut["green"] for scope, cut in version.cuts.items() if cut["green"] is not None}


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
