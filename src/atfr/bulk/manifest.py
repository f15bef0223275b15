"""A manifest: which videos there are, each with an id. It is read as a stream; of ids, 17 bytes are held each."""

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from atfr.bulk.store import store
from atfr.data.walk import VIDEO_ENDINGS
from atfr.errors import DataError

BLOCK = 2**14
"""Rows that are read at a time."""
LEFT, GIVEN, DONE, FAILED = range(4)
"""States of a video in the ledger."""


class Video(NamedTuple):
    """A video to predict: what it is called in the table, and where it is, as a path or a URL."""

    id: str
    uri: str


def read_manifest(manifest: str) -> Iterator[list[Video]]:
    """Yield the videos of a manifest, block by block.

    Args:
        manifest: a CSV or Parquet file with a column `path` and, where ids are not the paths, a column `id`; a folder,
            whose videos are all that lie in it and below; a pattern (`**/*.mp4`); each local, or a URL that fsspec
            knows. Paths in a file are relative to its folder.

    Raises:
        DataError: there is no video, or the file is no such table.
    """
    fs, path = store(manifest)
    ending = path.rpartition(".")[2].lower()
    if any(sign in path for sign in "*?["):
        blocks = _listed(sorted(fs.glob(path)), fs)
    elif fs.isdir(path):
        blocks = _listed(sorted(fs.find(path)), fs)
    elif not fs.exists(path):
        raise DataError(f"expected a table, a folder or a pattern of videos, but '{manifest}' is not there")
    elif ending in ("csv", "parquet"):
        blocks = _table(manifest, fs, path, ending)
    else:
        raise DataError(f"expected a manifest: a .csv or .parquet, a folder or a pattern, got '{manifest}'")
    first = next(blocks, None)
    if first is None:
        raise DataError(f"'{manifest}' lists no video; videos end in {', '.join(sorted(VIDEO_ENDINGS))}")
    yield first
    yield from blocks


def _listed(names: list[str], fs: fsspec.AbstractFileSystem) -> Iterator[list[Video]]:
    """The videos among names, without hidden ones."""
    local = isinstance(fs, LocalFileSystem)

    def videos() -> Iterator[Video]:
        for name in names:
            last = name.rpartition("/")[2]
            if not last.startswith(".") and f".{last.rpartition('.')[2].lower()}" in VIDEO_ENDINGS:
                uri = name if local else fs.unstrip_protocol(name)
                yield Video(uri, uri)

    found = videos()
    while block := list(islice(found, BLOCK)):
        yield block


def _table(manifest: str, fs: fsspec.AbstractFileSystem, path: str, ending: str) -> Iterator[list[Video]]:
    folder = manifest.rpartition("/")[0]
    with fs.open(path, "rb") as file:
        try:
            for batch in _csv(file) if ending == "csv" else pq.ParquetFile(file).iter_batches(BLOCK):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                if "path" not in columns:
                    raise DataError(f"'{manifest}' needs a column 'path' (and 'id'), got {', '.join(columns)}")
                paths = _texts(columns["path"], manifest)
                uris = [path if "://" in path else posixpath.join(folder, path) for path in paths]
                ids = _texts(columns["id"], manifest) if "id" in columns else uris
                if uris:
                    yield [Video(*one) for one in zip(ids, uris, strict=True)]
        except pa.ArrowException as error:
            raise DataError(f"'{manifest}' cannot be read as {ending}: {str(error).splitlines()[0]}") from error


def _csv(file: fsspec.core.OpenFile) -> Iterator[pa.RecordBatch]:
    """Batches of a CSV file, all columns as text."""
    options = pa.csv.ReadOptions(block_size=2**20)
    with pa.csv.open_csv(file, read_options=options) as probe:
        texts = {name: pa.string() for name in probe.schema.names}
    file.seek(0)
    with pa.csv.open_csv(file, options, convert_options=pa.csv.ConvertOptions(column_types=texts)) as reader:
        yield from reader


def _texts(column: pa.Array, manifest: str) -> list[str]:
    texts = column.cast(pa.string()).to_pylist()
    if not all(texts):
        raise DataError(f"'{manifest}' has rows without a path or an id")
    return texts


def digests(texts: Iterable[str]) -> np.ndarray:
    """Return 16 bytes for each text, which differ where texts do."""
    joined = b"".join(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).digest() for text in texts)
    return np.frombuffer(joined, "S16")


class Ledger:
    """What became of each video of a manifest: 17 bytes a video.

    Args:
        blocks: the manifest. A video that it lists twice counts once.

    Raises:
        DataError: the same id names two videos.
    """

    def __init__(self, blocks: Iterable[Sequence[Video]]) -> None:
        ids, both = [], []
        for block in blocks:
            ids.append(digests(video.id for video in block))
            both.append(digests(f"{video.id}\0{video.uri}" for video in block))
        self._ids = np.unique(np.concatenate(ids))
        if len(self._ids) < len(np.unique(np.concatenate(both))):
            raise DataError("the manifest gives the same id to several videos; ids must differ (column 'id')")
        self.state = np.zeros(len(self._ids), np.uint8)

    def __len__(self) -> int:
        return len(self._ids)

    def places(self, ids: Iterable[str]) -> np.ndarray:
        """Return the place of each id in `state`, -1 for one that the manifest does not list."""
        wanted = digests(ids)
        found = np.searchsorted(self._ids, wanted).clip(max=len(self._ids) - 1)
        return np.where(self._ids[found] == wanted, found, -1)

    def mark(self, ids: Iterable[str], state: int) -> None:
        """Set the state of some ids; those that the manifest does not list are passed over."""
        places = self.places(ids)
        self.state[places[places >= 0]] = state

    def count(self, state: int) -> int:
        """Return how many videos are in a state."""
        return int(np.count_nonzero(self.state == state))

    def left(self, blocks: Iterable[Sequence[Video]]) -> Iterator[Video]:
        """Yield the videos of the manifest, read again, that are left, each once."""
        for block in blocks:
            for video, place in zip(block, self.places(video.id for video in block).tolist(), strict=True):
                if self.state[place] == LEFT:  # a block may list one twice
                    self.state[place] = GIVEN
                    yield video
