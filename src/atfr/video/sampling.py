"""Which frames of a video make a clip.

A clip of `frames` frames with stride `stride` spans (frames - 1) * stride + 1 video frames:

    frames=4, stride=2:  f.f.f.f  span 7      (f taken, . passed over)

A video shorter than the span repeats from its start: index i stands for frame i modulo the number of frames.

With the stride "video" a clip spans all of the video, whatever its length: one frame of each of `frames` equal parts.

    frames=4, 12 frames:  .f..f..f..f.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from atfr.errors import InputError
from atfr.video.spec import Stride


def clip_indices(num_frames: int, frames: int, stride: Stride, start: int) -> Int64[Tensor, "T"]:
    """Return the video frames of the clip that starts at frame `start`: with "video", of its first part.

    Raises:
        InputError: A count is below 1, or `start` is not a frame of the video.
    """
    _check(num_frames, frames, stride)
    beyond = _last_start(num_frames, frames, stride) + 1 if stride == "video" else num_frames
    if not 0 <= start < beyond:
        raise InputError(f"start must be a frame of the video, 0 to {beyond - 1}, got {start}")
    if stride == "video":
        return torch.arange(frames) * num_frames // frames + start
    return (start + stride * torch.arange(frames)) % num_frames


def uniform_starts(num_frames: int, frames: int, stride: Stride, num_clips: int) -> list[int]:
    """Return the starts of `num_clips` clips spread evenly from the video's first frame to its last.

    One clip is the centred one. In a video that is shorter than a clip, all start at 0.
    """
    last = _last_start(num_frames, frames, stride)
    if num_clips < 1:
        raise InputError(f"num_clips must be at least 1, got {num_clips}")
    if num_clips == 1:
        return [last // 2]
    gaps = num_clips - 1
    return [(2 * i * last + gaps) // (2 * gaps) for i in range(num_clips)]


def random_start(num_frames: int, frames: int, stride: Stride, generator: torch.Generator) -> int:
    """Draw the start of a clip, each possible one equally likely; 0 in a video that is shorter than a clip."""
    last = _last_start(num_frames, frames, stride)
    return int(torch.randint(last + 1, (), generator=generator))


def _last_start(num_frames: int, frames: int, stride: Stride) -> int:
    _check(num_frames, frames, stride)
    if stride == "video":
        return max(num_frames // frames - 1, 0)
    return max(num_frames - ((frames - 1) * stride + 1), 0)


def _check(num_frames: int, frames: int, stride: Stride) -> None:
    for name, count in (("num_frames", num_frames), ("frames", frames), ("stride", stride)):
        if count != "video" and count < 1:
            raise InputError(f"{name} must be at least 1, got {count}")
