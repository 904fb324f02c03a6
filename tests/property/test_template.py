import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.encoder.template import ABSENT, EARLIER_LENGTH, MAX_NUMBERS, PENDING, _hidden, clean, lost, segments
from models.encoder.tokens import middle_out, shares
from models.events import Response
from models.nfkc import nfkc

NOW = datetime(2026, 1, 5, tzinfo=UTC)
hostile = st.text(st.characters(codec="utf-8"), max_size=60)


def response(**fields):
    base = {
        "response_id": "r",
        "conversation_id": "v",
        "deployment": "d",
        "site": "s",
        "query": "q",
        "occurred_at": NOW,
    }
    return Response(**{**base, **fields})


@given(hostile)
def test_cleaning_twice_is_cleaning_once(text):
    assert clean(clean(text)) == clean(text)


@given(hostile)
def test_nothing_invisible_survives(text):
    assert all(unicodedata.category(character)[0] != "C" for character in clean(text))
    assert unicodedata.is_normalized("NFKC", clean(text))


runs = st.lists(st.sampled_from([*"ab \u200b", "\u0334" * 20, "\u0344" * 20, "\u0301"]), max_size=9).map("".join)


@given(hostile | runs)
def test_what_is_lost_is_what_cleaning_drops(text):
    share = lost(response(query="q", response=text))
    seen = text.translate(_hidden(text))
    assert 0.0 <= share <= 1.0
    assert (share == 1.0) == (bool(text.split()) and not clean(text))
    assert (share == 0.0) == (seen == text and nfkc(text) == unicodedata.normalize("NFKC", text))


def test_marks_beyond_those_that_are_kept_are_lost():
    assert lost(response(response="".join(letter + "\u0334" * 1000 for letter in "take two tablets"))) > 0.9
    assert lost(response(response="q" + "\u0344" * 30)) == pytest.approx(30 / 61)


@pytest.mark.parametrize("text", ["", " ", "\u00a0\n"])
def test_a_query_of_nothing_is_lost(text):
    assert lost(response(query=text, response="Daily.")) == 1.0


IGNORED = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180f\u3164\ufe00\ufe0f\uffa0\U000e0100\U000e01ef"
"""By those who draw texts, though Unicode has them among marks and letters."""


@pytest.mark.parametrize("character", IGNORED)
def test_what_nobody_draws_is_dropped_and_lost(character):
    assert clean(f"a{character}b") == "ab"
    assert lost(response(response=f"a{character}b")) == pytest.approx(1 / 3)


@given(hostile, st.none() | hostile, st.dictionaries(hostile, st.floats(allow_nan=False), max_size=30))
def test_any_event_has_two_segments_with_bounded_context(query, answer, context):
    first, second = segments(response(query=query or "q", response=answer, context=context))
    assert first.count(" | ") >= 5
    assert second == (PENDING if answer is None else clean(answer))


def test_template_is_what_the_documentation_says():
    event = response(
        category="triage",
        llm_model="m",
        turn=2,
        context={"b": 0.12345, "a": 3},
        earlier=("Oldest.", "Hello?", "x" * 300),
        query="Why?",
        response="So.",
    )
    shown = f"earlier Hello? | earlier {'x' * EARLIER_LENGTH}"
    assert segments(event) == (f"triage | {ABSENT} | {ABSENT} | m | turn 2 | a 3 | b 0.123 | {shown} | Why?", "So.")


def test_an_empty_answer_is_not_a_pending_one():
    assert segments(response(response=""))[1] != segments(response(response=None))[1]


@given(st.integers(0, 900), st.integers(0, 900), st.integers(2, 512))
def test_shares_fill_the_budget_and_take_from_the_longer(first, second, budget):
    kept = shares(first, second, budget)
    assert kept[0] <= first
    assert kept[1] <= second
    assert sum(kept) == min(first + second, budget)
    assert kept[0] == first or kept[1] == second or abs(kept[0] - kept[1]) <= 1


@given(st.lists(st.integers(), max_size=50), st.integers(1, 60))
def test_truncation_keeps_beginning_and_end(tokens, keep):
    kept = middle_out(tokens, keep)
    assert len(kept) == min(len(tokens), keep)
    head = (len(kept) + 1) // 2
    assert kept[:head] == tokens[:head]
    assert kept[head:] == tokens[len(tokens) - (len(kept) - head) :]


def test_only_so_many_numbers_are_shown():
    first, _ = segments(response(context={f"n{index:03d}": 1.0 for index in range(90)}))
    assert first.count(" 1 |") == MAX_NUMBERS
