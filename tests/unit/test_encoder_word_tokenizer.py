"""Texts read word by word give the ids that the tokenizer gives for the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from models.encoder.tokens import Framer
from models.encoder.word_tokenizer import WordTokenizer
from models.memo import MAX_LENGTH
from models.training.vocabulary import learn
from tests.tiny_model import of_pieces

TEXT = "take two tablets of amlodipine 5 mg every day, with water (and call us): naïve 東京"
TOKENIZER = learn([TEXT], 300, 64)
ODD = st.sampled_from([*TEXT.split(), "[SEP]", "a[MASK]b", "[ MASK]", "", "\u0301e", "\x1c", "\x85", "\u200b"])
TEXTS = st.lists(ODD | st.text(), max_size=12).map(" ".join) | st.lists(ODD, max_size=30).map("".join)


def whole(tokenizer, texts):
    return [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


@given(st.lists(TEXTS, max_size=4))
def test_a_text_has_the_ids_of_the_whole(texts):
    words = WordTokenizer(TOKENIZER)
    assert words(texts) == whole(TOKENIZER, texts)
    assert words(texts) == whole(TOKENIZER, texts)  # now remembered


def test_a_word_is_tokenised_once(monkeypatch):
    words, asked = WordTokenizer(TOKENIZER), []
    read = words._whole
    monkeypatch.setattr(words, "_whole", lambda texts: asked.append(texts) or read(texts))
    words(["take 5 mg take", "5 mg"])
    assert asked == [["take"], ["5"], ["mg"]]


def test_a_word_too_long_to_remember_is_not():
    words, text = WordTokenizer(TOKENIZER), f"take {'x' * (MAX_LENGTH + 1)}"
    assert words([text]) == whole(TOKENIZER, [text])
    assert [*words._word] == ["take"]


def spaced():
    """GPT-2's kind: a blank belongs to the word behind it."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {sign: number for number, sign in enumerate([*sorted(alphabet), "Ġm"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "m")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def phrased():
    """BERT's kind, with a token of two words added."""
    tokenizer = learn([TEXT], 300, 64)
    tokenizer.add_tokens(["every day"])
    return tokenizer


@pytest.mark.parametrize("make", [spaced, phrased])
def test_a_tokenizer_for_which_blanks_matter_reads_the_whole(make):
    tokenizer = make()
    texts = ["5 mg every day"]
    apart = [id_ for word in texts[0].split() for id_ in whole(tokenizer, [word])[0]]
    assert WordTokenizer(tokenizer)(texts) == whole(tokenizer, texts) != [apart]


def fused():
    """XLM-R's kind: one token for all unknown neighbours."""
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -1.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize(
    ("make", "text", "share"),
    [
        (lambda: TOKENIZER, "take 5 δύο", 3 / 8),
        (lambda: TOKENIZER, "take (δύο)", 3 / 9),
        (lambda: TOKENIZER, "東京 ไทย", 3 / 5),
        (lambda: TOKENIZER, f"take {'x' * 196}", 0.98),
        (lambda: TOKENIZER, "take 5", 0.0),
        (lambda: TOKENIZER, "", 0.0),
        (lambda: TOKENIZER, "\u0301", 1.0),
        (lambda: TOKENIZER, "take\u0336 5", 1 / 6),
        (phrased, "every day δύο", 3 / 11),
        (phrased, "every\u0336 day", 1 / 9),
        (fused, "aa δδδδδδ", 6 / 8),
        (spaced, "δδδ mg", 0.0),
    ],
)
def test_what_cannot_be_expressed_counts_by_its_characters(make, text, share):
    words = WordTokenizer(make())
    [ids] = words([text])
    assert words.unknown_share(text, ids) == pytest.approx(share, abs=0.13 if make is fused else 1e-9)


@pytest.mark.parametrize("text", ["take [SEP] 5 mg", "[PAD][PAD] take", "[CLS]", "a[MASK]b"])
def test_a_special_token_that_is_written_in_a_text_is_text(text):
    tokenizer = learn([TEXT, "sep pad cls mask [ ]"], 300, 64)
    (plain,) = Framer(tokenizer, 64, twins=False)([("5", text)])
    assert not {*tokenizer.all_special_ids} & {*plain.ids[3:-1]}
    assert [plain.ids[0], plain.ids[2], plain.ids[-1]] == [tokenizer.cls_token_id, *[tokenizer.sep_token_id] * 2]
    assert not {*tokenizer.all_special_ids} & {*tokenizer(text)["input_ids"][1:-1]}  # as a sentence encoder reads it


@pytest.mark.parametrize("token", ["<s>", "<pad>", "</s>", "<mask>", "<unk>"])
def test_a_special_token_that_is_a_piece_of_the_vocabulary_is_unknown_where_it_is_written(token):
    tokenizer = of_pieces()
    words, text = WordTokenizer(tokenizer), f"take {token} 5"
    [ids] = words([text])
    assert {*tokenizer.all_special_ids} & {*ids} == {tokenizer.unk_token_id}
    assert words.unknown_share(text, ids) == pytest.approx(len(token) / (5 + len(token)))
