"""A small model with random weights, sealed as an artifact: everything but quality."""

import math
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel, configuration_utils

from models.deciding import MAX_UNKNOWN
from models.encoder import loading
from models.encoder.artifact import CARD, seal, verify
from models.encoder.quiet import quiet
from models.errors import ArtifactError
from models.events import Response
from models.training.vocabulary import learn

load = partial(
    loading.load, precision="float32"
)  # whose bounds these are; a processor with bfloat16 would choose otherwise
NOW = datetime(2026, 1, 5, tzinfo=UTC)
TEXT = "take two tablets of amlodipine 5 mg every day with water and call us if anything is unclear"
WORDS = TEXT.split()
LIMIT = 64


def event(query="take amlodipine 5 mg", response="every day", **fields):
    ids = {"response_id": "r", "conversation_id": "v", "deployment": "d", "site": "s"}
    return Response(**ids, query=query, response=response, occurred_at=NOW, **fields)


def make(folder, *, labels=2, twins=True, build=BertForSequenceClassification, sealed=True, **config):
    torch.manual_seed(0)
    tokenizer = learn([" ".join(WORDS), "response pending turn 0 - |"], 300, LIMIT)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    settings = {"max_position_embeddings": LIMIT, "num_labels": labels, "initializer_range": 0.5, **config}
    model = build(BertConfig(vocab_size=len(tokenizer) * (1 + twins), **size, **settings))
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if sealed:
        seal(folder, {"kind": "cross", "twins": twins})
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return make(tmp_path_factory.mktemp("encoder") / "artifact")


@pytest.fixture(scope="module")
def encoder(artifact):
    return load(str(artifact))


def test_the_same_artifact_scores_the_same_bit_for_bit(artifact, encoder, tmp_path):
    again = load(str(shutil.copytree(artifact, tmp_path / "copy")))
    assert again.score([event()]) == encoder.score([event()])
    assert again.model_hash == encoder.model_hash
    assert len(encoder.model_hash) == 64


def test_a_response_scores_the_same_whatever_its_batch_mates(encoder):
    mates = [event(response=" ".join(WORDS[:n] * 2)) for n in range(1, 17)]
    for mate, together in zip(mates, encoder.score(mates), strict=True):
        assert encoder.score([mate])[0].logit == pytest.approx(together.logit, abs=1e-5)


def test_scored_alone_a_batch_is_the_single_scores_bit_for_bit(artifact):
    alone = load(str(artifact), batch_tokens=1)
    mates = [event(response=" ".join(WORDS[:n])) for n in range(1, 17)]
    assert alone.score(mates) == [alone.score([mate])[0] for mate in mates]


def test_scores_come_back_in_the_order_given(encoder):
    mates = [event(response=" ".join(WORDS[:n])) for n in (9, 2, 5)]
    assert [score.logit for score in encoder.score(mates)[::-1]] == pytest.approx(
        [score.logit for score in encoder.score(mates[::-1])], abs=1e-5
    )


def test_no_responses_have_no_scores(encoder):
    assert encoder.score([]) == []
    assert encoder.count_tokens([]) == []


def test_what_was_cut_is_said_and_the_end_still_counts(encoder):
    long = " ".join(WORDS * 10)
    short, cut, other_end = encoder.score([event(), event(response=long), event(response=f"{long} amlodipine 5 mg")])
    assert not short.truncated
    assert cut.truncated
    assert cut.logit != other_end.logit
    assert encoder.count_tokens([event(response=long)]) == [LIMIT]


def test_unknown_characters_are_counted(encoder):
    plain, foreign = encoder.score([event(), event(response="每天 δύο tablets")])
    assert plain.unknown == 0.0
    assert 0.0 < foreign.unknown < 1.0


UNREADABLE = {
    "another script": "ห้ามรับประทานยานี้ร่วมกับวาร์ฟารินเด็ดขาดเพราะอาจทำให้เลือดออกอย่างรุนแรง" * 20,
    "words of another script": "μην παίρνετε αυτό το φάρμακο " * 3,
    "a word without end": "x" * 5000,
    "pictures": "💊" * 30,
    "glyphs of a private font": "\ue000\ue001\ue002" * 10,
    "unassigned": "\u0378" * 10,
    "what could not be decoded": "\ufffd" * 40,
    "nothing that is seen": "\u200b\u2060",
    "control characters": "\x01\x02",
    "marks on nothing": "\u0301 " * 5,
    "variation selectors": "".join(letter + "\ufe0f" * 20 for letter in TEXT),
    "joiners that join nothing": "".join(letter + "\u034f" * 20 for letter in TEXT),
    "fillers": "5 " + "\u3164" * 30,
    "marks without end": "".join(letter + "\u0334" * 1000 for letter in TEXT),
    "as many marks as are kept": "".join(letter + "\u0334" * 30 for letter in TEXT),
    "hardly a word": f"5 {'💊' * 30}",
    "hardly a word that is seen": f"5 {chr(0xE000) * 30}",
}


@pytest.mark.parametrize("answer", UNREADABLE.values(), ids=list(UNREADABLE))
def test_an_answer_that_cannot_be_read_is_unknown_beside_a_long_question_that_can(encoder, answer):
    [score] = encoder.score([event(query=f"{TEXT} {TEXT}", response=answer)])
    assert score.unknown > 0.9


def test_a_text_that_is_struck_through_is_unknown_where_marks_are_dropped(encoder):
    [score] = encoder.score([event(response="".join(f"{letter}\u0336" for letter in TEXT))])
    assert score.unknown > MAX_UNKNOWN


@pytest.mark.parametrize("text", ["\u00a0\n", "\ue000" * 20, "δύο δύο δύο δύο δύο δύο δύο δύο δύο"])
def test_a_question_that_cannot_be_read_is_unknown_beside_an_answer_that_can(encoder, text):
    [score] = encoder.score([event(query=text, response=TEXT)])
    assert score.unknown > MAX_UNKNOWN


@pytest.mark.parametrize(
    "answer",
    [None, "", " \n", TEXT, f"{TEXT}\r\n\u00a0\u200b{TEXT}", f"{TEXT} 💊\ufe0f", f"{TEXT} 每天", f"naïve {TEXT}"],
)
def test_answers_that_can_be_read_raise_no_doubt(encoder, answer):
    [score] = encoder.score([event(query="take", response=answer)])
    assert score.unknown < 0.05


def test_an_answer_that_is_pending_scores_otherwise_than_an_empty_one(encoder):
    pending, empty = encoder.score([event(response=None), event(response="")])
    assert pending.logit != empty.logit


def test_whether_a_token_stands_in_the_other_text_matters(encoder):
    same, other = encoder.score([event(query="take 5 mg", response="5"), event(query="take 2 mg", response="5")])
    assert same.logit != other.logit


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_changed_file_is_refused_by_name(artifact, tmp_path, name):
    folder = shutil.copytree(artifact, tmp_path / "changed")
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{name}.*restore the original"):
        load(str(folder))


def test_an_added_file_is_refused(artifact, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "added")
    (folder / "modeling.py").write_text("print('hello')")
    with pytest.raises(ArtifactError, match=r"modeling\.py"):
        load(str(folder))


@pytest.mark.parametrize(
    "damage", [lambda card: {**card, "twins": False}, lambda card: {**card, "template": 99}, lambda _: []]
)
def test_a_changed_card_is_refused(artifact, tmp_path, damage):
    folder = shutil.copytree(artifact, tmp_path / "card")
    (folder / CARD).write_bytes(orjson.dumps(damage(orjson.loads((folder / CARD).read_bytes()))))
    with pytest.raises(ArtifactError, match=CARD):
        load(str(folder))


def test_another_template_is_refused(artifact, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "template")
    seal(folder, {"template": 99})
    with pytest.raises(ArtifactError, match="template 99"):
        verify(folder)


@pytest.mark.parametrize("name", ["no/such/folder", "", "no-such-model", "x" * 300, f"{'x' * 300}@v1"])
def test_a_missing_model_is_one_sentence_with_a_remedy(name):
    with pytest.raises(ArtifactError, match=r"cannot be loaded.*demur train") as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(artifact, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "pickled", ignore=shutil.ignore_patterns("model.safetensors", CARD))
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="safetensors"):
        load(str(folder))


@pytest.mark.parametrize("sealed", [True, False])
def test_torn_weights_are_one_sentence_with_a_remedy(tmp_path, sealed):
    folder = make(tmp_path / "torn", twins=False, sealed=False)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    if sealed:
        seal(folder, {"kind": "cross", "twins": False})
    for opened in (load, loading.open_sentences):
        with pytest.raises(ArtifactError, match=r"cannot be loaded.*demur train"):
            opened(str(folder))


def test_a_card_that_is_a_folder_is_refused(artifact, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "card")
    (folder / CARD).unlink()
    (folder / CARD).mkdir()
    with pytest.raises(ArtifactError, match=f"`{CARD}` is not a JSON object"):
        load(str(folder))


def test_an_artifact_without_its_card_is_refused(artifact, tmp_path):
    """Its weights fit no other reading: half of the vocabulary are twins."""
    folder = shutil.copytree(artifact, tmp_path / "cardless", ignore=shutil.ignore_patterns(CARD))
    with pytest.raises(ArtifactError, match=f"`{CARD}` is missing.*restore the original"):
        load(str(folder))


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    folder = make(tmp_path / "headless", build=BertModel, sealed=False)
    with pytest.raises(ArtifactError, match="no trained head"):
        load(str(folder))


def rewritten(folder, change):
    """Change the tensors of a model's file."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return str(folder)


def without_a_layer(tensors):
    return {name: tensor for name, tensor in tensors.items() if ".layer.1." not in name}


def reshaped(tensors):
    narrow = "bert.embeddings.word_embeddings.weight"
    return {**tensors, narrow: tensors[narrow][:, :8].contiguous()}


def of_another(_):
    return {"unrelated": torch.zeros(2)}


@pytest.mark.parametrize("change", [without_a_layer, reshaped, of_another])
@pytest.mark.parametrize(
    "opened", [load, partial(loading.open_model, labels=2), loading.open_sentences], ids=["load", "train", "sentences"]
)
def test_weights_that_a_checkpoint_lacks_are_not_drawn_at_random(tmp_path, change, opened):
    folder = rewritten(make(tmp_path / "model", twins=False, sealed=False), change)
    with pytest.raises(ArtifactError, match=r"has no weights for `|cannot be loaded"):
        opened(folder)


def test_a_head_and_a_pooler_may_be_missing_where_they_are_trained_or_not_read(tmp_path):
    def bare(tensors):
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(("classifier", "bert.pooler"))}

    folder = rewritten(make(tmp_path / "bare", twins=False, sealed=False), bare)
    assert loading.open_model(folder, labels=2)
    assert loading.open_sentences(folder)
    three = str(make(tmp_path / "three", labels=3, twins=False, sealed=False))
    assert loading.open_model(three, labels=2)[0].config.num_labels == 2


def test_three_labels_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="3 labels"):
        load(str(make(tmp_path / "three", labels=3, sealed=False)))


@pytest.mark.parametrize("labels", [1, 2])
def test_a_foreign_classifier_of_one_or_two_labels_loads(tmp_path, labels):
    folder = make(tmp_path / "foreign", labels=labels, twins=False, sealed=False)
    first, second = load(str(folder)), load(str(shutil.copytree(folder, tmp_path / "elsewhere")))
    assert math.isfinite(first.score([event()])[0].logit)
    assert first.model_hash == second.model_hash


def named(folder, names):
    return make(folder, labels=len(names), twins=False, sealed=False, id2label=dict(enumerate(names)))


@pytest.mark.parametrize(
    "names", [("reject", "accept"), ("REJECTED", "ok"), ("LABEL_0", "Accepted"), ("rejection", "LABEL_1"), ("accept",)]
)
def test_labels_that_stand_the_other_way_round_are_refused(tmp_path, names):
    folder = named(tmp_path, names)
    with pytest.raises(ArtifactError, match=r"the last label must be \*reject\*"):
        load(str(folder))


@pytest.mark.parametrize("names", [("accept", "reject"), ("good", "bad"), ("not rejected", "rejected"), ("reject",)])
def test_labels_that_stand_right_or_say_nothing_load(tmp_path, names):
    load(str(named(tmp_path, names)))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """What the hub's client keeps of a repository with two revisions: its folder, and their commits."""
    home = tmp_path_factory.mktemp("hub")
    repository = home / "hub/models--org--judge"
    commits = {"v1": "1" * 40, "main": "2" * 40}
    for labels, (name, commit) in enumerate(commits.items(), 1):
        make(repository / "snapshots" / commit, labels=labels, twins=False, sealed=False)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    return home, commits


LOAD = """
import sys
from models.encoder.loading import load, open_sentences
for name in sys.argv[1:]:
    print(load(name).model_hash, load(name).commit, open_sentences(name)[0].config._commit_hash)
"""
"""In a process of its own: where the hub's client keeps what it has is read once."""


def test_a_revision_of_the_hub_is_loaded_as_it_was(hub, tmp_path):
    home, commits = hub
    names = ["org/judge", "org/judge@main", "org/judge@v1", f"org/judge@{commits['v1']}"]
    told = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(loading.__file__).parents[2])}
    command = [sys.executable, "-P", "-c", LOAD, *names]
    said = subprocess.run(command, env=told, cwd=tmp_path, check=True, capture_output=True)
    found = [line.split() for line in said.stdout.decode().splitlines()]
    assert [line[1:] for line in found] == [[commits[at]] * 2 for at in ("main", "main", "v1", "v1")]
    newest, named, *pinned = [line[0] for line in found]
    assert newest == named != pinned[0] == pinned[1]


def test_a_folder_with_an_at_in_its_name_is_a_folder(artifact, tmp_path):
    shutil.copytree(artifact, tmp_path / "judge@v1")
    found = loading.load(str(tmp_path / "judge@v1"))
    assert (found.model_hash, found.commit) == (loading.load(str(artifact)).model_hash, None)


def test_a_revision_that_is_left_out_is_not_guessed():
    with pytest.raises(ArtifactError, match="'org/judge@' names no revision behind the @: give a commit"):
        loading.load("org/judge@")


def test_a_foreign_models_hash_does_not_hold_the_librarys_version(tmp_path, monkeypatch):
    folder = str(make(tmp_path / "foreign", twins=False, sealed=False))
    before = load(folder).model_hash
    monkeypatch.setattr(configuration_utils, "__version__", "9.9.9")
    assert '"9.9.9"' in BertConfig().to_json_string()
    assert load(folder).model_hash == before


def test_loading_prints_nothing(artifact, capfd):
    load(str(artifact)).score([event()])
    assert capfd.readouterr() == ("", "")
