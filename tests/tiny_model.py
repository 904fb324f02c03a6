"""A BERT with random weights and a vocabulary of its own: real loading, real scoring, no training."""

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, XLMRobertaTokenizer

from models.training import synth


def make(folder: Path) -> Path:
    """Write it to `folder`."""
    words = WordPiece(unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    special = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    texts = [f"{r.query} {r.response}" for r in synth.generate(synth.Config(responses=300)).responses]
    tokenizer.train_from_iterator(texts, WordPieceTrainer(vocab_size=800, special_tokens=list(special.values())))
    named = {f"{name}_token": token for name, token in special.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **named).save_pretrained(folder)
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=800, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=1
    )
    BertForSequenceClassification(shape).save_pretrained(folder)
    return folder


def of_pieces() -> XLMRobertaTokenizer:
    """XLM-R's kind: special tokens are pieces of the vocabulary like any other, and likelier ones."""
    special = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    signs = [(sign, -4.0) for sign in string.ascii_lowercase + string.digits + "<>/|.-?"]
    return XLMRobertaTokenizer(vocab=[*special, ("▁", -2.0), *signs, ("<mask>", 0.0)], model_max_length=128)
