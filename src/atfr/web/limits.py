"""How long and how large a video may be that users send."""

from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from atfr.errors import InputError
from atfr.video.container import open_video

MAX_SIDE_PX = 4096
MAX_FPS = 120
"""A video has at most so many frames for each second that is taken: a file may declare any length and frame rate."""
USUAL_FPS = 25


@dataclass(frozen=True)
class Limits:
    """How long and how large a video may be that users send."""

    seconds: float = 60
    megabytes: float = 100

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.megabytes > 0):
            raise InputError(f"limits must be positive, got {self.seconds} seconds and {self.megabytes} megabytes")

    @property
    def bytes(self) -> int:
        """The size of the largest file."""
        return int(self.megabytes * 1e6)

    def __str__(self) -> str:
        return f"{self.seconds:g} seconds, {self.megabytes:g} MB and {MAX_SIDE_PX} pixels a side"


def check_video(path: Path, limits: Limits) -> None:
    """Refuse what is too long or too large, without decoding a frame.

    Raises:
        VideoError: the file is no video.
        InputError: it is beyond a limit.
    """
    if (size := path.stat().st_size) > limits.megabytes * 1e6:
        raise InputError(f"'{path}' has {size / 1e6:.4g} MB; at most {limits.megabytes:g} MB are taken")
    with open_video(path, threads=1) as (container, stream):
        if max(stream.width, stream.height) > MAX_SIDE_PX:
            raise InputError(
                f"'{path}' has frames of {stream.width} x {stream.height} pixels; at most {MAX_SIDE_PX} a side are "
                "taken, so save it smaller"
            )
        most = int(limits.seconds * MAX_FPS)
        frames = count_packets(container, stream, most + 1)
        seconds = frames / float(stream.average_rate or USUAL_FPS)
        if frames > most or seconds > limits.seconds:
            long = f"more than {most} frames" if frames > most else f"{seconds:.3g} seconds"
            raise InputError(f"'{path}' is {long} long; at most {limits.seconds:g} seconds are taken; cut it")


def count_packets(container: InputContainer, stream: VideoStream, most: int) -> int:
    """Return how many packets the stream has, as far as the file can be read; counting ends at `most`."""
    count = 0
    try:
        for packet in container.demux(stream):
            count += packet.size > 0
            if count == most:
                break
    except (av.FFmpegError, OSError):
        pass  # what is left decodes, or does not
    return count
