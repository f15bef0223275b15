"""walk: every file below a folder, by names alone, and which of them are videos: the same for all commands."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from atfr.errors import DataError

VIDEO_ENDINGS = frozenset(
    f".{ending}"
    for ending in """3g2 3gp amv asf avi divx dv f4v flv gif ivf m1v m2ts m2v m4v mjpeg mjpg mkv mov mp4 mpe mpeg mpg
    mts mxf nut ogm ogv qt rm rmvb ts vob webm wmv wtv y4m""".split()
)
LOG = logging.getLogger("atfr")


def walk(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, in a fixed order, without hidden ones; none is opened or asked for its size.

    Links to folders are followed, but no folder is walked twice.
    """
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link into a folder that is walked anyway
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)


def videos_of(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files that are videos by their ending, sorted, and the others."""
    found: list[Path] = []
    others: list[Path] = []
    for file in files:
        (found if file.suffix.lower() in VIDEO_ENDINGS else others).append(file)
    return sorted(found), others


def say_passed_over(folder: Path, others: Sequence[Path]) -> None:
    """Log how many files of a folder are no videos by their names, if any."""
    if others:
        some = ", ".join(file.name for file in others[:3])
        LOG.info("'%s': %d files that are no videos by their names are passed over (%s)", folder, len(others), some)


def videos_below(folder: Path) -> list[Path]:
    """Return the videos that lie in a folder and below, by name.

    Raises:
        DataError: there is none.
    """
    found, others = videos_of(walk(folder))
    if not found:
        raise DataError(f"there is no video in '{folder}' or below; videos end in {', '.join(sorted(VIDEO_ENDINGS))}")
    say_passed_over(folder, others)
    return found


def videos_among(paths: Iterable[Path]) -> list[Path]:
    """Return some files as they are, and of folders among them the videos in each and below."""
    return [file for path in paths for file in (videos_below(path) if path.is_dir() else [path])]
