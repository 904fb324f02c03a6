"""Two text segments to token ids: special tokens, truncation that keeps beginning and end, match marks.

*Match marks* tell the model for each token whether the same token also stands in the other segment (the "exact
match" feature of Chen et al. 2017, https://aclanthology.org/P17-1171, carried by the token type): type = segment +
2 * matched. A small model learns relations such as "this dose is not the one that was asked about" from them in
seconds. Models that were not trained with marks get the plain segment numbers or none.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

KINDS: Final = 4
"""Token types with match marks: query, response, query matched, response matched."""


class Tokens(NamedTuple):
    """One pair ready for the model: `ids` and `types` have equal length."""

    ids: list[int]
    types: list[int]
    truncated: bool
    unknown: float


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

    def __init__(self, tokenizer: Any, limit: int, *, marks: bool) -> None:
        self._tokenizer = tokenizer
        self._marks = marks
        self._frame = _frame(tokenizer)
        self._budget = limit - self._frame.size
        self._unknown = tokenizer.unk_token_id

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
        """Tokenise all texts in one call, then frame each pair."""
        if not pairs:
            return []
        encoded = self._encode([text for pair in pairs for text in pair])
        return [self._join(*both) for both in zip(encoded[::2], encoded[1::2], strict=True)]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )["input_ids"]
        return ids

    def _join(self, query: list[int], response: list[int]) -> Tokens:
        keep = shares(len(query), len(response), self._budget)
        first, second = middle_out(query, keep[0]), middle_out(response, keep[1])
        before, between, after = self._frame
        ids = [*before, *first, *between, *second, *after]
        cut = len(first) < len(query) or len(second) < len(response)
        return Tokens(ids, self._types(first, second), cut, self._missing(query, response))

    def _types(self, first: list[int], second: list[int]) -> list[int]:
        before, between, after = map(len, self._frame)
        left, right = (matches(first, second), matches(second, first)) if self._marks else ([], [])
        query = [2 * match for match in left] or [0] * len(first)
        response = [1 + 2 * match for match in right] or [1] * len(second)
        return [*[0] * before, *query, *[0] * between, *response, *[1] * after]

    def _missing(self, *parts: list[int]) -> float:
        if self._unknown is None:
            return 0.0
        return sum(part.count(self._unknown) for part in parts) / max(1, sum(map(len, parts)))


def matches(tokens: list[int], other: list[int]) -> list[bool]:
    """For each token, whether it also stands in `other`.

    >>> matches([5, 7, 5], [7, 9])
    [False, True, False]
    """
    known = set(other)
    return [token in known for token in tokens]


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


def _frame(tokenizer: Any) -> Frame:
    """Read the special tokens off a framed pair of one-word texts."""
    word = tokenizer("a", add_special_tokens=False)["input_ids"]
    other = tokenizer("b", add_special_tokens=False)["input_ids"]
    pair = tokenizer("a", "b")["input_ids"]
    start = _find(pair, word, 0)
    middle = _find(pair, other, start + len(word))
    return Frame(pair[:start], pair[start + len(word) : middle], pair[middle + len(other) :])


def _find(tokens: list[int], part: list[int], start: int) -> int:
    return next(i for i in range(start, len(tokens)) if tokens[i : i + len(part)] == part)
