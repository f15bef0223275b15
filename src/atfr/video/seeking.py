"""Start decoding at a key frame and give the very frames that decoding from the start gives, or refuse.

A decoder numbers no frames. After a seek, only times can tell which frame of the video comes out, and times lie: AVI
stamps frames in decoding order, transport streams start their clocks again, damaged packets give no frame. So the
packets are read first, which is cheap. A seek is trusted only if there are as many packets as frames are known to
decode without a warning (damage may reach across key frames), all times differ and stand in an order that B-frames can
explain, and nothing of a later time comes before the key frame. Then every frame that comes out must be the next one by
its time, undamaged, of the first frame's size and rotation. Whatever else is seen raises `NotExactError`, and the
caller decodes from the start.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from atfr.video.pictures import display_matrix

MIN_SKIP = 16
"""Fewer frames than this are decoded as fast as the packets are read."""
REORDER_DEPTH = 16
"""No codec moves a frame further than this between decoding and display."""


class NotExactError(Exception):
    """Starting at a key frame may give other frames than decoding from the start."""


@dataclass(frozen=True)
class Timeline:
    """The times of a video's frames in display order, and the numbers of the key frames that decoding can start at."""

    pts: list[int]
    keys: list[int]

    def key_before(self, number: int) -> int:
        """Return the last key frame that is not behind frame `number`."""
        return self.keys[int(np.searchsorted(self.keys, number, side="right")) - 1]


def seek_frames(
    container: InputContainer, stream: VideoStream, wanted: Sequence[int], num_frames: int
) -> Iterator[av.VideoFrame]:
    """Give the frames of the numbers in `wanted`, which rise, from a container just opened.

    Args:
        num_frames: how many frames of the file decode.

    Raises:
        NotExactError: it cannot be shown that these are the frames, or there is nothing to be gained.
    """
    if wanted[-1] < MIN_SKIP or stream.frames not in (0, num_frames):
        raise NotExactError("nothing to gain, or packets that give no frame")
    try:
        timeline, first = _read(container, stream, num_frames)
        for key, numbers in groupby(wanted, timeline.key_before):
            yield from _run(container, stream, timeline, key, list(numbers), _form(first))
    except (av.FFmpegError, OSError) as error:
        raise NotExactError(str(error)) from error


def _read(container: InputContainer, stream: VideoStream, num_frames: int) -> tuple[Timeline, av.VideoFrame]:
    """Read all packets, and decode until the first frame comes out."""
    first: av.VideoFrame | None = None
    times: list[int] = []
    keys: list[bool] = []
    for packet in container.demux(stream):
        if first is None:
            first = next(iter(packet.decode()), None)
        if packet.dts is None and packet.size == 0:  # the end
            continue
        if packet.pts is None or packet.is_corrupt or packet.is_discard:
            raise NotExactError("a packet without a time, damaged, or to be discarded")
        times.append(packet.pts)
        keys.append(packet.is_keyframe)
    if first is None or len(times) != num_frames or not keys[0]:
        raise NotExactError("other packets than frames")
    return _timeline(times, keys), first


def _timeline(times: list[int], is_key: list[bool]) -> Timeline:
    """Find each packet's place in display order, from times in decoding order."""
    pts = np.array(times, dtype=np.int64)
    order = np.argsort(pts, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(pts))
    if (np.diff(pts[order]) <= 0).any() or (np.abs(places - np.arange(len(pts))) > REORDER_DEPTH).any():
        raise NotExactError("times that repeat or are out of order")
    nothing_later_before = np.maximum.accumulate(pts) == pts
    keys = np.flatnonzero(np.array(is_key) & nothing_later_before)
    timeline = Timeline(pts[order].tolist(), places[keys].tolist())
    if timeline.keys[0] != 0 or len(timeline.keys) == 1:
        raise NotExactError("no key frame but the first")
    return timeline


def _run(
    container: InputContainer,
    stream: VideoStream,
    timeline: Timeline,
    key: int,
    wanted: list[int],
    form: tuple[int, int, bytes],
) -> Iterator[av.VideoFrame]:
    """Give the frames in `wanted`, decoding from key frame number `key`."""
    container.seek(timeline.pts[key], stream=stream)
    numbers, last = set(wanted), wanted[-1]
    start: int | None = None
    number = key
    for packet in container.demux(stream):
        if start is None:
            start = packet.pts
            known = {timeline.pts[k]: k for k in timeline.keys if k <= key}
            if not packet.is_keyframe or start not in known:
                raise NotExactError("the file does not lead to its key frame")
            number = known[start]
        for frame in packet.decode():
            if frame.pts is not None and start is not None and frame.pts < start:
                continue  # shown before the key frame, decoded after it: incomplete
            if number == len(timeline.pts) or frame.pts != timeline.pts[number] or frame.is_corrupt:
                raise NotExactError("another frame than the next")
            if _form(frame) != form or (frame.pts == start and not frame.key_frame):
                raise NotExactError("another size or rotation, or no key frame")
            if number in numbers:
                yield frame
            if number == last:
                return
            number += 1
    raise NotExactError("frames are missing")


def _form(frame: av.VideoFrame) -> tuple[int, int, bytes]:
    """What the picture of a frame depends on beside its pixels: size and rotation."""
    return frame.width, frame.height, display_matrix(frame)
