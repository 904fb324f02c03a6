"""What a running system has written: its report for a period, and a topic's records as JSON lines."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from models.errors import SettingsError
from models.events import CONTRACT, YEARS, Event, Feedback, Response, Watermark, encode
from streams.commands import Config, place, say
from streams.settings import load

records = typer.Typer()

WITH_TEXT: Final[tuple[type[Event], ...]] = (Response, Feedback)


def _moment(value: str) -> datetime:
    """Read a date or a time in which events may lie; without an offset it is UTC."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is no date: write 2026-01-31, or 2026-01-31T08:00:00+01:00") from None
    if found.year not in YEARS:
        raise typer.BadParameter(f"{value!r} is out of range: write a date from {YEARS[0]} to {YEARS[-1]}")
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


Since = Annotated[datetime | None, typer.Option("--from", parser=_moment, metavar="DATE", help="Not before; UTC.")]
Until = Annotated[datetime | None, typer.Option("--to", parser=_moment, metavar="DATE", help="Before, not on it; UTC.")]


@records.command()
def report(
    out: Annotated[
        Path, typer.Option("--out", callback=place, file_okay=False, help="Folder for the report and the summary.")
    ],
    config: Config = None,
    since: Since = None,
    until: Until = None,
    deployment: Annotated[str | None, typer.Option("--deployment", help="Only this one, by its own policy.")] = None,
) -> None:
    """Write the report of a running system, for a period: what its tiers promised, and how often they were rejected.

    A response belongs to the period in which it occurred, and what became of it counts with it; what has no end yet is
    pending. Only records that hold no text are read, and nothing is written to the broker. Needs the settings of the
    workers (policies, keys, time source). Whether the records are right is for `demur verify` to say.
    """
    from models.accounts import Selection
    from models.accounts.lives import DECIDED
    from streams.report import write_report
    from streams.survey import survey

    _check(since, until)
    settings = load(config)
    asked = Selection(since, until, deployment, replayed=settings.time_source == "event")
    accounts, run = survey(settings, asked)
    path = write_report(accounts, run, out)
    say(f"{accounts.lives.count(DECIDED):,} responses, {accounts.labels:,} labels, {accounts.waiting:,} pending")
    say(f"report   {path}\nsummary  {path.with_name('summary.json')}")


@records.command()
def export(
    topic: Annotated[str, typer.Argument(help="Such as labels, decisions or calibrations; without the prefix.")],
    config: Config = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Print a topic's records as JSON lines: for `readiness`, `policy simulate`, `score --calibrations`.

    Labels belong to the time of their response, the rest to their own. What breaks the contract or is not signed as it
    must be is left out, and so are the marks that end a replay. Topics that hold patients' text are refused.
    """
    from models.accounts.selection import Selection
    from streams.logbook import genuine
    from streams.reading import read_each

    _check(since, until)
    if topic in {type_.topic for type_ in WITH_TEXT}:
        raise SettingsError(
            f"topic {topic} holds patients' text, which no command prints: read it by Kafka's own tools"
        )
    if topic not in CONTRACT:
        names = sorted(CONTRACT.keys() - {type_.topic for type_ in WITH_TEXT})
        raise SettingsError(f"there is no topic {topic} to export: name one of {', '.join(names)}")
    settings = load(config)
    asked = Selection(since, until, replayed=settings.time_source == "event")
    for event, at_ms in genuine(settings, read_each(settings, topic, asked.first_ms)):
        if not isinstance(event, Watermark) and asked.within(asked.when(event, at_ms)):
            sys.stdout.buffer.write(encode(event) + b"\n")  # anew: a field that the contract does not know stays behind


def _check(since: datetime | None, until: datetime | None) -> None:
    if since and until and since >= until:
        raise SettingsError("--from must be before --to, which is not part of the period")
