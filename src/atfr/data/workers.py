"""Who makes data while the network runs: a thread, or processes, of which it is known what each is reading."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from atfr.errors import AtfrError, DataError

Item = TypeVar("Item")

MAX_WORKERS = 512
DYING_S = 2.0
NOTHING = -1


SHARED_MEMORY_FULL = ("unable to allocate shared memory", "out of shared memory", "unable to resize file </torch_")
"""What torch says of it, and of the signal that a worker dies of where memory was promised and is not there."""


class Readings:
    """A table in shared memory: the process number of each worker, and the number of the video it is reading."""

    def __init__(self) -> None:
        self._table = torch.full((MAX_WORKERS, 2), NOTHING, dtype=torch.int64).share_memory_()

    @contextmanager
    def reading(self, index: int) -> Iterator[None]:
        """Note that this process reads video `index`; one that dies inside leaves the note behind."""
        worker = get_worker_info()
        if worker is None or worker.id >= MAX_WORKERS:
            yield
            return
        self._table[worker.id] = torch.tensor([os.getpid(), index])
        try:
            yield
        finally:
            self._table[worker.id, 1] = NOTHING

    @contextmanager
    def reported(self, path_of: Callable[[int], Path]) -> Iterator[None]:
        """Turn the death of a worker inside into an error that names the file; a worker's own errors lose their frames.

        Raises:
            DataError: a worker process died.
        """
        try:
            with self._deaths_awaited():
                yield
        except AtfrError as error:
            if not str(error).startswith("Caught "):
                raise
            *_, last = str(error).splitlines()  # a worker's error comes with all of its traceback
            raise type(error)(last.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
        except (RuntimeError, OSError) as error:
            if any(sign in str(error) for sign in SHARED_MEMORY_FULL):
                raise DataError(
                    f"shared memory is full: the processes that decode hand clips over in /dev/shm ({shm_size()}); "
                    "make it larger (docker run --shm-size 2g), or use fewer workers (--num_workers 0 needs none) "
                    "or smaller batches"
                ) from error
            found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", str(error))
            if found is None:
                raise
            dead = {int(pid) for pid in found[1].split(",")}
            files = [f"'{path_of(index)}'" for pid, index in self._table.tolist() if pid in dead and index != NOTHING]
            what = f"while it was reading {', '.join(files)}" if files else "between two videos"
            raise DataError(
                f"a process that decodes videos died {what} (pid {found[1]}: {found[2].strip(' .')}); if memory is "
                "short, use fewer workers, otherwise take the file out of the data"
            ) from error

    @contextmanager
    def _deaths_awaited(self) -> Iterator[None]:
        """Where a connection to a worker broke, find out whether one has died: it lets go of its connections first."""
        try:
            yield
        except (OSError, EOFError) as error:
            if str(error).startswith("Caught "):  # what a worker raises, it tells itself
                raise
            workers = [pid for pid in self._table[:, 0].tolist() if pid != NOTHING]
            until_s = time.monotonic() + DYING_S
            while time.monotonic() < until_s:
                if dead := [str(pid) for pid in workers if has_ended(pid)]:
                    raise RuntimeError(f"DataLoader worker (pid(s) {', '.join(dead)}) exited unexpectedly") from error
                time.sleep(0.01)
            raise


def shm_size() -> str:
    """Return how large the memory is that processes share, in words."""
    try:
        room = os.statvfs("/dev/shm")
    except OSError:
        return "not there"
    return f"{room.f_blocks * room.f_frsize / 2**20:.0f} MB"


def has_ended(pid: int) -> bool:
    """Whether a child process has ended and nobody has waited for it; it is left to whoever will."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Give items that a thread of their own makes, each while the one before it is worked on.

    What making one raises is raised here, in its place. Whoever stops early waits for the one being made.
    """
    end = object()
    source = iter(items)
    thread = ThreadPoolExecutor(1)
    try:
        coming = thread.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, source, end)
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


class WatchedLoader(DataLoader):
    """A loader of videos that says which file was being read when one of its workers died.

    Args:
        path_of: the file of a video, by its number.
    """

    def __init__(self, dataset: Dataset, *, readings: Readings, path_of: Callable[[int], Path], **options: Any) -> None:
        self.readings = readings
        self.path_of = path_of
        super().__init__(dataset, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        with self.readings.reported(self.path_of):
            yield from super().__iter__()
