"""relist: a CSV file of videos for their copies, which may lie elsewhere and have other endings."""

import csv
import os
from pathlib import Path

from atfr.files import csv_text, write_whole


def relist(path: Path, source: Path, target: Path) -> None:
    """Copy a CSV file of a data set, with the path of each video's copy for its own; without one, leave it as it is.

    A path in it is absolute, or relative to the CSV file's folder or the source. A relative one stays relative.

    Args:
        path: the CSV file, in the source.
        source: the folder of the data; a video may be gone from it.
        target: the folder of the copies, each at the same place, or there with the ending .mp4.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error):
        return
    root = os.path.realpath(source)

    def renamed(cell: str) -> str:
        for folder in (path.parent, source) if cell else ():
            video = target / os.path.relpath(os.path.realpath(folder / cell), root)
            copy = next((place for place in (video, video.with_suffix(".mp4")) if place.is_file()), None)
            if copy and ".." not in video.relative_to(target).parts:
                return str(copy.absolute()) if os.path.isabs(cell) else str(Path(cell).with_suffix(copy.suffix))
        return cell

    new = [[renamed(cell) for cell in row] for row in rows]
    if new and new != rows:
        write_whole(target / path.relative_to(source), csv_text(new[0], new[1:]))
