"""Texts of all lengths, and how far a way through a model may be from transformers' own."""

import numpy as np
from msgspec.structs import replace

from models.encoder.base import Runtime
from models.encoder.cross import CrossEncoder
from models.encoder.forward import Layout, Plain, Ways
from models.encoder.loading import limit
from models.encoder.runtime import BOUNDS
from models.encoder.tokens import Framer
from models.training import synth

CUTS = (0.05, 0.20)


def texts_of(count):
    """The generator's texts, and some of them many times as long, up to what a model cuts."""
    found = synth.generate(synth.Config(responses=count, seed=5)).responses[:count]
    repeat = [1, 1, 1, 1, 3, 1, 1, 9]
    return [
        replace(text, response=text.response and " ".join([text.response] * repeat[n % len(repeat)]))
        for n, text in enumerate(found)
    ]


def plain_encoder(model, tokenizer, *, twins=False):
    """The model by transformers' own forward."""
    framer = Framer(tokenizer, limit(model, tokenizer), twins=twins)
    way = Plain(model, Layout(tokenizer.pad_token_id, typed=True, first=True))
    return CrossEncoder(Ways(way, way), framer, "", Runtime("plain", "float32"))


def risks(encoder, texts):
    """Probabilities of rejection."""
    return sigmoid([score.logit for score in encoder.score(texts)])


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits)))


def assert_exact(encoder, texts, expected):
    """Within the bound that the start tests; and fewer than one tier in a thousand moves, as scores are used."""
    prepared = encoder.prepare(texts)
    logits = np.array([score.logit for score in encoder.infer(prepared)])
    assert np.abs(sigmoid(logits) - expected).max() < BOUNDS[encoder.runtime.precision]
    low, high = (np.digitize(sigmoid(logits + step * encoder.rounding), CUTS) for step in (-1, 1))
    hinging = np.flatnonzero(low != high)  # `models.deciding.tier_is_rounding_sensitive`
    assert len(hinging) < len(texts) / 20
    logits[hinging] = [score.logit for score in encoder.infer_exactly([prepared[n] for n in hinging])]
    assert (np.digitize(sigmoid(logits), CUTS) != np.digitize(expected, CUTS)).sum() < len(texts) / 1000
