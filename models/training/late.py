"""Train a late-interaction artifact: the sentence encoder stays as it is, only the head over the relations learns.

The head assumes even odds of both verdicts, whatever their numbers: how often a deployment rejects is the calibrator's
to learn, and the rate of a pilot's files says little about it. Where raters are known their severities are learnt
beside the text and set aside.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.encoder.artifact import seal
from models.encoder.embedder import Embedder, Vectors
from models.encoder.head import Head
from models.encoder.late import Reading, Weights, features, logit, read, save_weights
from models.encoder.loading import open_sentences
from models.encoder.quiet import quiet
from models.encoder.template import VERSION
from models.errors import SettingsError
from models.training.card import write_card
from models.training.examples import Example, digest, folds
from models.training.fit import Progress, Report, plain
from models.training.libraries import libraries
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
    if the encoder cannot be opened, `SettingsError` if there is nothing to learn from.
    """
    _check(examples)
    model, tokenizer = open_sentences(encoder)
    readings = embed(Embedder(model, tokenizer), examples, progress)
    weights, severity = fit_weights(readings, examples, len(tokenizer), seed)
    report = _left_out(readings, examples, len(tokenizer), seed)
    with quiet():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    save_weights(weights, out)
    facts = {"kind": "late", "seed": seed, "groups": (), "data_digest": digest(examples), "libraries": libraries()}
    write_card(out, {**facts, "template": VERSION}, *report)
    seal(out, {**facts, "raters": len(severity), "metrics": plain(report)})
    return report


def _check(examples: Sequence[Example]) -> None:
    if not all(example.event.response for example in examples):
        raise SettingsError("every answer to learn from needs its text: leave out those without a response")
    if len({example.question for example in examples if example.rejected}) < FOLDS or len(examples) < MINIMUM:
        raise SettingsError(f"{len(examples)} judged answers are too few: give {MINIMUM} or more, to many questions")


def _left_out(readings: Sequence[Reading], examples: Sequence[Example], vocabulary: int, seed: int) -> Report:
    """Out-of-fold quality, after the answer and before it; a question is never on both sides."""
    risks = np.zeros((2, len(examples)))
    for fold in folds(examples, FOLDS, seed):
        rest = sorted(set(range(len(examples))) - set(fold))
        weights, _ = fit_weights([readings[i] for i in rest], [examples[i] for i in rest], vocabulary, seed)
        for i in fold:
            risks[:, i] = logit(weights, readings[i]), logit(weights, readings[i]._replace(answer=None))
    truth = [example.rejected for example in examples]
    return Report(*(measure(truth, sigmoid(part)) for part in risks))


def embed(embedder: Embedder, examples: Sequence[Example], progress: Progress | None = None) -> list[Reading]:
    """Embed all examples, with news of the progress."""
    readings: list[Reading] = []
    for start in range(0, len(examples), CHUNK):
        readings += read(embedder, [example.event for example in examples[start : start + CHUNK]])
        if progress:
            progress(len(readings) / len(examples), "embedding the answers")
    return readings


def fit_weights(
    readings: Sequence[Reading], examples: Sequence[Example], vocabulary: int, seed: int
) -> tuple[Weights, dict[str, float]]:
    """Fit everything that is not frozen, from embeddings alone; also returns the severities that were set aside."""
    rarity = inverse_frequency(readings, vocabulary)
    rejected, names = np.array([example.rejected for example in examples]), [example.rater for example in examples]
    queries = np.stack([reading.query.whole.pooled for reading in readings]).astype(float)
    after, severity = _head(features(readings, rarity), rejected, names, seed)
    return Weights(after, _layer(_fit(queries, rejected, names)), rarity), severity


def inverse_frequency(readings: Sequence[Reading], vocabulary: int) -> Vectors:
    """(V,): log((N + 1) / (n + 1/2)) over the answers; a token that no answer has weighs most."""
    counts = Counter(token for reading in readings for token in {t for part in reading.answer or () for t in part.ids})
    found = np.zeros(vocabulary)
    found[list(counts.keys())] = list(counts.values())
    return np.log((len(readings) + 1) / (found + 0.5)).astype(np.float32)


def _head(
    table: Table, rejected: NDArray[np.bool_], names: Sequence[str | None], seed: int
) -> tuple[Head, dict[str, float]]:
    torch.manual_seed(seed)
    head = Head(table.shape[1])
    head.get_buffer("mean").copy_(torch.from_numpy(table.mean(axis=0)))
    head.get_buffer("scale").copy_(torch.from_numpy(table.std(axis=0) + 1e-6))
    scaled = head.scaled(torch.from_numpy(table).float())  # (N, F)
    linear = _fit(scaled.double().numpy(), rejected, names)
    head.linear = _layer(linear)
    severity = torch.from_numpy(offsets(linear, names)).float()
    for network in head.networks:
        _train(network, scaled, severity, torch.from_numpy(rejected).float())
    return head.eval(), linear.severity


def _fit(table: Table, rejected: NDArray[np.bool_], names: Sequence[str | None]) -> Fitted:
    """The rater effect needs the true rates; afterwards the intercept moves to even odds of both verdicts."""
    found = fit(table, rejected, names, penalty=PENALTY)
    rate = rejected.mean()
    return found._replace(intercept=found.intercept - float(np.log(rate / (1 - rate))))


def _layer(found: Fitted) -> nn.Linear:
    layer = nn.Linear(len(found.weights), 1)
    weights = {"weight": torch.from_numpy(found.weights)[None].float(), "bias": torch.tensor([found.intercept])}
    layer.load_state_dict(weights)
    return layer


def _train(network: nn.Module, scaled: torch.Tensor, severity: torch.Tensor, rejected: torch.Tensor) -> None:
    """A few thousand examples and parameters: a plain loop takes a second. Severities are offsets, not learnt here."""
    even = (1 - rejected).sum() / rejected.sum()
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=DECAY)
    for _ in range(EPOCHS):
        for rows in torch.tensor_split(torch.randperm(len(scaled)), max(1, len(scaled) // BATCH)):
            logits = network(scaled[rows])[:, 0] + severity[rows]
            loss: Any = nn.functional.binary_cross_entropy_with_logits(logits, rejected[rows], pos_weight=even)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
