"""What an engine's program is told, as one JSON argument."""

import sys

import msgspec
from msgspec import Struct


class Spec(Struct, frozen=True):
    """`job` is `pass` (write `responses` on to `passed`) or `join`. `folder` is its own, for state."""

    job: str
    bootstrap: str
    prefix: str
    folder: str


def read() -> Spec:
    """Return what this program was told."""
    return msgspec.json.decode(sys.argv[1], type=Spec)
