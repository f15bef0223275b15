"""Work on many files in several processes, of which any may die: a damaged video can crash the decoder's C code."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDiedError(Exception):
    """The process that worked on an item has died."""


def each_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[tuple[Item, Result | WorkerDiedError]]:
    """Yield each item with what `function` returns for it, in the order in which they get done.

    Where a worker dies, those items that were begun are tried again one by one, each in a process of its own: the one
    on which it dies again comes with a `WorkerDiedError`. An exception of `function` is raised here.

    Args:
        function: a function of a module, called in another process.
        items: what it is called with; they must differ and be hashable.
        num_workers: processes; at least 1.
    """
    waiting = list(reversed(items))
    while waiting:
        running: dict[Future[Result], Item] = {}
        with _executor(num_workers) as executor:
            try:
                while waiting or running:
                    while waiting and len(running) < num_workers:
                        future = executor.submit(function, waiting[-1])
                        running[future] = waiting.pop()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield running.pop(future), result
            except BrokenProcessPool:
                pass
            except BaseException:
                executor.shutdown(wait=True, cancel_futures=True)
                raise
        for item in running.values():
            yield item, _alone(function, item)


def cpu_cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _alone(function: Callable[[Item], Result], item: Item) -> Result | WorkerDiedError:
    with _executor(1) as executor:
        try:
            return executor.submit(function, item).result()
        except BrokenProcessPool:
            return WorkerDiedError("the process that read it died: its content crashes the decoder, or memory ran out")


def _executor(num_workers: int) -> ProcessPoolExecutor:
    """New processes, not copies of this one: it has threads, which a copy may find in any state."""
    return ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """Leave Ctrl-C to the process that gives out the work, and end when that one is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
