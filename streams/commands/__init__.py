"""The commands beside running the stream: `demur policy`, `demur calibrator`, and those before deployment."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from streams.formatting import visible

Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings (or DEMUR_* variables).")]


def say(text: str) -> None:
    """Print as it stands: no markup, nothing coloured, no line broken, so that it can be searched and copied."""
    Console().print(Text(visible(text)), soft_wrap=True)
