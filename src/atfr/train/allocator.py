"""Freed memory that the C library keeps for the tensors to come, while a network trains on a CPU."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from atfr.measure.memory import give_back_free_memory

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3)
KEEP_ALL, NO_MAPPINGS = -1, 0
USUAL_THRESHOLD, USUAL_MAPPINGS = 2**17, 2**16


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed in this context, where the C library is glibc.

    It gives back every tensor of more than 32 MB, and the kernel zeroes each page anew for the next one: about an
    eighth of a training step (docs/performance.md). Kept, the peak of the process is a sixteenth higher.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(MMAP_MAX, NO_MAPPINGS)
    mallopt(TRIM_THRESHOLD, KEEP_ALL)
    try:
        yield
    finally:
        mallopt(MMAP_MAX, USUAL_MAPPINGS)
        mallopt(TRIM_THRESHOLD, USUAL_THRESHOLD)
        give_back_free_memory()
