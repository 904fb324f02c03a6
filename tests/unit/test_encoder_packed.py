"""The packed way through a model against the plain one: exact, whatever the lengths, and honest where it cannot be."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from models.encoder import kernels, runtime
from models.encoder.base import ROUNDING, Runtime
from models.encoder.cross import log_odds
from models.encoder.forward import Layout, Packed, Plain
from models.encoder.loading import layout, limit, load, open_model
from models.encoder.quiet import quiet
from models.encoder.runtime import BOUNDS, Probe, choose, odds, probe
from models.encoder.sequences import Run, Runs
from models.encoder.tokens import Framer, Tokens
from models.errors import ArtifactError
from models.training.reference import ensure_reference
from models.training.vocabulary import learn
from tests.exactness import CUTS, assert_exact, plain_encoder, risks, texts_of
from tests.stagecraft import at
from tests.tiny_model import of_pieces

LENGTHS = (7, 7, 40, 101)


@pytest.fixture(scope="module")
def texts():
    return texts_of(1000)


@pytest.fixture(scope="module")
def folder(texts, tmp_path_factory):
    """A BERT with random weights, and a head steep enough that its risks spread over all tiers."""
    folder = tmp_path_factory.mktemp("packed")
    torch.manual_seed(0)
    tokenizer = learn([f"{text.query} {text.response}" for text in texts], 800, 512)
    size = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), initializer_range=0.12, **size)).eval()
    model.classifier.weight.data *= 10
    model.classifier.bias.data[0] = 2.2 + np.median(
        [s.logit for s in plain_encoder(model, tokenizer).score(texts[:50])]
    )
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def plain(folder):
    return plain_encoder(*open_model(folder))


@pytest.fixture(scope="module")
def expected(plain, texts):
    return risks(plain, texts)


def test_the_texts_are_of_all_lengths_and_all_tiers(plain, texts, expected):
    lengths = plain.count_tokens(texts)
    assert max(lengths) == 512
    assert len(set(lengths)) > 100
    assert np.bincount(np.digitize(expected, CUTS)).min() > 50


def test_packed_is_exact_on_a_thousand_texts(folder, texts, expected):
    encoder = load(folder, precision="float32")
    assert (encoder.runtime.path, encoder.runtime.precision) == ("packed", "float32")
    assert_exact(encoder, texts, expected)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_reference_encoder_is_exact_in_every_precision(tmp_path_factory, precision):
    texts = texts_of(3000)
    folder = str(ensure_reference(tmp_path_factory.getbasetemp() / "reference"))
    model, tokenizer = open_model(folder)
    expected = risks(plain_encoder(model, tokenizer, twins=True), texts)
    assert_exact(load(folder, precision=precision), texts, expected)


@pytest.mark.parametrize("budget", [600, 2048, 8192])
def test_a_score_does_not_depend_on_its_batch_mates(folder, texts, budget):
    alone, together = (
        load(folder, precision="float32", batch_tokens=16),
        load(folder, precision="float32", batch_tokens=budget),
    )
    some = texts[:100]
    assert np.abs(risks(alone, some) - risks(together, some)).max() <= 2e-6
    assert np.abs(risks(together, some[::-1])[::-1] - risks(together, some)).max() <= 2e-6


def test_alone_and_together_give_the_same_bytes_where_a_call_holds_one_text(folder, texts):
    alone = load(folder, precision="float32", batch_tokens=16)
    assert alone.score(texts[:50]) == [alone.score([text])[0] for text in texts[:50]]


FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "ernie")
OTHERS = {"albert": "not where", "mpnet": "no attribute", "convbert": "further weights"}


def model_of(kind, **changes):
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    if kind == "distilbert":
        size = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64}
    common = {"vocab_size": 300, "max_position_embeddings": 130, "num_labels": 2, "initializer_range": 0.3}
    torch.manual_seed(0)
    with quiet():
        found = AutoModelForSequenceClassification.from_config(
            AutoConfig.for_model(kind, **{**common, **size, **changes})
        )
    return found.eval().requires_grad_(requires_grad=False)


def rows_of(lengths=LENGTHS):
    drawn = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 290, (length,), generator=drawn).tolist() for length in lengths]
    return [
        Tokens(row, [0] * (len(row) // 2) + [1] * (len(row) - len(row) // 2), truncated=False, unknown=0.0)
        for row in ids
    ]


def chosen(model, wanted="auto", at=None):
    usual = Layout(1, typed=getattr(model.config, "type_vocab_size", 0) > 1, first=True)
    return choose(model, at or usual, Probe([rows_of()], odds), wanted)


@pytest.mark.parametrize("kind", FAMILIES)
def test_models_of_berts_family_are_packed(kind):
    model = model_of(kind)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (way, _), found = chosen(model, "float32")
    assert isinstance(way, Packed), found
    assert found.deviation < 1e-5
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def never_compiled(monkeypatch, work):
    """As on a GPU, which lays nothing out for oneDNN; the test of the compiler itself is slow."""
    monkeypatch.setattr(kernels, "_compiled", work)
    monkeypatch.setattr(kernels, "_has_kernels", lambda _: False)
    monkeypatch.setattr(runtime, "_candidates", lambda *_: [("fused", "float32"), ("packed", "float32")])


@pytest.mark.parametrize("kind", FAMILIES)
def test_fused_kernels_compute_the_same(monkeypatch, kind):
    never_compiled(monkeypatch, lambda: kernels._normed)
    _, found = chosen(model_of(kind))
    assert found.path == "fused"
    assert found.deviation < 1e-5


def test_without_a_compiler_kernels_are_not_fused_and_the_log_says_why(monkeypatch):
    def missing():
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    never_compiled(monkeypatch, missing)
    _, found = chosen(model_of("bert"))
    assert found.path == "packed"
    assert found.reason == "it cannot be fused, for Failed to find C compiler."


@pytest.mark.slow
def test_the_compiled_norm_is_the_norm():
    norm = torch.nn.LayerNorm(48)
    for rows in (1, 7, 300):
        more, x = torch.randn(rows, 48).bfloat16(), torch.randn(rows, 48)
        ours, theirs = (kernels.Norm(norm, fused=fused)(more, x) for fused in (True, False))
        assert torch.allclose(ours.exact, theirs.exact, atol=1e-6)
        assert torch.allclose(ours.rounded, theirs.rounded, atol=0.02)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_take_the_plain_way_and_say_why(kind):
    (way, _), found = chosen(model_of(kind))
    assert isinstance(way, Plain)
    assert (found.path, found.precision) == ("plain", "float32")
    assert OTHERS[kind] in found.reason


@pytest.mark.parametrize("bias", [0.0, 4.0, 14.0])
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_a_model_that_looks_like_bert_and_computes_otherwise_is_found_out(monkeypatch, bias, precision):
    """Also if it is so sure of itself that no probability moves far."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    model = model_of("bert", is_decoder=True)
    model.classifier.weight.mul_(0.3)
    model.classifier.bias.copy_(torch.tensor([bias, 0.0]))
    (way, _), found = chosen(model, precision)
    assert isinstance(way, Plain)
    assert "differs by" in found.reason


@pytest.mark.parametrize(
    "build", [(BertConfig, BertForSequenceClassification), (AlbertConfig, AlbertForSequenceClassification)]
)
@pytest.mark.parametrize("positions", [130, 300])
def test_a_text_as_long_as_the_positions_is_scored(tmp_path, texts, build, positions):
    """Rows are rounded up to kinder sizes, but not beyond the model."""
    config, classifier = build
    tokenizer = learn([f"{text.query} {text.response}" for text in texts[:60]], 800, positions)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with quiet():
        classifier(config(vocab_size=len(tokenizer), max_position_embeddings=positions, **size)).save_pretrained(
            tmp_path
        )
        tokenizer.save_pretrained(tmp_path)
    encoder = load(str(tmp_path), precision="float32")
    prepared = encoder.prepare([replace(texts[0], response="dose " * 1000), texts[1]])
    assert prepared[0].size == positions
    assert [score.logit for score in encoder.infer(prepared)] == pytest.approx(
        [score.logit for score in encoder.infer_exactly(prepared)], abs=1e-5
    )


def decoder(**settings):
    """Whose head reads the last token that is no padding."""
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return model_of("llama", num_key_value_heads=2, **size, **settings)


def test_rows_are_padded_with_what_the_model_takes_for_padding():
    model, vocabulary = decoder(pad_token_id=7), learn(["dose"], 60, 64)
    assert (layout(model, vocabulary).pad, vocabulary.pad_token_id) == (7, 0)
    (way, _), found = chosen(model, at=layout(model, vocabulary))
    assert found.path == "plain"
    together, alone = way.logits(rows_of()), [way.logits([row]) for row in rows_of()]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "at"),
    [(lambda: decoder(pad_token_id=7), Layout(0, typed=False, first=True)), (lambda: model_of("convbert"), None)],
)
def test_texts_that_cannot_be_padded_are_computed_alone(make, at):
    model = make()
    (way, plain), found = chosen(model, at=at)
    assert way is plain
    assert found.path == "plain"
    assert found.reason.startswith("each text is computed alone, since padding moves a logit by")
    assert list(way.group(LENGTHS, 2048)) == [[0], [1], [2], [3]]
    for row in rows_of():
        asked = {"input_ids": torch.tensor([row.ids]), **({} if at else {"token_type_ids": torch.tensor([row.types])})}
        assert torch.equal(way.logits([row]), model(**asked).logits)


@pytest.mark.parametrize("positions", [-1, 0])
def test_a_model_without_a_table_of_positions_has_no_limit_by_it(positions):
    model = model_of("bert")
    model.config.max_position_embeddings = positions
    assert limit(model, learn(["dose"], 60, 400)) == 400


def test_the_start_scores_a_text_as_long_as_a_model_reads(texts):
    tokenizer = learn([f"{text.query} {text.response}" for text in texts[:60]], 800, 512)
    model = model_of("bert", vocab_size=len(tokenizer), max_position_embeddings=400)
    with pytest.raises(ArtifactError, match="cannot score texts"):
        choose(model, Layout(1, typed=True, first=True), probe(Framer(tokenizer, 512, twins=False)), "float32")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_computes_no_numbers_is_refused(value):
    model = model_of("bert")
    model.classifier.bias[0] = value
    with pytest.raises(ArtifactError, match="computes no finite numbers"):
        chosen(model)


def test_a_model_that_cannot_score_is_refused():
    with pytest.raises(ArtifactError, match="cannot score texts"):
        chosen(model_of("gpt2"))


@pytest.mark.parametrize(
    ("has", "precision"),
    [({"avx512_f"}, "float32"), ({"avx512_bf16"}, "bfloat16"), ({"avx512_bf16", "amx_bf16"}, "bfloat16")],
)
def test_the_processor_decides_on_the_precision(monkeypatch, has, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True))
    _, found = chosen(model_of("bert"))
    assert (found.path, found.precision) == ("packed", precision)


def test_bfloat16_that_moves_a_probability_too_far_is_not_chosen(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setitem(BOUNDS, "bfloat16", 1e-6)
    _, found = chosen(model_of("bert"))
    assert (found.path, found.precision) == ("packed", "float32")
    assert "bfloat16" in found.reason


def test_rounding_is_that_of_the_model():
    assert Runtime("packed", "float32", off=0.1).rounding == 0.0
    assert Runtime("packed", "bfloat16", off=0.001).rounding == ROUNDING
    assert Runtime("packed", "bfloat16", off=0.01).rounding == pytest.approx(0.09)


def test_few_scores_of_a_steep_model_are_off_by_more_than_its_rounding(folder, texts, plain):
    encoder = load(folder, precision="bfloat16")
    prepared = encoder.prepare(texts[:400])
    found, exact = (
        np.array([score.logit for score in way(prepared)]) for way in (encoder.infer, encoder.infer_exactly)
    )
    assert ROUNDING < encoder.rounding < 0.1 * np.ptp(exact)
    assert (np.abs(found - exact) > encoder.rounding).mean() < 0.01


def test_a_precision_that_cannot_be_had_stops_the_start():
    with pytest.raises(ArtifactError, match=r"DEMUR_PRECISION.*choose float32"):
        chosen(model_of("albert"), "bfloat16")


def test_the_precision_is_part_of_the_model_hash(folder):
    assert load(folder, precision="float32").model_hash != load(folder, precision="bfloat16").model_hash


def test_a_text_that_gives_nan_spoils_no_other():
    model = model_of("bert")
    (way, _), _ = chosen(model, "float32")
    rows = [*rows_of(), Tokens([295] * 12, [0] * 12, truncated=False, unknown=0.0)]
    sound = way.logits(rows_of())
    model.bert.embeddings.word_embeddings.weight[295] = float("nan")
    spoilt = way.logits(rows)
    assert torch.isnan(spoilt[-1]).all()
    assert torch.allclose(spoilt[:-1], sound, atol=1e-6)


def test_a_huge_text_and_ten_thousand_tiny_ones(folder, texts):
    encoder = load(folder, precision="float32")
    huge = replace(texts[0], response="δόση " * 40_000)
    [score] = encoder.score([huge])
    assert score.truncated
    assert encoder.count_tokens([huge]) == [512]
    tiny = type(huge)(response_id="t", conversation_id="c", deployment="d", site="s", query="Dose?", occurred_at=at(0))
    assert len({round(score.logit, 5) for score in encoder.score([tiny] * 10_000)}) == 1


def test_a_special_token_that_is_written_in_a_text_is_packed_exactly(tmp_path, texts):
    """XLM-R counts the positions of what is no padding."""
    tokenizer = of_pieces()
    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    shape = XLMRobertaConfig(**size, num_hidden_layers=2, max_position_embeddings=130, initializer_range=0.3)
    torch.manual_seed(0)
    with quiet():
        XLMRobertaForSequenceClassification(shape).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    encoder = load(str(tmp_path), precision="float32")
    assert encoder.runtime.path == "packed"
    prepared = encoder.prepare([replace(texts[0], query="dose", response="take it <pad> daily")])
    assert encoder.infer(prepared)[0].logit == pytest.approx(encoder.infer_exactly(prepared)[0].logit, abs=1e-4)


def test_warming_up_changes_no_score(folder, texts):
    encoder = load(folder, precision="float32")
    before = encoder.score(texts[:5])
    encoder.warm()
    assert encoder.score(texts[:5]) == before


def test_neighbours_of_equal_length_are_one_call():
    assert Runs.of([4, 4, 4, 6]) == (Run(0, 3, 4, None), Run(12, 1, 6, None))
    assert Runs.of([5])[0].part == slice(0, 5)


def test_in_bfloat16_neighbours_of_nearly_equal_length_are_one_call():
    brief, full, long = Runs.of([63, 64, 64, 65, 80], step=16)
    assert (brief, full) == (Run(0, 1, 63, None), Run(63, 2, 64, None))
    assert long[:3] == (191, 2, 80)
    assert torch.equal(long.mask == 0, torch.arange(80).expand(2, 1, 1, 80) < torch.tensor([65, 80]).view(2, 1, 1, 1))


@pytest.mark.parametrize("lengths", [[100, 101, 112], [20, 33, 70, 83, 511]])
def test_attention_reads_no_row_that_is_no_token(lengths):
    """Whatever stands there, the texts get the same bytes; and what they get without such rows, but for rounding."""
    drawn = torch.Generator().manual_seed(0)
    dense, wide = Runs.of(lengths), Runs.of(lengths, step=16)
    texts = torch.randn(3, sum(lengths), 32, generator=drawn).bfloat16()
    q, k, v = spread(texts, lengths, dense, wide, 0.0)
    expected = dense.attend(*texts, 4), dense.attend_first(dense.firsts(texts[0]), *texts[1:], 4)
    found = wide.attend(q, k, v, 4), wide.attend_first(wide.firsts(q), k, v, 4)
    (together,) = gathered(found[0][None], lengths, wide)
    assert torch.allclose(together.float(), expected[0].float(), atol=0.02)
    assert torch.allclose(found[1].float(), expected[1].float(), atol=0.02)
    q, k, v = spread(texts, lengths, dense, wide, 9.0)
    assert torch.equal(gathered(wide.attend(q, k, v, 4)[None], lengths, wide)[0], together)
    assert torch.equal(wide.attend_first(wide.firsts(q), k, v, 4), found[1])


def spread(texts, lengths, dense, wide, rest):
    """Move texts (N, T, E) from where they stand without further rows to where they stand with them."""
    moved = torch.full((len(texts), wide[-1].part.stop, texts.shape[-1]), rest, dtype=texts.dtype)
    for here, there, length in zip(dense.starts, wide.starts, lengths, strict=True):
        moved[:, there : there + length] = texts[:, here : here + length]
    return moved


def gathered(moved, lengths, wide):
    """Move them back."""
    return torch.cat([moved[:, at : at + length] for at, length in zip(wide.starts, lengths, strict=True)], dim=1)


@pytest.mark.parametrize("kind", FAMILIES)
def test_texts_of_all_lengths_are_packed_in_bfloat16(kind):
    lengths = (*range(1, 128, 5), 64, 64, 80, 127)
    model, rows = model_of(kind), rows_of(lengths)
    (way, plain), found = chosen(model, "bfloat16")
    assert (found.path, found.precision) == ("packed", "bfloat16")
    ours, theirs = (torch.sigmoid(log_odds(taken.logits(rows))) for taken in (way, plain))
    assert (ours - theirs).abs().max() <= 2 * BOUNDS["bfloat16"]  # these weights are steeper than any trained ones
