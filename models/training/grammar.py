"""The sentences and words of the synthetic hospital, read from `grammar.toml`.

A good answer fills its slots with the query's own facts. That is where defects live: not in the words, but between the
two texts.

>>> sorted(GRAMMARS)[:3]
['discharge summary', 'imaging follow-up', 'lab interpretation']
"""

import tomllib
from importlib import resources
from typing import Any, Final

import msgspec


class Grammar(msgspec.Struct, frozen=True):
    """One category's sentences. An answer is opening, one of `answers`, safety if allergic, advice, closing."""

    slots: tuple[str, ...]
    situations: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    advice: tuple[str, ...]


class Common(msgspec.Struct, frozen=True):
    """Sentences of all categories; an empty one is a sentence left out."""

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    safety: tuple[str, ...]
    allergic: tuple[str, ...]
    not_allergic: tuple[str, ...]
    vague: tuple[str, ...]
    signatures: tuple[str, ...]
    prohibitions: tuple[str, ...]


def _read() -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("grammar.toml").read_text(encoding="utf-8"))


_FILE: Final = _read()
COMMON: Final = msgspec.convert(_FILE["common"], Common)
GRAMMARS: Final = msgspec.convert(_FILE["categories"], dict[str, Grammar])
_VALUES: Final = msgspec.convert(_FILE["slots"], dict[str, tuple[str, ...]])
SLOTS: Final = {**_VALUES, "second": _VALUES["drug"], "dose2": _VALUES["dose"]}
"""Slot name → the values it may take."""
