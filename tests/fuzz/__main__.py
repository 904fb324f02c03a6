"""`python -P -m tests.fuzz [INPUTS] [TARGET…]`: hostile input from seeds; ends with status 1 at the first surprise.

With `--atheris` the inputs are found by coverage instead (https://github.com/google/atheris).
"""

import sys
import time
from collections.abc import Sequence

import structlog

from tests.fuzz.nasty import Nasty
from tests.fuzz.targets import PIECES, TARGETS


def main(arguments: Sequence[str]) -> int:
    """Run the targets and print one line for each."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # a million warnings say nothing
    inputs = int(next((a for a in arguments if a.isdecimal()), 1_000_000))
    chosen = [a for a in arguments if a in TARGETS] or [*TARGETS]
    whole = sum(TARGETS[name][1] for name in chosen)
    failed = 0
    for name in chosen:
        target, share = TARGETS[name]
        wanted, began = int(inputs * share / whole), time.monotonic()
        crashes = sum(not passes(target, seed) for seed in range(-(-wanted // PIECES)))
        seconds = time.monotonic() - began
        sys.stdout.write(f"{name:10} {wanted:>9,} inputs  {crashes:>3} pieces with a crash  {seconds:7.1f} s\n")
        failed += crashes
    return int(failed > 0)


def passes(target: object, seed: int) -> bool:
    """Run one piece; name its seed if something unexpected comes of it."""
    nasty = Nasty(seed)
    try:
        target([nasty.value() for _ in range(PIECES)], nasty)  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 (that is what is looked for)
        sys.stdout.write(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}\n")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
