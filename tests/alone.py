"""Run what measures memory in a process of its own, where no other test has left any behind."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def alone(function: Callable[[], None]) -> None:
    """Run a function of a module in a new process; what it raises is raised here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(function).result()
