"""Functions for processes to run; nothing heavy is imported, so that they start at once."""

import os


def square(number: int) -> int:
    if number == 3:
        os.abort()  # as a decoder that runs into damaged memory
    return number * number


def fail(number: int) -> int:
    raise ValueError(f"number {number}")
