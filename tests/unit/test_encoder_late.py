"""Late interaction on a sentence encoder with random weights: everything but quality."""

import math
import shutil
from functools import partial

import msgspec
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from models.encoder import loading
from models.encoder.adapter import Adapter
from models.encoder.artifact import verify
from models.encoder.embedder import LONGEST, Embedder, unit
from models.encoder.late import LateEncoder, features, load_weights, read
from models.encoder.loading import open_sentences
from models.encoder.passages import FIRST, LAST, PASSAGE, asks, heading, passages, sentences
from models.encoder.quiet import quiet
from models.encoder.runtime import BOUNDS
from models.errors import ArtifactError, SettingsError
from models.training import late
from models.training.adapt import adapt
from models.training.data import from_week
from models.training.examples import folds, pending
from models.training.late import FOLDS, inverse_frequency, train_late
from models.training.synth import Config, generate
from models.training.vocabulary import learn
from tests.tiny_model import of_pieces

load = partial(
    loading.load, precision="float32"
)  # whose bounds these are; a processor with bfloat16 would choose otherwise


@pytest.fixture(scope="module", autouse=True)
def brief():
    """What is learnt is not the point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(late, "EPOCHS", 10)
        yield


@pytest.fixture(scope="module")
def examples():
    return from_week(generate(Config(responses=120, seed=8, pre_response=0.0, drift=None)))


@pytest.fixture(scope="module")
def sentence_encoder(examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    torch.manual_seed(0)
    tokenizer = learn([f"{e.event.query} {e.event.response}" for e in examples], 600, 512)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with quiet():
        BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def artifact(examples, sentence_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("late") / "artifact"
    train_late(examples, folder, encoder=sentence_encoder, seed=1)
    return folder


def test_it_scores_like_any_encoder(artifact, examples):
    encoder = load(str(artifact))
    scores = encoder.score([example.event for example in examples[:20]])
    assert all(math.isfinite(score.logit) and not score.truncated for score in scores)
    assert min(encoder.count_tokens([example.event for example in examples[:20]])) > 20


def test_a_response_scores_the_same_whatever_its_batch_mates(artifact, examples):
    encoder = load(str(artifact))
    mates = [example.event for example in examples[:15]]
    for mate, together in zip(mates, encoder.score(mates), strict=True):
        assert encoder.score([mate])[0].logit == pytest.approx(together.logit, abs=1e-4)


def test_its_sentence_encoder_is_packed_and_exact(artifact):
    found = load(str(artifact)).runtime
    assert (found.path, found.precision) == ("packed", "float32")
    assert found.deviation < 1e-5


def test_it_says_in_which_precision_it_was_trained(artifact):
    fast = torch.cpu.get_capabilities().get("avx512_bf16", False)
    assert verify(artifact)["precision"] == ("bfloat16" if fast else "float32")


def test_bfloat16_moves_no_risk_far(artifact, examples):
    events = [example.event for example in examples[:40]]
    both = (loading.load(str(artifact), precision=precision).score(events) for precision in ("float32", "bfloat16"))
    risks = [[1 / (1 + math.exp(-score.logit)) for score in scores] for scores in both]
    assert np.abs(np.subtract(*risks)).max() < BOUNDS["bfloat16"]


def test_rounding_is_that_of_its_head(sentence_encoder, artifact, examples):
    """Similarities hardly move; what a head makes of them may."""
    weights, events = load_weights(artifact), [pending(example).event for example in examples[:40]]
    weights.before.weight.mul_(1e7)
    fast, exact = (
        LateEncoder(Embedder(*open_sentences(sentence_encoder), precision=precision), weights, "")
        for precision in ("bfloat16", "float32")
    )
    off = [abs(a.logit - b.logit) for a, b in zip(fast.score(events), exact.score(events), strict=True)]
    assert exact.rounding == 0.0
    assert fast.runtime.deviation < 1e-3
    assert 0.1 < np.mean(off) < fast.rounding


def test_it_scores_before_and_after_the_answer(artifact, examples):
    after, before = load(str(artifact)).score([examples[0].event, pending(examples[0]).event])
    assert after.logit != before.logit


@pytest.mark.parametrize("answer", ["δύο " * 20, "\ue000" * 30, "💊" * 30, "\u200b", "x" * 5000])
def test_an_answer_that_cannot_be_read_is_unknown(artifact, examples, answer):
    asked = examples[0].event
    known, unknown = load(str(artifact)).score([asked, msgspec.structs.replace(asked, response=answer)])
    assert known.unknown == 0.0
    assert unknown.unknown > 0.9


def test_training_twice_gives_one_artifact(artifact, examples, sentence_encoder, tmp_path):
    train_late(examples, tmp_path / "again", encoder=sentence_encoder, seed=1)
    assert load(str(tmp_path / "again")).model_hash == load(str(artifact)).model_hash


def test_a_changed_head_is_refused(artifact, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "changed")
    data = bytearray((folder / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "head.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"head\.safetensors"):
        load(str(folder))


def test_a_missing_sentence_encoder_is_named(examples, tmp_path):
    with pytest.raises(ArtifactError, match="no-such-encoder"):
        train_late(examples, tmp_path / "x", encoder="no-such-encoder")


def test_strict_and_mild_raters_are_set_aside(examples, sentence_encoder, tmp_path):
    told = []
    train_late(examples, tmp_path / "x", encoder=sentence_encoder, progress=lambda share, _: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_relations_are_finite_even_for_texts_that_say_nothing(sentence_encoder, examples):
    embedder = Embedder(*open_sentences(sentence_encoder))
    odd = [
        examples[0].event.__class__(**{**_fields(examples[0].event), "query": "?", "response": text})
        for text in ("", "!", "x " * 4000)
    ]
    readings = read(embedder, odd)
    assert [reading.cut for reading in readings] == [False, False, True]
    table = features(readings, inverse_frequency(readings, 600))
    assert table.shape == (3, 52)
    assert np.isfinite(table).all()


def _fields(event):
    return {name: getattr(event, name) for name in event.__struct_fields__}


def test_a_text_beyond_the_longest_keeps_its_last_special_token(sentence_encoder):
    embedder = Embedder(*open_sentences(sentence_encoder))
    found = embedder(["dose " * 600, "dose"])
    assert found["dose " * 600].cut
    assert len(found["dose " * 600].ids) == LONGEST - 2
    assert not found["dose"].cut


def test_a_special_token_that_is_a_piece_of_the_vocabulary_is_unknown_where_it_is_written():
    tokenizer = of_pieces()
    size = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    embedder = Embedder(XLMRobertaModel(XLMRobertaConfig(**size, intermediate_size=16)).eval(), tokenizer)
    row = embedder.tokenise(["take <pad> 5"])["take <pad> 5"]
    assert [row.ids[0], row.ids[-1]] == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert {*tokenizer.all_special_ids} & {*row.ids[1:-1]} == {tokenizer.unk_token_id}
    assert row.unknown == 0.5


def test_long_answers_keep_beginning_and_end():
    text = " ".join(f"word{n}" for n in range(2000))
    parts, left_out = passages(text)
    assert left_out
    assert len(parts) == FIRST + LAST
    assert parts[0].startswith("word0 ")
    assert parts[-1].endswith("word1999")
    assert max(map(len, parts)) <= PASSAGE


def test_queries_are_cut_into_sentences():
    assert sentences("") == [""]
    assert [asks(part) for part in sentences("Lupus. What is it? I wonder.")] == [False, True, False]


@pytest.mark.parametrize(
    ("passage", "title"),
    [("Lupus (Symptoms): Rash.", "Lupus (Symptoms)"), ("See a doctor. Then: rest.", ""), ("Take 2:1 daily", "")],
)
def test_a_heading_is_what_stands_before_the_first_colon(passage, title):
    assert heading(passage) == title


def test_a_heading_and_titles_add_features(sentence_encoder, examples):
    embedder = Embedder(*open_sentences(sentence_encoder))
    plain, headed = (
        msgspec.structs.replace(examples[0].event, response=text) for text in ("Rest well.", "Dose: Rest well.")
    )
    readings = read(embedder, [plain, headed])
    assert [reading.heading is None for reading in readings] == [True, False]
    rarity = inverse_frequency(readings, 600)
    assert features(readings, rarity)[:, 45].tolist() == [0.0, 1.0]
    random = np.random.default_rng(0)
    adapter = Adapter(*(random.normal(size=size).astype(np.float32) for size in ((16, 4), (4, 16))))
    adapted = features(readings, rarity, adapter)
    assert adapted.shape == (2, 73)
    assert adapted[:, :52].tolist() == features(readings, rarity).tolist()
    assert np.isfinite(adapted).all()


def titled(count, seed=0):
    """Vectors of titles and their answers, both blurred along four directions that say nothing."""
    random = np.random.default_rng(seed)
    meant = random.normal(size=(count, 16))
    blurred = [meant + np.pad(4 * random.normal(size=(count, 4)), ((0, 0), (0, 12))) for _ in range(2)]
    titles, answers = (unit(each.astype(np.float32)) for each in blurred)
    return [f"title {n}" for n in range(count)], titles, [answer[None] for answer in answers]


def test_an_adapter_finds_the_answers_of_new_titles():
    adapter = adapt(*titled(1000), seed=1)
    _, titles, answers = titled(100, seed=9)
    table = np.concatenate(answers)
    found = [(adapter(titles) @ adapter(table).T).argmax(axis=1), (titles @ table.T).argmax(axis=1)]
    right, before = ((each == np.arange(100)).mean() for each in found)
    assert right > before + 0.2


def test_what_nobody_rejected_is_no_deep_rejection(artifact, examples, sentence_encoder, tmp_path):
    said = [example if example.rejected else msgspec.structs.replace(example, depth="deep") for example in examples]
    train_late(said, tmp_path / "x", encoder=sentence_encoder, seed=1)
    heads = ((folder / "head.safetensors").read_bytes() for folder in (artifact, tmp_path / "x"))
    assert next(heads) == next(heads)


def test_a_verdict_that_stands_in_one_fold_alone_is_too_few(sentence_encoder, examples, tmp_path):
    dealt = folds([msgspec.structs.replace(e, question=str(n)) for n, e in enumerate(examples)], FOLDS, seed=0)[0]
    judged = [
        msgspec.structs.replace(e, question=str(n), rejected=n in dealt, title=None) for n, e in enumerate(examples)
    ]
    with pytest.raises(SettingsError, match="too few"):
        train_late(judged, tmp_path / "x", encoder=sentence_encoder)


def test_few_titles_make_no_adapter():
    assert adapt(*titled(50), seed=1) is None


def test_titles_are_learnt_from_and_kept(sentence_encoder, examples, tmp_path):
    """Their verdicts are left to the answers without titles: turning them changes nothing."""
    plain = [msgspec.structs.replace(e, title=None) for e in examples]
    named = [
        msgspec.structs.replace(
            e, title=f"What of {n}?", event=msgspec.structs.replace(e.event, response=f"{e.event.response} {n}")
        )
        for n, e in enumerate(examples * 2)
    ]
    for name, turned in (("one", False), ("two", True)):
        part = [msgspec.structs.replace(e, rejected=e.rejected != turned) for e in named]
        train_late([*plain, *part], tmp_path / name, encoder=sentence_encoder, seed=1)
    one, two = (load(str(tmp_path / name)) for name in ("one", "two"))
    events = [example.event for example in examples[:5]]
    assert one.score(events) == two.score(events)
    assert load_weights(tmp_path / "one").adapter is not None
