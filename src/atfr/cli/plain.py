"""plain: text of others, as names of files and classes, that does nothing to the terminal it is printed on."""

import re
import sys

FAILED = 2
"""The exit code of errors."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Return text with every control character but tab and newline spelt out, as \\x1b, and marks of direction too.

    Examples:
        >>> plain("cat\\x1b[31m.mp4")
        'cat\\\\x1b[31m.mp4'
    """
    return CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)


def one_line(text: str) -> str:
    """Return text in one line."""
    return plain(" ".join(text.split()))


def say(text: str) -> None:
    """Print text as one line on stderr, in one write: two threads' lines do not mix, as those of `print` do."""
    sys.stderr.write(f"atfr: {one_line(text)}\n")
