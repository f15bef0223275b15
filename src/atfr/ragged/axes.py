"""Operations that move, merge, cut or join axes, or work along one: all but time, which stays whole and in order."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from atfr.errors import UnsupportedOperationError
from atfr.ragged.at_once import with_room
from atfr.ragged.layout import Window
from atfr.ragged.operations import OPERATIONS, REARRANGED, Handler, by_name, packed_like, without_override
from atfr.ragged.packed import TIME, PackedClips, operation_name
from atfr.ragged.rearranged import (
    RearrangedClips,
    arranged,
    form_of,
    named_axes,
    only_within_maps,
    order_of,
    sizes_of,
)

Clips = PackedClips | RearrangedClips
CHANNELS_ALONE = (1,)


def reorder(func: Handler, input: Clips, *args: Any, **kwargs: Any) -> Clips:
    """Permute axes."""
    form = form_of(input)
    marked = func(torch.empty(list(range(len(form))), device="meta"), *args, **kwargs)  # whose sizes number its axes
    result = without_override(func, input, *args, **kwargs)
    return arranged(result, tuple(form[axis] for axis in marked.shape), sizes_of(input), input.clip_layout)


def flatten(func: Handler, input: Clips, start_dim: int = 0, end_dim: int = -1) -> Clips:
    """Merge axes among time, height and width."""
    form = form_of(input)
    start, end = named_axes(input, (start_dim, end_dim))
    merged = tuple(axis for group in form[start : end + 1] for axis in group)
    if start < end and {0, 1} & set(merged):
        raise UnsupportedOperationError(
            f"operation 'flatten' of packed clips over axes {start} to {end}: clips differ in length, and a linear "
            "layer behind it would need one; pool over time first, with mean((2, 3, 4)) or AdaptiveAvgPool3d(1)"
        )
    result = without_override(func, input, start_dim, end_dim)
    return arranged(result, (*form[:start], merged, *form[end + 1 :]), sizes_of(input), input.clip_layout)


def view(func: Handler, input: Clips, *shape: Any) -> Clips:
    """View as `flatten` from some axis on does, ``x.view(n, c, -1)``; any other shape is refused."""
    wanted = tuple(shape[0]) if isinstance(shape[0], (tuple, list)) else shape
    start = len(wanted) - 1
    rest = input.shape[start:].numel()
    if 1 < start < input.dim() and wanted in ((*input.shape[:start], -1), (*input.shape[:start], rest)):
        return flatten(torch.flatten, input, start)
    raise UnsupportedOperationError(
        f"{operation_name(func)} of packed clips of lengths {input.lengths}, as {tuple(input.shape)}, to {wanted}: "
        "time cannot be moved into another axis, and there is no batch axis to fold it into; pool over time first, "
        "with mean((2, 3, 4)) or AdaptiveAvgPool3d(1), or put the sampler behind it"
    )


def squeeze(func: Handler, input: Clips, dim: Any = None) -> Clips:
    """Drop channels, height or width where they have size 1."""
    dims = named_axes(input, dim)
    if not dims:
        raise UnsupportedOperationError("operation 'squeeze' of packed clips without axes: it would drop the batch")
    only_within_maps(func, input, dims)
    form = tuple(group for d, group in enumerate(form_of(input)) if d not in dims or input.shape[d] != 1)
    return arranged(without_override(func, input, dim), form, sizes_of(input), input.clip_layout)


def unsqueeze(func: Handler, input: Clips, dim: int) -> Clips:
    """Put an axis of size 1 in place of one that has been averaged away: the next behind those before it."""
    form = form_of(input)
    place = dim + len(form) + 1 if dim < 0 else dim
    before = [axis for group in form[:place] for axis in group]
    gone = order_of(form)[1]
    if not gone or not place:
        raise UnsupportedOperationError(
            "operation 'unsqueeze' of packed clips with all of their axes, or in front of them: it would make a new one"
        )
    axis = next((axis for axis in gone if axis > max(before, default=-1)), gone[-1])
    result = without_override(func, input, dim)
    sizes = [1 if own == axis else size for own, size in enumerate(sizes_of(input))]
    return arranged(result, (*form[:place], (axis,), *form[place:]), sizes, input.clip_layout)


def along(position: int, default: int | None = None) -> Handler:
    """Return the handler of an operation along one axis, which stands at a position behind the clips."""

    def run(func: Handler, input: Clips, *args: Any, **kwargs: Any) -> Any:
        dim = kwargs.get("dim", kwargs.get("axis", args[position] if len(args) > position else default))
        if dim is None:
            raise UnsupportedOperationError(f"{operation_name(func)} of packed clips without an axis; name it, dim=1")
        (axis,) = named_axes(input, dim)
        only_within_maps(func, input, [axis])
        result = without_override(func, input, *args, **kwargs)
        return tuple(part_of(input, part) for part in result) if isinstance(result, tuple) else part_of(input, result)

    return run


def part_of(input: Clips, part: Tensor) -> Clips:
    """Name the clips of a part cut from clips along axes that stand alone."""
    sizes = list(sizes_of(input))
    for group, size in zip(form_of(input), part.shape, strict=True):
        if len(group) == 1:
            sizes[group[0]] = size
    return arranged(part, form_of(input), sizes, input.clip_layout)


def getitem(func: Handler, input: Clips, index: Any) -> Clips:
    """Cut slices of channels, height and width, and every k-th map of each clip, from its first."""
    items = list(index) if isinstance(index, tuple) else [index]
    if (at := next((i for i, item in enumerate(items) if item is Ellipsis), None)) is not None:
        items[at : at + 1] = [slice(None)] * (input.dim() + 1 - len(items))
    if not all(isinstance(item, slice) for item in items):
        raise UnsupportedOperationError(
            f"indexing of packed clips with {index}: slices of channels, height and width only, x[:, :8]"
        )
    if isinstance(input, PackedClips) and len(items) > TIME and items[TIME].step not in (None, 1):
        step, items[TIME] = items[TIME], slice(None)
        if step.start is None and step.stop is None:
            return getitem(func, every(input, step.step), tuple(items))
        items[TIME] = step
    only_within_maps(func, input, [dim for dim, item in enumerate(items) if item != slice(None)])
    return part_of(input, without_override(func, input, tuple(items)))


def every(input: PackedClips, step: int) -> PackedClips:
    """Return every `step`-th map of each clip, from its first, as SlowFast's slow pathway takes frames."""
    maps, before = input.plain(), input.clip_layout
    lengths_N = before.device_lengths(maps.device)
    after = before.through(Window(1, step), (lengths_N - 1).div(step, rounding_mode="floor") + 1)
    begins_S = (lengths_N.cumsum(0) - lengths_N)[after.clip_index(maps.device)]
    taken_S = (begins_S + step * after.time_index(maps.device)).clamp(max=before.total - 1)  # in a bucket's last clip
    return packed_like(maps.index_select(TIME, taken_S), after)


def norm_of_last(func: Handler, input: Clips, normalized_shape: Any, *args: Any, **kwargs: Any) -> Clips:
    """Normalise over the last axes."""
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    only_within_maps(func, input, range(input.dim() - count, input.dim()))
    result = without_override(func, input, normalized_shape, *args, **kwargs)
    return arranged(result, form_of(input), sizes_of(input), input.clip_layout)


def of_channels(place: int, trouble: str) -> Handler:
    """Return the handler of an operation that wants the channels at a place; batch statistics are of the real maps."""

    def run(func: Handler, input: RearrangedClips, *args: Any, **kwargs: Any) -> Clips:
        if input.form[place] != CHANNELS_ALONE:
            raise UnsupportedOperationError(f"{operation_name(func)} on packed clips of form {input.form}: {trouble}")
        return part_of(input, without_override(func, input, *args, **kwargs))

    return run


def cat(func: Handler, tensors: Sequence[Any], dim: int = 0) -> PackedClips:
    """Join channels; where two paths merged a clip to different lengths, the shorter is zero-padded, clip by clip."""
    packed = [tensor for tensor in tensors if isinstance(tensor, PackedClips)]
    paths = [one_map_each(tensor, packed[0]) for tensor in tensors]
    if dim not in (1, -4) or not all(isinstance(path, PackedClips) for path in paths):
        raise UnsupportedOperationError(
            f"operation 'cat' of packed clips along axis {dim}: packed clips can be joined with packed clips, along "
            "the channels (axis 1); put a sampler into every path that is joined, or use atfr.ragged.cat_clips"
        )
    if len({len(path.clip_layout) for path in paths}) > 1:
        compiled = any(path.clip_layout.traced for path in paths)  # one clip more lies behind a sampler
        advice = ": under atfr.compile every path that is joined needs a sampler" if compiled else ""
        raise UnsupportedOperationError(f"operation 'cat' of packed batches with different numbers of clips{advice}")
    layout = functools.reduce(lambda one, other: one.joined(other), (path.clip_layout for path in paths))
    padded = [path.plain() if path.clip_layout == layout else with_room(path, layout).plain() for path in paths]
    return packed_like(torch.cat(padded, dim=1), layout)


def one_map_each(tensor: Any, clips: PackedClips) -> Any:
    """Return a plain N x C x 1 x H x W as packed clips, where each packed clip has one map too (heads that pool)."""
    alike = (len(clips.clip_layout), 1)
    if type(tensor) is not Tensor or tensor.dim() != 5 or (tensor.shape[0], tensor.shape[TIME]) != alike:
        return tensor
    return packed_like(tensor.transpose(0, TIME), clips.clip_layout) if clips.clip_layout.one_map_each else tensor


by_name("permute transpose swapaxes swapdims movedim moveaxis".split(), reorder, OPERATIONS, REARRANGED)
by_name(["flatten"], flatten, OPERATIONS, REARRANGED)
by_name(["view", "reshape"], view, OPERATIONS, REARRANGED)
by_name(["squeeze"], squeeze, OPERATIONS, REARRANGED)
by_name(["unsqueeze"], unsqueeze, OPERATIONS, REARRANGED)
by_name(["softmax", "log_softmax", "narrow", "index_select"], along(0), OPERATIONS, REARRANGED)
by_name(["chunk", "split"], along(1, 0), OPERATIONS, REARRANGED)
by_name(["normalize"], along(1, 1), OPERATIONS, REARRANGED)
by_name(["__getitem__"], getitem, OPERATIONS, REARRANGED)
by_name(["layer_norm", "rms_norm"], norm_of_last, OPERATIONS, REARRANGED)
by_name(["linear"], of_channels(-1, "channels must be last"), REARRANGED)
by_name(["batch_norm"], of_channels(1, "channels are not second"), REARRANGED)
by_name(["cat", "concat", "concatenate"], cat)
