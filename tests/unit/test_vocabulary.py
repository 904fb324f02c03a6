"""A vocabulary learnt from patients' texts holds no word that only a few of them have."""

from random import Random

import pytest
from msgspec.structs import replace

from models.training import fit
from models.training.data import from_week
from models.training.examples import Example
from models.training.synth import Config, generate
from models.training.vocabulary import FEWEST, learn

NAME = "quagga"


def named(conversations: int) -> list[Example]:
    """A week in which every answer of some conversations names the same patient, ten times."""
    examples = from_week(generate(Config(responses=400, seed=3, drift=None)))
    chosen = sorted({one.question for one in examples})[:conversations]
    return [
        replace(one, event=replace(one.event, response=f"{one.event.response} {'Quagga ' * 10}"))
        if one.question in chosen
        else one
        for one in examples
    ]


@pytest.mark.parametrize("letters", ["абвгдежзиклмнопрст", "abcdefghæøå", "가나다라마바사"])
def test_equal_texts_give_equal_vocabularies_in_any_script(letters: str) -> None:
    draw = Random(3)
    texts = [" ".join("".join(draw.choices(letters, k=draw.randint(3, 9))) for _ in range(12)) for _ in range(300)]
    one, *others = (learn(texts, 400, 64).get_vocab() for _ in range(4))
    assert others == [one] * 3


def test_what_stands_in_no_word_is_no_piece_of_one() -> None:
    assert not {"##,", "##漢", "##é"} & learn(["take 5, 漢字 é"] * 9, 400, 64).get_vocab().keys()


@pytest.mark.parametrize("conversations", [1, FEWEST - 1, FEWEST])
def test_a_patients_name_is_no_word_of_the_vocabulary(conversations: int) -> None:
    tokenizer = fit._fresh(named(conversations), fit.Recipe(vocabulary=2000)).tokenizer
    assert (NAME in tokenizer.get_vocab()) == (conversations >= FEWEST)
    assert tokenizer.unk_token not in tokenizer.tokenize(f"{NAME} needs aspirin"), "spelt out, it is read as before"
    assert "response" in tokenizer.get_vocab()
