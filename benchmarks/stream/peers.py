"""The peers' environment: made once, outside the repository, from hashes of its own. None is a dependency of ours."""

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

from models.errors import DemurError

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
HOME: Final = Path.home() / ".cache"


@cache
def python() -> Path:
    """Return the interpreter that has the peers; install them if it is not there. Raises `DemurError`."""
    made = HOME / f"demur-peers-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    ready, interpreter = made / "ready", made / "bin" / "python"
    if not ready.exists():
        uv = Path(sys.executable).with_name("uv")
        _run(str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(made))
        _run(str(uv), "pip", "install", "--quiet", "--python", str(interpreter), "-r", str(REQUIREMENTS))
        ready.touch()
    return interpreter


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemurError(f"the peers cannot be installed: {' '.join(done.stderr.split())[-300:]}")
