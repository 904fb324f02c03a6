r"""The one text template: an event becomes two text segments, (context and query, response).

The first segment joins five fields, the numbers of the context, the last of the earlier turns and the query by ` | `;
`-` stands for an absent field:

    category | specialty | department | llm model | turn N | name value | ... | earlier text | ... | query

The second is the response; *pre-response* scoring (`response` is None) has `PENDING` there, so that an answer that
is not yet written and an answer that is empty (`""`) stay two different things. The site is left out on purpose:
what is particular to a site is the calibrator's to learn, and a model that knows no site names carries over to the
next site.

Text from outside is hostile: it is brought to Unicode NFKC, invisible and control characters are removed, and runs of
white space become one blank.

>>> clean("met\u200bformin\t500\u00a0\uff4dg")
'metformin 500 mg'
"""

import unicodedata
from typing import Final

from models.events import Response
from models.nfkc import kept, nfkc

VERSION: Final = 2
"""Stands in each artifact's `rpm.json`: weights trained on one template do not fit another."""

PENDING: Final = "response pending"
ABSENT: Final = "-"

MAX_NUMBERS: Final = 16
"""Context numbers shown, in the order of their names: more would crowd out the query."""

MAX_EARLIER, EARLIER_LENGTH = 2, 200
"""Earlier turns shown, the newest, and characters of each: the query itself matters most."""


def segments(response: Response) -> tuple[str, str]:
    """Return the two text segments of an event."""
    return _first(response), PENDING if response.response is None else clean(response.response)


def clean(text: str) -> str:
    """Normalise to NFKC, drop invisible characters, collapse white space. Idempotent."""
    if not _plain(text):
        text = nfkc(text.translate(_hidden(text)))
    return " ".join(text.split())


def lost(response: Response) -> float:
    """Return the share of query or answer, whichever is larger, that is dropped: the model never sees it.

    A query of white space alone is dropped whole; an answer may be empty.
    """
    return max(_lost(response.query), _lost(response.response or "")) if response.query.strip() else 1.0


def _lost(text: str) -> float:
    if _plain(text) or not (solid := _solid(text)):
        return 0.0
    seen = text.translate(_hidden(text))
    return 1 - _solid(seen) / solid * kept(seen)


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _solid(text: str) -> int:
    return sum(map(len, text.split()))


def _hidden(text: str) -> dict[int, None]:
    """What is dropped, as `str.translate` takes it."""
    return {ord(character): None for character in set(text) - _SEEN if not _visible(character)}


_SEEN: Final = frozenset(map(chr, range(0x20, 0x7F))) | frozenset("\t\n\r")
"""What nearly all texts consist of."""


def _visible(character: str) -> bool:
    """True unless control, format (zero-width, bidirectional), surrogate, private or unassigned; white space stays.

    Nor what stands for a character that could not be decoded, which some tokenizers drop by themselves, nor what only
    tells how its neighbours are drawn.
    """
    return character.isspace() or (unicodedata.category(character)[0] != "C" and character not in _UNDRAWN)


_UNDRAWN: Final = frozenset(
    map(
        chr,
        [
            *(0xFFFD, 0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ],
    )
)
"""The replacement character, and what Unicode calls default-ignorable among marks and letters: joiners, fillers,
variation selectors (DerivedCoreProperties.txt)."""


def _first(response: Response) -> str:
    named = (response.category, response.specialty, response.department, response.llm_model)
    fields = [clean(value or "") or ABSENT for value in named]
    return " | ".join(
        [*fields, f"turn {response.turn}", *_numbers(response.context), *_earlier(response), clean(response.query)]
    )


def _earlier(response: Response) -> list[str]:
    return [f"earlier {clean(text[:EARLIER_LENGTH])}" for text in response.earlier[-MAX_EARLIER:]]


def _numbers(context: dict[str, float]) -> list[str]:
    """Three significant digits: more would be rare tokens that say nothing."""
    return [f"{clean(name)} {value:.3g}" for name, value in sorted(context.items())[:MAX_NUMBERS]]
