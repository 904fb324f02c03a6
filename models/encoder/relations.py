"""How an answer relates to its query: late interaction of frozen embeddings, and overlap of tokens.

Groups of features, all of one query and one answer. *Similarities* of the whole query to the answer's passages.
*Sentences*: the same for the query's subject (its first sentence) and what it asks. *Interaction*: for each query
token its closest answer token (MaxSim of ColBERT, https://arxiv.org/abs/2004.12832), weighted by rarity. *Overlap*:
which query tokens the answer repeats, with BM25's saturation. *Heading*: what the answer says that it is about, if it
does. With an adapter, similarities, sentences and heading stand again, by its vectors.
"""

from collections import Counter
from collections.abc import Container, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.encoder.adapter import Adapter
from models.encoder.embedder import Embedded, Vectors, unit
from models.encoder.passages import FIRST

HEAD: Final = 50
"""Tokens at the beginning of an answer, where its topic stands."""

RARE: Final = 3
"""So many of the query's rarest tokens are looked at alone."""


class Query(NamedTuple):
    """An embedded query, its sentences (N, H), and which of them ask."""

    whole: Embedded
    sentences: Vectors
    asking: list[int]


def relate(
    query: Query, answer: Sequence[Embedded], rarity: Vectors, heading: Embedded | None, adapter: Adapter | None
) -> NDArray[np.float64]:
    """Return the features, 52 or with an adapter 73; `rarity` (V,) is each token's inverse document frequency."""
    pooled = np.stack([passage.pooled for passage in answer[:FIRST]])  # (P, H)
    groups = (
        _similarities(query.whole.pooled, pooled),
        _sentences(query, pooled),
        _interaction(query.whole, answer, rarity),
        _overlap(query.whole.ids, [passage.ids for passage in answer], rarity),
        _heading(query, heading),
        _adapted(query, pooled, heading, adapter) if adapter else [],
    )
    return np.array([value for group in groups for value in group], dtype=np.float64)


def _similarities(query: Vectors, passages: Vectors) -> list[float]:
    near = passages @ query  # (P,)
    best = np.sort(near)[::-1][:3].mean()
    return [near.max(), near.mean(), near[0], near[:3].max(), near.std(), best, unit(passages.mean(axis=0)) @ query]


def _sentences(query: Query, passages: Vectors) -> list[float]:
    near = query.sentences @ passages.T  # (N, P)
    weight = np.exp(4 * query.sentences @ query.whole.pooled)  # sentences close to the whole query speak for it
    weight /= weight.sum()
    subject, asked, best = near[0], near[query.asking], near.max(axis=1)
    both = np.minimum(subject, asked.max(axis=0))
    return [
        *(subject.max(), subject.mean(), subject[0]),
        *(asked.max(), asked.max(axis=1).mean(), asked.mean(), asked[:, 0].max()),
        *(best.max(), best.min(), weight @ best, (weight @ near).max(), both.max()),
    ]


def _interaction(query: Embedded, answer: Sequence[Embedded], rarity: Vectors) -> list[float]:
    if not query.ids or not any(passage.ids for passage in answer):
        return [0.0] * 13
    near = [query.tokens @ passage.tokens.T for passage in answer if passage.ids]  # each (Q, T)
    every = np.concatenate(near, axis=1)
    best, first, back = every.max(axis=1), near[0].max(axis=1), every.max(axis=0)
    weight = rarity[query.ids] / rarity[query.ids].sum()
    parts = np.array([weight @ part.max(axis=1) for part in near])
    rare = np.argsort(-weight)[:RARE]
    return [
        *(best.mean(), best.min(), weight @ best, weight @ first, np.sort(best)[:3].mean()),
        *(back.mean(), back.std(), parts.max(), parts.mean(), parts.std()),
        *(best[rare].mean(), best[rare].min(), first[rare].mean()),
    ]


def _overlap(query: list[int], passages: list[list[int]], rarity: Vectors) -> list[float]:
    answer = [token for passage in passages for token in passage]
    if not query or not answer:
        return [0.0] * 13
    asked = sorted(set(query), key=lambda token: (-rarity[token], token))
    counts, weight, rare = Counter(answer), rarity[asked] / rarity[asked].sum(), asked[:RARE]
    pairs, length = set(pairwise(query)), len(answer)
    shares = [_covered(asked, weight, set(passage)) for passage in passages]
    saturated = [counts[token] * 2.2 / (counts[token] + 1.2 * (0.25 + 0.75 * length / 500)) for token in asked]
    return [
        *(_covered(asked, weight, counts.keys()), _covered(asked, weight, set(answer[:HEAD])), max(shares)),
        *(
            float(np.mean(shares)),
            float(np.mean([token in counts for token in asked])),
            float(rarity[asked] @ saturated),
        ),
        len(pairs & set(pairwise(answer))) / max(1, len(pairs)),
        *(_share(rare, counts.keys()), _share(rare, set(answer[:HEAD])), float(np.mean([counts[t] for t in rare]))),
        *(float(np.log1p(length)), float(np.log1p(len(query))), len(counts) / length),
    ]


def _heading(query: Query, heading: Embedded | None) -> list[float]:
    if heading is None or not heading.ids or not query.whole.ids:
        return [0.0] * 7
    near, asked = query.whole.tokens @ heading.tokens.T, query.sentences @ heading.pooled  # (Q, T), (N,)
    found, mate = near.max(axis=0), near.max(axis=1)
    whole = float(query.whole.pooled @ heading.pooled)
    return [1.0, whole, asked.max(), asked[query.asking].max(), found.mean(), found.min(), mate.mean()]


def _adapted(query: Query, passages: Vectors, heading: Embedded | None, adapter: Adapter) -> list[float]:
    whole, passages = adapter(query.whole.pooled), adapter(passages)
    moved = query._replace(sentences=adapter(query.sentences), whole=query.whole._replace(pooled=whole))
    found = [*_similarities(whole, passages), *_sentences(moved, passages)]
    if heading is None:
        return [*found, 0.0, 0.0]
    title = adapter(heading.pooled)
    return [*found, float(whole @ title), (moved.sentences @ title).max()]


def _covered(tokens: Sequence[int], weight: Vectors, known: Container[int]) -> float:
    return float(weight @ np.array([token in known for token in tokens], dtype=np.float32))


def _share(tokens: Sequence[int], known: Container[int]) -> float:
    return sum(token in known for token in tokens) / len(tokens)
