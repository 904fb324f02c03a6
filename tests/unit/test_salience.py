"""Which tokens of a text are salient: the guard that makes the search quick must change nothing."""

import re

from hypothesis import given
from hypothesis import strategies as st

from models import salience

PLAIN = re.compile(salience._SALIENT.pattern.replace(salience._LIKELY, ""), re.IGNORECASE)
STEMS = salience._STEMS.split("|")
ENDS = ("", "s", "ss", "_", "1", "é", "n't")
WORDS = st.one_of(
    st.sampled_from([*STEMS, "heparin", "isn't", "5 mg", "12,5%", "no", "stop", "parin't", "s", "é", "_", "ab"]),
    st.builds("".join, st.tuples(st.text("abés", max_size=3), st.sampled_from(STEMS), st.sampled_from(ENDS))),
    st.text("aels1 .,_'é", max_size=6),
)


@given(st.lists(WORDS, max_size=12), st.sampled_from(["", " ", ". ", "-", "\n"]))
def test_the_guard_changes_nothing(words: list[str], between: str) -> None:
    text = between.join(words)
    assert salience._SALIENT.findall(text) == PLAIN.findall(text)


def test_the_pattern_without_its_guard_is_another() -> None:
    assert PLAIN.pattern != salience._SALIENT.pattern
    assert salience.tokens("enalapril and atorvastatins, nothing else") == ("atorvastatins", "enalapril")
