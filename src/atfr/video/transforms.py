"""Cut clips from decoded frames: one random clip for training, or all the views of a test.

Only the frames that a clip takes are resized and converted. Resizing is bilinear with antialiasing, on uint8.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from atfr.errors import InputError
from atfr.video.decode import Frames
from atfr.video.sampling import clip_indices, random_start, uniform_starts
from atfr.video.spec import ClipSpec


def train_clip(frames: Frames, spec: ClipSpec, generator: torch.Generator) -> Float[Tensor, "3 T H W"]:
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


def test_clips(frames: Frames, spec: ClipSpec, num_clips: int = 1, num_crops: int = 1) -> Float[Tensor, "V 3 T H W"]:
    """Cut the views of a test: `num_clips` clips spread over the video, each in `num_crops` crops, clip by clip.

    One crop is the centre of the frame. Three are its two ends and its centre along the longer side.

    Raises:
        InputError: `num_crops` is neither 1 nor 3, or `num_clips` is below 1.
    """
    if num_crops not in (1, 3):
        raise InputError(f"num_crops must be 1 (centre) or 3 (along the longer side), got {num_crops}")
    starts = uniform_starts(len(frames), spec.frames, spec.stride, num_clips)
    wanted = torch.stack([clip_indices(len(frames), spec.frames, spec.stride, start) for start in starts])
    chosen, place = wanted.unique(return_inverse=True)

    images = _resize(frames, chosen, spec.resize)
    height, width = images.shape[-2:]
    top, left = (height - spec.size) // 2, (width - spec.size) // 2
    if num_crops == 1:
        corners = [(top, left)]
    elif width >= height:
        corners = [(top, 0), (top, left), (top, width - spec.size)]
    else:
        corners = [(0, left), (top, left), (height - spec.size, left)]
    crops = [images[..., y : y + spec.size, x : x + spec.size] for y, x in corners]
    return torch.stack([_normalise(crop[clip], spec) for clip in place for crop in crops])


test_clips.__test__ = False  # type: ignore[attr-defined]  # the name is the contract's; it is no pytest test


def _resize(frames: Frames, indices: Tensor, side: int) -> UInt8[Tensor, "T 3 H W"]:
    """Take the frames at `indices`, each once, with their shorter side scaled to `side`."""
    height, width = frames.data.shape[-2:]
    shorter = min(height, width)
    size = [round(height * side / shorter), round(width * side / shorter)]
    chosen, place = indices.unique(return_inverse=True)
    images = frames.data[chosen]
    if size != [height, width]:
        images = tvf.resize(images, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    return images[place]


def _normalise(clip: UInt8[Tensor, "T 3 H W"], spec: ClipSpec) -> Float[Tensor, "3 T H W"]:
    scaled = tvf.to_dtype(clip, torch.float32, scale=True)
    return tvf.normalize(scaled, mean=list(spec.mean), std=list(spec.std)).transpose(0, 1).contiguous()
