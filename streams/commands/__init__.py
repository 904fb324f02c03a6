"""The commands beside running the stream: `demur policy`, `demur calibrator`, and those before deployment."""

from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from streams.formatting import visible

Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings (or DEMUR_* variables).")]


def say(text: str) -> None:
    """Print as it stands: no markup, nothing coloured, no line broken, so that it can be searched and copied."""
    Console().print(Text(visible(text)), soft_wrap=True)


def place(path: Path | None) -> Path | None:
    """Refuse a folder, or a file, that cannot be written before the work is done, not after; nothing is left there."""
    if path is None:
        return None
    there = path
    try:
        while not there.exists():
            there = there.absolute().parent
        if there.is_dir() or there != path:
            TemporaryFile(dir=there).close()
        elif there.is_file():
            there.open("ab").close()
    except OSError as error:
        raise typer.BadParameter(f"nothing can be written to {there} ({error.strerror}): name another place") from None
    return path
