"""Two text segments to token ids: special tokens, truncation that keeps beginning and end, twins.

*Twins* tell a model for each token whether the same token also stands in the other segment (the "exact match" feature
of Chen et al. 2017, https://aclanthology.org/P17-1171): a matched token gets the id of its twin, id + size of the
vocabulary. A small model that starts from nothing learns from them in seconds what it would else need long training
for: that this dose is not the one that was asked about. Pretrained models know no twins and get none.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from models.encoder.word_tokenizer import WordTokenizer

READING: Final = 3
"""How texts become tokens, beside template and vocabulary; in the model hash. Weights fit any; odd texts differ."""

MAX_LENGTH: Final = 512
"""Positions of BERT; longer texts keep their beginning and end."""

WIDEST: Final = 16
"""Characters of a token, on the average of as many as a model reads; English has four or five."""


class Tokens(NamedTuple):
    """One pair ready for the model: `ids` and `types` have equal length.

    `unknown`: share of characters that the ids do not express, in the segment that has more of them.
    """

    ids: list[int]
    types: list[int]
    truncated: bool
    unknown: float

    @property
    def size(self) -> int:
        """What it costs."""
        return len(self.ids)


class Frame(NamedTuple):
    """The special tokens that a tokenizer puts before, between and after two segments."""

    before: list[int]
    between: list[int]
    after: list[int]

    @property
    def size(self) -> int:
        """How many tokens the frame itself takes."""
        return sum(map(len, self))


class Framer:
    """Turns pairs of texts into `Tokens` of at most `limit` ids, for one Hugging Face fast tokenizer."""

    def __init__(self, tokenizer: Any, limit: int, *, twins: bool) -> None:
        self._words = WordTokenizer(tokenizer)
        self._shift = len(tokenizer) if twins else 0
        self._frame = _frame(tokenizer)
        self._limit = limit
        self._budget = limit - self._frame.size

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
        """Tokenise all texts, then frame each pair."""
        if not pairs:
            return []
        texts = [text for pair in pairs for text in pair]
        read = [ends(text, self._limit) for text in texts]
        ids = self._words(read)
        cut = [len(part) < len(text) for part, text in zip(read, texts, strict=True)]
        unknown = list(map(self._words.unknown_share, read, ids))
        both = [slice(at, at + 2) for at in range(0, len(ids), 2)]
        return [self._join(*ids[pair], cut=any(cut[pair]), unknown=max(unknown[pair])) for pair in both]

    def _join(self, query: list[int], response: list[int], *, cut: bool, unknown: float) -> Tokens:
        keep = shares(len(query), len(response), self._budget)
        first, second = middle_out(query, keep[0]), middle_out(response, keep[1])
        before, between, after = self._frame
        ids = [*before, *self._twins(first, second), *between, *self._twins(second, first), *after]
        rest = len(second) + len(after)
        types = [0] * (len(ids) - rest) + [1] * rest
        lost = cut or len(first) < len(query) or len(second) < len(response)
        return Tokens(ids, types, lost, unknown)

    def _twins(self, tokens: list[int], other: list[int]) -> list[int]:
        return twinned(tokens, other, self._shift) if self._shift else tokens


def twinned(tokens: list[int], other: list[int], shift: int) -> list[int]:
    """Add `shift` to each token that also stands in `other`.

    >>> twinned([5, 7, 5], [7, 9], shift=100)
    [5, 107, 5]
    """
    known = set(other)
    return [token + shift if token in known else token for token in tokens]


def shares(first: int, second: int, budget: int) -> tuple[int, int]:
    """Split a budget of tokens over two segments; the longer gives way first.

    >>> shares(10, 20, 100), shares(10, 200, 100), shares(200, 300, 100)
    ((10, 20), (10, 90), (50, 50))
    """
    half = budget // 2
    if first + second <= budget:
        return first, second
    if first <= half:
        return first, budget - first
    return (budget - second, second) if second <= budget - half else (half, budget - half)


def middle_out(tokens: list[int], keep: int) -> list[int]:
    """Keep the beginning and the end, lose the middle.

    >>> middle_out([1, 2, 3, 4, 5, 6], 3)
    [1, 2, 6]
    """
    if len(tokens) <= keep:
        return tokens
    tail = keep // 2
    return tokens[: keep - tail] + tokens[len(tokens) - tail :]


def ends(text: str, limit: int) -> str:
    """Drop the middle of a text so long that no model of `limit` tokens would read it: tokenising it would take long.

    >>> len(ends("x" * 200_000, limit=512))
    16385
    """
    keep = WIDEST * limit
    return text if len(text) <= 2 * keep + 1 else f"{text[:keep]} {text[-keep:]}"


def _frame(tokenizer: Any) -> Frame:
    """Read the special tokens off a framed pair of texts; the tokenizer is left without padding or truncation."""
    word = tokenizer("a", add_special_tokens=False)["input_ids"]
    other = tokenizer("b", add_special_tokens=False)["input_ids"]
    pair = tokenizer("a", "b")["input_ids"]
    start = _find(pair, word, 0)
    middle = _find(pair, other, start + len(word))
    return Frame(pair[:start], pair[start + len(word) : middle], pair[middle + len(other) :])


def _find(tokens: list[int], part: list[int], start: int) -> int:
    return next(i for i in range(start, len(tokens)) if tokens[i : i + len(part)] == part)
