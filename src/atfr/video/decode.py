"""Decode one video file into frames with times (PyAV; audio, subtitles and cover pictures are ignored).

Nothing here knows of clips: sampling and cropping are in `sampling.py` and `transforms.py`. Pixels are taken as square.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from atfr.errors import InputError, VideoTooLongError
from atfr.video.container import Findings, decoded, open_video
from atfr.video.pictures import Pictures, stack

FALLBACK_FPS = 25.0
REORDER_DEPTH = 16
"""More than this many places out of order, and times are a broken clock, not the decoding order of B-frames."""


@dataclass(frozen=True)
class Frames:
    """The frames of one video, upright, in display order.

    `pts_s` are seconds on the file's clock, strictly increasing, never negative; `fps` is the mean rate (a video of
    variable rate keeps its real times in `pts_s`). `warning` says what was wrong when the file is truncated or damaged
    and only a part of it, or a patched-up version, could be used.
    """

    data: UInt8[Tensor, "T 3 H W"]
    pts_s: Float64[Tensor, "T"]
    fps: float
    path: Path
    warning: str | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.shape[1] != 3 or self.data.dtype != torch.uint8 or len(self.data) == 0:
            raise InputError(
                f"data must be uint8 frames (T, 3, H, W) with T >= 1, got {self.data.dtype} {tuple(self.data.shape)}"
            )
        if self.pts_s.shape != self.data.shape[:1]:
            raise InputError(f"pts_s must hold one time a frame, got {len(self.pts_s)} for {len(self.data)} frames")

    def __len__(self) -> int:
        return len(self.data)

    def take(self, indices: Int64[Tensor, "N"]) -> UInt8[Tensor, "N 3 H W"]:
        """Return the frames of these numbers."""
        return self.data[indices]

    def __repr__(self) -> str:
        frames, _, height, width = self.data.shape
        warning = f", warning={self.warning!r}" if self.warning else ""
        return f"Frames({str(self.path)!r}, {frames} frames, {width} x {height} px, {self.fps:.5g} fps{warning})"


class Reading:
    """One pass over a video: gives its frames in display order, and knows afterwards what `Frames` says of them.

    Only the frame that was given last is in memory, so a video of any length can be read.

    Args:
        path: The video file.
        shorter_side: Scale larger frames down to this shorter side while decoding. Smaller frames stay as they are.
        threads: Decoder threads; 0 lets FFmpeg choose. One is best where data-loader workers run side by side.

    Attributes:
        warning: What is wrong with the file, where only a part of it decodes.
    """

    def __init__(self, path: str | os.PathLike[str], *, shorter_side: int | None = None, threads: int = 1) -> None:
        self.path = Path(path)
        self.threads = threads
        self.warning: str | None = None
        self._findings = Findings(self.path)
        self._pictures = Pictures(self.path, shorter_side)
        self._times_s: list[float | None] = []
        self._rate: float | None = None

    @property
    def count(self) -> int:
        """How many frames were given."""
        return self._findings.count

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Decode, once.

        Raises:
            VideoError: There is no such file, it is no video, none of its frames decodes, or they are absurdly large.
        """
        with open_video(self.path, self.threads) as (container, stream):
            for frame in decoded(container, stream, self._findings):
                self._times_s.append(frame.time)
                yield self._pictures.picture(frame)
            rate = stream.average_rate or stream.guessed_rate
        self._rate = float(rate) if rate else None
        self.warning = self._findings.warning()

    def times(self) -> tuple[Float64[np.ndarray, " T"], float]:
        """Return the time of each frame on the file's clock, s, and the mean rate, frames/s."""
        return _repair_times(self._times_s, self._rate)


def decode(
    path: str | os.PathLike[str],
    *,
    shorter_side: int | None = None,
    max_bytes: int = 2 * 2**30,
    threads: int = 1,
) -> Frames:
    """Decode every frame of the video at `path`.

    A truncated or damaged file gives the frames that decode, and says so in `Frames.warning`. A rotation or mirroring
    that the file asks for (phones) is applied. Where the size changes in mid-stream, later frames take the first one's.

    Args:
        path: The video file.
        shorter_side: Scale larger frames down to this shorter side while decoding, so that a long HD video fits in
            memory. Smaller frames stay as they are.
        max_bytes: Refuse a video whose decoded frames take more memory than this; `VideoFile` reads any length.
        threads: Decoder threads; 0 lets FFmpeg choose. One is best where data-loader workers run side by side.

    Raises:
        VideoError: There is no such file, it is no video, none of its frames decodes, or its frames are absurdly large.
        VideoTooLongError: It does not fit in `max_bytes`.
    """
    reading = Reading(path, shorter_side=shorter_side, threads=threads)
    images: list[np.ndarray] = []
    for image in reading:
        images.append(image)
        if len(images) * image.nbytes > max_bytes:
            height, width = image.shape[:2]
            raise VideoTooLongError(
                f"'{path}' has at least {len(images)} frames of {width} x {height} px, more than max_bytes allows "
                f"({max_bytes / 2**30:.3g} GiB decoded); give a smaller shorter_side or a larger max_bytes, or take "
                "single frames with atfr.video.file.VideoFile"
            )
    pts_s, fps = reading.times()
    return Frames(stack(images), torch.from_numpy(pts_s), fps, reading.path, reading.warning)


def _repair_times(times_s: list[float | None], rate: float | None) -> tuple[np.ndarray, float]:
    """Make times strictly increasing and not negative, and find the mean rate.

    Decoders put frames out in display order, while some containers (AVI with B-frames) stamp them in decoding order: so
    the times are sorted. Missing and repeated ones are interpolated. Times that are missing altogether or that jump
    back far are replaced by the frames' numbers at the file's rate.
    """
    count = len(times_s)
    step_s = 1 / (rate or FALLBACK_FPS)
    known = np.array([time is not None for time in times_s])
    places = np.flatnonzero(known)
    times = np.array([time for time in times_s if time is not None], dtype=np.float64)
    displaced = np.abs(np.argsort(times, kind="stable") - np.arange(len(times)))
    if len(times) == 0 or displaced.max() > REORDER_DEPTH:
        times, places = np.zeros(1), np.zeros(1, dtype=np.int64)
    times = np.sort(times)
    first_of_its_time = np.concatenate([[True], np.diff(times) > 1e-9])
    times, places = times[first_of_its_time], places[first_of_its_time]
    pts_s = np.interp(np.arange(count), places, times)
    before, after = np.arange(places[0]), np.arange(places[-1] + 1, count)
    pts_s[before] = times[0] - (places[0] - before) * step_s
    pts_s[after] = times[-1] + (after - places[-1]) * step_s
    if pts_s[0] < 0:
        pts_s -= pts_s[0]
    fps = (count - 1) / (pts_s[-1] - pts_s[0]) if count > 1 else 1 / step_s
    return pts_s, float(fps)
