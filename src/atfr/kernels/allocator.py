"""Freed memory that the C library keeps for the tensors to come, while networks run on a CPU.

glibc gives back every tensor of more than 32 MB as soon as it is freed, and the kernel zeroes each page anew for the
next one: a quarter of the time of X3D-S on 8 clips, an eighth of a training step (docs/performance.md).
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # of mallopt(3)
KEEP_ALL, NO_MAPPINGS, USUAL_MAPPINGS = -1, 0, 2**16
LARGE = 2**25
"""What glibc's own threshold grows to where tensors of that size are freed; once set, it grows no more."""

_lock, _kept = threading.Lock(), 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed in this context for what is allocated next, where the C library is glibc.

    It holds for the whole process; within another such context it ends with the last of them. What was kept goes back
    to the system at the end, and from then on tensors of more than 32 MB do as soon as they are freed, which is what
    glibc comes to by itself. `atfr.evaluate.predict` (between its first and its last prediction), tests, training and
    the commands keep it by themselves.
    """
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def keep_freed_memory() -> None:
    """Do so for good, in a process that runs nothing but networks."""
    _count(1)


def _count(more: int) -> None:
    global _kept
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    with _lock:
        before, _kept = _kept, _kept + more
        if not before:
            mallopt(MMAP_MAX, NO_MAPPINGS)
            mallopt(TRIM_THRESHOLD, KEEP_ALL)
        elif not _kept:
            mallopt(MMAP_MAX, USUAL_MAPPINGS)
            mallopt(MMAP_THRESHOLD, LARGE)
            mallopt(TRIM_THRESHOLD, 2 * LARGE)
            give_back_free_memory()


def give_back_free_memory() -> None:
    """Have the C library give back what it keeps for later, where it can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
