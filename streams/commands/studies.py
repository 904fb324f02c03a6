"""Commands before deployment: train a model, measure it, make synthetic data, tell how ready a pilot is."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.errors import SettingsError
from models.events import Target
from streams.allocator import keep_memory
from streams.commands import place, say
from streams.tracking import Tracker, tracked

studies = typer.Typer()


class Head(StrEnum):
    """What stands on the encoder."""

    CROSS = "cross"
    LATE = "late"


class LossName(StrEnum):
    """`models.training.losses.Loss`, whose module needs torch."""

    PLAIN = "plain"
    BALANCED = "balanced"
    FOCAL = "focal"


class Scenario(StrEnum):
    """`models.training.hospital.SCENARIOS`."""

    NONE = "none"
    SUDDEN = "sudden"
    GRADUAL = "gradual"
    RELIEF = "relief"
    EVERYWHERE = "everywhere"


def _place(path: Path | None) -> Path | None:
    """Refuse a file whose folder is not there before the work is done, not after."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"the folder {path.parent} is not there: make it first")
    return place(path)


Data = Annotated[list[Path], typer.Option("--data", help="Judged answers, or a folder of `demur synth`; repeatable.")]
Json = Annotated[
    Path | None, typer.Option("--json", callback=_place, dir_okay=False, help="Where to write the figures.")
]


@studies.command()
def train(  # noqa: PLR0913, PLR0917 (one parameter per option)
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="Folder for the artifact.")],
    data: Annotated[list[Path] | None, typer.Option("--data", help="Judged answers; by default synthetic.")] = None,
    encoder: Annotated[str | None, typer.Option("--encoder", help="Checkpoint to start from; by default none.")] = None,
    head: Annotated[
        Head, typer.Option("--head", help="`cross` trains the encoder, `late` only a head on it.")
    ] = Head.CROSS,
    loss: Annotated[LossName, typer.Option("--loss", help="Loss that `cross` minimises.")] = LossName.PLAIN,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Folder to keep checkpoints in and to resume from.")
    ] = None,
    track: Annotated[Tracker | None, typer.Option("--track", help="Send figures, never text, to a tracker.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of every random choice.")] = 0,
) -> None:
    """Train a rejection prediction model: from nothing, or from any BERT-style checkpoint (folder or hub id).

    With a couple of thousand labels, a frozen sentence encoder with a late-interaction head carries over best.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # noqa: TID251 (OpenMP's own: beside other work threads would spin)
    keep_memory()
    from models.training import losses, synth
    from models.training.data import from_week, read
    from models.training.fit import Recipe
    from models.training.fit import train as fit
    from models.training.late import train_late

    if head is Head.LATE and encoder is None:
        raise SettingsError("--head late needs --encoder: a folder or hub id of a sentence encoder")
    if head is Head.LATE and (resume or track):
        raise SettingsError("--resume and --track go with --head cross: a late head learns in seconds")
    examples = read(*data) if data else from_week(synth.generate(synth.Config(seed=seed, drift=None)))
    with ExitStack() as stack:
        tell = stack.enter_context(progress(Console()))
        if head is Head.LATE:
            report = train_late(examples, out, encoder=str(encoder), seed=seed, progress=tell)
        else:
            sent = stack.enter_context(tracked(track, out, {"seed": seed, "answers": len(examples)}))
            recipe = Recipe(seed=seed, loss=losses.Loss(loss))
            report = fit(examples, out, encoder=encoder, recipe=recipe, progress=tell, track=sent, checkpoints=resume)
        tell(0.99, "measuring what is simpler")
        after, before = report.post_response.auroc, report.pre_response.auroc
        gain = _gain(after, examples, head, seed)
    say(
        f"{out}: held-out AUROC {after:.3f} after the response, {before:.3f} before it; words alone{gain}; "
        f"{report.truncated:.1%} of the texts are cut"
    )


def _gain(after: float, examples: Any, head: Head, seed: int) -> str:
    """How words alone do, or why they do not: the model is made by then."""
    try:
        simple = _words(examples, head, seed)
    except SettingsError as error:
        return f": {error}"
    return f" reach {simple:.3f} on the same questions, so the model gains {after - simple:+.3f}"


def _words(examples: Any, head: Head, seed: int) -> float:
    """AUROC of TF-IDF on the questions that the model is measured on, by learning from those that it learns from."""
    from models.training.baselines import out_of_fold, tfidf
    from models.training.examples import split
    from models.training.fit import Recipe
    from models.training.late import FOLDS, teachers
    from models.training.metrics import measure

    if head is Head.LATE:
        held = [examples[row] for row in teachers(examples, seed)]
        risks = out_of_fold(tfidf, held, FOLDS, seed)
    else:
        rest, held = split(examples, Recipe().held_out, seed)
        risks = tfidf(rest, held)
    return measure([example.rejected for example in held], risks).auroc


@studies.command()
def evaluate(
    artifact: Annotated[str, typer.Option("--artifact", help="Folder or hub id of the model.")],
    data: Data,
    train: Annotated[
        list[Path] | None, typer.Option("--train", help="Judged answers that the baselines learn from.")
    ] = None,
    json: Json = None,
    html: Annotated[
        Path | None, typer.Option("--html", callback=_place, dir_okay=False, help="Where to write the page.")
    ] = None,
) -> None:
    """Measure a model on judged answers beside simple baselines: discrimination, calibration, tiers, by group.

    Without `--train` the baselines learn from the other questions of the same data, fold by fold; with it, from no
    answer that is measured.
    """
    from models.training.data import read
    from models.training.evaluate import evaluate as measure
    from models.training.evaluate import write

    lessons = read(*train or [])
    if train and not lessons:
        raise SettingsError("--train: no judged answers are in it: give some, or leave it out")
    found = measure(artifact, read(*data), clock=perf_counter, train=lessons)
    write(found, json, html)
    names = list(next(iter(found.models.values())).intervals)
    table = Table("model", *(name.replace("_", " ") for name in names))
    for name, row in found.models.items():
        table.add_row(name, *(f"{getattr(row, measure):.3f}" for measure in names))
    Console().print(table)
    if found.learnt:
        say("The model learnt from these very answers: its figures promise too much. Measure it on others.")


@studies.command()
def synth(  # noqa: PLR0913, PLR0917 (one parameter per option)
    out: Annotated[
        Path,
        typer.Option(
            "--out", callback=place, file_okay=False, help="Folder for responses, feedback and truth, as JSON lines."
        ),
    ],
    responses: Annotated[int, typer.Option("--responses", min=1, help="Number of responses.")] = 6000,
    days: Annotated[float, typer.Option("--days", min=0.01, max=3650.0, help="Days over which they are spread.")] = 7.0,
    drift: Annotated[
        Scenario, typer.Option("--drift", help="The change planted in the middle of the time.")
    ] = Scenario.SUDDEN,
    silent: Annotated[
        float, typer.Option("--silent", min=0.0, max=1.0, help="Share of errors that no clinician notices.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="The same seed gives the same events.")] = 7,
) -> None:
    """Write a synthetic hospital's week with known truth: for tests, and for pilots without logs."""
    from models.training.hospital import SCENARIOS
    from models.training.synth import Config, generate, write

    week = generate(Config(responses=responses, days=days, seed=seed, drift=SCENARIOS[drift], silent=silent))
    write(week, out)
    Console().print(f"{out}: {len(week.responses):,} responses, {len(week.feedback):,} feedback", highlight=False)


@studies.command()
def readiness(
    labels: Annotated[Path, typer.Option("--labels", help="JSON lines of labels (the topic's records).")],
    within: Annotated[
        float, typer.Option("--within", min=0.001, max=0.5, help="Half-width of the 95 % interval, as a rate.")
    ] = 0.02,
    target: Annotated[Target, typer.Option("--target", help="Rejections that count, as in the policy.")] = "any",
    deployment: Annotated[str | None, typer.Option("--deployment", help="Only this one; by default all.")] = None,
    json: Json = None,
) -> None:
    """Tell how many more labels each tier needs until its rejection rate is known closely enough.

    A label counts with its weight: a response counts once, however many clinicians judge it.
    """
    from models.training.data import read_labels
    from models.training.readiness import pilot

    mine = [label for label in read_labels(labels) if deployment in {None, label.deployment}]
    if deployment is not None and not mine:
        raise SettingsError(f"{labels} holds no labels of deployment {deployment}")
    found = pilot(mine, within, target)
    table = Table("tier", "labels", "rejected", "known to ±", "labels missing", "days until then")
    for row in found.tiers:
        rate = "-" if row.rate is None else f"{row.rate:.3f}"
        days = "-" if row.days is None else f"{row.days:.1f}"
        table.add_row(row.tier, f"{row.labels:.0f}", rate, f"{row.within:.3f}", str(row.missing), days)
    Console().print(table)
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(found)))


@contextmanager
def progress(console: Console) -> Iterator[Any]:
    """Show a bar; what is yielded is told the fraction done and a few words."""
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True)
    with bar:
        task = bar.add_task("the encoder", total=1.0)
        yield lambda done, words: bar.update(task, completed=done, description=words)
