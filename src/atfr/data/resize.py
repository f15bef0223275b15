"""resize_videos: write a data set again with smaller frames, so that decoding keeps up with training.

A frame larger than training needs costs time in every epoch. So each video is decoded once, as `decode` does it
(upright, damaged packets passed over, broken times repaired), at the shorter side wanted, and written as H.264 in MP4
with a key frame every `KEY_FRAMES`, so that a clip in its middle is reached fast. Sound is left out.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from atfr.data.check import look
from atfr.data.index import INDEX_FILE, VideoFacts, VideoIndex
from atfr.data.pool import WorkerDiedError, each_in_processes
from atfr.data.records import VIDEO_ENDINGS
from atfr.data.walk import walk
from atfr.errors import DataError, InputError, VideoError
from atfr.video.container import open_video
from atfr.video.decode import Frames, decode

KEY_FRAMES = 16
ENCODER = {"crf": "20", "preset": "fast"}
TIME_BASE = Fraction(1, 90_000)
SETTINGS_FILE = ".atfr-resize.json"
PART = ".part"


@dataclass(frozen=True)
class Resized:
    """What became of the videos: how many were written now, copied as they are, there already; and what failed."""

    written: int
    copied: int
    kept: int
    failed: tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class _Job:
    source: Path
    target: Path
    side: int
    remove_source: bool


@dataclass(frozen=True)
class _Done:
    outcome: str  # "written", "copied", "kept" or "failed"
    path: Path | None = None
    facts: VideoFacts | None = None
    reason: str = ""


def resize_videos(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    side: int,
    num_workers: int,
    remove_source: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Resized:
    """Write every video below `source` to the same place below `target`, its shorter side at most `side` px.

    A video that is small enough already is copied as it is; so are all other files, so that `target` is the data set
    again. A file gets its name only when it is whole, and has been decoded with every frame there; so a crash costs the
    videos in work and no more, and the next call goes on. A video that does not decode is named, and has no file in
    `target`. The numbers of frames go to the index of `target`.

    Args:
        source: the folder of the data; only read, but for `remove_source`.
        target: another folder, new or of an earlier call with the same side.
        side: the shorter side, px.
        num_workers: processes.
        remove_source: remove each video from `source` as soon as it is safely in `target`.
        progress: called with (videos done, videos in all).

    Raises:
        DataError: a folder is missing or holds something else, or two videos would get one name.
    """
    source, target = Path(source), Path(target)
    if side < 2:
        raise InputError(f"side must be at least 2 px, got {side}")
    _check_folders(source, target)
    videos, others = _files(source)
    _settle(target, side)
    for path in others:
        place = target / path.relative_to(source)
        if not place.exists():
            _copy(path, place)
    jobs = [_Job(path, target / path.relative_to(source), side, remove_source) for path in videos]
    counts = {"written": 0, "copied": 0, "kept": 0, "failed": 0}
    failed = []
    if progress:
        progress(0, len(jobs))
    with VideoIndex(target) as index:
        for number, (job, done) in enumerate(each_in_processes(resize_video, jobs, num_workers), 1):
            result = _Done("failed", reason=f"'{job.source}': {done}") if isinstance(done, WorkerDiedError) else done
            if result.path and result.facts:
                index.add(result.path, result.facts)
            if result.reason:
                failed.append((job.source, result.reason))
            counts[result.outcome] += 1
            if progress:
                progress(number, len(jobs))
    return Resized(counts["written"], counts["copied"], counts["kept"], tuple(sorted(failed)))


def resize_video(job: _Job) -> _Done:
    """Do one video, whole or not at all."""
    encoded = job.target.with_suffix(".mp4")
    there = next((path for path in (job.target, encoded) if path.exists()), None)
    if there:
        done = _Done("kept")
    else:
        try:
            frames = decode(job.source, shorter_side=job.side)
            with open_video(job.source, 1) as (_, stream):
                small = 0 < min(stream.width, stream.height) <= job.side
            if small:
                done = _Done("copied", job.target, _write(job.target, partial(shutil.copyfile, job.source)))
            else:
                done = _Done("written", encoded, _write(encoded, partial(_encode, frames), len(frames)))
        except VideoError as error:
            return _Done("failed", reason=str(error))
    if job.remove_source:
        job.source.unlink()
    return done


def _write(place: Path, write: Callable[[Path], object], num_frames: int | None = None) -> VideoFacts:
    """Write beside, decode what was written, and only then give it its name."""
    part = place.with_name(f".{place.name}{PART}")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(part)
        facts = look(part)
        if num_frames is not None and facts.frames != num_frames:
            raise VideoError(f"'{place}' was written with {num_frames} frames, but {facts.frames} decode again")
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return facts


def _encode(frames: Frames, path: Path) -> None:
    """Write the frames with their times; H.264 takes even sides only, so an odd row or column at the edge goes."""
    images = frames.data.permute(0, 2, 3, 1).numpy()
    height, width = (length // 2 * 2 for length in images.shape[1:3])
    with av.open(str(path), "w", format="mp4", container_options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(frames.fps).limit_denominator(1001), options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = KEY_FRAMES
        stream.codec_context.time_base = TIME_BASE
        stream.codec_context.thread_count = 1
        for image, time_s in zip(images, frames.pts_s.tolist(), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = round(time_s / TIME_BASE), TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _check_folders(source: Path, target: Path) -> None:
    if not source.is_dir():
        found = "is a file" if source.exists() else "does not exist"
        raise DataError(f"expected the folder of a data set, but '{source}' {found}")
    if target.exists() and not target.is_dir():
        raise DataError(f"the target must be a folder, '{target}' is a file")
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise DataError(f"the target '{target}' and the source '{source}' must not lie in each other")


def _files(source: Path) -> tuple[list[Path], list[Path]]:
    """Return the videos and the other files; a video to which links lead as well comes once."""
    unique: dict[str, Path] = {}
    for path in sorted(walk(source), key=Path.is_symlink):
        unique.setdefault(os.path.realpath(path), path)
    videos = sorted(path for path in unique.values() if path.suffix.lower() in VIDEO_ENDINGS)
    others = sorted(set(unique.values()) - set(videos))
    if not videos:
        raise DataError(f"there is no video below '{source}'")
    seen: dict[Path, Path] = {}
    for path in videos:
        if (other := seen.setdefault(path.with_suffix(""), path)) != path:
            raise DataError(f"'{other}' and '{path}' would both become {path.stem}.mp4; rename one")
    return videos, others


def _settle(target: Path, side: int) -> None:
    """Make the target, or see that it is one of this side."""
    settings = target / SETTINGS_FILE
    if settings.is_file():
        found = settings.read_text(encoding="utf-8").strip()
        if found != json.dumps({"side": side}):
            raise DataError(f"'{target}' holds videos of other settings ({found}); choose another folder")
        return
    if target.is_dir() and any(path.name != INDEX_FILE for path in target.iterdir()):
        raise DataError(f"the target '{target}' is not empty; choose a new folder")
    target.mkdir(parents=True, exist_ok=True)
    part = settings.with_name(settings.name + PART)
    part.write_text(json.dumps({"side": side}) + "\n", encoding="utf-8")
    part.replace(settings)


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}{PART}")
    shutil.copyfile(source, part)
    part.replace(place)
