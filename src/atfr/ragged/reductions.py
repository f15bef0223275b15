"""Pooling over whole axes: over time it gives a plain batch of one row a clip, over others the clips stay packed."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atfr.errors import UnsupportedOperationError
from atfr.ragged.layout import ClipLayout
from atfr.ragged.operations import OPERATIONS, REARRANGED, Handler, by_name, packed_like, without_override
from atfr.ragged.packed import TIME, PackedClips, operation_name
from atfr.ragged.rearranged import RearrangedClips, arranged, form_of, maps_of, named_axes, only_within_maps, rearrange
from atfr.ragged.rows import mean_over_space
from atfr.ragged.windows import triple

Clips = PackedClips | RearrangedClips


def mean_over_time(maps: Float[Tensor, "1 C S H W"], layout: ClipLayout) -> Float[Tensor, "N C 1 H W"]:
    """Return the mean of each clip's own maps."""
    if len(layout) == 1:
        return maps.mean(TIME, keepdim=True)
    rows = maps[0].transpose(0, 1)  # S C H W
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    sums = rows.new_zeros(len(layout), *rows.shape[1:]).index_add(0, layout.clip_index(maps.device), rows)
    lengths = layout.device_lengths(maps.device).to(sums.dtype).view(-1, 1, 1, 1)
    return (sums / lengths).to(maps.dtype).unsqueeze(TIME)


def reduced_axes(func: Handler, input: Clips, dims: Any) -> set[int]:
    """Return the axes of the maps 1 x C x S x H x W over which an operation goes."""
    axes = {axis for dim in named_axes(input, dims) for axis in form_of(input)[dim]}
    if not axes or 0 in axes:
        raise UnsupportedOperationError(
            f"{operation_name(func)} over axes {dims} of packed clips: name the axes, channels, time, height or width; "
            "(2, 3, 4) pools each clip"
        )
    return axes


def without_axes(input: Clips, pooled: Tensor, dims: Any, keepdim: bool) -> Tensor:
    """Return pooled maps (all five axes) in the form of the input: a plain batch where time is pooled, else clips."""
    gone = () if keepdim else named_axes(input, dims)
    form = tuple(group for dim, group in enumerate(form_of(input)) if dim not in gone)
    result = rearrange(pooled, form)
    if any(TIME in form_of(input)[dim] for dim in named_axes(input, dims)):
        return result
    return arranged(result, form, pooled.shape, input.clip_layout)


def mean(func: Handler, input: Clips, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """Average: over the maps of each clip where time is among the axes, else map by map."""
    axes = reduced_axes(func, input, dim)
    maps = maps_of(input).to(kwargs.get("dtype") or input.dtype)
    if axes >= {3, 4}:
        maps, axes = mean_over_space(maps)[..., None, None], axes - {3, 4}
    if within := tuple(axes - {TIME}):
        maps = maps.mean(within, keepdim=True, **kwargs)
    pooled = mean_over_time(maps, input.clip_layout) if TIME in axes else maps
    return without_axes(input, pooled, dim, keepdim)


def total(func: Handler, input: Clips, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """Sum map by map. Over time it is refused: networks divide such a sum by x.shape[2], which is no clip's length."""
    axes = reduced_axes(func, input, dim)
    if TIME in axes:
        raise UnsupportedOperationError(
            f"operation 'sum' over axes {dim} of packed clips, time among them: clips differ in length; use mean"
        )
    return without_axes(input, maps_of(input).sum(tuple(axes), keepdim=True, **kwargs), dim, keepdim)


def extreme(func: Handler, input: Clips, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Take the largest or smallest: of each clip where time is among the axes, else map by map."""
    axes = tuple(reduced_axes(func, input, dim))
    parts = maps_of(input).split(input.lengths, dim=TIME) if TIME in axes else [maps_of(input)]
    pooled = torch.cat([func(part, axes, keepdim=True) for part in parts])
    return without_axes(input, pooled, dim, keepdim)


def adaptive_avg_pool3d(func: Handler, input: PackedClips, output_size: Any) -> Tensor:
    """Pool to a fixed size: a plain batch where time is pooled too, packed clips where its size is None."""
    size = triple(output_size)
    if size[0] == 1:
        maps = input.plain()
        if size[1:] == (1, 1):
            spatial = mean_over_space(maps)[..., None, None]
        else:
            spatial = func(maps, (maps.shape[TIME], *size[1:]))
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


def largest(func: Handler, input: Clips, dim: Any = None, keepdim: bool = False) -> Any:
    """Take the larger of two, or the largest along one axis within a map, with its place there (max, min)."""
    if isinstance(dim, Tensor):
        return OPERATIONS[torch.maximum](func, input, dim)
    axes = reduced_axes(func, input, dim)
    only_within_maps(func, input, named_axes(input, dim))
    found = func(maps_of(input), next(iter(axes)), True)
    return type(found)(without_axes(input, part, dim, keepdim) for part in found)


def numpy_names(handler: Handler) -> Handler:
    """Take `axis` and `keepdims` for `dim` and `keepdim`, as torch does."""
    names = {"axis": "dim", "keepdims": "keepdim"}
    return lambda func, *args, **kwargs: handler(func, *args, **{names.get(key, key): kwargs[key] for key in kwargs})


by_name(["mean"], numpy_names(mean), OPERATIONS, REARRANGED)
by_name(["sum"], numpy_names(total), OPERATIONS, REARRANGED)
by_name(["amax", "amin"], numpy_names(extreme), OPERATIONS, REARRANGED)
by_name(["max", "min"], numpy_names(largest), OPERATIONS, REARRANGED)
by_name(["adaptive_avg_pool3d"], adaptive_avg_pool3d)
by_name(["adaptive_max_pool3d"], adaptive_pool3d)
