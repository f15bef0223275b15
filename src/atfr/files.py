"""Write files whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a scratch file beside a path, which takes its place when all went well and is gone when not.

    The path's folder is made. Nobody sees half a file, and one that was there stays until the new one is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all; its folder is made."""
    with whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
