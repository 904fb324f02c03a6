"""A tiny encoder really learns, on one core in some ten seconds, and its artifact says what it is."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import orjson
import pytest

from models.encoder.loading import load
from models.errors import ArtifactError, SettingsError
from models.training import fit, reference
from models.training.data import from_week
from models.training.early import TENTHS, best, kept, watched_folds
from models.training.examples import pending
from models.training.fit import Recipe, quality, train
from models.training.late import train_late
from models.training.metrics import measure
from models.training.synth import Config, generate
from tests import tiny_model

TINY = Recipe(seed=2, hidden=32, layers=1, feed=32)
SMALLEST = Recipe(seed=2, hidden=16, layers=1, feed=16, vocabulary=400)


def answers(count, seed):
    return from_week(generate(Config(responses=count, seed=seed, drift=None, pre_response=0.0)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "artifact"
    told = []
    report = train(answers(3500, seed=11), folder, recipe=TINY, progress=lambda share, _: told.append(share))
    return folder, report, told


def test_it_learns_relations_between_question_and_answer(trained):
    folder, _, _ = trained
    fresh = quality(str(folder), answers(1500, seed=12))
    assert fresh.post_response.auroc > 0.68  # knowing the category alone gives .63
    assert fresh.post_response.auroc > fresh.pre_response.auroc + 0.05
    assert fresh.pre_response.auroc > 0.55
    assert fresh.post_response.ece < 0.08


def test_the_artifact_carries_its_history(trained):
    folder, report, _ = trained
    card = orjson.loads((folder / "rpm.json").read_bytes())
    assert card["seed"] == 2
    assert card["twins"] is True
    assert card["metrics"]["post_response"] == msgspec.to_builtins(report.post_response)
    assert {"torch", "transformers", "python"} <= card["libraries"].keys()
    assert not list(Path(folder).glob("*.bin"))


def test_progress_grows_to_the_end(trained):
    _, _, told = trained
    assert told == sorted(told)
    assert told[0] == 0.0
    assert told[-1] >= 0.95


def test_the_same_artifact_scores_before_and_after_the_answer(trained):
    encoder = load(str(trained[0]))
    example = answers(5, seed=13)[0]
    after, before = encoder.score([example.event, pending(example).event])
    assert after.logit != before.logit


def test_training_again_gives_the_same_weights(tmp_path):
    examples = answers(250, seed=14)
    for name in ("one", "two"):
        train(examples, tmp_path / name, recipe=SMALLEST)
    one, two = (load(str(tmp_path / name)) for name in ("one", "two"))
    assert one.model_hash == two.model_hash
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_any_checkpoint_can_be_trained_further(trained, tmp_path):
    report = train(answers(250, seed=15), tmp_path / "tuned", encoder=str(trained[0]), recipe=SMALLEST)
    assert report.post_response.count > 10
    assert load(str(tmp_path / "tuned")).model_hash != load(str(trained[0])).model_hash
    assert orjson.loads((tmp_path / "tuned" / "rpm.json").read_bytes())["twins"] is True


def test_a_checkpoint_is_tuned_without_dropout_of_attention(tmp_path):
    model = fit._pretrained(str(tiny_model.make(tmp_path))).model
    shares = {name: module.p for name, module in model.named_modules() if "dropout" in name}
    assert shares.pop("bert.encoder.layer.0.attention.self.dropout") == 0.0
    assert set(shares.values()) == {0.1}


HASTY = msgspec.structs.replace(SMALLEST, epochs=12.0, patience=1, folds=2, rate=0.05)


def test_training_goes_on_for_as_many_epochs_as_the_watched_folds_bear(tmp_path):
    told, figures = [], []
    train(
        answers(250, seed=15),
        tmp_path / "x",
        recipe=HASTY,
        progress=lambda share, _: told.append(share),
        track=figures.append,
    )
    ends = [each["epoch"] for each in figures if "train_loss" in each]  # of each training
    losses = [each["eval_loss"] for each in figures if "eval_loss" in each]
    assert len(ends) == 3
    assert max(ends) < 12
    curves = [losses[: round(ends[0])], losses[round(ends[0]) :]]
    assert [len(curve) for curve in curves] == [round(end) for end in ends[:2]]
    assert round(ends[2]) == best(curves)
    assert told == sorted(told)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_question_is_never_on_both_sides_of_a_watched_fold():
    examples = answers(300, seed=15)
    folds = watched_folds(examples, TENTHS, seed=3)
    assert len(folds) == TENTHS
    for fold in folds:
        sides = [{example.question for example in side} for side in fold]
        assert all(sides)
        assert not sides[0] & sides[1]
        assert len(fold.fitted) + len(fold.watched) == len(examples)
    watched = [example.event.response_id for fold in folds for example in fold.watched]
    assert sorted(watched) == sorted(example.event.response_id for example in examples)
    assert watched_folds(examples, 2, seed=3) == folds[:2]


def test_one_question_cannot_be_watched():
    examples = [msgspec.structs.replace(example, question="q") for example in answers(20, seed=15)]
    assert watched_folds(examples, TENTHS, seed=3) == []


def test_a_fold_beside_which_there_is_one_verdict_is_not_watched():
    examples, first = answers(300, seed=15), watched_folds(answers(300, seed=15), 1, seed=3)[0]
    refused = {example.question for example in first.watched}
    judged = [msgspec.structs.replace(example, rejected=example.question in refused) for example in examples]
    folds = watched_folds(judged, TENTHS, seed=3)
    assert len(folds) == TENTHS - 1
    assert all(len({example.rejected for example in fold.fitted}) == 2 for fold in folds)
    assert watched_folds(judged, 1, seed=3) == folds[:1]


def test_a_loss_that_is_no_number_is_never_the_lowest(tmp_path):
    assert best([[0.5, 0.4, math.nan], [math.nan, 0.4, 0.1]]) == 2
    assert best([[math.nan, math.nan]]) == 1
    for _ in range(2):
        assert best([kept(tmp_path, lambda _: [0.5, math.nan])]) == 1


class Killed(Exception):
    """The process ends in the middle."""


def killer(at):
    def tell(share, words):
        if words == "training" and share >= at:
            raise Killed

    return tell


@pytest.mark.parametrize(
    ("recipe", "at", "done"), [(SMALLEST, 0.6, 0.3), (HASTY, 0.5, 0.4), (HASTY, 0.8, 0.65)], ids=["once", "fold", "all"]
)
def test_a_training_that_was_cut_off_goes_on_to_the_same_weights(recipe, at, done, tmp_path):
    examples = answers(600, seed=14)
    train(examples, tmp_path / "whole", recipe=recipe)
    with pytest.raises(Killed):
        train(examples, tmp_path / "cut", recipe=recipe, progress=killer(at), checkpoints=tmp_path / "kept")
    told = []
    train(
        examples,
        tmp_path / "cut",
        recipe=recipe,
        progress=lambda share, words: told.append(share) if words == "training" else None,
        checkpoints=tmp_path / "kept",
    )
    assert min(told) > done  # what was done is not done again
    assert load(str(tmp_path / "cut")).model_hash == load(str(tmp_path / "whole")).model_hash


@pytest.mark.parametrize("recipe", [SMALLEST, HASTY], ids=["once", "folds"])
def test_a_training_that_has_ended_is_not_trained_on(recipe, tmp_path):
    """It may have been cut off while it was measured, or be asked for again; or a fold before its losses were noted."""
    examples, kept, steps, hashes = answers(250, seed=15), tmp_path / "kept", [], []
    for _ in range(3):
        told = []
        train(examples, tmp_path / "x", recipe=recipe, checkpoints=kept, progress=lambda _, words: told.append(words))  # noqa: B023 (called before it changes)
        hashes.append(load(str(tmp_path / "x")).model_hash)
        steps.append(told.count("training"))
        for note in kept.glob("fold-*/losses.json"):
            note.unlink()
    assert steps[0] > 0
    assert steps[1:] == [0, 0]
    assert len(set(hashes)) == 1


def test_a_checkpoint_that_is_torn_is_passed_over(tmp_path):
    examples, kept = answers(600, seed=14), tmp_path / "kept"
    train(examples, tmp_path / "whole", recipe=SMALLEST)
    with pytest.raises(Killed):
        train(examples, tmp_path / "cut", recipe=SMALLEST, progress=killer(0.6), checkpoints=kept)
    (kept / "checkpoint-1000").mkdir()
    (kept / "checkpoint-1000" / "trainer_state.json").write_text('{"ep')
    train(examples, tmp_path / "cut", recipe=SMALLEST, checkpoints=kept)
    assert load(str(tmp_path / "cut")).model_hash == load(str(tmp_path / "whole")).model_hash


def test_checkpoints_of_another_training_are_refused(tmp_path):
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(SettingsError, match="other data or settings"):
        train(answers(250, seed=14), tmp_path / "x", recipe=SMALLEST, checkpoints=tmp_path)


def test_checkpoints_of_an_encoder_that_was_changed_are_refused(tmp_path):
    encoder = tiny_model.make(tmp_path / "encoder")
    for _ in range(2):
        fit._owned(tmp_path / "kept", "data", str(encoder), SMALLEST)
    with (encoder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SettingsError, match="another encoder"):
        fit._owned(tmp_path / "kept", "data", str(encoder), SMALLEST)


@pytest.mark.parametrize("note", ["training.json", "fold-0/losses.json"])
def test_a_note_is_whole_or_not_there(note, tmp_path, monkeypatch):
    examples, kept, write = answers(250, seed=15), tmp_path / "kept", Path.write_bytes

    def full(path, data):
        if note in str(path):
            write(path, data[:3])
            raise OSError("no space left")
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="no space"):
            train(examples, tmp_path / "x", recipe=HASTY, checkpoints=kept)
    train(examples, tmp_path / "x", recipe=HASTY, checkpoints=kept)


def test_checkpoints_of_somebody_else_are_refused(tmp_path):
    (tmp_path / "checkpoint-500").mkdir()
    with pytest.raises(SettingsError, match="other data or settings"):
        train(answers(250, seed=14), tmp_path / "x", recipe=SMALLEST, checkpoints=tmp_path)
    assert (tmp_path / "checkpoint-500").exists()


def test_a_folder_that_cannot_be_made_is_said_before_the_training(tmp_path):
    told = []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingsError, match="cannot be made"):
        train(answers(250, seed=14), tmp_path / "file" / "x", recipe=SMALLEST, progress=lambda *news: told.append(news))
    assert not told
    with pytest.raises(SettingsError, match="cannot be made"):
        train(answers(250, seed=14), tmp_path / "x", recipe=SMALLEST, checkpoints=tmp_path / "file" / "kept")


@pytest.mark.parametrize("name", ["README.md", "config.json", "notes"])
def test_a_folder_of_other_files_is_left_alone(trained, name, tmp_path):
    out = Path(shutil.copytree(trained[0], tmp_path / "out")) if name == "notes" else tmp_path
    (out / name).write_text("mine")
    with pytest.raises(SettingsError, match=name):
        train(answers(250, seed=14), out, recipe=SMALLEST)
    assert (out / name).read_text() == "mine"


def test_what_is_trained_from_is_not_overwritten(trained, tmp_path):
    out = shutil.copytree(trained[0], tmp_path / "out")
    with pytest.raises(SettingsError, match="overwritten"):
        train(answers(250, seed=14), out, encoder=str(out), recipe=SMALLEST)
    with pytest.raises(SettingsError, match="overwritten"):
        train_late(answers(250, seed=14), out, encoder=str(out))
    assert load(str(out)).model_hash == load(str(trained[0])).model_hash


@pytest.mark.parametrize("move", [2, 4])
def test_an_artifact_that_is_torn_is_refused(trained, move, tmp_path, monkeypatch):
    out, moved, really = tmp_path / "out", [], shutil.move

    def killed(*paths):
        moved.append(paths)
        if len(moved) == move:
            raise Killed
        really(*paths)

    shutil.copytree(trained[0], out)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "move", killed)
        with pytest.raises(Killed):
            train(answers(250, seed=14), out, recipe=SMALLEST)
    with pytest.raises(ArtifactError):
        load(str(out))
    train(answers(250, seed=14), out, recipe=SMALLEST)
    assert load(str(out))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_artifact_that_cannot_be_written_leaves_the_old_one(trained, tmp_path, monkeypatch):
    out = shutil.copytree(trained[0], tmp_path / "out")
    monkeypatch.setattr(fit, "write_card", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        train(answers(250, seed=14), out, recipe=SMALLEST)
    assert load(str(out)).model_hash == load(str(trained[0])).model_hash


def test_only_numbers_are_tracked(tmp_path):
    figures = []
    train(answers(250, seed=14), tmp_path / "x", recipe=SMALLEST, track=figures.append)
    assert {"loss", "learning_rate", "step"} <= set().union(*figures)
    assert {type(value) for each in figures for value in each.values()} == {float}


def test_nothing_to_learn_from_is_said(tmp_path):
    with pytest.raises(SettingsError, match="one verdict only"):
        train([example for example in answers(60, seed=1) if not example.rejected], tmp_path / "x")


def test_a_missing_checkpoint_is_said(tmp_path):
    with pytest.raises(ArtifactError, match="no/such"):
        train(answers(250, seed=1), tmp_path / "x", encoder="no/such", recipe=SMALLEST)


def test_the_reference_is_trained_once_and_mended_if_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "FAST_WEEK", Config(responses=250, seed=1))
    monkeypatch.setattr(reference, "RECIPE", SMALLEST)
    folder = reference.ensure_reference(tmp_path, fast=True)
    made = load(str(folder)).model_hash
    told = []
    assert reference.ensure_reference(tmp_path, fast=True, progress=lambda *news: told.append(news)) == folder
    assert told == []
    (folder / "config.json").write_text("{}")
    assert load(str(reference.ensure_reference(tmp_path, fast=True))).model_hash == made
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_key_of_the_reference_covers_all_code_that_makes_it():
    show = "print(*(m.__file__ for name, m in sys.modules.items() if name.startswith('models.')))"
    code = f"import sys, models.training.reference; {show}"
    used = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    known = reference._sources()
    assert [Path(file).stem for file in used if Path(file).read_bytes() not in known] == []


def test_measures_agree_with_hand_counts():
    found = measure([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
    assert found.auroc == 0.75
    assert found.accuracy == 0.5
    assert found.brier == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert found.ece == pytest.approx((0.1 + 0.6 + 0.6 + 0.1) / 4)
