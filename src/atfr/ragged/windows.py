"""Operations with a window in space and time: as they stand within one map, clip by clip across time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from atfr.errors import UnsupportedOperationError
from atfr.kernels import conv3d as convolution
from atfr.ragged.operations import Handler, by_name, clip_by_clip, packed_like, without_override
from atfr.ragged.packed import TIME, PackedClips

HEAVY_KERNEL = 3  # times the maps of a clip, from which one convolution with gaps is faster (benchmarks/packed.py)


def triple(value: Any) -> tuple[Any, ...]:
    """Return an int three times, a (T, H, W) triple as it is."""
    return (value,) * 3 if isinstance(value, int) else tuple(value)


def in_time(value: Any) -> Any:
    """Return the temporal entry of an int or of a (T, H, W) triple."""
    return value[0] if isinstance(value, (tuple, list)) else value


def conv3d(
    func: Handler,
    input: PackedClips,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> PackedClips:
    """Convolve, with the convolution that suits the maps."""
    maps = input.plain()
    stride, dilation = triple(stride), triple(dilation)
    padding = padding if isinstance(padding, str) else triple(padding)
    if convolution.gains(maps, weight, stride, padding, dilation, groups):
        return packed_like(convolution.convolve(maps, weight, bias, stride, padding, input.lengths), input.clip_layout)

    def convolve(clip: Tensor) -> Tensor:
        return func(clip, weight, bias, stride, padding, dilation, groups)

    return convolved(convolve, input, weight, stride, padding, dilation)


def convolved(
    convolve: Callable[[Tensor], Tensor],
    input: PackedClips,
    weight: Tensor,
    stride: Any,
    padding: Any,
    dilation: Any,
) -> PackedClips:
    """Run a convolution: as it stands where the kernel stays within one map, clip by clip where it reaches further."""
    kernel, same = weight.shape[2], isinstance(padding, str)
    if kernel == 1 and in_time(stride) == 1 and (same or in_time(padding) == 0):
        return packed_like(without_override(convolve, input), input.clip_layout)
    reach = (kernel - 1) * in_time(dilation) + 1
    shortest = min(input.lengths) + (0 if same else 2 * in_time(padding))
    if padding != "same" and shortest < reach:
        raise UnsupportedOperationError(
            f"operation 'conv3d' with a temporal kernel that reaches over {reach} maps and padding {padding} on clips "
            f"of lengths {input.lengths}: the shortest is too short; pad in time, or put the sampler behind this layer"
        )
    gap = 0 if same else in_time(padding)
    keeps_lengths = in_time(stride) == 1 and reach == 2 * gap + 1
    heavy = weight.numel() * len(input.lengths) > HEAVY_KERNEL * input.numel()
    return with_gaps(convolve, input, gap) if keeps_lengths and heavy else clip_by_clip(convolve, input)


def with_gaps(func: Callable[[Tensor], Tensor], clips: PackedClips, gap: int) -> PackedClips:
    """Run a convolution that keeps lengths once for all clips, with so many maps of zeros between them as it pads.

    A convolution prepares its kernel at every call; where the kernel is far larger than a clip's maps that is most of
    the time of going clip by clip, and the zeros cost less.
    """
    maps = clips.plain()
    zeros = maps.new_zeros(*maps.shape[:TIME], gap, *maps.shape[TIME + 1 :])
    apart = [part for clip in maps.split(clips.lengths, dim=TIME) for part in (clip, zeros)][:-1]
    result = func(torch.cat(apart, dim=TIME))
    kept = result.split([part.shape[TIME] for part in apart], dim=TIME)[::2]
    return packed_like(torch.cat(kept, dim=TIME), clips.clip_layout)


def windowed(
    pool: Callable[[Tensor, tuple[int, ...]], Tensor], clips: PackedClips, kernel_size: Any, stride: Any, padding: Any
) -> PackedClips:
    """Pool with a window: clip by clip where it reaches across time, clamped to clips shorter than the window."""
    kernel = triple(kernel_size)
    if kernel[0] == 1 and in_time(stride) == 1 and in_time(padding) == 0:
        return packed_like(without_override(pool, clips, kernel), clips.clip_layout)

    def pool_clip(clip: Tensor) -> Tensor:
        return pool(clip, (min(kernel[0], clip.shape[TIME] + 2 * in_time(padding)), *kernel[1:]))

    return clip_by_clip(pool_clip, clips)


def max_pool3d(
    func: Handler,
    input: PackedClips,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> PackedClips:
    """Take the maximum over a window."""
    if in_time(dilation) != 1 or return_indices:
        raise UnsupportedOperationError("operation 'max_pool3d' with temporal dilation or indices, on packed clips")
    step = stride or kernel_size

    def pool(clip: Tensor, kernel: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(clip, kernel, step, padding, dilation, ceil_mode)

    return windowed(pool, input, kernel_size, step, padding)


def avg_pool3d(
    func: Handler,
    input: PackedClips,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> PackedClips:
    """Average over a window."""
    step = stride or kernel_size

    def pool(clip: Tensor, kernel: tuple[int, ...]) -> Tensor:
        if clip.shape[TIME] >= kernel[0]:
            return F.avg_pool3d(clip, kernel, step, padding, ceil_mode, count_include_pad, divisor_override)
        # torch takes no clip that reaches the kernel's length only with its padding: pad in time by hand
        t, h, w = triple(padding)
        around = (0, 0, 0, 0, t, t)
        padded = F.pad(clip, around)
        mean = F.avg_pool3d(padded, kernel, step, (0, h, w), ceil_mode, count_include_pad, divisor_override)
        if count_include_pad or divisor_override:
            return mean
        return mean / F.avg_pool3d(F.pad(torch.ones_like(clip), around), kernel, step, (0, h, w), ceil_mode, False)

    return windowed(pool, input, kernel_size, step, padding)


def pad(func: Handler, input: PackedClips, pad: Sequence[int], *args: Any, **kwargs: Any) -> PackedClips:
    """Pad channels, height and width as they stand, time clip by clip."""
    if len(pad) > 8:
        raise UnsupportedOperationError("operation 'pad' of packed clips along the batch")
    if not any(pad[4:6]) and args[:1] != ("circular",) and len(pad) != 6:
        return packed_like(without_override(func, input, pad, *args, **kwargs), input.clip_layout)
    return clip_by_clip(lambda clip: func(clip, pad, *args, **kwargs), input)


def interpolate(
    func: Handler, input: PackedClips, size: Any = None, scale_factor: Any = None, *args: Any, **kwargs: Any
) -> PackedClips:
    """Resize each clip by a factor."""
    if size is not None:
        raise UnsupportedOperationError(
            f"operation 'interpolate' of packed clips to size {size}: clips have no common length; give a factor for "
            "each axis, scale_factor=(1, 2, 2), or pool in space with AdaptiveAvgPool3d((None, h, w))"
        )
    return clip_by_clip(lambda clip: func(clip, None, scale_factor, *args, **kwargs), input)


by_name(["conv3d"], conv3d)
by_name(["max_pool3d"], max_pool3d)
by_name(["avg_pool3d"], avg_pool3d)
by_name(["pad"], pad)
by_name(["interpolate"], interpolate)
