"""Open the video stream of one file, and decode it packet by packet (PyAV).

Audio, subtitles and cover pictures are ignored. A packet that does not decode is noted and passed over.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from atfr.errors import VideoError
from atfr.video.declared import declared_samples, is_cut_off
from atfr.words import counted

MAX_SIDE_PX = 16_384
MAX_FRAME_PX = 64 * 2**20
MAX_ASPECT = 64
REFERRING = frozenset(
    "applehttp avisynth concat concatf dash hls imf rtp rtsp sap sdp vapoursynth vobsub webm_dash_manifest".split()
)
"""Formats of files that name other files or addresses, or are programs: who sends one would see what is there."""
FORMATS = ",".join(sorted(name for name in av.formats_available if not REFERRING & set(name.split(","))))
NO_VIDEO_FORMATS = frozenset({"tty"})  # FFmpeg would draw any text file as a picture


@dataclass
class Findings:
    """What was met while the file at `path` was decoded: frames, packets that do not decode, damaged frames."""

    path: Path
    count: int = 0
    errors: list[str] = field(default_factory=list)
    damaged_packets: int = 0
    damaged_frames: int = 0

    def warning(self) -> str | None:
        """Say what is wrong with the file after all of it has been decoded; None where nothing is.

        How many frames the file declares says nothing: frames that are cut away by an edit list, or left out because
        nothing changes, are declared too.

        Raises:
            VideoError: no frame was decoded.
        """
        if not self.count:
            reason = f" ({self.errors[0]})" if self.errors else ""
            raise VideoError(
                f"expected a video, but no frame of '{self.path}' decodes{reason}; is the file complete, and no frame "
                f"larger than {MAX_FRAME_PX / 1e6:.3g} million pixels?"
            )
        parts = []
        if is_cut_off(self.path):
            decode = counted(self.count, "frame decodes", "frames decode")
            parts.append(f"it is truncated: it ends before the end that it declares, and {decode}")
        if self.errors:
            parts.append(f"{len(self.errors)} of its packets do not decode ({self.errors[0]})")
        elif self.damaged_packets:
            parts.append(f"{self.damaged_packets} of its packets are damaged")
        if self.damaged_frames:
            parts.append(f"{self.damaged_frames} of {self.count} frames are damaged")
        return f"'{self.path}': {'; '.join(parts)}; what decodes is used" if parts else None


@contextmanager
def open_video(path: Path, threads: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the file and its first video stream, to be decoded with so many threads (0: FFmpeg chooses).

    Raises:
        VideoError: there is no such file, it is no video, or its frames are absurdly large.
    """
    check_file(path)
    with _open(path) as container:
        stream = _video_stream(container, path)
        stream.codec_context.thread_count = threads
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PX)}
        if threads != 1:
            stream.thread_type = "AUTO"
        yield container, stream


def decoded(container: InputContainer, stream: VideoStream, findings: Findings) -> Iterator[av.VideoFrame]:
    """Give every frame that decodes, in display order, and note in `findings` what is met.

    A packet that does not decode is noted and passed over.

    Raises:
        VideoError: a frame is absurdly large.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            findings.errors.append(error.strerror or str(error))
            return
        if packet is None:
            return
        findings.damaged_packets += packet.is_corrupt
        try:
            for frame in packet.decode():
                check_size(frame.width, frame.height, findings.path)
                findings.count += 1
                findings.damaged_frames += frame.is_corrupt
                yield frame
        except av.EOFError:
            return
        except (av.FFmpegError, OSError) as error:
            findings.errors.append(error.strerror or str(error))


def check_size(width: int, height: int, path: Path) -> None:
    """Refuse frames that no clip can be cut from, or that take absurdly much memory."""
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_FRAME_PX:
        raise VideoError(
            f"'{path}' declares frames of {width} x {height} px; at most {MAX_SIDE_PX} px a side and "
            f"{MAX_FRAME_PX / 1e6:.3g} million pixels a frame are read"
        )
    if max(width, height) > MAX_ASPECT * min(width, height) > 0:
        raise VideoError(f"'{path}' has frames of {width} x {height} px, too narrow a strip to cut clips from")


def expected_frames(container: InputContainer, stream: VideoStream) -> int | None:
    """The number of frames that the file declares, where it declares one: a guess."""
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


def check_file(path: Path) -> None:
    """Refuse what is no file, may never end, or is a trap, before anything of it is read.

    Raises:
        VideoError: it cannot be a video.
    """
    if path.is_dir():
        raise VideoError(f"expected a video file, but '{path}' is a folder; name a file in it")
    if not path.exists():
        raise VideoError(f"there is no video file at '{path}'; check the path")
    if not path.is_file():
        raise VideoError(
            f"expected a video file, but '{path}' is a pipe or a device, which may never end; save it first"
        )
    if (size := path.stat().st_size) == 0:
        raise VideoError(f"expected a video, but '{path}' is empty (0 bytes)")
    if (samples := declared_samples(path)) > size:
        raise VideoError(
            f"'{path}' declares {samples} samples in {size} bytes, which cannot be; it is damaged, or a trap"
        )


def _open(path: Path) -> InputContainer:
    """Open the file and nothing else: no playlist leads to other files, nor a colon in a name to a protocol."""
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(MAX_FRAME_PX)}
    try:
        return av.open(f"file:{path}", metadata_errors="ignore", options=options)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"expected a video, but '{path}' cannot be opened as one ({reason})") from error


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
    check_size(stream.width, stream.height, path)
    return stream
