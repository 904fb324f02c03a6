"""Which versions made an artifact."""

import platform
from importlib.metadata import version
from typing import Final

NAMES: Final = ("torch", "transformers", "tokenizers", "scikit-learn", "numpy", "safetensors")


def libraries() -> dict[str, str]:
    """Name to version, Python's own among them."""
    return {"python": platform.python_version(), **{name: version(name) for name in NAMES}}
