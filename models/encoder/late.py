"""Late interaction: query and answer are embedded apart by a frozen sentence encoder, and a small head compares them.

With a couple of thousand verdicts this carries over to new questions where a fine-tuned cross-encoder does not. Before
the answer is written, a linear model on the query's embedding speaks.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.encoder.adapter import Adapter
from models.encoder.base import Encoder, Score
from models.encoder.embedder import Embedded, Embedder, Vectors
from models.encoder.head import Head
from models.encoder.passages import asks, heading, passages, sentences
from models.encoder.relations import Query, relate
from models.encoder.runtime import PROBES
from models.encoder.template import clean, lost
from models.encoder.tokens import Tokens
from models.events import Response

HEAD_FILE = "head.safetensors"


class Weights(NamedTuple):
    """What was trained: both heads, the rarity of each token (V,), and the adapter where titles were known."""

    after: Head
    before: nn.Linear
    rarity: Vectors
    adapter: Adapter | None = None


class Reading(NamedTuple):
    """One event, embedded. `answer` is None before it is written; `heading`, where the answer begins with none."""

    query: Query
    answer: list[Embedded] | None
    cut: bool
    heading: Embedded | None = None


class Texts(NamedTuple):
    """One event, divided and tokenised. `answer` is its passages and whether any was left out.

    `unknown`: see `Score`.
    """

    query: str
    asked: list[str]
    answer: tuple[list[str], bool] | None
    tokens: dict[str, Tokens]
    unknown: float

    @property
    def size(self) -> int:
        """Tokens of all its texts."""
        return sum(row.size for row in self.tokens.values())


class LateEncoder(Encoder[Texts]):
    """Scores by the relation of query and answer; fields of the context are left to the calibrator's groups."""

    def __init__(self, embedder: Embedder, weights: Weights, model_hash: str) -> None:
        self.model_hash = model_hash
        self._embedder = embedder
        self._weights = weights
        self.runtime = embedder.runtime._replace(off=self._off())

    def prepare(self, responses: Sequence[Response]) -> list[Texts]:
        """Divide and tokenise."""
        return divide(self._embedder, responses)

    def infer(self, prepared: Sequence[Texts]) -> list[Score]:
        """Score each, in the order given."""
        return self._scores(prepared, exactly=False)

    def infer_exactly(self, prepared: Sequence[Texts]) -> list[Score]:
        """Score each, in the order given."""
        return self._scores(prepared, exactly=True)

    def _scores(self, events: Sequence[Texts], *, exactly: bool) -> list[Score]:
        found = zip(embed(self._embedder, events, exactly=exactly), events, strict=True)
        return [Score(logit(self._weights, reading), reading.cut, event.unknown) for reading, event in found]

    def _off(self) -> float:
        """Mean difference in logits, of the worse head: the embedder's test knows similarities alone."""
        return max(self._apart(_asked(answered=answered)) for answered in (True, False))

    def _apart(self, events: Sequence[Response]) -> float:
        prepared = self.prepare(events)
        pairs = zip(self.infer(prepared), self.infer_exactly(prepared), strict=True)
        return fmean(abs(found.logit - exact.logit) for found, exact in pairs)

    def warm(self) -> None:
        """Prepare every size of pass."""
        self._embedder.warm()


def _asked(*, answered: bool) -> list[Response]:
    """The test's texts as events."""
    return [
        Response(
            response_id="probe",
            conversation_id="probe",
            deployment="probe",
            site="probe",
            query=query,
            response=answer if answered else None,
            occurred_at=datetime.fromtimestamp(0, UTC),
        )
        for query, answer in PROBES
    ]


@torch.inference_mode()
def logit(weights: Weights, reading: Reading) -> float:
    """Log odds of rejection, by the head for what there is to read."""
    if reading.answer is None:
        return float(weights.before(torch.from_numpy(reading.query.whole.pooled)))
    table = features([reading], weights.rarity, weights.adapter)
    return float(weights.after(torch.from_numpy(table).float())[0])


def read(embedder: Embedder, responses: Sequence[Response]) -> list[Reading]:
    """Embed all texts of a batch in one call."""
    return embed(embedder, divide(embedder, responses))


def divide(embedder: Embedder, responses: Sequence[Response]) -> list[Texts]:
    """Cut queries into sentences and answers into passages, and tokenise all in one call."""
    queries = [clean(response.query) for response in responses]
    answers = [None if response.response is None else passages(clean(response.response)) for response in responses]
    asked = [sentences(query) for query in queries]
    texts = [[q, *part, *(named(a[0]) if a else ())] for q, part, a in zip(queries, asked, answers, strict=True)]
    tokens = embedder.tokenise(text for each in texts for text in each)
    held = [{text: tokens[text] for text in each} for each in texts]
    unknown = [_unknown(r, q, a, tokens) for r, q, a in zip(responses, queries, answers, strict=True)]
    return [Texts(*parts) for parts in zip(queries, asked, answers, held, unknown, strict=True)]


def _unknown(
    response: Response, query: str, answer: tuple[list[str], bool] | None, tokens: Mapping[str, Tokens]
) -> float:
    parts = answer[0] if answer else []
    missed = sum(len(part) * tokens[part].unknown for part in parts)
    return max(lost(response), tokens[query].unknown, missed / max(1, sum(map(len, parts))))


def embed(embedder: Embedder, events: Sequence[Texts], *, exactly: bool = False) -> list[Reading]:
    """Embed each distinct text of a batch once."""
    texts = {text: row for event in events for text, row in event.tokens.items()}
    found = embedder.embed(texts, exactly=exactly)
    return [_reading(found, event.query, event.asked, event.answer) for event in events]


def _reading(
    found: dict[str, Embedded], query: str, asked: list[str], answer: tuple[list[str], bool] | None
) -> Reading:
    whole = found[query]
    asking = [index for index, sentence in enumerate(asked) if asks(sentence)] or [len(asked) - 1]
    embedded = Query(whole, np.stack([found[sentence].pooled for sentence in asked]), asking)
    if answer is None:
        return Reading(embedded, None, whole.cut)
    texts, left_out = answer
    parts, title = [found[text] for text in texts], heading(texts[0])
    cut = left_out or whole.cut or any(part.cut for part in parts)
    return Reading(embedded, parts, cut, found[title] if title else None)


def named(passages: list[str]) -> list[str]:
    """The texts of an answer that are embedded: its passages, and its heading if it has one."""
    title = heading(passages[0])
    return [*passages, title] if title else passages


def save_weights(weights: Weights, folder: Path) -> None:
    """Write the heads beside the encoder, as safetensors."""
    tensors = {f"after.{name}": tensor for name, tensor in weights.after.state_dict().items()}
    tensors |= {f"before.{name}": tensor for name, tensor in weights.before.state_dict().items()}
    if weights.adapter:
        tensors |= {f"adapter.{name}": torch.from_numpy(part) for name, part in weights.adapter._asdict().items()}
    save_file({**tensors, "rarity": torch.from_numpy(weights.rarity)}, folder / HEAD_FILE)


def load_weights(folder: Path) -> Weights:
    """Read what `save_weights` wrote."""
    tensors = load_file(folder / HEAD_FILE)
    after = Head(tensors["after.mean"].shape[0])
    before = nn.Linear(tensors["before.weight"].shape[1], 1)
    for name, module in (("after", after), ("before", before)):
        module.load_state_dict(_under(tensors, f"{name}."))
        module.eval().requires_grad_(requires_grad=False)
    moved = {name: tensor.numpy() for name, tensor in _under(tensors, "adapter.").items()}
    return Weights(after, before, tensors["rarity"].numpy(), Adapter(**moved) if moved else None)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def features(readings: Sequence[Reading], rarity: Vectors, adapter: Adapter | None = None) -> NDArray[np.float64]:
    """Relation features (N, F) of readings with an answer."""
    rows = (relate(r.query, r.answer, rarity, r.heading, adapter) for r in readings if r.answer)
    return np.stack(list(rows))
