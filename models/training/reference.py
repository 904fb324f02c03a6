"""The small reference encoder: trained from nothing on synthetic answers, kept in a cache, needing no download."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import msgspec
import torch

from models.encoder.artifact import verify
from models.errors import ArtifactError
from models.training.data import from_week
from models.training.fit import Progress, Recipe, train
from models.training.libraries import libraries
from models.training.synth import Config, generate

WEEK: Final = Config(seed=20260105, responses=14_000, drift=None, pre_response=0.0)
"""What it learns from: another seed than any demo, no drift, every answer shown."""

FAST_WEEK: Final = msgspec.structs.replace(WEEK, responses=4_000)
RECIPE: Final = Recipe(seed=1, fewest=1)
"""Synthetic texts name nobody."""


def ensure_reference(cache: Path, *, fast: bool = False, progress: Progress | None = None) -> Path:
    """Return the folder of the reference encoder, training it if the cache has none made by this very code.

    Takes some three quarters of a minute on one core (`fast`: a third of that, for some AUROC points less).
    """
    week = FAST_WEEK if fast else WEEK
    folder = cache / f"reference-{_key(week)}"
    return folder if _sound(folder) else _make(folder, week, progress)


def _sound(folder: Path) -> bool:
    """Whether an untouched artifact lies there; a damaged one is made anew."""
    try:
        return bool(verify(folder))
    except ArtifactError:
        return False


def _make(folder: Path, week: Config, progress: Progress | None) -> Path:
    """Train beside the place and move in at the end, so that no one ever loads half a model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(mkdtemp(dir=folder.parent, prefix=".training-"))
    try:
        with _one_thread():
            train(from_week(generate(week)), fresh, recipe=RECIPE, progress=progress)
        _swap(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


@contextmanager
def _one_thread() -> Iterator[None]:
    """A model this small is trained in less than half of the time by one thread as by two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _swap(fresh: Path, folder: Path) -> None:
    if _sound(folder):  # another process was quicker
        return
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _key(week: Config) -> str:
    """Name the result by all that it depends on: configuration, code, libraries."""
    parts = (msgspec.json.encode((week, RECIPE, libraries()), order="deterministic"), *_sources())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _sources() -> list[bytes]:
    """Return its own code, the encoder's, and that of the modules beside them, which both import."""
    here = Path(__file__).parent
    folders = (here, here.parent / "encoder", here.parent)
    return [
        path.read_bytes() for folder in folders for path in sorted(folder.iterdir()) if path.suffix in {".py", ".toml"}
    ]
