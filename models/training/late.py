"""Train a late-interaction artifact: the sentence encoder stays as it is, only the head over the relations learns.

The head assumes even odds of both verdicts, whatever their numbers: how often a deployment rejects is the calibrator's
to learn, and the rate of a pilot's files says little about it. Where raters are known their severities are learnt
beside the text and set aside. The depth of rejections is a second target.

Answers whose title is known teach the encoder's adapter which answer belongs to which question, without verdicts. Their
verdicts teach the head only if there are no others: they cost .01 to .04 AUROC on MEDIQA's questions, left out by
folds or by kind, where their titles gave .01 to .05 (see `benchmarks/mediqa`).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from models.encoder.adapter import Adapter
from models.encoder.artifact import seal
from models.encoder.base import Precision
from models.encoder.embedder import Embedder, Vectors
from models.encoder.head import Head
from models.encoder.late import Reading, Weights, features, logit, read, save_weights
from models.encoder.loading import open_sentences
from models.encoder.passages import FIRST
from models.encoder.quiet import quiet
from models.encoder.template import VERSION
from models.errors import SettingsError
from models.training.adapt import adapt
from models.training.artifact_files import check_free, replaced_folder
from models.training.card import write_card
from models.training.examples import Example, beside, digest, folds, has_both_verdicts
from models.training.fit import Progress, Report, plain
from models.training.libraries import libraries
from models.training.losses import DEPTH
from models.training.metrics import measure, sigmoid
from models.training.raters import Fitted, Table, fit, offsets

FOLDS: Final = 5
MINIMUM: Final = 50
"""Judged answers below which nothing can be learnt or measured."""

CHUNK: Final = 64
"""Answers embedded between two reports of progress."""

PENALTY: Final = 100.0
"""Inverse prior variance of the linear weights; strong, since the next questions will be of another kind."""

EPOCHS: Final = 80
DECAY: Final = 0.3
BATCH: Final = 256


def train_late(
    examples: Sequence[Example], out: Path, *, encoder: str, seed: int = 0, progress: Progress | None = None
) -> Report:
    """Train on judged answers with a response and write the artifact to `out`.

    Returns the quality on questions left out, fold by fold; the artifact then learns from all. Raises `ArtifactError`
    if the encoder cannot be opened, `SettingsError` if there is nothing to learn from or `out` is not free.
    """
    check_free(out, Path(encoder))
    model, tokenizer = open_sentences(encoder)
    lesson = prepare(examples, model, tokenizer, seed, progress)
    weights, severity = fit_weights(lesson, seed)
    after, before = (measure(_rejected(lesson), risks) for risks in left_out(lesson, seed))
    report = Report(after, before, float(np.mean([reading.cut for reading in lesson.readings])))
    facts = {"kind": "late", "seed": seed, "groups": (), "data_digest": digest(examples), "libraries": libraries()}
    with replaced_folder(out) as place:
        with quiet():
            model.save_pretrained(place)
            tokenizer.save_pretrained(place)
        save_weights(weights, place)
        write_card(place, {**facts, "template": VERSION}, *report)
        seal(place, {**facts, "precision": lesson.precision, "raters": len(severity), "metrics": plain(report)})
    return report


def _check(examples: Sequence[Example], seed: int) -> None:
    if not all(example.event.response for example in examples):
        raise SettingsError("every answer to learn from needs its text: leave out those without a response")
    if not _enough(examples, seed):
        raise SettingsError(
            f"{len(examples)} judged answers are too few: give {MINIMUM} or more, to many questions, with both verdicts"
        )


def _enough(examples: Sequence[Example], seed: int) -> bool:
    """Whether each verdict stands on as many questions as there are folds, and both stand beside each fold."""
    asked = [{example.question for example in examples if example.rejected == verdict} for verdict in (True, False)]
    if len(examples) < MINIMUM or min(map(len, asked)) < FOLDS:
        return False
    dealt = (beside(examples, fold) for fold in folds(examples, FOLDS, seed))
    return all(has_both_verdicts(examples[index] for index in rest) for rest in dealt)


def teachers(examples: Sequence[Example], seed: int) -> list[int]:
    """Whose verdicts teach the head: those of answers without a title, or all where these are too few."""
    kept = [index for index, example in enumerate(examples) if example.title is None]
    return kept if _enough([examples[index] for index in kept], seed) else list(range(len(examples)))


def _adapter(embedder: Embedder, readings: Sequence[Reading], examples: Sequence[Example], seed: int) -> Adapter | None:
    """Learn from each distinct pair of title and answer; no verdict is looked at."""
    pairs = {(e.title, e.event.response): r.answer for e, r in zip(examples, readings, strict=True) if e.title}
    names, found = [title for title, _ in pairs if title], embedder(title for title, _ in pairs if title)
    answers = [np.stack([passage.pooled for passage in answer[:FIRST]]) for answer in pairs.values() if answer]
    titles = np.stack([found[name].pooled for name in names]) if names else np.zeros((0, 1), np.float32)
    return adapt(names, titles, answers, seed)


class Lesson(NamedTuple):
    """Embedded answers and their verdicts; `vocabulary` is the tokenizer's size, `precision` that of the embeddings."""

    readings: list[Reading]
    examples: list[Example]
    vocabulary: int
    precision: Precision
    adapter: Adapter | None

    def only(self, rows: Sequence[int]) -> "Lesson":
        """Some of the answers."""
        return self._replace(readings=[self.readings[i] for i in rows], examples=[self.examples[i] for i in rows])


def prepare(
    examples: Sequence[Example], model: Any, tokenizer: Any, seed: int = 0, progress: Progress | None = None
) -> Lesson:
    """Embed the answers and fit the adapter; what is returned leaves out those that do not teach the head."""
    _check(examples, seed)
    embedder = Embedder(model, tokenizer, precision="auto")  # as it is served
    readings = embed(embedder, examples, progress)
    adapter, kept = _adapter(embedder, readings, examples, seed), teachers(examples, seed)
    return Lesson(readings, list(examples), len(tokenizer), embedder.runtime.precision, adapter).only(kept)


def left_out(lesson: Lesson, seed: int) -> NDArray[np.float64]:
    """Risks (2, N) after the answer and before it, by heads fitted to the other folds' questions.

    The adapter is one for all folds. Where answers with a title teach the head for want of others, it has seen which
    titles those left out belong to, though no verdict: these figures then promise a little too much.
    """
    logits = np.zeros((2, len(lesson.examples)))
    for fold in folds(lesson.examples, FOLDS, seed):
        weights, _ = fit_weights(lesson.only(beside(lesson.examples, fold)), seed)
        for i in fold:
            reading = lesson.readings[i]
            logits[:, i] = logit(weights, reading), logit(weights, reading._replace(answer=None))
    return sigmoid(logits)


def _rejected(lesson: Lesson) -> NDArray[np.bool_]:
    return np.array([example.rejected for example in lesson.examples])


def embed(embedder: Embedder, examples: Sequence[Example], progress: Progress | None = None) -> list[Reading]:
    """Embed all examples, with news of the progress."""
    readings: list[Reading] = []
    for start in range(0, len(examples), CHUNK):
        readings += read(embedder, [example.event for example in examples[start : start + CHUNK]])
        if progress:
            progress(len(readings) / len(examples), "embedding the answers")
    return readings


def fit_weights(lesson: Lesson, seed: int) -> tuple[Weights, dict[str, float]]:
    """Fit everything that learns from verdicts, from embeddings; also returns the severities that were set aside."""
    rarity = inverse_frequency(lesson.readings, lesson.vocabulary)
    rejected = _rejected(lesson)
    names = [example.rater for example in lesson.examples]
    queries = np.stack([reading.query.whole.pooled for reading in lesson.readings]).astype(float)
    deep = np.array([example.rejected_deeply for example in lesson.examples])
    table = features(lesson.readings, rarity, lesson.adapter)
    after, severity = _head(table, np.stack([rejected, deep]), names, seed)
    return Weights(
        after, _layer(fit(queries, rejected, names, PENALTY, balanced=True)), rarity, lesson.adapter
    ), severity


def inverse_frequency(readings: Sequence[Reading], vocabulary: int) -> Vectors:
    """(V,): log((N + 1) / (n + 1/2)) over the answers; a token that no answer has weighs most."""
    counts = Counter(token for reading in readings for token in {t for part in reading.answer or () for t in part.ids})
    found = np.zeros(vocabulary)
    found[list(counts.keys())] = list(counts.values())
    return np.log((len(readings) + 1) / (found + 0.5)).astype(np.float32)


def _head(
    table: Table, targets: NDArray[np.bool_], names: Sequence[str | None], seed: int
) -> tuple[Head, dict[str, float]]:
    """Fit to `targets` (2, N), any rejection and deep ones; also returns the severities."""
    torch.manual_seed(seed)
    head = Head(table.shape[1])
    head.get_buffer("mean").copy_(torch.from_numpy(table.mean(axis=0)))
    head.get_buffer("scale").copy_(torch.from_numpy(table.std(axis=0) + 1e-6))
    scaled = head.scaled(torch.from_numpy(table).float())  # (N, F)
    linear = fit(scaled.double().numpy(), targets[0], names, PENALTY, balanced=True)
    head.linear = _layer(linear)
    severity = torch.from_numpy(offsets(linear, names)).float()
    for network in head.networks:
        _train(network, scaled, severity, torch.from_numpy(targets).float())
    return head.eval(), linear.severity


def _layer(found: Fitted) -> nn.Linear:
    layer = nn.Linear(len(found.weights), 1)
    weights = {"weight": torch.from_numpy(found.weights)[None].float(), "bias": torch.tensor([found.intercept])}
    layer.load_state_dict(weights)
    return layer


def _train(network: nn.Module, scaled: torch.Tensor, severity: torch.Tensor, targets: torch.Tensor) -> None:
    """A few thousand examples and parameters: a plain loop takes a second. Severities are offsets, not learnt here.

    Depth is a target of its own, not a threshold on the first: on MEDIQA's folds the shared layer gains .001 AUROC by
    it, where one latent value for both lost .018.
    """
    even = (1 - targets[0]).sum() / targets[0].sum()
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=DECAY)
    for _ in range(EPOCHS):
        for rows in torch.tensor_split(torch.randperm(len(scaled)), max(1, len(scaled) // BATCH)):
            any_, deep = (network(scaled[rows]) + severity[rows, None]).T
            loss: Any = cross_entropy(any_, targets[0, rows], pos_weight=even)
            loss += DEPTH * cross_entropy(deep, targets[1, rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
