"""Train an encoder with Hugging Face Transformers' Trainer: from nothing, or from any checkpoint.

*Response dropout*: a share of the answers also stands in the training set without its response, so that the same
artifact scores before and after the model has answered. Where raters are known, their severity is learnt first and set
aside. What comes out is a folder in the Hugging Face layout with `rpm.json`.
"""

import hashlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification

from models.encoder.artifact import seal, verify
from models.encoder.loading import limit, load, open_model
from models.encoder.quiet import quiet
from models.encoder.runtime import has_bfloat16
from models.encoder.template import VERSION, segments
from models.encoder.tokens import Framer, Tokens
from models.errors import SettingsError
from models.training.artifact_files import check_free, make_folder, replaced_folder, write_atomically
from models.training.card import write_card
from models.training.draw import Draw
from models.training.early import Fold, best, kept, watched_folds
from models.training.examples import Example, digest, has_both_verdicts, pending, split
from models.training.libraries import libraries
from models.training.loop import Lesson, Rows, Stop, Track, run
from models.training.losses import Loss, lessons, loss, severities
from models.training.metrics import Metrics, measure, sigmoid
from models.training.vocabulary import FEWEST, common, learn
from models.training.warm import plant

Progress = Callable[[float, str], None]
"""Called with the fraction done, in [0, 1], and a few words."""

GROUPS = ("category", "specialty", "department", "llm_model")
"""Fields of an event that the template shows beside the texts."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to train. Epochs, rate and patience are None for what suits the start: see `settled`.

    Args:
        seed: of everything that is drawn.
        loss: plain, balanced (equal weight for both verdicts), or focal; the plain one is the best calibrated.
        epochs: passes over the data, at most.
        batch: answers a step.
        rate: peak learning rate.
        patience: epochs without a better loss on watched questions until training stops; 0 never stops early.
        folds: how many tenths of the questions are watched, each by a training of its own, see `models.training.early`.
        pending: share of the answers that are repeated without their response.
        held_out: share of the questions that are never trained on, only measured.
        vocabulary, hidden, layers, feed, length: size of an encoder that starts from nothing.
        fewest: conversations that a word of its vocabulary must occur in; 1 only where texts name nobody.
    """

    seed: int = 0
    loss: Loss = Loss.PLAIN
    epochs: float | None = None
    batch: int = 32
    rate: float | None = None
    patience: int | None = None
    folds: int = 1
    pending: float = 0.15
    held_out: float = 0.15
    vocabulary: int = 2000
    hidden: int = 64
    layers: int = 2
    feed: int = 64
    length: int = 512
    fewest: int = FEWEST


def settled(recipe: Recipe, encoder: str | None) -> Recipe:
    """Fill in what was left open: briskly once from nothing, gently and no longer than it helps from a checkpoint."""
    usual = (
        {"epochs": 1.0, "rate": 3e-3, "patience": 0}
        if encoder is None
        else {"epochs": 10.0, "rate": 3e-5, "patience": 2}
    )
    return msgspec.structs.replace(
        recipe, **{name: value for name, value in usual.items() if getattr(recipe, name) is None}
    )


class Report(NamedTuple):
    """Quality on the held-out questions, after the response and before it, and the share of texts that were cut."""

    post_response: Metrics
    pre_response: Metrics
    truncated: float


class _Watch(NamedTuple):
    """Who is told, and where checkpoints lie, to be kept or not."""

    tell: Progress
    track: Track
    place: Path
    keep: bool

    def stage(self, index: int, count: int) -> "_Watch":
        """The same for one of several trainings: each has an equal part of the progress."""
        return self._replace(tell=lambda share, words: self.tell(0.05 + 0.85 * (index + share) / count, words))


class _Start(NamedTuple):
    """A model to be trained, its tokenizer, whether matched tokens have twins, and whether to compute in bfloat16."""

    model: Any
    tokenizer: Any
    framer: Framer
    twins: bool
    half: bool


def train(  # noqa: PLR0913 (what may be left out is by name)
    examples: Sequence[Example],
    out: Path,
    *,
    encoder: str | None = None,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    track: Track | None = None,
    checkpoints: Path | None = None,
) -> Report:
    """Train on `examples` and write the artifact to the folder `out`.

    `encoder` is a folder or hub id of any checkpoint; None trains the small reference encoder from nothing. In the
    folder `checkpoints` an interrupted training is continued. Raises `SettingsError` where there is nothing to learn
    from, the checkpoints are another training's or `out` is not free, `ArtifactError` where the checkpoint cannot be
    opened.
    """
    check_free(out, *(Path(place) for place in (encoder, checkpoints) if place is not None))
    recipe, tell = settled(recipe or Recipe(), encoder), progress or _silent
    fitted, held = split(examples, recipe.held_out, recipe.seed)
    _check(fitted, held)
    transformers.set_seed(recipe.seed)
    tell(0.0, "reading the texts")
    start = _fresh(fitted, recipe) if encoder is None else _pretrained(encoder)
    with TemporaryDirectory() as scratch:
        place = Path(scratch) if checkpoints is None else _owned(checkpoints, digest(examples), encoder, recipe)
        _fit(start, fitted, recipe, _Watch(tell, track or _silent, place, keep=checkpoints is not None))
    tell(0.95, "measuring on held-out questions")
    with replaced_folder(out) as place:
        return _save(start, place, examples, held, recipe)


def _check(fitted: Sequence[Example], held: Sequence[Example]) -> None:
    for name, part in (("training", fitted), ("held-out", held)):
        if not has_both_verdicts(part):
            raise SettingsError(
                f"the {name} part has {len(part)} answers of one verdict only: give more judged answers"
            )


def _fresh(examples: Sequence[Example], recipe: Recipe) -> _Start:
    texts = [(example.question, text) for example in examples for text in segments(example.event)]
    tokenizer = learn(common(texts, recipe.fewest), recipe.vocabulary, recipe.length)
    build: Any = BertForSequenceClassification
    model = build(_config(recipe, len(tokenizer)))
    framer = Framer(tokenizer, recipe.length, twins=True)
    plant(model, _rows(framer, examples), [example.rejected for example in examples])
    return _Start(model, tokenizer, framer, twins=True, half=False)


def _config(recipe: Recipe, vocabulary: int) -> BertConfig:
    """Two ids a token, for the twins; a small model on fresh data needs no dropout, and wide initial weights."""
    return BertConfig(
        vocab_size=2 * vocabulary,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=max(1, recipe.hidden // 16),
        intermediate_size=recipe.feed,
        max_position_embeddings=recipe.length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.15,
        **_HEAD,
    )


_HEAD: dict[str, Any] = {"id2label": {0: "accept", 1: "reject"}, "label2id": {"accept": 0, "reject": 1}}


def _pretrained(name: str) -> _Start:
    """A checkpoint with a head of two labels, its own or a new one; an artifact of ours keeps its twins."""
    twins = bool(verify(Path(name)).get("twins"))
    model, tokenizer = open_model(name, labels=2)
    model.config.update(_HEAD)
    framer = Framer(tokenizer, limit(model, tokenizer), twins=twins)
    for part, module in model.named_modules():
        if part.endswith(_ATTENTION):
            module.p = 0.0
    half = not torch.cuda.is_available() and has_bfloat16(model.device)  # where there is a GPU, the Trainer takes it
    return _Start(model, tokenizer, framer, twins=twins, half=half)


_ATTENTION = ("attention.self.dropout", "attention.dropout")
"""What BERT's and DistilBERT's families call the dropout of attention. With any, a processor has no fast attention: on
two cores with AMX a step of MiniLM took 2.3 times as long, and in float32 half as long again."""


def _dropped(examples: Sequence[Example], recipe: Recipe) -> list[Example]:
    draw = Draw(recipe.seed, 1)
    return [pending(example) for example in examples if draw.chance(recipe.pending)]


def _rows(framer: Framer, examples: Sequence[Example]) -> list[Tokens]:
    return framer([segments(example.event) for example in examples])


def _fit(start: _Start, examples: Sequence[Example], recipe: Recipe, watch: _Watch) -> None:
    """Train on all, for as many epochs as the watched folds bear."""
    watched = watched_folds(examples, recipe.folds, recipe.seed) if recipe.patience else []
    curves = [
        kept(watch.place / f"fold-{index}", partial(_curve, start, fold, recipe, watch.stage(index, len(watched) + 1)))
        for index, fold in enumerate(watched)
    ]
    stage = watch.stage(len(watched), len(watched) + 1)
    _run(start, Fold(examples, []), recipe, stage, watch.place, best(curves) if curves else None)
    start.model.eval()


def _curve(start: _Start, fold: Fold, recipe: Recipe, watch: _Watch, place: Path) -> list[float]:
    return _run(start._replace(model=deepcopy(start.model)), fold, recipe, watch, place)


def _run(  # noqa: PLR0913, PLR0917 (what one training differs by from the next)
    start: _Start, fold: Fold, recipe: Recipe, watch: _Watch, place: Path, until: int | None = None
) -> list[float]:
    """Train and return the loss of each epoch on the watched questions, if there are any."""
    fitted, severity = [*fold.fitted, *_dropped(fold.fitted, recipe)], severities(fold.fitted)
    told, looked_at = lessons(fitted, severity), lessons(fold.watched, severity)
    rows, others = (Rows(_rows(start.framer, part), each) for part, each in ((fitted, told), (fold.watched, looked_at)))
    stop = Stop(recipe.patience or 0, until)
    lesson = Lesson(rows, others if fold.watched else None, stop, start.tokenizer.pad_token_id, loss(recipe.loss, told))
    settings = {
        "output_dir": str(place),
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch,
        "learning_rate": recipe.rate,
        "seed": recipe.seed,
        **({"bf16": True, "use_cpu": True} if start.half else {}),
        **(_kept(recipe) if watch.keep else {}),
    }
    return run(start.model, lesson, settings, lambda share: watch.tell(share, "training"), watch.track)


def _kept(recipe: Recipe) -> dict[str, Any]:
    """After each epoch or, of one epoch, each tenth: from its middle only the first is repeated exactly."""
    whole = recipe.epochs is not None and recipe.epochs > 1
    often = {"save_strategy": "epoch"} if whole else {"save_strategy": "steps", "save_steps": 0.1}
    return {**often, "save_total_limit": 1}


def _owned(folder: Path, data: str, encoder: str | None, recipe: Recipe) -> Path:
    """Make or check the folder of checkpoints: what is continued must be the same training."""
    make_folder(folder)
    note, own = folder / "training.json", msgspec.json.encode((data, encoder, _contents(encoder), recipe))
    if note.read_bytes() != own if note.exists() else any(folder.glob("checkpoint-*")):
        raise SettingsError(
            f"{folder}: the checkpoints are of other data or settings, or of another encoder: give another "
            "folder, or none"
        )
    write_atomically(note, own)
    return folder


def _contents(encoder: str | None) -> dict[str, str]:
    """SHA-256 of each file of an encoder's folder; {} where there is none."""
    files = sorted(path for path in Path(encoder).rglob("*") if path.is_file()) if encoder else []
    return {str(path): _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(start: _Start, out: Path, examples: Sequence[Example], held: Sequence[Example], recipe: Recipe) -> Report:
    """Write, measure what was written, and seal it."""
    with quiet():
        start.model.save_pretrained(out)
        start.tokenizer.save_pretrained(out)
    facts = {"kind": "cross", "twins": start.twins, "groups": GROUPS, "data_digest": digest(examples)}
    facts |= {"seed": recipe.seed, "recipe": msgspec.to_builtins(recipe), "libraries": libraries()}
    seal(out, facts)
    report = quality(str(out), held)
    write_card(out, {**facts, "template": VERSION}, *report)
    seal(out, {**facts, "metrics": plain(report)})
    return report


def plain(report: Report) -> dict[str, Any]:
    """The report as JSON holds it."""
    return {name: msgspec.to_builtins(part) for name, part in report._asdict().items()}


def quality(artifact: str, examples: Sequence[Example]) -> Report:
    """Measure an artifact after the response and before it. Risks are uncalibrated: the sigmoid of the logit."""
    encoder = load(artifact)
    truth = [example.rejected for example in examples]
    parts = (examples, [pending(example) for example in examples])
    after, before = (encoder.score([example.event for example in part]) for part in parts)
    first, second = (measure(truth, sigmoid([score.logit for score in scores])) for scores in (after, before))
    return Report(first, second, sum(score.truncated for score in after) / len(after))


def _silent(*_: object) -> None:
    """Tell nobody."""
