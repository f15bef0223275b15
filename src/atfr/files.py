"""Write files whole or not at all, and what JSON can hold."""

import csv
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a scratch file beside a path, which takes its place when all went well and is gone when not.

    The path's folder is made. Nobody sees half a file, and one that was there stays until the new one is complete.
    Where the path is a link, the file it leads to is written; a device or pipe (`/dev/stdout`) is written to.

    Raises:
        OSError: it cannot be written; the message names the path, also where the disk is full.
    """
    place = Path(os.path.realpath(path))
    special = place.exists() and not place.is_file()
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, "expected a file to write, but this is a folder", str(path))
    with tempfile.TemporaryDirectory(prefix="atfr-") if special else nullcontext(place.parent) as folder:
        scratch = Path(folder) / f".{place.name}.{os.getpid()}.tmp{place.suffix}"
        try:
            with named(path):
                scratch.parent.mkdir(parents=True, exist_ok=True)
                yield scratch
                if special:
                    with place.open("wb") as device:
                        device.write(scratch.read_bytes())
                else:
                    scratch.replace(place)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let a disk or a quota that is full be told with the name of what is written: an open file does not know it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this process; nothing is written for it, and when the process ends, however, it is free.

    Raises:
        BlockingIOError: another process keeps it.
    """
    held = [os.open(folder, os.O_RDONLY)]
    os.register_at_fork(after_in_child=lambda: os.close(held[0]) if held else None)  # workers may outlive us
    try:
        try:
            fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise
            # Some network drives lock no folders; they stay as they were.
        yield
    finally:
        os.close(held.pop())


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a new folder, or take an empty one, and keep it to this process; where the block fails, none is left.

    Raises:
        FileExistsError: it is a file, or something is in it.
        BlockingIOError: another process keeps it.
        OSError: it cannot be made or written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if any(folder.iterdir()):
            raise FileExistsError(errno.EEXIST, "expected an empty folder", str(folder))
        try:
            tempfile.TemporaryFile(dir=folder).close()
            yield
        except BaseException:
            if made:
                shutil.rmtree(folder)
            with suppress(OSError):  # somebody else has put something there
                for parent in made[1:]:
                    parent.rmdir()
            raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all; its folder is made."""
    with whole(path) as scratch:
        scratch.write_text(as_text(text), encoding="utf-8")


def write_json(path: Path, values: Any, indent: int | None = 2) -> None:
    """Write JSON values whole or not at all; what is not finite is null."""
    write_whole(path, json.dumps(finite(values), indent=indent, allow_nan=False) + "\n")


def as_text(text: str) -> str:
    """Return text that UTF-8 can hold: of names in any bytes, those that are no text are spelt out."""
    try:
        content = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # halves of a character, as JSON may have them
        content = text.encode(errors="backslashreplace")
    return content.decode(errors="backslashreplace")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LARGE = 2**30
"""Bytes of a JSON file with a row for each of many videos, at most."""


def parse_json(text: str | bytes) -> Any:
    """Return the values in JSON text.

    Raises:
        ValueError: it is no JSON, no text in UTF-8, or lists in lists without end.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("too many lists or objects inside each other") from None


def read_json(path: Path, most_bytes: int = 2**24) -> Any:
    """Return the values of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or larger than such files are.
    """
    with path.open("rb") as file:
        text = file.read(most_bytes + 1)
    if len(text) > most_bytes:
        raise ValueError(f"expected at most {most_bytes / 1e6:.0f} MB")
    return parse_json(text.decode())


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows below a row of headings as CSV, `as_text`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return as_text(text.getvalue())


def write_skipped(out: Path, skipped: Sequence[tuple[object, str]]) -> None:
    """Write skipped.csv, the videos that do not decode, each with the reason; where all do, there is no such file."""
    if not skipped:
        (out / "skipped.csv").unlink(missing_ok=True)
        return
    write_whole(out / "skipped.csv", csv_text(["path", "reason"], skipped))


def finite(values: Any) -> Any:
    """Return JSON values with None for every number that is not finite, which JSON does not know."""
    if isinstance(values, Mapping):
        return {key: finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
