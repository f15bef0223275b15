"""Take over what `atfr predict --out` has written: its rows, into the tables of the same network and views."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from atfr.bulk.manifest import digests
from atfr.bulk.tables import Bulk
from atfr.evaluate.log import entries_in
from atfr.files import sha256_of

ROWS = 10_000
"""Of a part."""


def take_over(bulk: Bulk, files: Iterable[Path], made_by: Mapping[str, Any]) -> int:
    """Add the rows of such files that the table does not have yet, and return how many those are.

    The id of a row is the path of its video, absolute; its content is the hash of the file, where that is still there.

    Raises:
        InputError: a file was made by another network, or with other views.
    """
    there = {one for ids in bulk.predicted() for one in digests(ids).tolist()}
    rows: list[dict[str, Any]] = []
    count = 0
    for entry in _predictions(files, made_by):
        path = Path(entry["path"]).absolute()
        (name,) = digests([str(path)]).tolist()
        if name in there or not entry["top"]:
            continue
        there.add(name)
        content = sha256_of(path) if path.is_file() else None
        row = {"id": str(path), "uri": str(path), "content": content, "configuration": bulk.key}
        rows.append(entry | entry["top"][0] | row)
        count += 1
        if len(rows) == ROWS:
            bulk.predictions.append(rows)
            rows.clear()
    if rows:
        bulk.predictions.append(rows)
    return count


def _predictions(files: Iterable[Path], made_by: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for file in files:
        with file.open("rb") as lines:
            for _, entry in entries_in(lines, file, made_by, "it cannot be taken over"):
                if entry["error"] is None:
                    yield entry
