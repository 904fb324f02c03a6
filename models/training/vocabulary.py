"""A WordPiece vocabulary learnt from the training texts, for an encoder that starts from nothing."""

import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL: Final = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_INNER: Final = [f"##{character}" for character in string.ascii_lowercase + string.digits]
"""Given to the trainer beforehand, as is what else stands inside words: it would number them in random order, and break
ties by number."""
FEWEST: Final = 5
"""Conversations in which a word must occur to be learnt: whoever has a model reads its vocabulary, and a patient's name
stands in the few that are about him, often. As few as statistical offices publish no cell of."""


def common(texts: Sequence[tuple[str, str]], fewest: int = FEWEST) -> list[str]:
    """Return texts, given with their conversations, whose words are of `fewest` conversations; others are spelt out.

    >>> common([*((str(n), "give aspirin") for n in range(5)), ("5", "Give Quagga aspirin")])[-1]
    'give q u a g g a aspirin'
    """
    tokenizer = _tokenizer({})
    cut = [(conversation, _words(tokenizer, text)) for conversation, text in texts]
    known = Counter(word for word, _ in {(word, conversation) for conversation, text in cut for word in text})
    return [" ".join(word if known[word] >= fewest else " ".join(word) for word in text) for _, text in cut]


def learn(texts: Sequence[str], size: int, length: int) -> Any:
    """Return an uncased BERT tokenizer of about `size` pieces; `length` is the longest input of its model.

    Equal texts give equal vocabularies, which the library's own trainer alone does not promise.
    """
    pieces = [*SPECIAL.values(), *sorted(_pieces(texts, size) - set(SPECIAL.values()))]
    tokenizer = _tokenizer({piece: index for index, piece in enumerate(pieces)})
    marks = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, model_max_length=length, **SPECIAL)


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    plain = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(plain)]


def _pieces(texts: Sequence[str], size: int) -> set[str]:
    tokenizer = _tokenizer({})
    words = {word for text in texts for word in _words(tokenizer, text)}
    inner = sorted({f"##{character}" for word in words for character in word[1:]} - set(_INNER))
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL.values(), *_INNER, *inner], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return set(tokenizer.get_vocab())


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer
