"""Functions for processes to run; nothing heavy is imported, so that they start at once."""

import os
import sys
import time
from pathlib import Path


def square(number: int) -> int:
    if number == 3:
        os.abort()  # as a decoder that runs into damaged memory
    return number * number


def fail(number: int) -> int:
    raise ValueError(f"number {number}")


def tell_and_wait(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


if __name__ == "__main__":
    from atfr.data.pool import each_in_processes
    from tests.data.pool_work import tell_and_wait as work

    list(each_in_processes(work, [sys.argv[1]], 1))
