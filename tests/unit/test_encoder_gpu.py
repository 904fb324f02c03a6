"""The packed way on a GPU. What needs none is tested everywhere: its bounds, against those of a CPU."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch.nn.functional import scaled_dot_product_attention

from models.encoder import gpu
from models.encoder.embedder import Embedder
from models.encoder.gpu import LEAST, SHORT, Bounds, graph_size
from models.encoder.loading import load, open_model, open_sentences
from models.encoder.sequences import Runs
from models.errors import ArtifactError
from models.training.reference import ensure_reference
from tests.exactness import assert_exact, plain_encoder, risks, texts_of

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(ensure_reference(tmp_path_factory.getbasetemp() / "reference"))


@pytest.fixture(scope="module")
def texts():
    return texts_of(1000)


def attention(q, k, v, *bounds):
    """What the kernel computes, text by text; rows of no text are poisoned."""
    asking, asked, longest, longest_asked = bounds
    mixed = torch.full_like(q, float("nan"))
    for n in range(len(asked) - 1):
        rows, part = slice(asking[n], asking[n + 1]), slice(asked[n], asked[n + 1])
        assert rows.stop - rows.start <= longest
        assert part.stop - part.start <= longest_asked
        if part.start < part.stop:
            found = scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q[rows], k[part], v[part])))
            mixed[rows] = found.transpose(0, 1)
    return mixed


@pytest.mark.parametrize("lengths", [(7, 7, 40, 101), (1,), (155,)])
def test_the_bounds_of_a_gpu_are_those_of_a_cpu(monkeypatch, lengths):
    monkeypatch.setattr(gpu, "varlen_attn", attention)
    count, tokens, room = len(lengths), sum(lengths), len(lengths) + 2  # two texts are empty
    drawn = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(tokens + 1, 8, generator=drawn) for _ in range(3))  # and a token is of no text
    starts = torch.tensor([0, *np.cumsum(lengths), tokens, tokens], dtype=torch.int32)
    ours, theirs = Bounds(starts, torch.arange(room + 1, dtype=torch.int32)), Runs.of(lengths)
    assert torch.allclose(ours.attend(q, k, v, 2)[:tokens], theirs.attend(q, k, v, 2)[:tokens], atol=1e-6)
    assert torch.equal(ours.firsts(q)[:count], theirs.firsts(q)[:count])
    asked = (bounds.attend_first(bounds.firsts(q), k, v, 2)[:count] for bounds in (ours, theirs))
    assert torch.allclose(*asked, atol=1e-6)


def test_few_sizes_hold_every_pass_and_waste_at_most_a_quarter():
    for tokens in range(1, 40_000, 7):
        assert tokens <= graph_size(tokens) <= max(LEAST, 1.25 * tokens)
    assert len({graph_size(tokens) for tokens in range(1, 16_385)}) == 25
    assert graph_size(SHORT * 8) == LEAST


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_asked_for_by_name(folder):
    with pytest.raises(ArtifactError, match="DEMUR_DEVICE: torch sees no GPU 'cuda'"):
        load(folder, "cuda")


@needs_gpu
def test_the_reference_encoder_is_exact_on_a_gpu(folder, texts):
    expected = risks(plain_encoder(*open_model(folder), twins=True), texts)
    encoder = load(folder, "cuda")
    assert (encoder.runtime.path, encoder.runtime.precision) == ("fused", "bfloat16")
    assert_exact(encoder, texts, expected)
    assert_exact(load(folder, "cuda", precision="float32"), texts, expected)


@needs_gpu
@pytest.mark.parametrize("budget", [16, 600, 2048, 16_384])
def test_a_score_hardly_depends_on_its_batch_mates_and_its_place(folder, texts, budget):
    alone, together = load(folder, "cuda", batch_tokens=1), load(folder, "cuda", batch_tokens=budget)
    assert np.abs(risks(alone, texts) - risks(together, texts)).max() < 0.01
    assert np.abs(risks(together, texts[::-1])[::-1] - risks(together, texts)).max() < 0.01


@needs_gpu
def test_the_same_passes_give_the_same_bytes(folder, texts):
    encoder = load(folder, "cuda", batch_tokens=4096)
    once = encoder.score(texts)
    encoder.warm()
    assert encoder.score(texts) == once


@needs_gpu
def test_a_huge_text_and_ten_thousand_tiny_ones_on_a_gpu(folder, texts):
    encoder = load(folder, "cuda", batch_tokens=16_384)
    [score] = encoder.score([replace(texts[0], response="δόση " * 40_000)])
    assert score.truncated
    tiny = replace(texts[0], query="Dose?", response=None)
    assert len({round(score.logit, 3) for score in encoder.score([tiny] * 10_000)}) == 1


@needs_gpu
def test_states_are_those_of_a_cpu(folder):
    spoken = ["Dose?", "When?", "Take two tablets with water. " * 30]
    found = []
    for device in ("cpu", "cuda"):
        model, tokenizer = open_sentences(folder)
        found.append(Embedder(model.to(device), tokenizer, precision="auto")(spoken))
    for text in spoken:
        assert np.abs(found[0][text].pooled - found[1][text].pooled).max() < 0.02
        assert found[0][text].tokens.shape == found[1][text].tokens.shape
