"""Token ids of texts, word by word: the words of clinical texts are few and come again, so most are only looked up.

Exact for tokenizers of BERT's kind (Devlin et al. 2019, https://aclanthology.org/N19-1423): they split at blanks before
all else and read each word without its neighbours. Any other reads whole texts.
"""

import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from models.memo import Memo


class WordTokenizer:
    """Reads texts without special tokens, for one Hugging Face fast tokenizer.

    One that is written in a text is text: the tokenizer is set to read it so, by whatever way it is called. Where it is
    a piece of the vocabulary all the same (XLM-R's kind), it is unknown.

    One unknown token may stand for a whole word, or for all unknown neighbours: what is unknown is counted by its
    characters. Vocabularies of bytes (GPT-2's kind) know no unknown token; to them nothing is, in any script. Marks
    that an uncased tokenizer drops are unknown too, but for those that NFKC has made part of a letter.
    """

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.split_special_tokens = True
        self._backend = tokenizer.backend_tokenizer
        self._backend.encode_special_tokens = True
        self._alone = _reads_words_alone(tokenizer)
        self._drops_marks = _drops_marks(self._backend.normalizer)
        self._unknown = tokenizer.unk_token_id
        self._special: frozenset[int] = frozenset() if self._unknown is None else _special(tokenizer)
        self._word = Memo(lambda word: self._whole([word])[0])
        self._missed = Memo(self._miss)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        return [self._by_word(text) for text in texts] if self._alone else self._whole(texts)

    def unknown_share(self, text: str, ids: Sequence[int]) -> float:
        """Return the share, in [0, 1], of a text's characters, without blanks, that its ids do not express."""
        if not ids:
            return float(bool(text))
        if self._unknown not in ids and not self._marks(text):
            return 0.0
        missed = sum(map(self._missed.__getitem__, text.split(" ") if self._alone else [text]))
        return min(1.0, missed / max(1, len(text) - text.count(" ")))

    def as_text(self, ids: list[int]) -> list[int]:
        """Return the ids of a text, with the unknown token for each special one."""
        return ids if self._special.isdisjoint(ids) else [self._unknown if i in self._special else i for i in ids]

    def _miss(self, text: str) -> int:
        found = self._backend.encode(text, add_special_tokens=False)
        spans = zip(self.as_text(found.ids), found.offsets, strict=True)
        unknown: int = sum(end - start for token, (start, end) in spans if token == self._unknown)
        return max(unknown, self._marks(text))

    def _marks(self, text: str) -> int:
        """Return how many marks of a text are dropped."""
        if text.isascii() or not self._drops_marks:
            return 0
        return sum(text.count(sign) for sign in set(text) if unicodedata.category(sign) == "Mn")

    def _by_word(self, text: str) -> list[int]:
        return [*chain.from_iterable(map(self._word.__getitem__, text.split(" ")))]

    def _whole(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.as_text(found.ids) for found in self._backend.encode_batch_fast(texts, add_special_tokens=False)]


def _special(tokenizer: Any) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {number for number, token in added if token.special}


def _drops_marks(normalizer: Any) -> bool:
    return normalizer is not None and normalizer.normalize_str(_MARKED) == _MARKED[0]


_MARKED: Final = "a\u0336"


def _reads_words_alone(tokenizer: Any) -> bool:
    backend = tokenizer.backend_tokenizer
    parts = backend.normalizer, backend.pre_tokenizer, backend.model
    if any(" " in token.content for token in tokenizer.added_tokens_decoder.values()):
        return False
    return all(map(isinstance, parts, (BertNormalizer, BertPreTokenizer, WordPiece)))
