"""The memory that a call needs beyond what was held before it, and the largest batch that a GPU's memory takes."""

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from atfr.errors import InputError
from atfr.kernels.allocator import give_back_free_memory

MOST_CLIPS = 4096
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(run: Callable[[], object], *, device: torch.device | str = "cpu") -> int:
    """Return the bytes that a call held at most, beyond those held before it.

    On a CUDA device what PyTorch's allocator counts. On Linux's CPUs the resident memory of the process, so that the
    scratch memory of libraries is in it; free memory is given back before, and what a first call sets up for good
    should be set up: call `run` once before.

    Raises:
        InputError: the system does not tell: not Linux, or /proc is not the usual one.
    """
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    give_back_free_memory()
    try:
        FORGET.write_text("5", encoding="ascii")  # the peak is now what is held now
        before = resident("VmRSS")
        run()
        return resident("VmHWM") - before
    except (OSError, StopIteration) as error:
        raise InputError(
            f"the peak memory of a process is read from /proc of Linux, which failed here: {error}"
        ) from None


def largest_batch(step: Callable[[int], object], multiple: int = 16) -> int:
    """Return the largest multiple of clips that a step takes before the GPU's memory is full; 0 where none."""
    fits, fails = 0, MOST_CLIPS + multiple
    while fails - fits > multiple:
        count = (fits + fails) // (2 * multiple) * multiple
        torch.cuda.empty_cache()
        try:
            step(count)
            fits = count
        except torch.OutOfMemoryError:
            fails = count
    return fits


def resident(field: str) -> int:
    """Return a figure of the process's resident memory in bytes: VmRSS is held now, VmHWM was held at most."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])
