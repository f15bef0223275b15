"""What lies in the folder of a bulk prediction: for each configuration, a table of predictions and one of errors.

OUT/CONFIGURATION/configuration.json   what the key stands for
OUT/CONFIGURATION/predictions/part-000000.parquet ...
OUT/CONFIGURATION/errors/part-000000.parquet ...
OUT/CONFIGURATION/summary.json         figures of the last run
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from atfr.bulk.store import retried, store
from atfr.bulk.table import Table
from atfr.errors import DataError, InputError
from atfr.files import finite, parse_json, write_whole

KEY = 16
"""Characters of a configuration's hash."""
CONFIGURATION, SUMMARY = "configuration.json", "summary.json"
NAMED = [("id", pa.string()), ("uri", pa.string()), ("content", pa.string()), ("configuration", pa.string())]
"""The columns of both tables: what names a row."""
PREDICTIONS = pa.schema(
    [
        *NAMED,
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("top", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))),
        ("views", pa.int32()),
        ("active_bins", pa.map_(pa.string(), pa.list_(pa.int32()))),
        ("gflops", pa.float64()),
        ("static_gflops", pa.float64()),
        ("warning", pa.string()),
    ]
)
ERRORS = pa.schema([*NAMED, ("kind", pa.string()), ("message", pa.string()), ("tries", pa.int32())])
FINAL = ("video", "killed", "slow", "failed")
"""Kinds of errors that the next run does not try again; what did not come ("fetch"), it does."""


def key_of(configuration: Mapping[str, Any]) -> str:
    """Return the hash of all that predictions depend on, as plain JSON values."""
    text = json.dumps(finite(dict(configuration)), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY]


class Bulk:
    """The tables of one configuration.

    Args:
        out: the folder, or a URL that fsspec knows.
    """

    def __init__(self, out: str, key: str) -> None:
        self.key, self.folder = key, f"{out.rstrip('/')}/{key}"
        self.fs, self.root = store(self.folder)
        self.predictions = Table(f"{self.folder}/predictions", PREDICTIONS)
        self.errors = Table(f"{self.folder}/errors", ERRORS)

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        text = json.dumps(finite(dict(values)), indent=2, allow_nan=False) + "\n"
        if isinstance(self.fs, LocalFileSystem):
            write_whole(Path(self.root, name), text)
        else:
            retried(lambda: self.fs.pipe_file(f"{self.root}/{name}", text.encode()))

    def read(self, name: str) -> dict[str, Any]:
        """Return the values of a JSON file.

        Raises:
            DataError: there is no such file, or it is no JSON.
        """
        try:
            return parse_json(retried(lambda: self.fs.cat_file(f"{self.root}/{name}")))
        except (OSError, ValueError) as error:
            raise DataError(f"'{self.folder}/{name}' cannot be read ({error})") from error

    def predicted(self) -> Iterator[list[str]]:
        """Yield the ids that have a prediction, some at a time."""
        for batch in self.predictions.batches(["id"]):
            yield batch.column(0).to_pylist()

    def failed(self) -> Iterator[dict[str, list[str]]]:
        """Yield ids and kinds of errors, some at a time; a later one on the same id counts."""
        for batch in self.errors.batches(["id", "kind"]):
            yield batch.to_pydict()


def bulks_in(folder: str) -> list[Bulk]:
    """Return the configurations that a folder has predictions of, or the one that it is.

    Raises:
        InputError: there is none.
    """
    fs, root = store(folder)
    names = fs.ls(root, detail=False) if fs.isdir(root) else []
    if keys := sorted(key for name in names if len(key := name.rstrip("/").rpartition("/")[2]) == KEY):
        return [Bulk(folder, key) for key in keys]
    parent, _, last = folder.rstrip("/").rpartition("/")
    if len(last) != KEY:
        raise InputError(f"expected a folder that `atfr bulk` wrote, but '{folder}' has no configuration in it")
    return [Bulk(parent or ".", last)]
