"""relist: a CSV file of videos for their copies, which may lie elsewhere and have other endings."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from atfr.files import csv_text, write_whole


def relist(path: Path, copy: Path, root: Path, places: Mapping[Path, Path]) -> None:
    """Write a CSV file again, with the new path of each video for the old one; where it names none, leave it as it is.

    A path in it is absolute, or relative to the CSV file's folder or the root. A relative one stays relative.

    Args:
        path: the CSV file.
        copy: where it is written.
        root: the folder of the data that the file is part of.
        places: where the copy of each video is.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error):
        return
    by_place = {os.path.realpath(video): place for video, place in places.items()}

    def renamed(cell: str) -> str:
        for folder in (path.parent, root):
            place = by_place.get(os.path.realpath(folder / cell)) if cell else None
            if place and os.path.isabs(cell):
                return str(place.absolute())
            if place:
                return str(Path(cell).with_suffix(place.suffix))
        return cell

    new = [[renamed(cell) for cell in row] for row in rows]
    if new and new != rows:
        write_whole(copy, csv_text(new[0], new[1:]))
