r"""Unicode NFKC of text from outside, in time that its length bounds.

Normalising sorts each run of combining marks, and CPython sorts them by insertion, alone in its process: 200,000 marks
would stop it for minutes. No script needs more than 30 in a row ("Stream-Safe Text Format", Unicode Standard Annex #15,
https://www.unicode.org/reports/tr15/#Stream_Safe_Text_Format); what goes beyond is cut off, where the annex divides it.

>>> nfkc("5\u00a0\u00b5g e\u0301") == "5 \u03bcg \u00e9"
True
>>> len(nfkc("a" + "\u0334" * 1000))
31
"""

import re
import unicodedata
from itertools import chain, groupby, islice
from typing import Final

MAX_MARKS: Final = 30
"""Marks in a row."""


def nfkc(text: str) -> str:
    """Normalise to NFKC; of more marks in a row than `MAX_MARKS` keep the first. Idempotent."""
    if text.isascii() or not _LONG.search(text):
        return unicodedata.normalize("NFKC", text)
    return _cut(unicodedata.normalize("NFKC", _cut(text)))


def kept(text: str) -> float:
    """Return the share of a text, in (0, 1], that `nfkc` does not cut off; of an empty one 1."""
    if text.isascii() or not _LONG.search(text):
        return 1.0
    once = _cut(text)
    normal = unicodedata.normalize("NFKC", once)
    return len(once) / len(text) * len(_cut(normal)) / len(normal)


_LONG: Final = re.compile(rf"[^\x00-\x7f]{{{MAX_MARKS // 2},}}")
"""What may hold so many marks, for some characters become two; rare where words are divided by blanks."""


def _cut(text: str) -> str:
    return _LONG.sub(lambda run: _shortened(run[0]), text)


def _shortened(run: str) -> str:
    if not any(map(_is_combining, set(run))):
        return run
    parts = (islice(part, MAX_MARKS) if marks else part for marks, part in groupby(run, _is_combining))
    return "".join(chain.from_iterable(parts))


def _is_combining(character: str) -> bool:
    """Whether it is sorted: some are of combining class 0 and stand for two marks that are not."""
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) > 0
