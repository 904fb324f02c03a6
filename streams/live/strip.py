"""A series as one line of block characters.

>>> strip([0.0, 0.5, None, 1.0], top=1.0)
'▁▅ █'
"""

from collections.abc import Iterable
from typing import Final

BLOCKS: Final = "▁▂▃▄▅▆▇█"


def strip(values: Iterable[float | None], top: float) -> str:
    """Draw each value from 0 to `top` as a block; None as a gap."""
    return "".join(" " if v is None else BLOCKS[_level(v / top if top else 0.0)] for v in values)


def bar(share: float, width: int) -> str:
    """Draw a share of `width` cells, to an eighth of a cell.

    >>> bar(0.5, 5)
    '██▌'
    """
    whole, rest = divmod(round(8 * width * share), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[rest].strip()


def _level(share: float) -> int:
    return min(len(BLOCKS) - 1, max(0, int(share * len(BLOCKS))))
