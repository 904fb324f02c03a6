"""The benchmarks of the rejection model run as their pages say, on any file of the shape, and name the same figures."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import orjson
import pytest

from benchmarks.mediqa import __main__ as mediqa
from benchmarks.raters import __main__ as raters
from models.errors import SettingsError
from models.training import evaluate, late
from models.training.intervals import MEASURES, bootstrap
from tests import tiny_model

MODELS = {"demur", "prior", "tfidf_overlap", "boosted_overlap"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(tiny_model.make(tmp_path_factory.mktemp("sentences")))


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """What is learnt and how sure it is are not the point."""
    monkeypatch.setattr(late, "EPOCHS", 10)
    monkeypatch.setattr(evaluate, "bootstrap", partial(bootstrap, draws=5))


def answers(path, seed, count=150):
    """What decides is the rater: strict ones reject three answers in four, mild ones one in four."""
    random = np.random.default_rng(seed)
    rows = [
        {
            "id": f"{seed}/{n}",
            "query": f"Is {random.choice(['aspirin', 'warfarin', 'metformin'])} safe for patient {n // 3}?",
            "response": " ".join(random.choice(["yes", "no", "daily", "never", "with", "food"], size=12)),
            "rater": f"r{n % 6}",
            "label": int(random.uniform() < (0.75 if n % 6 < 3 else 0.25)),
            "depth": "surface" if n % 2 else "deep",
            "question_id": f"{seed}/{n // 3}",
        }
        for n in range(count)
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return str(path)


def figures(path):
    found = json.loads(path.read_bytes())
    for row in found.get("models", found).values():
        assert set(MEASURES) == row["intervals"].keys()
        assert set(MEASURES) | {"seconds"} <= row.keys()
    return found


def test_mediqa_trains_tests_and_keeps_the_artifact(tmp_path, encoder):
    train, test = answers(tmp_path / "train.jsonl", 1), answers(tmp_path / "test.jsonl", 2)
    words = ["--train", train, "--json", str(tmp_path / "out.json"), "--encoder", encoder]
    mediqa.main([*words, "--test", test, "--keep", str(tmp_path / "kept")])
    assert figures(tmp_path / "out.json").keys() == MODELS
    assert (tmp_path / "kept" / "rpm.json").exists()
    mediqa.main(words)  # on folds of the training answers
    assert figures(tmp_path / "out.json").keys() == MODELS


def test_without_an_encoder_the_remedy_is_said(monkeypatch):
    monkeypatch.setattr(mediqa, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="give --encoder FOLDER"):
        mediqa.packaged()
    monkeypatch.setattr(mediqa, "find_spec", lambda _: SimpleNamespace(origin="/there/__init__.py"))
    assert mediqa.packaged() == "/there/model"


def test_to_know_the_rater_helps_where_raters_differ(tmp_path, encoder):
    data = answers(tmp_path / "rated.jsonl", 3)
    raters.main(["--data", data, "--json", str(tmp_path / "out.json"), "--seeds", "0,1", "--encoder", encoder])
    found = figures(tmp_path / "out.json")
    for aware, blind in (("known", "text"), ("late_known", "late_text")):
        assert found["models"][aware]["auroc"] > found["models"][blind]["auroc"] + 0.1
        assert len(found["gains"][aware]) == 2
        assert min(found["gains"][aware]) > 0.1
