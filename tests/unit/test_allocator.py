"""Memory that was freed is taken again without asking the system for it."""

import subprocess
import sys

import pytest

from streams.allocator import keep_memory

PAGES, BUFFERS, PASSES = 2048, 4, 20
SCRIPT = f"""
import resource, sys
from threading import Thread
from streams.allocator import keep_memory

def work():
    for _ in range({PASSES}):
        [b"x" * {PAGES * 4096} for _ in range({BUFFERS})]

if sys.argv[1] == "keep":
    keep_memory()
thread = Thread(target=work)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how):
    """Pages that the system maps for a process whose thread takes and frees buffers again and again."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_buffers_that_come_again_are_mapped_once():
    assert faults("drop") - faults("keep") > PASSES * BUFFERS * PAGES / 2


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_every_option_is_taken():
    done = subprocess.run(
        [sys.executable, "-c", "from streams.allocator import keep_memory; print(keep_memory())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "True\n"


def test_another_allocator_is_left_alone(monkeypatch):
    monkeypatch.setattr("streams.allocator.ctypes.CDLL", lambda name: object())
    assert not keep_memory()
