"""Decode one video file into frames with times (PyAV; audio, subtitles and cover pictures are ignored).

Nothing here knows of clips: sampling and cropping are in `sampling.py` and `transforms.py`. Pixels are taken as square.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float64, UInt8
from torch import Tensor

from atfr.errors import InputError, VideoError

MAX_SIDE_PX = 16_384
MAX_FRAME_PX = 64 * 2**20
MAX_ASPECT = 64
FALLBACK_FPS = 25.0
REORDER_DEPTH = 16
"""More than this many places out of order, and times are a broken clock, not the decoding order of B-frames."""
NO_VIDEO_FORMATS = frozenset({"tty"})  # FFmpeg would draw any text file as a picture


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

    def __repr__(self) -> str:
        frames, _, height, width = self.data.shape
        warning = f", warning={self.warning!r}" if self.warning else ""
        return f"Frames({str(self.path)!r}, {frames} frames, {width} x {height} px, {self.fps:.5g} fps{warning})"


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
        max_bytes: Refuse a video whose decoded frames take more memory than this.
        threads: Decoder threads; 0 lets FFmpeg choose. One is best where data-loader workers run side by side.

    Raises:
        VideoError: There is no such file, it is no video, none of its frames decodes, its frames are absurdly large, or
            it does not fit in `max_bytes`.
    """
    path = Path(path)
    if shorter_side is not None and shorter_side < 1:
        raise InputError(f"shorter_side must be at least 1 px, got {shorter_side}")
    _check_file(path)
    with _open(path) as container:
        stream = _video_stream(container, path)
        stream.codec_context.thread_count = threads
        if threads != 1:
            stream.thread_type = "AUTO"
        expected = _expected_frames(container, stream)
        taken = _Taken(path, shorter_side, max_bytes, expected)
        for frame in _decoded(container, stream, taken):
            taken.add(frame)
        rate = stream.average_rate or stream.guessed_rate
    if not taken.images:
        reason = f" ({taken.errors[0]})" if taken.errors else ""
        raise VideoError(f"expected a video, but no frame of '{path}' decodes{reason}; is the file complete?")
    pts_s, fps = _repair_times(taken.times_s, float(rate) if rate else None)
    return Frames(_stack(taken.images), torch.from_numpy(pts_s), fps, path, taken.warning())


@dataclass
class _Taken:
    """What has been decoded so far: images H W 3, their times, and what went wrong."""

    path: Path
    shorter_side: int | None
    max_bytes: int
    expected: int | None
    images: list[np.ndarray] = field(default_factory=list)
    times_s: list[float | None] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    corrupt: int = 0
    coded_size: tuple[int, int] = (0, 0)
    reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def add(self, frame: av.VideoFrame) -> None:
        _check_size(frame.width, frame.height, self.path)
        if not self.images:
            self.coded_size = _scaled_size(frame.width, frame.height, self.shorter_side)
        width, height = self.coded_size
        try:
            rgb = self.reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        except (av.FFmpegError, ValueError) as error:
            self.errors.append(str(error))
            return
        image = _upright(rgb.to_ndarray(), frame)
        if self.images and image.shape != self.images[0].shape:  # the rotation changed in mid-stream
            image = np.ascontiguousarray(np.rot90(image))
        self.images.append(image)
        self.times_s.append(frame.time)
        self.corrupt += frame.is_corrupt
        self._check_memory(image.nbytes)

    def _check_memory(self, frame_bytes: int) -> None:
        count = max(len(self.images), self.expected or 0)
        if count * frame_bytes > self.max_bytes:
            height, width = self.images[0].shape[:2]
            raise VideoError(
                f"'{self.path}' has {'' if self.expected else 'at least '}{count} frames of {width} x {height} px, "
                f"{count * frame_bytes / 2**30:.3g} GiB decoded, more than max_bytes allows "
                f"({self.max_bytes / 2**30:.3g} GiB); give a smaller shorter_side, a larger max_bytes, or cut the video"
            )

    def warning(self) -> str | None:
        count = len(self.images)
        parts = []
        if self.expected is not None and count < self.expected - max(2, self.expected // 50):
            parts.append(f"the file declares {self.expected} frames and {count} decode: it is truncated or damaged")
        if self.errors:
            parts.append(f"{len(self.errors)} of its packets do not decode ({self.errors[0]})")
        if self.corrupt:
            parts.append(f"{self.corrupt} of {count} frames are damaged")
        return f"'{self.path}': {'; '.join(parts)}; what decodes is used" if parts else None


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise VideoError(f"expected a video file, but '{path}' is a folder; name a file in it")
    if not path.exists():
        raise VideoError(f"there is no video file at '{path}'; check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise VideoError(f"expected a video, but '{path}' is empty (0 bytes)")


@contextmanager
def _open(path: Path) -> Iterator[InputContainer]:
    """Open the file and nothing else: a playlist must not lead to the network, nor a colon in a name to a protocol."""
    try:
        container = av.open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"expected a video, but '{path}' cannot be opened as one ({reason})") from error
    with container:
        yield container


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams or container.format.name in NO_VIDEO_FORMATS:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(
            f"expected a video, but '{path}' has no video stream (format {container.format.name}: {kinds})"
        )
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError(f"the codec of the video stream in '{path}' is unknown to this FFmpeg")
    _check_size(stream.width, stream.height, path)
    return stream


def _check_size(width: int, height: int, path: Path) -> None:
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_FRAME_PX:
        raise VideoError(
            f"'{path}' declares frames of {width} x {height} px; at most {MAX_SIDE_PX} px a side and "
            f"{MAX_FRAME_PX / 1e6:.0f} million pixels a frame are read"
        )
    if max(width, height) > MAX_ASPECT * min(width, height) > 0:
        raise VideoError(f"'{path}' has frames of {width} x {height} px, too narrow a strip to cut clips from")


def _expected_frames(container: InputContainer, stream: VideoStream) -> int | None:
    """The number of frames that the file declares, where it declares one."""
    if stream.frames:
        return stream.frames
    rate = stream.average_rate
    if not rate:
        return None
    if stream.duration and stream.time_base:
        return round(stream.duration * stream.time_base * rate)
    if container.duration and len(container.streams) == 1:  # otherwise a longer audio stream may set it
        return round(container.duration / 1e6 * rate)
    return None


def _decoded(container: InputContainer, stream: VideoStream, taken: _Taken) -> Iterator[av.VideoFrame]:
    """Every frame that decodes; a packet that does not is noted in `taken.errors` and passed over."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            taken.errors.append(str(error))
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.EOFError:
            return
        except (av.FFmpegError, OSError) as error:
            taken.errors.append(str(error))


def _scaled_size(width: int, height: int, shorter_side: int | None) -> tuple[int, int]:
    shorter = min(width, height)
    if shorter_side is None or shorter <= shorter_side:
        return width, height
    return round(width * shorter_side / shorter), round(height * shorter_side / shorter)


def _upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Apply the file's display matrix: any of the eight ways to lay a rectangle on itself; other angles are ignored."""
    if SideDataType.DISPLAYMATRIX not in frame.side_data:
        return image
    side_data = frame.side_data[SideDataType.DISPLAYMATRIX]  # type: ignore[typeddict-item]
    # x' = a x + c y, y' = b x + d y, with y downwards
    a, b, _, c, d = np.frombuffer(side_data, dtype=np.int32)[:5].astype(np.int64)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        flip_x, flip_y = a < 0, d < 0
    else:
        image = image.transpose(1, 0, 2)
        flip_x, flip_y = c < 0, b < 0
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


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


def _stack(images: list[np.ndarray]) -> UInt8[Tensor, "T 3 H W"]:
    """Stack without holding every frame twice; stored T H W C, the layout in which uint8 frames resize fastest."""
    data = np.empty((len(images), *images[0].shape), dtype=np.uint8)
    for i in range(len(images)):
        data[i] = images[i]
        images[i] = data[i]
    return torch.from_numpy(data).permute(0, 3, 1, 2)
