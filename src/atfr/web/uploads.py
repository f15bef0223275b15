"""Files that users send: what is taken, and that nothing of it stays."""

import os
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from atfr.errors import InputError, VideoError
from atfr.video.container import open_video
from atfr.video.spec import ClipSpec
from atfr.viz import CentredClip, centred_clip

MAX_SIDE_PX = 4096
MAX_FPS = 120
"""A video has at most so many frames for each second that is taken: a file may declare any length and frame rate."""
USUAL_FPS = 25
REMEMBERED = 8


@dataclass(frozen=True)
class Limits:
    """How long and how large a video may be that users send."""

    seconds: float = 60
    megabytes: float = 100

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.megabytes > 0):
            raise InputError(f"limits must be positive, got {self.seconds} seconds and {self.megabytes} megabytes")

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


class Inbox:
    """Reads the clip of a file that a user sent, and removes the file.

    The same bytes of the same name have the same place, whoever sends them, so that a file may be gone when its second
    sender's turn comes: the last few clips are remembered.

    Args:
        folder: what users send lies somewhere in it; nothing else is read or removed.
        spec: the clip that is read.
        limits: what is beyond them is refused.
    """

    def __init__(self, folder: Path, spec: ClipSpec, limits: Limits) -> None:
        self.folder, self.spec, self.limits = folder.resolve(), spec, limits
        self._turn = threading.Lock()
        self._last: OrderedDict[Path, CentredClip] = OrderedDict()

    def take(self, sent: str | os.PathLike[str]) -> CentredClip:
        """Return the centred clip of a file, which is removed whatever comes of it; its path is the bare name.

        Raises:
            VideoError: the file is no video.
            InputError: it is too long or too large, does not lie in the folder, or is not there any more.
        """
        path = Path(sent).resolve()
        if self.folder not in path.parents:
            raise InputError(f"'{path.name}' was not sent to this page")
        with self._turn:
            if not path.is_file():
                if path not in self._last:
                    raise InputError(f"'{path.name}' is not there any more; send it again")
                return self._last[path]
            try:
                clip = self._read(path)
            finally:
                shutil.rmtree(path.parent) if path.parent != self.folder else path.unlink()
            self._last[path] = clip
            if len(self._last) > REMEMBERED:
                self._last.popitem(last=False)
            return clip

    def _read(self, path: Path) -> CentredClip:
        """Return the clip of a file, in whose messages the folder is not named."""
        bare = Path(path.name)
        try:
            check_video(path, self.limits)
            clip = centred_clip(path, self.spec)
        except (InputError, VideoError) as error:
            raise type(error)(str(error).replace(str(path), str(bare))) from error
        warning = clip.warning and clip.warning.replace(str(path), str(bare))
        return replace(clip, path=bare, warning=warning)
