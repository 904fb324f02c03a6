"""What is measured: BERT shapes with random weights, and pairs of texts of realistic lengths."""

from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from models.encoder.quiet import quiet
from models.events import Response
from models.training import synth
from models.training.vocabulary import learn

SEED = 7
VOCABULARY = 8000


class Shape(NamedTuple):
    layers: int
    hidden: int
    heads: int

    def flops(self, tokens: int, *, first: bool) -> float:
        """Multiplications and additions of one text, head left out; with `first`, the last layer for one token."""
        matrices, attention = 24 * self.hidden**2, 4 * tokens * self.hidden  # a token and layer
        whole = self.layers - 1 if first else self.layers
        last = tokens * 4 * self.hidden**2 + 20 * self.hidden**2 + attention if first else 0  # keys, values, one query
        return float(whole * tokens * (matrices + attention) + last)


SHAPES = {"BERT-base": Shape(12, 768, 12), "MiniLM-L6": Shape(6, 384, 12), "tiny": Shape(2, 128, 2)}


def make(name: str, folder: Path) -> str:
    """Write a model of this shape, as any checkpoint is written."""
    shape = SHAPES[name]
    torch.manual_seed(SEED)
    tokenizer = learn([f"{r.query} {r.response}" for r in _week()], VOCABULARY, 512)
    size = {"num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "num_attention_heads": shape.heads}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=4 * shape.hidden, **size)
    with quiet():
        BertForSequenceClassification(config).eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def pairs(count: int, seed: int = SEED) -> list[Response]:
    """Draw queries of 20 to 80 words and responses of 60 to 400, log-normal, some 180 tokens together."""
    draw, words = Random(seed), [word for r in _week() for word in f"{r.query} {r.response}".split()]
    lengths = np.random.default_rng(seed)
    queries = np.clip(lengths.lognormal(3.6, 0.4, count), 20, 80).astype(int)
    answers = np.clip(lengths.lognormal(4.65, 0.5, count), 60, 400).astype(int)
    template: Any = _week()[0]
    known = {name: getattr(template, name) for name in template.__struct_fields__}
    return [
        Response(**{**known, "response_id": f"r{n}", "query": _text(draw, words, q), "response": _text(draw, words, a)})
        for n, (q, a) in enumerate(zip(queries, answers, strict=True))
    ]


def _text(draw: Random, words: list[str], count: int) -> str:
    start = draw.randrange(len(words) - count)
    return " ".join(words[start : start + count])


@cache
def _week() -> tuple[Response, ...]:
    return tuple(synth.generate(synth.Config(responses=400, seed=SEED, pre_response=0.0)).responses)
