"""Cut clips from decoded frames or from a file: one random clip for training, all the views of a test, or
the clip in the middle.

Only the frames that a clip takes are converted and resized, each once. Resizing is bilinear with antialiasing, on
uint8; numbers of four bytes are made of the pixels of one clip at a time. Both are what torchvision does, which takes
longer to import than all the rest.
"""

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from atfr.errors import InputError
from atfr.video.decode import Frames
from atfr.video.file import VideoFile
from atfr.video.sampling import clip_indices, random_start, uniform_starts
from atfr.video.spec import ClipSpec


def train_clip(frames: Frames | VideoFile, spec: ClipSpec, generator: torch.Generator) -> Float[Tensor, "3 T H W"]:
    """Cut one random clip: random start, shorter side jittered, random crop, mirrored half of the time if `spec.flip`.

    All randomness comes from `generator`, and the number of draws does not depend on their outcome.
    """
    start = random_start(len(frames), spec.frames, spec.stride, generator)
    least, largest = spec.jitter
    side = int(torch.randint(least, largest + 1, (), generator=generator))
    across, down, mirror = torch.rand(3, generator=generator, dtype=torch.float64).tolist()

    images = _resize(frames, clip_indices(len(frames), spec.frames, spec.stride, start), side)
    height, width = images.shape[-2:]
    top, left = int(down * (height - spec.size + 1)), int(across * (width - spec.size + 1))
    clip = images[..., top : top + spec.size, left : left + spec.size]
    if spec.flip and mirror < 0.5:
        clip = clip.flip(-1)
    return _normalise(clip, spec)


@dataclass(frozen=True)
class VideoViews:
    """The views of one video, clip by clip, and of a clip crop by crop: they are cut as they are asked for."""

    images: UInt8[Tensor, "F 3 H W"]  # the frames that any view takes, each once, resized
    clips: Int64[Tensor, "L T"]  # of each clip, where its frames are in `images`
    corners: Sequence[Sequence[tuple[int, int]]]  # of each clip, the upper left corners (y, x) of its crops
    spec: ClipSpec  # the clip

    def __len__(self) -> int:
        return sum(map(len, self.corners))

    def __iter__(self) -> Iterator[Float[Tensor, "3 T H W"]]:
        """Give each view; those of a clip are windows into the same pixels, which are normalised once."""
        size = self.spec.size
        for frames, corners in zip(self.clips, self.corners, strict=True):
            (top, left), (bottom, right) = (
                [pick(place) for place in zip(*corners, strict=True)] for pick in (min, max)
            )
            pixels = _normalise(self.images[frames, :, top : bottom + size, left : right + size], self.spec)
            for y, x in corners:
                yield pixels[:, :, y - top : y - top + size, x - left : x - left + size]

    def __getitem__(self, number: int) -> Float[Tensor, "3 T H W"]:
        """Return one view, by its number in the order of all."""
        clip, crop = divmod(range(len(self))[number], len(self.corners[0]))
        (y, x), size = self.corners[clip][crop], self.spec.size
        return _normalise(self.images[self.clips[clip], :, y : y + size, x : x + size], self.spec)

    def to(self, device: torch.device | str) -> "VideoViews":
        """Return the views on a device, where they are cut then: an eighth of the bytes of the clips goes there."""
        pinned = torch.device(device).type == "cuda"  # so that nothing waits for the copy
        images, clips = (x.pin_memory() if pinned else x for x in (self.images, self.clips))
        return replace(self, images=images.to(device, non_blocking=True), clips=clips.to(device, non_blocking=True))


def test_clips(
    frames: Frames | VideoFile,
    spec: ClipSpec,
    num_clips: int = 1,
    num_crops: int = 1,
    places: torch.Generator | None = None,
) -> Float[Tensor, "V 3 T H W"]:
    """Cut the views of a test, all at once: see `test_views`."""
    return torch.stack(list(test_views(frames, spec, num_clips, num_crops, places)))


def test_views(
    frames: Frames | VideoFile,
    spec: ClipSpec,
    num_clips: int = 1,
    num_crops: int = 1,
    places: torch.Generator | None = None,
) -> VideoViews:
    """Prepare the views of a test: `num_clips` clips spread over the video, each in `num_crops` crops, clip by clip.

    One crop is the centre of the frame. Three are its two ends and its centre along the longer side. With a generator
    of `places` each crop of each clip is somewhere else, every place equally likely.

    Raises:
        InputError: `num_crops` is neither 1 nor 3, or `num_clips` is below 1.
    """
    if num_crops not in (1, 3):
        raise InputError(f"num_crops must be 1 (centre) or 3 (along the longer side), got {num_crops}")

    def wanted(num_frames: int) -> Int64[Tensor, "L T"]:
        starts = uniform_starts(num_frames, spec.frames, spec.stride, num_clips)
        return torch.stack([clip_indices(num_frames, spec.frames, spec.stride, start) for start in starts])

    if isinstance(frames, VideoFile):
        frames.expect(lambda num_frames: wanted(num_frames).flatten())
    chosen, place = wanted(len(frames)).unique(return_inverse=True)

    images = _resize(frames, chosen, spec.resize)
    height, width = images.shape[-2:]
    if places is not None:
        corners = [_random_corners(height - spec.size, width - spec.size, num_crops, places) for _ in place]
    else:
        corners = [_uniform_corners(height - spec.size, width - spec.size, num_crops)] * num_clips
    return VideoViews(images, place, corners, spec)


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


def motion_energy(clips: Iterable[Float[Tensor, "3 T H W"]], spec: ClipSpec) -> Float[Tensor, " V"]:
    """Return the motion in each clip: the mean absolute difference of a pixel from one of its frames to the next.

    Pixels count from 0 to 1, as before normalisation, whatever the stride of the clip; a single frame has no motion.
    """
    by_channel = [clip.diff(dim=1).abs_().mean((1, 2, 3)) if clip.shape[1] > 1 else torch.zeros(3) for clip in clips]
    return torch.stack(by_channel) @ torch.tensor(spec.std) / len(spec.std)


test_clips.__test__ = False  # type: ignore[attr-defined]  # the names are the contract's; they are no pytest tests
test_views.__test__ = False  # type: ignore[attr-defined]


def _uniform_corners(down: int, across: int, num_crops: int) -> list[tuple[int, int]]:
    """Return the upper left corners of crops that may move so far: the centre, or along the longer side."""
    if num_crops == 1:
        return [(down // 2, across // 2)]
    if across >= down:
        return [(down // 2, x) for x in (0, across // 2, across)]
    return [(y, across // 2) for y in (0, down // 2, down)]


def _random_corners(down: int, across: int, num_crops: int, places: torch.Generator) -> list[tuple[int, int]]:
    def draw(largest: int) -> int:
        return int(torch.randint(largest + 1, (), generator=places))

    return [(draw(down), draw(across)) for _ in range(num_crops)]


def _resize(frames: Frames | VideoFile, indices: Tensor, side: int) -> UInt8[Tensor, "T 3 H W"]:
    """Take the frames at `indices`, each once, with their shorter side scaled to `side`."""
    chosen, place = indices.unique(return_inverse=True)
    images = frames.take(chosen)
    height, width = images.shape[-2:]
    shorter = min(height, width)
    size = [round(height * side / shorter), round(width * side / shorter)]
    if size != [height, width]:
        images = _scaled(images, size)
    return images[place]


def _scaled(images: UInt8[Tensor, "F 3 H W"], size: list[int]) -> UInt8[Tensor, "F 3 H2 W2"]:
    """Resize images; in numbers of four bytes where PyTorch has no fast way for single bytes."""
    vectors = platform.machine() in ("aarch64", "arm64") or "AVX" in torch.backends.cpu.get_cpu_capability()
    fast = vectors and images.device.type == "cpu"
    scaled = F.interpolate(images if fast else images.float(), size, mode="bilinear", antialias=True)
    return scaled if fast else scaled.round_().to(torch.uint8)


def _normalise(clip: UInt8[Tensor, "T 3 H W"], spec: ClipSpec) -> Float[Tensor, "3 T H W"]:
    scaled = clip.transpose(0, 1).contiguous().float().mul_(1 / 255)  # rearranged as single bytes
    mean, std = (torch.tensor(values, device=clip.device).view(3, 1, 1, 1) for values in (spec.mean, spec.std))
    return scaled.sub_(mean).div_(std)
