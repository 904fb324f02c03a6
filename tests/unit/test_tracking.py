import subprocess
import sys

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
