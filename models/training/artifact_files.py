"""What is written to disk is whole or not there, and replaces nothing but its own.

A process may end, or a disk be full, at any moment; and a user may name a folder of theirs.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from models.encoder.artifact import CARD
from models.errors import SettingsError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside its place, then move it in."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def make_folder(folder: Path) -> None:
    """Make a folder, unless it is there. Raises `SettingsError` where none can be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be made ({error.strerror}): give another folder") from None


def check_free(out: Path, *needed: Path) -> None:
    """Make the folder `out`. Raises `SettingsError` unless it is empty, or holds an artifact and nothing else.

    `needed` are folders that must survive it.
    """
    place = out.resolve()
    for other in needed:
        if other.exists() and place in {other.resolve(), *other.resolve().parents}:
            raise SettingsError(f"{out}: {other} lies there and would be overwritten: give another folder")
    if place.exists() and not place.is_dir():
        raise SettingsError(f"{out} is a file: give a folder")
    foreign = sorted(path.name for path in place.iterdir() if path.name not in _own(place)) if place.exists() else ()
    if foreign:
        raise SettingsError(f"{out}: `{foreign[0]}` there is not of an artifact: give an empty folder or a new one")
    make_folder(out)


def _own(place: Path) -> set[str]:
    """Names that an artifact there lists; none where there is no artifact."""
    try:
        listed = msgspec.json.decode((place / CARD).read_bytes(), type=_Card)
    except (OSError, ValueError):
        return set()
    return {CARD, *(name.partition("/")[0] for name in listed.files)}


class _Card(msgspec.Struct):
    files: dict[str, str]


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write an artifact to, whose files are moved to `out` at the end.

    First its card: a folder that is torn then does not fit its card, and is refused. Raises `SettingsError`.
    """
    check_free(out)
    with TemporaryDirectory(dir=out.resolve().parent, prefix=".training-") as scratch:
        yield Path(scratch)
        for old in out.iterdir():
            if old.name != CARD:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        for new in sorted(Path(scratch).iterdir(), key=lambda path: path.name != CARD):
            shutil.move(new, out / new.name)
