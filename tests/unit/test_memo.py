"""What is looked up is bounded, and made but once."""

import pytest

from models import memo
from models.memo import MAX_LENGTH, Memo


def test_a_word_is_made_once() -> None:
    made: list[str] = []
    upper = Memo(lambda word: made.append(word) or word.upper())
    assert [upper["dose"], upper["dose"]] == ["DOSE", "DOSE"]
    assert made == ["dose"]


def test_neither_long_words_nor_too_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "MAX_ENTRIES", 3)
    lengths = Memo(len)
    assert lengths["x" * (MAX_LENGTH + 1)] == MAX_LENGTH + 1
    assert not lengths
    for word in ("a", "bb", "ccc", "dddd"):
        assert lengths[word] == len(word)
    assert dict(lengths) == {"dddd": 4}
