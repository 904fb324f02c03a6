"""`rpm.json`: what a folder of our own says about itself, and the hash that shows tampering.

Beside a model in the Hugging Face layout stands one JSON object: `template` (version), `kind`, `twins` (ids of
matched tokens are shifted, see `tokens`), `groups`, `data_digest`, `metrics`, `seed`, `libraries`, `files` (name to
SHA-256), and the SHA-256 of everything else in it, `content_hash`. The weights themselves are safetensors; nothing is
ever unpickled.
"""

import hashlib
from pathlib import Path
from typing import Any, Final

import orjson

from models.encoder.template import VERSION
from models.errors import ArtifactError

CARD: Final = "rpm.json"


def seal(folder: Path, facts: dict[str, Any]) -> str:
    """Write `rpm.json` over the folder's present files; returns the content hash."""
    body = {"template": VERSION, **facts, "files": _digests(folder)}
    content_hash = _hash(body)
    (folder / CARD).write_bytes(orjson.dumps({**body, "content_hash": content_hash}, option=_PRETTY))
    return content_hash


def verify(folder: Path) -> dict[str, Any]:
    """Return the facts in `rpm.json`, or {} where there is none. Raises `ArtifactError` if anything was changed."""
    if not exists(folder / CARD):
        return {}
    card = _read(folder)
    claimed = card.pop("content_hash", None)
    if _hash(card) != claimed:
        raise ArtifactError(f"{folder}: `{CARD}` was changed after training: train again or restore the original")
    _check_files(folder, card.get("files", {}))
    if card.get("template") != VERSION:
        raise ArtifactError(f"{folder}: made for text template {card.get('template')}, not {VERSION}: train again")
    return {**card, "content_hash": claimed}


def exists(path: Path) -> bool:
    """Whether a path is there; what can be no path, such as a name too long for one, is not."""
    try:
        return path.exists()
    except OSError:
        return False


def _read(folder: Path) -> dict[str, Any]:
    try:
        card = orjson.loads((folder / CARD).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        card = None
    if not isinstance(card, dict):
        raise ArtifactError(f"{folder}: `{CARD}` is not a JSON object: train again or restore the original")
    return card


def _check_files(folder: Path, recorded: dict[str, str]) -> None:
    present = _digests(folder)
    for name in sorted(recorded.keys() | present.keys()):
        if recorded.get(name) != present.get(name):
            raise ArtifactError(
                f"{folder}: `{name}` is not the file that was trained: restore the original or train again"
            )


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but `rpm.json`, by its path inside the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CARD)
    return {path.relative_to(folder).as_posix(): _file_digest(path) for path in files}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_PRETTY: Final = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
