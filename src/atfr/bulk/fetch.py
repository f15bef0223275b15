"""The bytes of a video, on this machine, with their hash."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from atfr.bulk.store import retried, store
from atfr.files import sha256_of

CHUNK = 2**20
SCRATCH = "atfr-bulk-"
READ_TRIES = 4


@contextmanager
def fetched(uri: str) -> Iterator[tuple[Path, str]]:
    """Give a video as a local file, and the SHA-256 of its bytes; what was downloaded is gone afterwards.

    Raises:
        OSError: it is not there, or the store refuses or cuts off to the end.
    """
    fs, name = store(uri)
    if isinstance(fs, LocalFileSystem):
        if not Path(name).is_file():
            raise FileNotFoundError(f"there is no file '{name}'")
        yield Path(name), sha256_of(Path(name))
        return
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-") as folder:
        path = Path(folder, os.path.basename(name) or "video")
        yield path, retried(lambda: _download(fs, name, path), READ_TRIES)


def clear_scratch() -> None:
    """Remove what processes that were killed have left of their downloads."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        if not Path("/proc", folder.name.removeprefix(SCRATCH).partition("-")[0]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _download(fs: fsspec.AbstractFileSystem, name: str, path: Path) -> str:
    """Write a file of an object store to disk, chunk by chunk, and return its SHA-256."""
    found, size, got = hashlib.sha256(), fs.info(name, refresh=True)["size"], 0
    with fs.open(name, "rb", block_size=8 * CHUNK, cache_type="readahead") as source, path.open("wb") as file:
        while chunk := source.read(CHUNK):
            file.write(chunk)
            found.update(chunk)
            got += len(chunk)
    if got != size:
        raise OSError(f"'{name}' was cut off: {got} of {size} bytes came")
    return found.hexdigest()
