"""Files of JSON lines, read so that whatever is wrong is named with file and line."""

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from models.errors import EventError, SettingsError

T = TypeVar("T")


def read_lines(path: Path, parse: Callable[[bytes], T]) -> Iterator[T]:
    """Yield what `parse` makes of each line that is not blank. Raises `SettingsError` naming file, line and field."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): give a file of JSON lines") from error
    if text.startswith((BOM_UTF8, BOM_UTF16_LE, BOM_UTF16_BE)):
        raise SettingsError(f"{path} begins with a byte order mark: save it as UTF-8 without a byte order mark")
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _parsed(path, number, line, parse)


def _parsed(path: Path, number: int, line: bytes, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(line)
    except EventError as error:
        raise SettingsError(f"{path}, line {number}: {error}") from None
