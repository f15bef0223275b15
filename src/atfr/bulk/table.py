"""A table that grows by whole Parquet files: part-000000.parquet, part-000001.parquet, ..., in one folder or bucket.

A part is made by one operation that fails where its number is taken (a hard link; `If-None-Match` in an object store).
So whoever writes part n has seen all parts before it, or is told that somebody else writes: no part is half there, and
no two writers, not even a driver that was thought dead, can both add what the other has not seen. Delta Lake's log
works the same way.
"""

import errno
import io
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from atfr.bulk.store import retried, store
from atfr.errors import DataError

PART = re.compile(r"part-(\d{6,})\.parquet$")
BATCH = 2**14


class PartTakenError(DataError):
    """Another run has written to the same table since it was read."""


class Table:
    """The parts in a folder.

    Args:
        folder: a path, or a URL that fsspec knows (s3://, gs://).
    """

    def __init__(self, folder: str, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self.fs, self.root = store(folder)
        self._next = 1 + max((number for number, _ in self._numbered()), default=-1)

    def _numbered(self) -> list[tuple[int, str]]:
        """The parts, by number, as they are there now."""
        try:
            names = retried(lambda: self.fs.ls(self.root, detail=False, refresh=True))
        except FileNotFoundError:
            return []
        return sorted((int(found[1]), name) for name in names if (found := PART.search(name)))

    def append(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Write rows as the next part, whole or not at all; none of them is in the table when this raises.

        What else they have than the table's columns is left out.

        Raises:
            PartTakenError: somebody else has written the part.
            OSError: it cannot be written: the disk is full, or the store refuses for about a minute.
        """
        commit = uuid.uuid4().hex
        table = pa.Table.from_pylist(list(rows), self.schema.with_metadata({"commit": commit}))
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        name = f"{self.root}/part-{self._next:06d}.parquet"
        try:
            if isinstance(self.fs, LocalFileSystem):
                _create(Path(name), buffer.getvalue())
            else:
                retried(lambda: self._put(name, buffer.getvalue(), commit))
        except FileExistsError:
            raise PartTakenError(
                f"another run has written '{name}' meanwhile; let only one write to '{self.folder}' at a time, then "
                "give the same line again"
            ) from None
        self._next += 1
        return name

    def _put(self, name: str, data: bytes, commit: str) -> None:
        """Create an object; where that fails, it may be there all the same: ours, whose confirmation was lost."""
        try:
            self.fs.pipe_file(name, data, mode="create")
        except Exception as error:  # a taken name is FileExistsError, or what a store makes of HTTP 412
            self.fs.invalidate_cache(name)
            if not self.fs.exists(name):
                raise
            with self.fs.open(name, "rb") as file:
                if (pq.read_schema(file).metadata or {}).get(b"commit") != commit.encode():
                    raise FileExistsError(name) from error

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all rows, part by part, in batches of a bounded size.

        Raises:
            DataError: a part is damaged.
        """
        for _, name in self._numbered():
            try:
                with self.fs.open(name, "rb") as file:
                    yield from pq.ParquetFile(file).iter_batches(BATCH, columns=columns)
            except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
                raise DataError(f"'{name}' is no part that atfr wrote, or damaged ({error}); remove it") from error


def _create(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and not over another.

    Raises:
        FileExistsError: there is one.
        OSError: it cannot be written; the message names the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(scratch, path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS) or path.exists():
                raise
            scratch.rename(path)  # a drive without hard links
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
    finally:
        scratch.unlink(missing_ok=True)
