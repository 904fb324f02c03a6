"""Which tokens of a text are salient: what makes the search quick must change nothing."""

import re

from hypothesis import given
from hypothesis import strategies as st

from models import salience

PLAIN = re.compile(salience._SALIENT.pattern.replace(salience._LIKELY, ""), re.IGNORECASE)
STEMS = salience._STEMS.split("|")
ENDS = ("", "s", "ss", "_", "1", "é", "n't")
WORDS = st.one_of(
    st.sampled_from(
        [*STEMS, "heparin", "isn't", "5 mg", "5", "mg", "\u0663", "12,5%", "no", "stop", "parin't", "s", "é", "_", "ab"]
    ),
    st.builds("".join, st.tuples(st.text("abés", max_size=3), st.sampled_from(STEMS), st.sampled_from(ENDS))),
    st.text("aels1 .,_'é", max_size=6),
)


@given(st.lists(WORDS, max_size=12), st.sampled_from(["", " ", ". ", "-", "\n"]))
def test_neither_guard_nor_case_nor_looking_words_up_changes_anything(words: list[str], between: str) -> None:
    text = salience.plain(between.join(words).upper())
    found = PLAIN.findall(text)
    assert salience._SALIENT.findall(text) == found
    assert salience.tokens(text) == tuple(sorted(" ".join(token.split()) for token in found))


def test_the_pattern_without_its_guard_is_another() -> None:
    assert PLAIN.pattern != salience._SALIENT.pattern
    assert salience.tokens("enalapril and atorvastatins, nothing else") == ("atorvastatins", "enalapril")


def test_nothing_in_plain_text_is_a_letter_of_the_pattern_in_another_case() -> None:
    everything = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    found = set(re.findall(f"[a-z{salience._MICRO}]", salience.plain(everything), re.IGNORECASE))
    assert found == {*"abcdefghijklmnopqrstuvwxyz", salience._MICRO}
    assert salience.tokens("5 \u00b5g of ASP\u0130RIN, 6\u2003MG") == ("5 \u03bcg", "6 mg")
