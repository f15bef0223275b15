"""resize_videos: write a data set again with smaller frames, so that decoding keeps up with training.

A frame larger than training needs costs time in every epoch. So each video is decoded once, as `decode` does it
(upright, damaged packets passed over, broken times repaired), at the shorter side wanted, and written as H.264 in MP4
with a key frame every `KEY_FRAMES`, so that a clip in its middle is reached fast. Sound is left out.
"""

import csv
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from jaxtyping import Float64

from atfr.data.check import LOOK_PX, look
from atfr.data.index import INDEX_FILE, VideoFacts, VideoIndex, fingerprint, is_same
from atfr.data.pool import WorkerDiedError, each_in_processes
from atfr.data.walk import VIDEO_ENDINGS, walk
from atfr.errors import DataError, InputError, VideoError
from atfr.files import csv_text, whole, write_whole
from atfr.video.container import check_file, open_video
from atfr.video.decode import Reading

KEY_FRAMES = 16
ENCODER = {"crf": "20", "preset": "fast"}
TIME_BASE = Fraction(1, 90_000)
UNKNOWN_RATE = Fraction(25)
SETTINGS_FILE = ".atfr-resize.json"
PART = ".part"
LOG = logging.getLogger("atfr")


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
    there: Path | None = None  # what an earlier call has written
    made_of: str = ""  # the fingerprint of what that was made of


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
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Resized:
    """Write every video below `source` to the same place below `target`, its shorter side at most `side` px.

    A video that is small enough already is copied as it is; so are all other files, so that `target` is the data set
    again. A file gets its name only when it is whole, and has been decoded with every frame there; so a crash costs the
    videos in work and no more, and the next call goes on. A video that does not decode is named, and has no file in
    `target`. The numbers of frames go to the index of `target`. A video that has changed in `source` since is done
    again. CSV files name the videos as they are called and where they lie in `target`.

    Args:
        source: the folder of the data; only read, but for `remove_source`.
        target: another folder, new or of an earlier call with the same side.
        remove_source: remove each video from `source` as soon as it is safely in `target`.

    Raises:
        DataError: a folder is missing or holds something else, or two videos would get one name.
    """
    source, target = Path(source), Path(target)
    if side < 2:
        raise InputError(f"side must be at least 2 px, got {side}")
    _check_folders(source, target)
    videos, others = _files(source)
    with _settled(target, side), VideoIndex(target) as index:
        for path in others:
            if not (place := target / path.relative_to(source)).exists():
                with whole(place) as scratch:
                    shutil.copyfile(path, scratch)
        jobs = [_job(path, target / path.relative_to(source), side, remove_source, index) for path in videos]
        counts = {"written": 0, "copied": 0, "kept": 0, "failed": 0}
        failed = []
        progress(0, len(jobs))
        for number, (job, done) in enumerate(each_in_processes(resize_video, jobs, num_workers), 1):
            result = _Done("failed", reason=f"'{job.source}': {done}") if isinstance(done, WorkerDiedError) else done
            if result.path and result.facts:
                index.add(result.path, result.facts)
            if result.reason:
                failed.append((job.source, result.reason))
            counts[result.outcome] += 1
            progress(number, len(jobs))
        for path in others:
            if path.suffix.lower() == ".csv":
                relist(path, source, target)
    return Resized(counts["written"], counts["copied"], counts["kept"], tuple(sorted(failed)))


def _job(source: Path, target: Path, side: int, remove_source: bool, index: VideoIndex) -> _Job:
    there = next((path for path in (target, target.with_suffix(".mp4")) if path.exists()), None)
    facts = index.get(there) if there else None
    return _Job(source, target, side, remove_source, there, facts.source if facts else "")


def resize_video(job: _Job) -> _Done:
    """Do one video, whole or not at all."""
    encoded = job.target.with_suffix(".mp4")
    if job.there and is_same(job.source, job.made_of, by_content=job.remove_source):
        done = _Done("kept", job.there)
    else:
        try:
            check_file(job.source)
            made_of = fingerprint(job.source)
            with open_video(job.source, 1) as (_, stream):
                small = 0 < min(stream.width, stream.height) <= job.side
            place, write = (
                (job.target, partial(_copy_video, job.source))
                if small
                else (encoded, partial(_encode, job.source, job.side))
            )
            facts = replace(_write(place, write), source=made_of)
        except VideoError as error:
            return _Done("failed", reason=str(error))
        if not is_same(job.source, made_of):
            return _Done("failed", reason=f"'{job.source}' was changed while it was read; give the same line again")
        if job.there and job.there != place:
            job.there.unlink()
        done = _Done("copied" if small else "written", place, facts)
    if job.remove_source:
        job.source.unlink()
    return done


def _write(place: Path, write: Callable[[Path], int]) -> VideoFacts:
    """Write beside, decode what was written, and only then give it its name; `write` returns how many frames it has."""
    part = place.with_name(f".{place.name}{PART}")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        num_frames = write(part)
        facts = look(part)
        if facts.frames != num_frames:
            raise VideoError(f"'{place}' was written with {num_frames} frames, but {facts.frames} decode again")
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return facts


def _copy_video(source: Path, path: Path) -> int:
    reading = Reading(source, shorter_side=LOOK_PX)
    frames = sum(1 for _ in reading)
    shutil.copyfile(source, path)
    return frames


def _encode(source: Path, side: int, path: Path) -> int:
    """Write the frames with their times; H.264 takes even sides only, so an odd row or column at the edge goes.

    The times are known when the last frame is, since a broken clock is seen by the whole. So frames are encoded with
    their numbers for times, one at a time, and get their times when the packets are copied.
    """
    reading = Reading(source, shorter_side=side)
    with open_video(source, 1) as (_, read):
        rate = (read.average_rate or UNKNOWN_RATE).limit_denominator(1001)  # the encoder spends by it
    numbered = path.with_name(f"{path.name}.numbered")
    try:
        with av.open(str(numbered), "w", format="mp4") as container:
            for number, image in enumerate(reading):
                if number == 0:
                    height, width = (length // 2 * 2 for length in image.shape[:2])
                    stream = _encoder(container, width, height, rate)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
                frame.pts, frame.time_base = number, 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        _with_times(numbered, path, rate, *reading.times())
    finally:
        numbered.unlink(missing_ok=True)
    return reading.count


def _encoder(container: OutputContainer, width: int, height: int, rate: Fraction) -> VideoStream:
    stream = container.add_stream("libx264", rate=rate, options=ENCODER)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.gop_size = KEY_FRAMES
    stream.codec_context.time_base = 1 / rate
    stream.codec_context.thread_count = 1
    return stream


def _with_times(numbered: Path, path: Path, rate: Fraction, pts_s: Float64[np.ndarray, " T"], fps: float) -> None:
    """Copy the packets of a file whose frames have their numbers for times, and give them these."""

    def ticks(time: int | None) -> int:
        number = round((time or 0) * time_base * rate)
        inside = min(max(number, 0), len(pts_s) - 1)
        return round((pts_s[inside] + (number - inside) / fps) / TIME_BASE)  # decoding begins before the first

    options = {"movflags": "+faststart"}
    with (
        av.open(str(numbered)) as numbers,
        av.open(str(path), "w", format="mp4", container_options=options) as container,
    ):
        source = numbers.streams.video[0]
        stream = container.add_stream_from_template(source)
        stream.time_base = TIME_BASE
        time_base = source.time_base or Fraction(1)
        for packet in numbers.demux(source):
            if packet.size:
                packet.pts, packet.dts = ticks(packet.pts), ticks(packet.dts)
                packet.time_base, packet.duration, packet.stream = TIME_BASE, 0, stream
                container.mux(packet)


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
    others = sorted(path for path in set(unique.values()) - set(videos) if path.is_file())
    if special := len(unique) - len(videos) - len(others):
        LOG.info("'%s': %d pipes, devices and links that lead nowhere are passed over", source, special)
    if not videos:
        raise DataError(f"there is no video below '{source}'")
    seen: dict[Path, Path] = {}
    for path in videos:
        if (other := seen.setdefault(path.with_suffix(""), path)) != path:
            raise DataError(f"'{other}' and '{path}' would both become {path.stem}.mp4; rename one")
    return videos, others


@contextmanager
def _settled(target: Path, side: int) -> Iterator[None]:
    """Make the target, or see that it is one of this side; one process at a time works on it."""
    settings = target / SETTINGS_FILE
    if not settings.is_file():
        if target.is_dir() and any(path.name != INDEX_FILE for path in target.iterdir()):
            raise DataError(f"the target '{target}' is not empty; choose a new folder")
        write_whole(settings, json.dumps({"side": side}) + "\n")
    with settings.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process resizes videos into '{target}': wait for it") from None
        if (found := file.read().strip()) != json.dumps({"side": side}):
            raise DataError(f"'{target}' holds videos of other settings ({found}); choose another folder")
        yield


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
