"""Cut texts into what a sentence encoder was made for: passages of an answer, sentences of a query."""

import re
from typing import Final

PASSAGE: Final = 160
"""Characters; about a sentence or two, as the encoder was trained on: longer ones blur the similarity."""

FIRST, LAST = 10, 2
"""Passages read of a long answer: its beginning and its end."""

MAX_SENTENCES: Final = 10

_HEADING: Final = re.compile(r"([^.?!]{3,90}?): ")
"""Words before a colon at the beginning, shorter than a passage."""

_END: Final = re.compile(r"(?<=[.!?])\s+")
_ASKING: Final = ("what", "how", "is ", "can", "does", "do ", "which", "why", "are", "should", "could", "when", "who")


def passages(text: str) -> tuple[list[str], bool]:
    """Return the passages that are read, at least one, and whether any was left out.

    >>> passages("Take it daily.")
    (['Take it daily.'], False)
    """
    cut = _packed(text.split())
    if len(cut) <= FIRST + LAST:
        return cut or ["-"], False
    return cut[:FIRST] + cut[-LAST:], True


def heading(passage: str) -> str:
    """Return what an answer's first passage says that it is about; "" if it does not begin so.

    >>> heading("Lupus (Symptoms): Many people are tired.")
    'Lupus (Symptoms)'
    """
    found = _HEADING.match(passage)
    return found[1] if found else ""


def _packed(words: list[str]) -> list[str]:
    """Fill passages with whole words."""
    cut: list[str] = []
    for word in words:
        if cut and len(cut[-1]) + 1 + len(word) <= PASSAGE:
            cut[-1] += f" {word}"
        else:
            cut.append(word)
    return cut


def sentences(text: str) -> list[str]:
    """Return the first sentences of a query, at least one; the first is often its subject.

    >>> sentences("Jock itch. Is it bad? I wonder.")
    ['Jock itch.', 'Is it bad?', 'I wonder.']
    """
    found = [part for part in _END.split(text) if len(part) > 2]
    return found[:MAX_SENTENCES] or [text]


def asks(sentence: str) -> bool:
    """Whether a sentence looks like a question."""
    return "?" in sentence or sentence.lower().startswith(_ASKING)
