"""`demur`: every command. Each builds its settings, runs, and ends with one clear sentence when something is wrong."""

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import structlog
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.errors import DemurError, SettingsError
from streams.commands import Config, calibrator, place, policy
from streams.commands.records import Since, records
from streams.commands.studies import progress, studies
from streams.settings import STAGES, Settings, load, variable

app = typer.Typer(
    name="demur",
    help="Real-time rejection risk for clinical language models: score, tier, join, learn.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # they hold texts and passwords, and older typers show them
)
app.add_typer(policy.app, name="policy")
app.add_typer(calibrator.app, name="calibrator")
app.add_typer(studies)
app.add_typer(records)


Out = Annotated[
    Path,
    typer.Option("--out", callback=place, file_okay=False, help="Folder for the report, the summary and the logs."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="The same seed gives the same events.")]
Bootstrap = Annotated[
    str | None,
    typer.Option("--bootstrap", envvar=variable("bootstrap"), help="A Kafka broker; by default an embedded one."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Folder of the encoder, or hub id with @ and its commit; by default a small one."),
]
Device = Annotated[str | None, typer.Option("--device", help="Where the encoder computes: cpu, cuda, cuda:1, ...")]


def main() -> None:
    """Run the command line. A wrong setting ends it with one sentence and status 2; a failed run with status 1."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for what was asked for
    try:
        app()
    except DemurError as error:
        Console(stderr=True).print(Text.assemble(("demur:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(2 if isinstance(error, SettingsError) else 1)


@app.command()
def demo(
    out: Out = Path("demur-out"),
    fast: Annotated[bool, typer.Option("--fast", help="The same seven days with 2,500 responses, not 6,000.")] = False,
    seed: Seed = 7,
    bootstrap: Bootstrap = None,
) -> None:
    """Stream a seeded week of a hospital through the real agents, show it live, and write a report.

    Needs nothing but Python: an embedded broker on loopback, and a small encoder trained here in under a minute.
    """
    from streams.runs import broker_for, demonstrate

    console = Console()
    model = _encoder("reference", console, fast=fast)
    with broker_for(bootstrap, out) as (address, name), TemporaryDirectory(prefix="demur-") as data:
        settings = load(**_replay(address, model, Path(data), bootstrap))
        finished = demonstrate(settings, out, fast=fast, seed=seed, console=console, broker=name)
    _close(console, finished, settings if bootstrap else None)


@app.command()
def replay(  # noqa: PLR0913, PLR0917 (one parameter per option)
    responses: Annotated[
        list[Path],
        typer.Option("--responses", help="JSON lines; may be given several times.", exists=True, dir_okay=False),
    ],
    feedback: Annotated[
        Path | None, typer.Option("--feedback", help="JSON lines of feedback events.", exists=True, dir_okay=False)
    ] = None,
    out: Out = Path("demur-out"),
    seed: Seed = 7,
    model: Model = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Stream files through the same path as live events, and write the same report.

    The files hold our own events (`demur` writes and reads them), or judged answers: one object a line with `id`,
    `query`, `response` and `label` (1 = rejected). Judged answers have no times: arrivals are simulated from the seed.
    """
    from streams.runs import broker_for
    from streams.runs import replay as run

    console = Console()
    path = _encoder(model or "reference", console)
    with broker_for(bootstrap, out) as (address, name), TemporaryDirectory(prefix="demur-") as data:
        settings = load(**_replay(address, path, Path(data), bootstrap))
        finished = run(settings, responses, feedback, out, seed=seed, console=console, broker=name)
    _close(console, finished, settings if bootstrap else None)


@app.command()
def worker(
    config: Config = None,
    stages: Annotated[str | None, typer.Option("--stages", help=f"Some of {','.join(STAGES)}.")] = None,
    device: Device = None,
) -> None:
    """Run the stages of the stream until told to stop. Start as many workers as there are partitions."""
    from streams.worker import run

    _log_as_json()
    settings = load(config, **_given(stages=stages, device=device))
    if "score" in settings.stages:
        settings = settings.model_copy(update={"model": _encoder(settings.model, Console(stderr=True))})
    run(settings)


@app.command()
def gateway(config: Config = None) -> None:
    """Answer responses with their decisions over HTTP, and take in feedback, CDS Hooks' too, until told to stop.

    For senders that have no Kafka client. Without a decision in time the answer is `review`.
    """
    from streams.gateway import run

    _log_as_json()
    run(load(config))


@app.command()
def topics(
    config: Config = None,
    describe: Annotated[bool, typer.Option("--describe", help="Only show what is there.")] = False,
) -> None:
    """Create the topics that are missing and show them. Needs CREATE permission; workers do not."""
    from streams import topics as admin
    from streams.stages import changelogs

    settings = load(config)
    names = changelogs(settings)
    made = set() if describe else set(admin.create(settings, names))
    table = Table("topic", "partitions", "cleanup", "retention")
    for found in admin.describe(settings, names):
        topic, partitions, configs = found
        mark = " (new)" if topic.name in made else "" if partitions else " (missing)"
        lacks = f" (lacks {', '.join(f'{name}={value}' for name, value in found.wrong.items())})" if found.wrong else ""
        table.add_row(topic.name + mark + lacks, str(partitions or "-"), configs.get("cleanup.policy", "-"), found.kept)
    Console().print(table)


@app.command()
def verify(  # noqa: PLR0913, PLR0917 (one parameter per option)
    bootstrap: Annotated[
        str | None, typer.Option("--bootstrap", help="A Kafka broker; by default the settings'.")
    ] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="What stands before the topics' names.")] = None,
    policy: Annotated[
        list[Path] | None, typer.Option("--policy", help="Each policy that was in force.", exists=True, dir_okay=False)
    ] = None,
    config: Config = None,
    replayed: Annotated[bool, typer.Option("--replayed", help="The topics of `demur demo` or `replay`.")] = False,
    since: Since = None,
) -> None:
    """Recompute every decision, label and calibrator version from the topics, and name each difference.

    Needs the settings of the workers (horizons, digest key, policies), and memory for all that it reads: with `--from`
    it checks what the broker took then or later, and reads no more before that than this needs. Events may flow
    meanwhile: what is not yet due is counted as pending. Ends with status 1 if anything differs, or if no decision,
    label or closure could be checked.
    """
    from streams.verify import is_proof, sentence
    from streams.verify import verify as compare

    given = _given(bootstrap=bootstrap, topic_prefix=prefix) | (REPLAYED if replayed else {})
    report = compare(load(config, **given), policy or (), since=since)
    for difference in report.differences:
        typer.echo(str(difference))
    typer.echo(sentence(report, since))
    raise typer.Exit(bool(report.differences) or not is_proof(report))


@app.command()
def score(
    model: Model = None,
    device: Device = None,
    config: Config = None,
    calibrations: Annotated[
        Path | None, typer.Option("--calibrations", help="JSON lines of calibrations.", exists=True, dir_okay=False)
    ] = None,
) -> None:
    """Read responses as JSON lines on standard input, write decisions: offline, by the code that decides in the stream.

    Without calibrations nothing is green: the model's probabilities alone are no promise.
    """
    from streams.metrics import Metrics
    from streams.offline import Offline
    from streams.offline import calibrations as read
    from streams.stages import digest_keys, policies, scorer

    settings = load(config, **_given(device=device))
    path = _encoder(model or settings.model, Console(stderr=True))
    patient = settings.model_copy(update={"model": path, "deadline_s": float("inf")})
    encoder = scorer(patient, Metrics())
    offline = Offline(encoder, policies(settings.policy), read(calibrations), digest_keys(settings)[0])
    for line in offline.decide(sys.stdin.buffer):
        sys.stdout.buffer.write(line + b"\n")


def _given(**options: str | None) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


REPLAYED: Final = {"time_source": "event", "horizon_s": 3 * 86_400.0}
"""Time is what the events say, and horizons fit a week."""


def _replay(address: str, model: str, data: Path, given: str | None) -> dict[str, Any]:
    """Settings of a run that replays: time is what the events say, topics are made, horizons fit a week.

    Nobody waits for its decisions, so the deadline is the longest there is: a busy machine changes no byte.
    """
    own = {} if given is None else {"topic_prefix": f"run-{data.name}."}
    return {
        "bootstrap": address,
        "model": model,
        "data_dir": data,
        "session_timeout_s": 3.0,
        "deadline_s": 60.0,
        **REPLAYED,
        **own,
    }


def _encoder(model: str, console: Console, *, fast: bool = False) -> str:
    """Return an encoder's folder or hub id; the reference one is trained first if need be, which is shown."""
    from streams.stages import reference

    if model != "reference":
        return model
    with progress(console) as tell:
        return reference(fast=fast, progress=tell)


def _close(console: Console, finished: Any, left: Settings | None) -> None:
    """Say where everything is; `left`: the settings of a run that left its topics on a broker which goes on."""
    lines = [f"oracle   {finished.oracle}", f"report   {finished.report}", f"summary  {finished.summary}"]
    if left:
        again = f"demur verify --replayed --bootstrap {left.bootstrap} --prefix {left.topic_prefix}"
        lines.append(f"topics   {left.topic_prefix}* stay on the broker; recomputed by: {again}")
    console.print(Text("\n".join(lines)), soft_wrap=True)
    if finished.wrong:
        raise DemurError("the accounts do not balance: " + "; ".join(finished.wrong))


def _log_as_json() -> None:
    """One JSON object a line, ours and the libraries'; the libraries only from warnings on."""
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _unquoted,
    ]
    render = structlog.processors.JSONRenderer()
    structlog.configure(processors=[*shared, render], logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    formatter = structlog.stdlib.ProcessorFormatter(processor=render, foreign_pre_chain=shared)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _unquoted(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Leave of an exception its kind, and of what a library says the first line: both may quote patients' text.

    (What asyncio says of a task that nobody awaited has its exception from the second line on.)
    """
    if raised := event.pop("exc_info", None):
        kind = raised[0] if isinstance(raised, tuple) else type(raised)
        event["error"] = getattr(kind, "__name__", None)
    if "_record" in event:
        event["event"] = event["event"].partition("\n")[0]
    return event
