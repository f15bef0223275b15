"""The clip in the middle of a video."""

import os
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, Int64
from torch import Tensor

from atfr.video.file import VideoFile
from atfr.video.sampling import clip_indices, uniform_starts
from atfr.video.spec import ClipSpec
from atfr.video.transforms import test_clips


@dataclass(frozen=True)
class CentredClip:
    """The clip in the middle of a video, its centre cropped, as `predict` takes it by default.

    Attributes:
        path: the video file; it is not needed any more.
        clips: the one clip as the network reads it.
        numbers: the numbers of its frames in the video of `video_frames`.
        warning: what was wrong with the file, where only a part of it could be used.
    """

    path: Path
    clips: Float[Tensor, "1 3 T H W"]
    numbers: tuple[int, ...]
    video_frames: int
    warning: str | None


def centred_clip(path: str | os.PathLike[str], spec: ClipSpec) -> CentredClip:
    """Read the centred clip of a video.

    Raises:
        VideoError: the file does not decode.
    """
    video = VideoFile(path, shorter_side=spec.decode_side)
    clips = test_clips(video, spec)
    numbers = centred_frames(len(video), spec).tolist()
    return CentredClip(video.path, clips, tuple(numbers), len(video), video.warning)


def centred_frames(num_frames: int, spec: ClipSpec) -> Int64[Tensor, " T"]:
    """Return the numbers of the frames of the centred clip of a video with so many."""
    start = uniform_starts(num_frames, spec.frames, spec.stride, 1)[0]
    return clip_indices(num_frames, spec.frames, spec.stride, start)
