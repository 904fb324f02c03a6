"""What a worker's process takes while it works: processor time and memory, sampled from outside."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import psutil

from benchmarks.stream.log import now

EVERY_S = 0.02


class Sample(NamedTuple):
    """At a time (seconds since the epoch): processor seconds so far, and resident bytes."""

    at: float
    cpu_s: float
    rss: int


class Meter(threading.Thread):
    """Samples one process until it ends or `stop` is called."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="meter", daemon=True)
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        with suppress(psutil.NoSuchProcess):
            while not self._ended.is_set():
                with self._process.oneshot():
                    used, memory = self._process.cpu_times(), self._process.memory_info()
                self.samples.append(Sample(now(), used.user + used.system, memory.rss))
                self._ended.wait(EVERY_S)

    def stop(self) -> list[Sample]:
        """Stop and return the samples."""
        self._ended.set()
        self.join()
        return self.samples


def cpu_between(samples: Sequence[Sample], start: float, end: float) -> float:
    """Return the processor seconds used between two times, from straight lines between samples.

    >>> cpu_between([Sample(0.0, 1.0, 9), Sample(10.0, 3.0, 9)], 5.0, 10.0)
    1.0
    """
    at, used = [s.at for s in samples], [s.cpu_s for s in samples]
    return float(np.interp(end, at, used) - np.interp(start, at, used))


def peak_rss(samples: Sequence[Sample], start: float, end: float) -> int:
    """Return the most resident bytes between two times.

    >>> peak_rss([Sample(0.0, 0.0, 7), Sample(1.0, 0.0, 9), Sample(2.0, 0.0, 8)], 1.5, 3.0)
    8
    """
    return max((s.rss for s in samples if start <= s.at <= end), default=samples[-1].rss if samples else 0)
