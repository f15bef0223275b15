"""Run what measures memory in a process of its own, where no other test has left any behind."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from atfr.web import reading


def alone(function: Callable[[], None]) -> None:
    """Run a function of a module in a new process; what it raises is raised here.

    It is forked from a process that has imported PyTorch and has done nothing: the one that reads videos for the page.
    """
    reading.prepare()
    with ProcessPoolExecutor(1, mp_context=reading.CONTEXT) as pool:
        pool.submit(function).result()
