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
from models.normal import nfkc

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
    if not (text.isascii() and text.isprintable()):
        hidden = {ord(character): None for character in set(text) if not _visible(character)}
        text = nfkc(text.translate(hidden))
    return " ".join(text.split())


def _visible(character: str) -> bool:
    """True unless control, format (zero-width, bidirectional), surrogate, private or unassigned; white space stays."""
    return character.isspace() or unicodedata.category(character)[0] != "C"


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
