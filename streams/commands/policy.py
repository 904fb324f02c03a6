"""`demur policy`: what a policy does, before it is applied."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from msgspec import to_builtins
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.calibration import control
from models.calibration.control import Effect, rebuilding, warms_longer
from models.errors import SettingsError
from models.events import TIERS, Action, Calibration, Decision
from models.policy import Policies, Policy
from streams.commands import Config, say
from streams.settings import load

app = typer.Typer(help="What a policy does, before it is applied.", no_args_is_help=True)

DAY_S: Final = 86_400.0
LINES: Final = "JSON lines; by default, the topic."
ACTIONS: Final[tuple[Action, ...]] = ("show", "banner", "review", "withhold")

Pair = tuple[Effect, Effect]
"""What the current policy does, and what the proposed one would."""


@app.callback()
def policy() -> None:
    """What a policy does, before it is applied."""


@app.command()
def simulate(  # noqa: PLR0913, PLR0917 (one parameter per option)
    proposed: Annotated[Path, typer.Argument(help="TOML file of the proposed policy.", exists=True, dir_okay=False)],
    config: Config = None,
    decisions: Annotated[Path | None, typer.Option("--decisions", help=LINES, exists=True, dir_okay=False)] = None,
    calibrations: Annotated[
        Path | None, typer.Option("--calibrations", help=LINES, exists=True, dir_okay=False)
    ] = None,
    last: Annotated[
        int, typer.Option("--last", min=1, help="Number of the newest decisions to take from each partition.")
    ] = 5000,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show shares of tiers and actions and the review load under a proposed policy, beside the current one.

    Decisions are made anew with the newest calibration of each deployment; those of a file, without --calibrations,
    keep the upper risk they were made with. How cuts, plan and audit sample act is exact, and with a calibration so is
    warm-up; without one nothing is green after a longer one. Under another `target`, `groups` or `calibrator` nothing
    is green until they are learnt from the labels, which is not foreseen.
    """
    from streams import logbook, offline
    from streams.stages import policies

    settings = load(config)
    current, other = policies(settings.policy), policies(proposed)
    made = logbook.decisions_in(decisions) if decisions else logbook.decisions(settings, last)
    if not made:
        raise SettingsError("there are no decisions to simulate: give --decisions, or let some responses pass first")
    versions: dict[str, Calibration | None] = {}
    if calibrations:
        versions.update({name: held.calibration for name, held in offline.calibrations(calibrations).items()})
    elif not decisions:
        versions.update(logbook.newest(settings))
    by_deployment = _by_deployment(made)
    found = {name: _pair(name, mine, versions.get(name), current, other) for name, mine in by_deployment.items()}
    if json:
        Console().print_json(data={name: _plain(pair, _days(by_deployment[name])) for name, pair in found.items()})
        return
    Console().print(_table(found, by_deployment))
    for name in found:
        for line in notes(name, versions.get(name), current.of(name), other.of(name)):
            say(line)


def notes(name: str, version: Calibration | None, current: Policy, proposed: Policy) -> list[str]:
    """Return what the table does not show."""
    said = []
    if version is None:
        said.append(f"{name}: no calibration given, so each response keeps the upper risk it was decided with")
        if warms_longer(current, proposed):
            said.append(f"{name}: a longer warm-up: nothing is green, for only --calibrations tell how far it got")
    elif version.parameters.get("brakes"):
        said.append(f"{name}: loosening is being held back; the table shows where it ends")
    if current.basis != proposed.basis:
        said.append(
            f"{name}: another target, other groups or calibrator settings: nothing is green under them until "
            f"`{rebuilding(name)}` has learnt the labels for them; what they will give then is not foreseen"
        )
    return said


def _pair(
    name: str, made: Sequence[Decision], version: Calibration | None, current: Policies, proposed: Policies
) -> Pair:
    now, then = current.of(name), proposed.of(name)
    return control.simulate(made, version, now), control.simulate(made, version, then, now)


def _by_deployment(made: Sequence[Decision]) -> dict[str, list[Decision]]:
    """Each response counts once: delivery is at least once."""
    found = defaultdict(list)
    for one in {one.response_id: one for one in reversed(made)}.values():
        found[one.deployment].append(one)
    return dict(sorted(found.items()))


def _days(made: Sequence[Decision]) -> float:
    """Return the days in which they were decided on: whoever sends a response may date it in any way."""
    times = [one.decided_at for one in made]
    return (max(times) - min(times)).total_seconds() / DAY_S


def _plain(pair: Pair, days: float) -> dict[str, object]:
    sides = {"current": pair[0], "proposed": pair[1]}
    return {"days": days, **{n: to_builtins(side) | {"review_load": side.review_load} for n, side in sides.items()}}


def _table(found: dict[str, Pair], made: dict[str, list[Decision]]) -> Table:
    table = Table("deployment", "policy", *TIERS, *ACTIONS, "reviews a day")
    for name, pair in found.items():
        days = _days(made[name])
        for side, effect in zip(("current", "proposed"), pair, strict=True):
            tiers = [f"{effect.tiers.get(tier, 0.0):.1%}" for tier in TIERS]
            actions = [f"{effect.actions.get(action, 0.0):.1%}" for action in ACTIONS]
            daily = f"{effect.review_load * len(made[name]) / days:,.0f}" if days else "-"
            table.add_row(Text(name if side == "current" else ""), side, *tiers, *actions, daily)
    return table
