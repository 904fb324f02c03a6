import subprocess
import sys
from types import SimpleNamespace

import orjson
import pytest

from models.errors import SettingsError
from streams import tracking
from streams.tracking import Tracker, tracked

CANARY = "Ms Jones takes warfarin"


def test_without_a_tracker_nothing_happens(tmp_path):
    with tracked(None, tmp_path / "out", {}) as send:
        send({"loss": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tracker_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(SettingsError, match="pip install wandb"), tracked(Tracker.WANDB, tmp_path / "out", {}):
        pass


def test_what_is_asked_of_the_tracker(tmp_path, monkeypatch):
    """Offline unless told otherwise, and nothing but figures: no code, console, machine or arguments."""
    asked, sent = {}, []
    run = SimpleNamespace(log=sent.append, finish=lambda: sent.append("finished"))
    wandb = SimpleNamespace(Settings=lambda **given: given, init=lambda **given: asked.update(given) or run)
    monkeypatch.setattr(tracking, "import_module", lambda _: wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with tracked(Tracker.WANDB, tmp_path / "out", {"seed": 7}) as send:
        send({"loss": 0.5})
    assert sent == [{"loss": 0.5}, "finished"]
    assert (asked["mode"], asked["config"]) == ("offline", {"seed": 7})
    silenced = {"disable_code", "disable_git", "x_disable_meta", "x_disable_stats"}
    assert all(asked["settings"][name] for name in silenced)
    assert (asked["settings"]["console"], asked["settings"]["save_code"]) == ("off", False)


def test_the_command_tracks_figures_and_no_patient(tmp_path):
    pytest.importorskip("wandb", reason="wandb is an extra: pip install wandb")
    rows = [
        {
            "id": f"a{n}",
            "query": f"{CANARY} {n}?",
            "response": f"{CANARY} daily {n % 7}.",
            "label": n % 2,
            "rater": CANARY,
        }
        for n in range(160)
    ]
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    data.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    words = ("train", "--data", str(data), "--out", str(out), "--track", "wandb")
    subprocess.run([sys.executable, "-P", "-m", "streams", *words], check=True, timeout=300)
    files = [path for path in (tmp_path / "out-tracking").rglob("*") if path.is_file()]
    (run,) = (path.read_bytes() for path in files if path.suffix == ".wandb")
    assert b"loss" in run
    assert not [path for path in files if b"Jones" in path.read_bytes()]


def test_offline_a_run_holds_figures_and_no_text(tmp_path):
    """In a process of its own, as `demur train` is: the tracker starts threads and a service."""
    pytest.importorskip("wandb", reason="wandb is an extra: pip install wandb")
    program = (
        "import sys; from pathlib import Path; from streams.tracking import *\n"
        "with tracked(Tracker.WANDB, Path(sys.argv[1]), {'seed': 7}) as send: send({'loss': 0.125, 'step': 3.0})"
    )
    subprocess.run([sys.executable, "-P", "-c", program, str(tmp_path / "out"), CANARY], check=True, timeout=120)
    assert not (tmp_path / "out").exists()  # an artifact takes no other files
    files = {path: path.read_bytes() for path in (tmp_path / "out-tracking").rglob("*") if path.is_file()}
    (run,) = (data for path, data in files.items() if path.suffix == ".wandb")
    assert b"0.125" in run
    assert not [path for path, data in files.items() if CANARY.encode() in data]
