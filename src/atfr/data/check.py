"""check_videos: decode every video once, in several processes, and say which are broken, damaged or too short."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from atfr.data.index import VideoFacts, VideoIndex
from atfr.data.pool import WorkerDiedError, each_in_processes
from atfr.errors import VideoError
from atfr.files import sha256_of
from atfr.video.decode import Reading
from atfr.words import counted

LOOK_PX = 16
"""Every frame is decoded in full and scaled down to this shorter side: whether it decodes is all that is asked."""


@dataclass(frozen=True)
class Problem:
    """A video that cannot be used as it is."""

    path: Path  # the file
    # "broken" (nothing decodes), "damaged" (only a part does), "short", or "leaked" (a copy is in training)
    problem: str
    reason: str  # what is wrong, in words


def look(path: Path) -> VideoFacts:
    """Decode a whole video and return what was found."""
    reading = Reading(path, shorter_side=LOOK_PX)
    try:
        for _ in reading:
            pass
    except VideoError as error:
        return VideoFacts(0, problem="broken", reason=str(error))
    pts_s, fps = reading.times()
    problem = "damaged" if reading.warning else None
    return VideoFacts(reading.count, float(pts_s[-1] - pts_s[0]) + 1 / fps, fps, problem, reading.warning or "")


def check_videos(
    paths: Iterable[Path],
    root: Path,
    *,
    min_frames: int,
    num_workers: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Problem]:
    """Return the videos that are broken, damaged or shorter than `min_frames`, in the order given.

    What is found is written at once to the index of `root`, the folder of the data, so a call that was interrupted goes
    on where it was, and one on a checked data set decodes nothing but the files that have changed.
    """
    unique = list(dict.fromkeys(paths))
    problems: dict[Path, Problem] = {}
    progress(0, len(unique))
    with VideoIndex(root) as index:
        for done, (path, facts) in enumerate(_facts(unique, index, num_workers), 1):
            if facts.problem:
                problems[path] = Problem(path, facts.problem, facts.reason)
            elif facts.frames < min_frames:
                frames = counted(facts.frames, "frame")
                reason = f"'{path}' has {frames}, fewer than {min_frames}: a clip of it repeats from its start"
                problems[path] = Problem(path, "short", reason)
            progress(done, len(unique))
    return [problems[path] for path in unique if path in problems]


def copies(paths: Iterable[Path]) -> list[list[Path]]:
    """Return the groups of different files with the same content, byte for byte; only files of one size are read."""
    by_size: dict[int, list[Path]] = {}
    for path in filter(Path.is_file, dict.fromkeys(paths)):
        by_size.setdefault(path.stat().st_size, []).append(path)
    by_content: dict[str, list[Path]] = {}
    for same_size in by_size.values():
        for path in same_size if len(same_size) > 1 else ():
            by_content.setdefault(sha256_of(path), []).append(path)
    return [group for group in by_content.values() if len({os.path.realpath(path) for path in group}) > 1]


def _facts(paths: list[Path], index: VideoIndex, num_workers: int) -> Iterator[tuple[Path, VideoFacts]]:
    """What is known, then what is found."""
    unknown = []
    for path in paths:
        facts = index.get(path)
        if facts is None:
            unknown.append(path)
        else:
            yield path, facts
    for path, result in each_in_processes(look, unknown, num_workers):
        found = (
            VideoFacts(0, problem="broken", reason=f"'{path}': {result}")
            if isinstance(result, WorkerDiedError)
            else result
        )
        index.add(path, found)
        yield path, found
