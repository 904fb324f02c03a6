"""The two runs that end in a report: the demonstration's seeded week, and the replay of files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from rich.console import Console

from models.accounts import Drift, Promise, Run, balances
from models.errors import EventError, SettingsError
from models.events import Feedback, Response, decode, parse
from models.training import synth
from models.training.data import read, to_events
from models.training.lines import read_lines
from models.training.reactions import Arrival
from streams.broker import embedded
from streams.drive import Plan, drive
from streams.feed import Item, broken, end_of, items
from streams.formatting import terms
from streams.report import write_report
from streams.settings import Settings
from streams.stages import policies
from streams.verify import sentence, verify

SHOWN: Final = ("faust-streaming", "kafka-python", "transformers", "torch", "river", "orjson")
SAID: Final = 5
"""Differences named; `demur verify` names all."""
SIMULATED: Final = (
    "The verdicts are real; the files have no times, so arrival and delay of each verdict are simulated from the seed."
)


class Finished(NamedTuple):
    """What a run leaves behind."""

    report: Path
    summary: Path
    oracle: str
    """What the oracle found in the topics, in one line."""
    wrong: list[str]
    """Accounts that do not balance, and what the oracle found; empty: nothing was lost."""


def demonstrate(  # noqa: PLR0913 (one argument per thing that a user says)
    settings: Settings, out: Path, *, fast: bool, seed: int, console: Console, broker: str
) -> Finished:
    """Run the seeded week of a hospital, with a drift in the middle and broken messages among the good."""
    config = synth.FAST if fast else synth.Config()
    week = synth.generate(msgspec.structs.replace(config, seed=seed))
    planted = broken(week.responses[0], week.feedback[0])
    drift = week.config.drift
    assert drift is not None
    assert week.config.drift_at is not None
    run = _run(
        settings,
        title=f"{'A quick week' if fast else 'A week'} of a synthetic hospital (seed {seed})",
        broker=broker,
        drift=Drift(week.config.drift_at, f"category={drift.category}"),
        dead_letters_planted=len(planted),
        note="Every event is synthetic, from a seed; the encoder, the agents, the broker and the calibrator are real.",
    )
    what = _among(list(items(week.arrivals)), planted)
    return _finish(settings, Plan(what, end_of(week.arrivals, settings)), run, out, console)


def replay(  # noqa: PLR0913 (one argument per thing that a user says)
    settings: Settings,
    responses: Sequence[Path],
    feedback: Path | None,
    out: Path,
    *,
    seed: int,
    console: Console,
    broker: str,
) -> Finished:
    """Stream files through the same path: our own events, or judged answers in the shape of a verdict file."""
    own = _is_own(responses[0])
    if feedback and not own:
        raise SettingsError(f"{responses[0]} holds judged answers, and their verdicts: leave --feedback out")
    arrivals = _events(responses, feedback) if own else to_events(read(*responses), seed)
    if not arrivals:
        raise SettingsError(f"{responses[0]} holds no responses: give a file of JSON lines")
    run = _run(
        settings,
        title=f"Replay of {', '.join(path.name for path in responses)}",
        broker=broker,
        dead_letters_planted=0,
        note="Events in the order and with the times of the files." if own else SIMULATED,
    )
    return _finish(settings, Plan(list(items(arrivals)), end_of(arrivals, settings)), run, out, console)


@contextmanager
def broker_for(bootstrap: str | None, out: Path) -> Iterator[tuple[str, str]]:
    """Yield a bootstrap address and the broker's name in words: the given one, or the embedded."""
    if bootstrap is not None:
        yield bootstrap, "Apache Kafka or compatible, as given"
        return
    out.mkdir(parents=True, exist_ok=True)
    with embedded(out) as address:
        yield address, "embedded (Tansu, in memory, on loopback)"


def _finish(settings: Settings, plan: Plan, run: Run, out: Path, console: Console) -> Finished:
    accounts, run = drive(settings, plan, run, out, console)
    found = verify(settings, at_rest=True)
    run = replace(run, oracle_differences=len(found.differences))
    report = write_report(accounts, run, out)
    wrong = [*balances(accounts, run.dead_letters_planted), *(f"oracle: {one}" for one in found.differences[:SAID])]
    return Finished(report, report.with_name("summary.json"), sentence(found), wrong)


def _run(settings: Settings, **facts: Any) -> Run:
    policy = policies(settings.policy).default
    shown = {
        "model": settings.model,
        "store": settings.store,
        "partitions": str(settings.partitions),
        **terms(policy, settings.horizon_s),
    }
    versions = {name: version(name) for name in SHOWN}
    return Run(promise=Promise.of(policy), settings=shown, versions=versions, **facts)


def _among(good: list[Item], bad: list[Item]) -> list[Item]:
    """Spread broken messages evenly among good ones."""
    step = len(good) // (len(bad) + 1)
    for n, item in enumerate(bad):
        place = (n + 1) * step + n
        good.insert(place, item._replace(arrives_at=good[place].arrives_at))
    return good


def _is_own(path: Path) -> bool:
    """Whether a file holds events of our contract rather than judged answers."""
    try:
        with path.open("rb") as file:
            first = parse(next((line for line in file if line.strip()), b"{}"))
    except (OSError, EventError) as error:
        raise SettingsError(f"{path} cannot be read as JSON lines: {type(error).__name__}") from None
    return first.get("type") == Response.topic[:-1]


def _events(responses: Sequence[Path], feedback: Path | None) -> list[Arrival]:
    files = [(Response, path) for path in responses] + ([(Feedback, feedback)] if feedback else [])
    found = [Arrival(event.occurred_at, event) for type_, path in files for event in _events_in(path, type_)]
    return sorted(found, key=lambda arrival: arrival.arrives_at)


def _events_in(path: Path, type_: Any) -> Iterator[Any]:
    return read_lines(path, lambda line: decode(type_, line))
