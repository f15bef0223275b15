"""Operations with a window in space and time: as they stand within one map, clip by clip across time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from atfr.errors import UnsupportedOperationError
from atfr.kernels import conv3d as convolution
from atfr.kernels import ragged_depthwise
from atfr.ragged.at_once import at_once, lengthened
from atfr.ragged.layout import Window
from atfr.ragged.operations import Handler, are_a_batch, by_name, clip_by_clip, packed_like, without_override
from atfr.ragged.packed import TIME, PackedClips


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
    padding = in_numbers(padding, weight, dilation)
    if ragged_depthwise.takes(maps, weight, stride, padding, dilation, groups):
        bounds = input.clip_layout.bounds(maps.device)
        result = ragged_depthwise.depthwise_clips(maps, weight, bias, bounds, stride, padding)
        return packed_like(result, input.clip_layout)
    layout, layer = input.clip_layout, (maps, weight, stride, padding, dilation, groups)
    apart = len(layout) > 1 and not are_a_batch(input)
    if not layout.traced and (convolution.gains(*layer) or (apart and convolution.gains_packed(*layer))):
        return packed_like(convolution.convolve(maps, weight, bias, stride, padding, layout.lengths), layout)

    def convolve(clips: Tensor, padding: Any) -> Tensor:
        plain = clips.as_subclass(Tensor)
        maps, kernel, *window = convolution.around_faults(plain, weight, stride, padding, dilation)
        return func(clips if maps is plain else maps, kernel, bias, *window, groups)

    return convolved(convolve, input, weight, stride, padding, dilation)


def in_numbers(padding: Any, weight: Tensor, dilation: Sequence[int]) -> Any:
    """Return a convolution's padding as a triple; only "same" that pads more on one side stays a word."""
    if not isinstance(padding, str):
        return triple(padding)
    over = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    return padding if any(both % 2 for both in over) else tuple(both // 2 for both in over)


def convolved(
    convolve: Callable[[Tensor, Any], Tensor],
    input: PackedClips,
    weight: Tensor,
    stride: Any,
    padding: Any,
    dilation: Any,
) -> PackedClips:
    """Run a convolution: as it stands where the kernel stays within one map, else once for all clips or clip by clip.

    Args:
        convolve: of maps, with a padding.
        padding: a triple, or "same".
    """
    if isinstance(padding, str):
        return clip_by_clip(lambda clip: convolve(clip, padding), input)
    window = Window((weight.shape[2] - 1) * in_time(dilation) + 1, in_time(stride), padding[0])
    if window == Window(1):
        return packed_like(without_override(convolve, input, padding), input.clip_layout)
    if window.results(input.clip_layout.shortest) < 1:
        raise UnsupportedOperationError(
            f"operation 'conv3d' with a temporal kernel that reaches over {window.reach} maps and padding {padding} on "
            f"clips of which the shortest has {input.clip_layout.shortest}, too few: pad in time, or put the sampler "
            "behind this layer"
        )
    if all_at_once(input):
        return at_once(lambda maps: convolve(maps, (0, *padding[1:])), input, window)
    return clip_by_clip(lambda clip: convolve(clip, padding), input)


def all_at_once(clips: PackedClips) -> bool:
    """Whether operations across time run once for all clips, set apart, and not clip by clip.

    On a GPU each call costs microseconds, whatever it does. On a CPU clip by clip is faster, as nothing is moved.
    """
    layout, device = clips.clip_layout, clips.device.type
    on_gpu = device not in ("cpu", "meta")  # meta: where costs are counted
    return layout.traced or (len(layout) > 1 and on_gpu and not are_a_batch(clips))


def windowed(
    pool: Callable[[Tensor, Any, Any], Tensor],
    clips: PackedClips,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    fill: float,
    at_the_end: bool,
) -> PackedClips:
    """Pool: as it stands within one map, else once for all clips or clip by clip; clamped to clips that are shorter.

    Args:
        pool: of maps, with a window and a padding.
        fill: what is padded with.
        at_the_end: whether a window may reach beyond the end (ceil_mode).
    """
    kernel, padding = triple(kernel_size), triple(padding)
    window = Window(kernel[0], in_time(stride), padding[0], clamped=True)
    if window == Window(1, clamped=True):
        return packed_like(without_override(pool, clips, kernel, padding), clips.clip_layout)
    if all_at_once(clips) and not at_the_end:
        return at_once(lambda maps: pool(maps, kernel, (0, *padding[1:])), clips, window, fill)

    def pool_clip(clip: Tensor) -> Tensor:
        return pool(clip, (min(kernel[0], clip.shape[TIME] + 2 * padding[0]), *kernel[1:]), padding)

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

    def pool(clip: Tensor, kernel: Any, padding: Any) -> Tensor:
        return F.max_pool3d(clip, kernel, step, padding, dilation, ceil_mode)

    return windowed(pool, input, kernel_size, step, padding, -torch.inf, ceil_mode)


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
    step, reach, around = stride or kernel_size, in_time(kernel_size), in_time(padding)

    def pool(clip: Tensor, kernel: Any, padding: Any) -> Tensor:
        if clip.shape[TIME] >= kernel[0]:
            return F.avg_pool3d(clip, kernel, step, padding, ceil_mode, count_include_pad, divisor_override)
        # torch takes no clip that reaches the kernel's length only with its padding: pad in time by hand
        t, h, w = padding
        padded, real = (F.pad(maps, (0, 0, 0, 0, t, t)) for maps in (clip, torch.ones_like(clip)))
        mean = F.avg_pool3d(padded, kernel, step, (0, h, w), ceil_mode, count_include_pad, divisor_override)
        if count_include_pad or divisor_override:
            return mean
        return mean / F.avg_pool3d(real, kernel, step, (0, h, w), ceil_mode, False)

    pooled = windowed(pool, input, kernel_size, step, padding, 0.0, ceil_mode)
    if reach == 1 or divisor_override or ceil_mode or not all_at_once(input):
        return pooled
    counts = counted(input, pooled, reach, in_time(step), around, count_include_pad)
    # all at once, the sum over a window was divided by its reach, whatever of it counts
    return packed_like(pooled.plain() * (reach / counts.to(pooled.dtype)).view(1, 1, -1, 1, 1), pooled.clip_layout)


def counted(
    before: PackedClips, after: PackedClips, reach: int, stride: int, padding: int, with_padding: bool
) -> Int[Tensor, " S"]:
    """Return how many maps count in the window of each result of a pool."""
    device = before.device
    lengths = before.clip_layout.device_lengths(device)[after.clip_layout.clip_index(device)]
    if with_padding:
        return (lengths + 2 * padding).clamp(max=reach)
    begins = after.clip_layout.time_index(device) * stride - padding
    return (begins + reach).minimum(lengths) - begins.clamp(min=0)


def pad(
    func: Handler, input: PackedClips, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> PackedClips:
    """Pad channels, height and width as they stand, time clip by clip."""
    if len(pad) > 8:
        raise UnsupportedOperationError("operation 'pad' of packed clips along the batch")
    if mode != "constant" or any(width < 0 for width in pad[4:6]):
        return clip_by_clip(lambda clip: func(clip, pad, mode, value), input)
    before, behind = (*pad[4:6], 0, 0)[:2]
    within = [*pad[:4], *((0, 0, *pad[6:]) if pad[4:] else ())]
    result = packed_like(without_override(func, input, within, mode, value), input.clip_layout)
    if before == behind == 0:
        return result
    lengths_N = result.clip_layout.device_lengths(result.device) + before + behind
    return lengthened(result, Window(1 - before - behind), lengths_N, before, value or 0.0)


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
