"""Which tokens of a text are salient: what makes the search quick must change nothing."""

import re

import pytest
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
    st.sampled_from(["q6h", "-.5", "b.i.d.", "<", "every"]),
    st.builds("".join, st.tuples(st.text("abés", max_size=3), st.sampled_from(STEMS), st.sampled_from(ENDS))),
    st.text("aels1 .,_'é", max_size=6),
)


@given(st.lists(WORDS, max_size=12), st.sampled_from(["", " ", ". ", "-", "\n"]))
def test_neither_guard_nor_case_nor_looking_words_up_changes_anything(words: list[str], between: str) -> None:
    text = salience.plain(between.join(words).upper())
    found = PLAIN.findall(text)
    assert salience._SALIENT.findall(text) == found
    assert salience.tokens(text) == tuple(found)


def test_the_pattern_without_its_guard_is_another() -> None:
    assert PLAIN.pattern != salience._SALIENT.pattern
    assert salience.tokens("enalapril and atorvastatins, nothing else") == ("enalapril", "atorvastatins")


def test_nothing_in_plain_text_is_a_letter_of_the_pattern_in_another_case() -> None:
    everything = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    found = set(re.findall(f"[a-z{salience._MICRO}]", salience.plain(everything), re.IGNORECASE))
    assert found == {*"abcdefghijklmnopqrstuvwxyz", salience._MICRO}
    assert salience.tokens("5 \u00b5g of ASP\u0130RIN, 6\u2003MG") == ("5", "\u03bcg", "6", "mg")


@pytest.mark.parametrize(
    ("said", "edited"),
    [
        ("5 mg q6h", "5 mg q12h"),
        ("5 mg x3", "5 mg x6"),
        ("D5W", "D10W"),
        ("pH7.4", "pH7.1"),
        ("ramipril_5", "ramipril_9"),
        (".5 mg", ".25 mg"),
        (".5 mg", "5 mg"),
        ("5 mg.10 mg", "5 mg.20 mg"),
        ("base excess -5", "base excess 5"),
        ("1\u00bd tablets", "1\u00bc tablets"),
        ("5 mg", "5 g"),
        ("5 mg/kg", "5 mg/day"),
        ("5 mg per kg", "5 mg per day"),
        ("2.5 mg BID", "2.5 mg TID"),
        ("2.5 mg b.i.d.", "2.5 mg t.i.d."),
        ("5 mg qd", "5 mg qod"),
        ("5 mg once daily", "5 mg four times daily"),
        ("one tablet daily", "two tablets daily"),
        ("every day", "every other day"),
        ("in the morning", "in the evening"),
        ("INR > 3", "INR < 3"),
        ("INR \u2265 3", "INR \u2264 3"),
        ("amlodipine 5 mg, lisinopril 10 mg", "amlodipine 10 mg, lisinopril 5 mg"),
        ("stop warfarin, continue aspirin", "stop aspirin, continue warfarin"),
        ("Rest.Stop it", "Rest.Start it"),
        ("increase the dose", "decrease the dose"),
        ("it should be reduced", "it should be increased"),
        ("titrate up", "titrate down"),
        ("for hyperkalaemia", "for hypokalaemia"),
        ("low potassium", "high potassium"),
        ("the left knee", "the right knee"),
        ("give it IV", "give it IM"),
        ("intravenous vincristine", "intrathecal vincristine"),
        ("after meals", "before meals"),
        ("D-dimer negative", "D-dimer positive"),
        ("ceftriaxone", "cefalexin"),
        ("start citalopram", "start sertraline"),
        ("meropenem", "tacrolimus"),
        ("_ramipril_", "_amlodipine_"),
        ("It should be discontinued.", "It should be continued."),
        ("Warfarin was stopped.", "Warfarin was started."),
        ("Consider stopping warfarin", "Consider starting warfarin"),
        ("Aspirin is to be avoided.", "Aspirin is to be taken."),
        ("Withhold metformin", "Give metformin"),
        ("Metformin was held", "Metformin was given"),
        ("Cease smoking", "Go on smoking"),
        ("Ibuprofen is a contraindication", "Ibuprofen is a help"),
        ("Aspirin is unsafe here.", "Aspirin is safe here."),
        ("Neither aspirin nor heparin", "Either aspirin or heparin"),
        ("Take eleven drops.", "Take thirteen drops."),
        ("Take fifteen drops.", "Take fifty drops."),
        ("Give thirty units", "Give sixty units"),
        ("Give twenty-one drops", "Give twenty drops"),
        ("Give a hundred drops", "Give a thousand drops"),
        ("You don\u02bct need it", "You need it"),
        ("You don\u2018t need it", "You need it"),
    ],
)
def test_an_edit_of_substance_is_seen(said: str, edited: str) -> None:
    assert salience.digest(said, b"key") != salience.digest(edited, b"key")


@pytest.mark.parametrize(
    ("said", "edited"),
    [
        ("5mg", "5 mg"),
        ("5 mg/kg", "5mg / kg"),
        ("a 70-year-old", "a 70 year old"),
        ("5 mg  daily\n\n", "5 mg\ndaily"),
        ("in 2010 he fell", "in 2010 she fell"),
        ("2 good ones", "2 better ones"),
        ("take **5 mg**", "take _5 mg_"),
        ("increase the dose", "the dose is increased"),
        ("stop aspirin", "stopping aspirin"),
        ("withhold metformin", "withheld metformin"),
        ("He is the one who fell", "He is the man who fell"),
        ("a holder for the cup", "a plate for the cup"),
        ("Give 5 mg of amlodipine.", "Please give 5 mg of amlodipine, then"),
    ],
)
def test_an_edit_of_form_is_none(said: str, edited: str) -> None:
    assert salience.tokens(said) == salience.tokens(edited)


@given(st.text() | st.lists(WORDS, max_size=8).map("".join))
def test_no_digit_is_overlooked(text: str) -> None:
    plain = salience.plain(text)
    assert digits("".join(salience.tokens(text))) == digits(plain)


def digits(text: str) -> list[str]:
    return [character for character in text if re.match(r"\d", character)]
