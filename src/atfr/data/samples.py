"""Render the sample action set: short generated videos whose class is a motion, for demos and tests.

A textured shape lies on a textured background. One of its three properties (horizontal place, vertical place, size)
changes during a part of the video: it moves left or right, up or down, grows or shrinks. Seven motions of eight
are brief, a fourteenth to a seventh of the video; the others last most of it. Around the motion happens what happens in
real videos: sensor noise, a camera that drifts or shakes, frozen stretches, flashes, cuts to another scene
(`sample_footage`); `footage=` makes sets with one of these only. `trimmed=True` cuts the same videos down to the motion
and a little before and behind, as the data sets of the field are cut.

What gives the class away, and what does not:
- One frame tells nothing: every video draws the course of all three properties, and the two that do not change stand
  still at a value that theirs takes at a random time of its course. So at a random time, all classes show the same
  distribution of places and sizes.
- Shuffled frames tell the property, not the direction: left and right (up and down, growing and shrinking) are each
  other played backwards.
- Frames before and after the motion tell the property, and growing from shrinking. They do not tell left from right or
  up from down: places wrap around the edges of the picture, and the way is as often more than half of it as less. So
  who misses a brief motion is right in two thirds of the videos: one third are growing and shrinking, and half of the
  others are guessed.

Since left and right are classes, train on this set with `ClipSpec(flip=False)`.
"""

import csv
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import av
import numpy as np
from jaxtyping import UInt8

from atfr.data.records import VideoList, read_folder
from atfr.data.sample_footage import Footage, draw_disturbed
from atfr.data.sample_motion import CHANGES, draw_motion, draw_video
from atfr.errors import DataError, InputError
from atfr.files import csv_text, read_json, whole, write_json, write_whole

SAMPLE_CLASSES = tuple(sorted(CHANGES))
META_FILE, MANIFEST_FILE = "samples.json", "manifest.csv"
VERSION = 2
TRIMMED_TO = 4
"""Frames that a trimmed video has before and behind its motion."""


@dataclass(frozen=True)
class SampleSettings:
    """What a rendered set depends on; kept in its `samples.json`."""

    clips_per_class_train: int
    clips_per_class_test: int
    seed: int
    size: int
    frames: int
    fps: int
    footage: Footage
    trimmed: bool
    version: int = VERSION


@dataclass(frozen=True)
class SampleClip:
    """One row of the manifest.

    The motion happens from `start_frame` to `stop_frame`; before and after, the shape stands still. `speed` is in px a
    frame for a move, and in e-folds of the size a frame for growing and shrinking. `camera_x` and `camera_y` are the
    drift of the camera over the background in px a frame.
    """

    path: str
    label: int
    name: str
    split: str
    seed: int
    frames: int
    start_frame: int
    stop_frame: int
    speed: float
    noise: float
    drift_x: float
    drift_y: float
    shake: float
    frozen: bool
    flash: int
    cuts: str


def render_samples(
    root: str | os.PathLike[str],
    *,
    clips_per_class_train: int = 80,
    clips_per_class_test: int = 25,
    seed: int = 0,
    size: int = 72,
    frames: int = 36,
    fps: int = 24,
    footage: Footage = "mixed",
    trimmed: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Path:
    """Render the set to `root/train/<class>/*.mp4`, `root/test/<class>/*.mp4` and `root/manifest.csv`; return `root`.

    A set that is there already with the same settings is reused, and missing videos of it are rendered again. A new one
    grows in a hidden folder beside `root` and takes its name when it is whole; what is left of an interrupted call is
    used by the next. Every video has a seed of its own, within a split and across.

    Args:
        root: Where the set goes: a new or empty folder, or a set of the same settings.
        clips_per_class_train: Training videos a class.
        clips_per_class_test: Test videos a class.
        seed: The same seed renders the same videos.
        size: Side of the square videos, px; even.
        frames: Frames a video, at least 12.
        fps: Frame rate, frames/s.
        footage: What happens besides the motion: "clean", "noise", "drift", "shake", "freeze", "flash", "cuts" in every
            video, or "mixed" as they come.
        trimmed: Cut each video down to its motion and four frames on either side.
        progress: Called with the number of videos done and the number of all.

    Raises:
        DataError: `root` holds something else, or a set with other settings.
        InputError: A setting is out of range.
    """
    root = Path(root)
    settings = SampleSettings(clips_per_class_train, clips_per_class_test, seed, size, frames, fps, footage, trimmed)
    _check(settings)
    if _holds_set(root, settings):
        _render_missing(root, settings, progress)
        return root
    key = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    growing = root.absolute().with_name(f".{root.absolute().name}.{key}.part")
    try:
        _render_missing(growing, settings, progress)
        if root.is_dir():
            root.rmdir()
        growing.rename(root)
    except OSError:
        if not _holds_set(root, settings):  # otherwise another process was faster
            raise
        shutil.rmtree(growing, ignore_errors=True)
    return root


def whole_and_trimmed(root: Path, *, clips_per_class_test: int, **settings: Any) -> dict[str, VideoList]:
    """Render a set, and its training videos trimmed too; return the lists "train" and "test", and "trimmed"."""
    splits = read_folder(render_samples(root / "whole", clips_per_class_test=clips_per_class_test, **settings))
    trimmed = read_folder(render_samples(root / "trimmed", clips_per_class_test=1, trimmed=True, **settings))
    return splits | {"trimmed": trimmed["train"]}


def read_manifest(root: str | os.PathLike[str]) -> list[SampleClip]:
    """Read the true motion of every video from `root/manifest.csv`."""
    path = Path(root) / MANIFEST_FILE
    if not path.is_file():
        raise DataError(f"expected a rendered sample set, but there is no '{path}'; render_samples makes one")
    kinds = get_type_hints(SampleClip)
    read = {name: (lambda text: text == "True") if kind is bool else kind for name, kind in kinds.items()}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [SampleClip(**{key: read[key](value) for key, value in row.items()}) for row in rows]


def manifest_of(videos: VideoList) -> list[SampleClip]:
    """Return the true motion of each video of a list; nothing where they are not of one rendered set."""
    roots = {record.path.parents[2] for record in videos.records}
    root = roots.pop()
    if roots or not (root / MANIFEST_FILE).is_file() or not (root / META_FILE).is_file():
        return []
    clips = {(root / clip.path).resolve(): clip for clip in read_manifest(root)}
    found = [clips.get(record.path.resolve()) for record in videos.records]
    return [clip for clip in found if clip] if all(found) else []


def _check(settings: SampleSettings) -> None:
    least = {"clips_per_class_train": 1, "clips_per_class_test": 1, "seed": 0, "size": 32, "frames": 12, "fps": 1}
    for name, bound in least.items():
        if getattr(settings, name) < bound:
            raise InputError(f"{name} must be at least {bound}, got {getattr(settings, name)}")
    if settings.footage not in get_args(Footage):
        raise InputError(f"footage must be one of {', '.join(get_args(Footage))}, got {settings.footage!r}")
    if settings.size % 2:
        raise InputError(f"size must be even, got {settings.size}")


def _holds_set(root: Path, settings: SampleSettings) -> bool:
    """Say whether `root` is a set of these settings (True) or can become one (False)."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise DataError(f"expected a folder for the sample set, but '{root}' is a file")
    meta = root / META_FILE
    if not meta.is_file():
        if any(root.iterdir()):
            raise DataError(f"'{root}' is not empty and holds no sample set; choose another folder for it")
        return False
    try:
        found = read_json(meta)
    except ValueError as error:
        raise DataError(f"'{meta}' is damaged ({error}); remove '{root}' to render it again") from error
    if found != asdict(settings):
        raise DataError(
            f"'{root}' holds a sample set of other settings; choose another folder, or remove it.\n"
            f"  found  {found}\n  wanted {asdict(settings)}"
        )
    return True


def _render_missing(root: Path, settings: SampleSettings, progress: Callable[[int, int], None]) -> None:
    """Write the videos that are not there yet, then the manifest, then the settings, each whole or not at all."""
    total = len(SAMPLE_CLASSES) * (settings.clips_per_class_train + settings.clips_per_class_test)
    clips = []
    for split, clips_per_class in (("train", settings.clips_per_class_train), ("test", settings.clips_per_class_test)):
        for number in range(clips_per_class):
            for label in range(len(SAMPLE_CLASSES)):
                clips.append(_render_clip(root, settings, split, number, label))
                progress(len(clips), total)
    if not (root / META_FILE).is_file() or not (root / MANIFEST_FILE).is_file():
        columns = [field.name for field in fields(SampleClip)]
        write_whole(root / MANIFEST_FILE, csv_text(columns, [astuple(clip) for clip in clips]))
        write_json(root / META_FILE, asdict(settings), indent=1)


def _render_clip(root: Path, settings: SampleSettings, split: str, number: int, label: int) -> SampleClip:
    name = SAMPLE_CLASSES[label]
    key = np.random.SeedSequence([settings.seed, ("train", "test").index(split), label, number])
    clip_seed = int(key.generate_state(1, np.uint64)[0] >> 1)
    rng = np.random.default_rng(clip_seed)
    motion = draw_motion(name, settings.frames, rng)
    disturbed = draw_disturbed(settings.footage, settings.frames, motion.start_frame, motion.stop_frame, rng)
    first, end = 0, settings.frames
    if settings.trimmed:
        first, end = max(0, motion.start_frame - TRIMMED_TO), min(end, motion.stop_frame + TRIMMED_TO + 1)
    path = root / split / name / f"{number:04d}.mp4"
    if not path.is_file():
        with whole(path) as scratch:
            _write_video(scratch, draw_video(motion, disturbed, settings.size, rng)[first:end], settings.fps)
    side = settings.size
    return SampleClip(
        path=path.relative_to(root).as_posix(),
        label=label,
        name=name,
        split=split,
        seed=clip_seed,
        frames=end - first,
        start_frame=motion.start_frame - first,
        stop_frame=motion.stop_frame - first,
        speed=round(motion.speed * (side if name.startswith("move") else 1), 4),
        noise=round(disturbed.noise, 4),
        drift_x=round(side * disturbed.drift[0], 4),
        drift_y=round(side * disturbed.drift[1], 4),
        shake=round(side * disturbed.shake, 4),
        frozen=disturbed.frozen_to > 0,
        flash=disturbed.flash - first if first <= disturbed.flash < end else -1,
        cuts=" ".join(str(cut - first) for cut in disturbed.cuts if first < cut < end),
    )


def _write_video(path: Path, video: UInt8[np.ndarray, "T H W 3"], fps: int) -> None:
    """Encode as MPEG-4 part 2, whose encoder is FFmpeg's own: every build has it.

    There is one key frame only, since at each further one the still parts of a video would flicker.
    """
    frames, height, width, _ = video.shape
    with av.open(str(path), "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=fps, options={"qmin": "2", "qmax": "4"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        stream.gop_size = frames
        stream.codec_context.thread_count = 1
        for image in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
