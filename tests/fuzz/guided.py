"""`python -m tests.fuzz.guided [libFuzzer options]`: the same targets, their inputs found by coverage of our code.

Needs atheris (https://github.com/google/atheris). The first byte of an input picks the target. An input that ends in a
crash is written to a file and named; `python -m tests.fuzz.guided FILE` runs it again.
"""

import sys
import zlib

import atheris  # type: ignore[import-not-found]
import structlog

with atheris.instrument_imports(
    include=["models.events", "models.joining", "models.policy", "models.oracle", "streams"]
):
    from tests.fuzz.nasty import GOOD, Nasty, dump
    from tests.fuzz.targets import decoding, flow, oracle, stages, versions

RUNS = "-atheris_runs=100000"
GUIDED = (decoding, stages, flow, oracle, versions)


def once(data: bytes) -> None:
    """Run one input: a few messages, split at line ends."""
    if data:
        target = GUIDED[data[0] % len(GUIDED)]
        target(data[1:].split(b"\n"), Nasty(zlib.crc32(data)))


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the time let atheris change bytes, half of the time begin anew from hostile events."""
    nasty = Nasty(seed)
    if nasty.rng.random() < 0.5:
        return bytes(atheris.Mutate(data, max_size))
    messages = [nasty.value() for _ in range(3)]
    return (bytes([nasty.rng.randrange(len(GUIDED))]) + b"\n".join(messages))[:max_size]


def main() -> None:
    """Run until the options say stop."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    once(b"\x00" + b"\n".join(map(dump, GOOD)))
    atheris.Setup([sys.argv[0], *(sys.argv[1:] or [RUNS])], once, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
