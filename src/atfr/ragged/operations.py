"""The closed list of operations on packed clips, and how each keeps the clips apart.

`OPERATIONS` maps a torch function to the handler that stands in for it. A handler gets the function and its arguments.
Four kinds: operations that never look across time run as they are; those with a temporal kernel run clip by clip;
those that pool all of time give a plain batch of one row a clip; those that combine tensors check that the clips match.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from atfr.errors import UnsupportedOperationError
from atfr.ragged.packed import TIME, ClipLayout, PackedClips, operation_name

Handler = Callable[..., Any]
OPERATIONS: dict[Any, Handler] = {}

HEAVY_KERNEL = 3  # times the maps of a clip, from which one convolution with gaps is faster (benchmarks/packed.py)

POINTWISE = """relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ elu elu_ celu selu gelu silu mish softplus
    hardswish hardsigmoid sigmoid sigmoid_ tanh tanh_ neg abs exp log sqrt rsqrt square clamp clamp_ clamp_min
    clamp_max nan_to_num dropout clone detach contiguous to float half double bfloat16 cpu cuda""".split()
ARITHMETIC = """add add_ sub sub_ mul mul_ div div_ true_divide __radd__ __rsub__ __rmul__ __rdiv__ __rtruediv__
    __iadd__ __isub__ __imul__ __itruediv__ maximum minimum pow __rpow__""".split()
METADATA = """size dim stride storage_offset numel nelement element_size is_contiguous is_floating_point is_complex
    is_signed get_device data_ptr __len__ __hash__ backward register_hook retain_grad requires_grad_""".split()
PROPERTIES = """shape ndim dtype device layout requires_grad grad_fn is_leaf retains_grad is_cuda is_cpu is_meta
    is_sparse is_quantized is_nested is_mkldnn is_mps is_xpu grad output_nr _version _backward_hooks""".split()


def without_override(func: Handler, *args: Any, **kwargs: Any) -> Any:
    """Call a torch function on the data itself."""
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def packed_like(result: Tensor, layout: ClipLayout) -> PackedClips:
    """Name the clips of a tensor that an operation has just made."""
    if type(result) is Tensor:
        # The class of a fresh result is changed in place: an alias (as_subclass) would be a view, and autograd pays
        # for every in-place operation on a view with copies of the gradient.
        result.__class__ = PackedClips
        result.clip_layout = layout  # type: ignore[attr-defined]
    return result  # type: ignore[return-value]


def by_name(names: Sequence[str], handler: Handler) -> None:
    """List every spelling (torch.x, Tensor.x, F.x) of the named operations under one handler."""
    for name in names:
        for namespace in (torch, Tensor, F):
            if callable(function := getattr(namespace, name, None)):  # torch.float is no function
                OPERATIONS[function] = handler


def metadata(func: Handler, *args: Any, **kwargs: Any) -> Any:
    """Answer a question about the tensor, not about its clips."""
    return without_override(func, *args, **kwargs)


def pointwise(func: Handler, clips: PackedClips, *args: Any, **kwargs: Any) -> PackedClips:
    """Run an operation that treats every position alike."""
    if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        raise UnsupportedOperationError(f"{operation_name(func)} of packed clips with a further tensor")
    return packed_like(without_override(func, clips, *args, **kwargs), clips.clip_layout)


def view_as(func: Handler, clips: PackedClips, other: Tensor) -> PackedClips:
    """View a tensor as itself, as full backward hooks of modules do."""
    if not isinstance(other, PackedClips) or other.clip_layout != clips.clip_layout or other.shape != clips.shape:
        raise UnsupportedOperationError("operation 'view_as' of packed clips and a tensor of another form")
    return packed_like(without_override(func, clips, other), clips.clip_layout)


def parametric_relu(func: Handler, clips: PackedClips, weight: Tensor) -> PackedClips:
    """Run PReLU: its slopes go with channels."""
    return packed_like(without_override(func, clips, weight), clips.clip_layout)


def batch_norm(func: Handler, input: PackedClips, *args: Any, **kwargs: Any) -> PackedClips:
    """Normalise by channel: statistics are those of the real maps, so a clip weighs in by its length."""
    return packed_like(without_override(func, input, *args, **kwargs), input.clip_layout)


def spread(value: Tensor, clips: PackedClips, func: Handler) -> Tensor:
    """Return an operand so that it meets each clip with its own row.

    A plain tensor of N rows and one map in time (what pooling over time gives) is repeated over each clip's maps.
    """
    if isinstance(value, PackedClips):
        if value.clip_layout != clips.clip_layout:
            raise UnsupportedOperationError(
                f"{operation_name(func)} of packed clips of lengths {clips.lengths} and {value.lengths}: every clip "
                "must have the same length on both sides; pool or merge both paths alike"
            )
        return value
    shape = (1,) * (5 - value.dim()) + tuple(value.shape)
    if len(shape) == 5 and shape[TIME] == 1:
        if shape[0] == 1:
            return value
        if shape[0] == len(clips.clip_layout):
            rows = without_override(value.index_select, 0, clips.clip_layout.clip_index(value.device))
            return rows.transpose(0, TIME)  # S C 1 H W -> 1 C S H W
    raise UnsupportedOperationError(
        f"{operation_name(func)} of {len(clips.clip_layout)} packed clips of lengths {clips.lengths} and a tensor of "
        f"shape {tuple(value.shape)}: it must have one map in time, and one row or as many as there are clips"
    )


def arithmetic(func: Handler, input: Any, other: Any, **kwargs: Any) -> PackedClips:
    """Combine packed clips with a number, with packed clips of the same lengths, or with one row a clip."""
    clips = input if isinstance(input, PackedClips) else other
    if "out" in kwargs or (not isinstance(input, PackedClips) and operation_name(func).endswith("_'")):
        raise UnsupportedOperationError(f"{operation_name(func)} would write packed clips into an ordinary tensor")
    operands = [spread(x, clips, func) if isinstance(x, Tensor) else x for x in (input, other)]
    result = without_override(func, *operands, **kwargs)
    if result.shape[TIME] != clips.clip_layout.total or result.dim() != 5 or result.shape[0] != 1:
        raise UnsupportedOperationError(f"{operation_name(func)} gave {tuple(result.shape)}: not clips end to end")
    return packed_like(result, clips.clip_layout)


def clip_by_clip(func: Callable[[Tensor], Tensor], clips: PackedClips) -> PackedClips:
    """Run a function of one clip (1 x C x A x H x W) on each clip; lengths may change."""
    if len(clips.clip_layout) == 1:
        results = [without_override(func, clips)]
    else:
        parts = without_override(torch.split, clips, clips.lengths, dim=TIME)
        results = [func(part) for part in parts]
    lengths = tuple(result.shape[TIME] for result in results)
    if min(lengths) < 1:
        raise UnsupportedOperationError(f"an operation in time would leave nothing of clips of lengths {clips.lengths}")
    layout = clips.clip_layout if lengths == clips.lengths else ClipLayout(lengths)
    return packed_like(results[0] if len(results) == 1 else torch.cat(results, dim=TIME), layout)


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
    """Convolve: as it stands where the kernel stays within one map, clip by clip where it reaches across time."""

    def convolve(clip: Tensor) -> Tensor:
        return func(clip, weight, bias, stride, padding, dilation, groups)

    kernel, same = weight.shape[2], isinstance(padding, str)
    if kernel == 1 and in_time(stride) == 1 and (same or in_time(padding) == 0):
        return packed_like(without_override(convolve, input), input.clip_layout)
    reach = (kernel - 1) * in_time(dilation) + 1
    shortest = min(input.lengths) + (0 if same else 2 * in_time(padding))
    if padding != "same" and shortest < reach:
        raise UnsupportedOperationError(
            f"operation 'conv3d' with a temporal kernel that reaches over {reach} maps and padding {padding} on clips "
            f"of lengths {input.lengths}: the shortest is too short; pad in time, or put SGS behind this layer"
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


def mean_over_time(maps: Float[Tensor, "1 C S H W"], layout: ClipLayout) -> Float[Tensor, "N C 1 H W"]:
    """Return the mean of each clip's own maps."""
    if len(layout) == 1:
        return maps.mean(TIME, keepdim=True)
    rows = maps[0].transpose(0, 1)  # S C H W
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    sums = rows.new_zeros(len(layout), *rows.shape[1:]).index_add(0, layout.clip_index(maps.device), rows)
    lengths = layout.device_lengths(maps.device).to(sums.dtype).view(-1, 1, 1, 1)
    return (sums / lengths).to(maps.dtype).unsqueeze(TIME)


def mean(func: Handler, input: PackedClips, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """Average: over the maps of each clip where time is among the axes, else map by map."""
    axes = {axis % 5 for axis in ([dim] if isinstance(dim, int) else dim or ())}
    if not axes or axes & {0, 1} or (TIME not in axes and not keepdim):
        raise UnsupportedOperationError(
            f"operation 'mean' over axes {dim} (keepdim={keepdim}) of packed clips: the axes may be time, height and "
            "width (2, 3, 4); without time, keepdim=True"
        )
    maps: Tensor = input.plain().to(kwargs.get("dtype") or input.dtype)
    if spatial := tuple(axes - {TIME}):
        maps = maps.mean(spatial, keepdim=True, **kwargs)
    if TIME not in axes:
        return packed_like(maps, input.clip_layout)
    pooled = mean_over_time(maps, input.clip_layout)
    return pooled if keepdim else pooled.squeeze(tuple(axes))


def adaptive_avg_pool3d(func: Handler, input: PackedClips, output_size: Any) -> Tensor:
    """Pool to a fixed size: a plain batch where time is pooled too, packed clips where its size is None."""
    size = triple(output_size)
    if size[0] == 1:
        maps = input.plain()
        spatial = maps.mean((3, 4), keepdim=True) if size[1:] == (1, 1) else func(maps, (maps.shape[2], *size[1:]))
        return mean_over_time(spatial, input.clip_layout)
    return adaptive_pool3d(func, input, size)


def adaptive_pool3d(func: Handler, input: PackedClips, output_size: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Pool each clip to a fixed size and give a plain batch; with None in time, pool each map and stay packed."""
    size = triple(output_size)
    if size[0] is None:
        pooled = without_override(func, input, (input.clip_layout.total, *size[1:]), *args, **kwargs)
        return packed_like(pooled, input.clip_layout)
    clips = [func(clip.unsqueeze(0), size, *args, **kwargs) for clip in input.unpack()]
    return torch.cat(clips, dim=0)


def cat(func: Handler, tensors: Sequence[Any], dim: int = 0) -> PackedClips:
    """Join channels; where two paths merged a clip to different lengths, the shorter is zero-padded, clip by clip."""
    if dim % 5 != 1 or not all(isinstance(tensor, PackedClips) for tensor in tensors):
        raise UnsupportedOperationError(
            f"operation 'cat' of packed clips along axis {dim}: packed clips can be joined with packed clips, along "
            "the channels (axis 1)"
        )
    if len({len(tensor.clip_layout) for tensor in tensors}) > 1:
        raise UnsupportedOperationError("operation 'cat' of packed batches with different numbers of clips")
    lengths = tuple(max(clip) for clip in zip(*(tensor.lengths for tensor in tensors), strict=True))
    layout = tensors[0].clip_layout if lengths == tensors[0].lengths else ClipLayout(lengths)
    padded = [tensor.plain() if tensor.lengths == lengths else lengthened(tensor, lengths) for tensor in tensors]
    return packed_like(torch.cat(padded, dim=1), layout)


def lengthened(clips: PackedClips, lengths: Sequence[int]) -> Float[Tensor, "1 C S H W"]:
    """Return the clips with zeros behind each, up to the lengths."""
    parts = [F.pad(clip, (0, 0, 0, 0, 0, n - clip.shape[1])) for clip, n in zip(clips.unpack(), lengths, strict=True)]
    return torch.cat(parts, dim=1).unsqueeze(0)


def pad(func: Handler, input: PackedClips, pad: Sequence[int], *args: Any, **kwargs: Any) -> PackedClips:
    """Pad height and width as it stands, time clip by clip."""
    if len(pad) > 6:
        raise UnsupportedOperationError("operation 'pad' of packed clips along channels or batch")
    if not any(pad[4:]) and args[:1] != ("circular",) and len(pad) <= 4:
        return packed_like(without_override(func, input, pad, *args, **kwargs), input.clip_layout)
    return clip_by_clip(lambda clip: func(clip, pad, *args, **kwargs), input)


by_name(POINTWISE, pointwise)
by_name(ARITHMETIC, arithmetic)
by_name(METADATA, metadata)
by_name(["prelu"], parametric_relu)
by_name(["view_as"], view_as)
by_name(["batch_norm"], batch_norm)
by_name(["conv3d"], conv3d)
by_name(["max_pool3d"], max_pool3d)
by_name(["avg_pool3d"], avg_pool3d)
by_name(["mean"], mean)
by_name(["adaptive_avg_pool3d"], adaptive_avg_pool3d)
by_name(["adaptive_max_pool3d"], adaptive_pool3d)
by_name(["cat", "concat", "concatenate"], cat)
by_name(["pad"], pad)
OPERATIONS |= {getattr(Tensor, name).__get__: metadata for name in PROPERTIES}
