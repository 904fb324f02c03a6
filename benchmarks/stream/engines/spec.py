"""What an engine's program is told, as one JSON argument, and what it tells: when it began."""

import sys
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from streams.clock import WallClock

BEGAN: Final = "began"
"""File in an engine's folder that says when it took its first message, in seconds since the epoch."""


class Spec(Struct, frozen=True):
    """`job` is `pass` (write `responses` on to `passed`), `join`, or `end_to_end`. `folder` is its own, for state."""

    job: str
    bootstrap: str
    prefix: str
    folder: str


class Began:
    """Notes the first call, the first message that an engine takes: what it fetched before cost it little."""

    def __init__(self, folder: str) -> None:
        self._file: Path | None = Path(folder) / BEGAN

    def __call__(self) -> None:
        if self._file:
            self._file.write_text(str(WallClock().now().timestamp()))
            self._file = None


def read() -> Spec:
    """Return what this program was told."""
    return msgspec.json.decode(sys.argv[1], type=Spec)
