"""`python -m tests.wrong_clock worker`: a worker on a machine whose clock SIGUSR1 sets 400 days ahead, and back."""

import signal
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from streams.broker import Child
from streams.settings import Settings, environment

AHEAD_S = 400 * 86_400.0

right, errors, error = time.time, cycle((AHEAD_S, 0.0)), 0.0  # noqa: TID251 (it is the machine's clock)


def launch(settings: Settings, log: Path) -> Child:
    """Start a worker on such a machine."""
    return Child([sys.executable, "-m", "tests.wrong_clock", "worker"], log, environment(settings))


def turn(*_: Any) -> None:
    """Set the clock wrong, or right."""
    global error  # noqa: PLW0603 (there is one clock)
    error = next(errors)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, turn)
    time.time = lambda: right() + error  # noqa: TID251 (before anything takes it for its own)

    from streams.cli import main

    sys.argv[0] = "demur"
    main()
