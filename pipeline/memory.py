"""What a process does with the memory it frees. Linux with glibc; nothing happens elsewhere."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next batch.

    Otherwise glibc gives the megabytes between two layers, or of a decoded image, back to the kernel, which clears them
    again for the next: 30,000 page faults a batch of 32, 4 % of the network's time, a quarter of the reader's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most it takes
        mallopt(M_TRIM_THRESHOLD, 2**30)


def give_freed_memory_back() -> None:
    """Give the kernel what this process has kept, after something large: each of its threads may keep as much."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
