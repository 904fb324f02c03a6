"""What an edit must not touch lightly: numbers, doses, drugs, negations. Compared by a keyed digest, never as text.

SCORE puts the digest of a response into its decision; JOIN compares it with the digest of the edited text, so that
depth is decided without any patient text after SCORE. Drug names are recognised by the stems of the WHO's
international non-proprietary names (WHO/EMP/RHT/TSN/2018.1, "The use of stems in the selection of INN") and a few
common drugs without one; this is a heuristic and says so.

>>> tokens("Give 5 mg of amlodipine, do not stop lisinopril.")
('5 mg', 'amlodipine', 'lisinopril', 'not', 'stop')
>>> digest("Take 5 mg daily", b"key") == digest("Please take 5 mg daily.", b"key")
True
>>> digest("Take 5 mg daily", b"key") == digest("Take 50 mg daily", b"key")
False
"""

import hashlib
import re
from itertools import chain
from typing import Final

from models.memo import Memo
from models.normal import nfkc

MAX_KEY: Final = 64
"""Bytes that BLAKE2b takes as a key."""
_MICRO = "\u03bc"
"""What the compatible form makes of the micro sign."""
_UNITS = rf"mcg|{_MICRO}g|ug|mg|g|kg|ml|l|mmol|mol|iu|units?|%|hours?|h|days?|weeks?|months?|years?"
_NUMBER = rf"\d+(?:[.,/]\d+)*(?:\s?(?:{_UNITS}))?"
_NEGATION = r"no|not|never|none|without|avoid|stop|hold|discontinue|contraindicated|cannot|\w+n't"
_STEMS = (
    "pril|prilat|sartan|olol|statin|cillin|mycin|micin|azole|prazole|tidine|gliptin|gliflozin|glutide|mab|nib|parin|"
    "xaban|gatran|dipine|zepam|zolam|caine|profen|oxacin|cycline|setron|triptan|vir|sone|olone|onide|terol|tropium|"
    "thiazide|semide|lukast|oxetine|ipramine|peridol|apine|barbital|phylline|platin|taxel|rubicin"
)
_DRUGS = (
    "insulin|warfarin|heparin|aspirin|metformin|paracetamol|acetaminophen|digoxin|lithium|morphine|oxycodone|fentanyl|"
    "codeine|tramadol|methotrexate|amiodarone|gabapentin|pregabalin|levothyroxine|clopidogrel|spironolactone"
)
_ENDS = "|".join(sorted({stem[-2:] for stem in _STEMS.split("|")}))
_LIKELY = rf"(?=[a-z]{{5,}}+(?:(?<={_ENDS})|(?<=s)))"
"""A look at how a word ends spares most words the search for a stem, which is half of the time."""
_SALIENT: Final = re.compile(
    rf"(?<![\w.])(?:{_NUMBER}|(?:{_NEGATION}|{_DRUGS}|{_LIKELY}[a-z]{{2,}}(?:{_STEMS})s?)(?!\w))"
)
"""Of `plain` text: to ignore case would cost more than twice as much."""
_BETWEEN: Final = re.compile(r" (?<!\d )")
"""Where no token reaches across: only a number takes what follows a blank."""


def tokens(text: str) -> tuple[str, ...]:
    """Return the sorted multiset of salient tokens of a text, lower-case."""
    return tuple(sorted(chain.from_iterable(map(_FOUND.__getitem__, _BETWEEN.split(plain(text))))))


def _find(part: str) -> tuple[str, ...]:
    return tuple(" ".join(found.split()) for found in _SALIENT.findall(part))


_FOUND: Final = Memo(_find)


def plain(text: str) -> str:
    """Return a text in lower case, each letter and apostrophe in its most common form."""
    return nfkc(text).lower().replace("\u2019", "'").replace("\u0131", "i")


def digest(text: str, key: bytes) -> str:
    """Return a keyed BLAKE2b digest (RFC 7693) of the salient tokens, in hexadecimal; `key` is at most `MAX_KEY`."""
    return hashlib.blake2b("\x1f".join(tokens(text)).encode(), key=key, digest_size=16).hexdigest()
