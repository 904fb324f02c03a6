"""Normalisation reads no long run of combining marks, and is unicodedata's on all other text."""

import re
import unicodedata
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import salience
from models.encoder.template import clean
from models.nfkc import MAX_MARKS, nfkc

MARKS = "\u0345\u0334\u0651\u064e\u0f73\uff9e\u0301\u0344"
HOSTILE = {
    "two classes": "a" + "\u0345" * 99_990 + "\u0334" * 99_990,
    "in turns": "\u0644" + "\u0651\u064e" * 60_000,
    "of class 0": "\u0f40" + "\u0f73" * 60_000,
    "half width": "\uff76" + "\uff9e\u0345" * 60_000,
    "broken by what is hidden": "a" + ("\u0345" * 20 + "\u0334" * 9 + "\u200b") * 6_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_what_is_normalised_has_no_long_run_of_marks(monkeypatch, text):
    longest = []

    def normalize(form, part):
        longest.append(max(map(len, re.findall(f"[{MARKS}]+", part)), default=0))
        return unicodedata.normalize(form, part[:10])

    monkeypatch.setattr(
        "models.nfkc.unicodedata", SimpleNamespace(normalize=normalize, combining=unicodedata.combining)
    )
    clean(text)
    salience.plain(text)
    assert 2 <= max(longest) <= MAX_MARKS


@given(st.lists(st.sampled_from([*MARKS, "a", "é", "\u0958", "\u0e33", " ", "ﬁ"]) | st.text(max_size=3), max_size=30))
def test_other_text_is_normalised_as_ever(parts):
    text = "".join(parts)
    assert nfkc(text) == unicodedata.normalize("NFKC", text)


@given(st.lists(st.sampled_from([mark * 20 for mark in MARKS] + ["\u0958", "e", " "]), max_size=8))
def test_normalising_twice_is_normalising_once(parts):
    found = nfkc("".join(parts))
    assert nfkc(found) == found
    assert unicodedata.is_normalized("NFKC", found)
    assert clean(clean("".join(parts))) == clean("".join(parts))
