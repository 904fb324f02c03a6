"""Memory that the C library's allocator keeps for what comes next.

A forward pass takes and frees buffers of megabytes. By default glibc returns them to the system and takes them anew,
cleared and mapped page by page: a fifth to a third of an encoder's time (`benchmarks/encoder`). Kept, a process stays
as large as it was at its busiest, which is bounded by the batch. Where no encoder computes, nothing is gained by it.
"""

import ctypes
from typing import Final

KEPT_BYTES: Final = 1 << 30
"""Up to so much is kept, in one place for all threads: more than a pass of the largest encoder takes."""

_OPTIONS: Final = {"M_ARENA_MAX": (-8, 1), "M_MMAP_THRESHOLD": (-3, KEPT_BYTES), "M_TRIM_THRESHOLD": (-1, KEPT_BYTES)}
"""Of `mallopt(3)`. Threads with an arena of their own would still return theirs: its parts are of 64 MB."""


def keep_memory() -> bool:
    """Tell the allocator, before threads start; False where there is none that can be told so (macOS, musl)."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    return set_option is not None and all(set_option(*option) for option in _OPTIONS.values())
