"""The commands beside running the stream: `demur policy`, `demur calibrator`, and those before deployment."""

from rich.console import Console


def say(text: str) -> None:
    """Print as it stands: nothing coloured, and no line broken, so that it can be searched and copied."""
    Console().print(text, highlight=False, soft_wrap=True)
