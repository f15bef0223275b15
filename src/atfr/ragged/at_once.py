"""Windows in time over all clips at once: a number of calls that does not depend on how many clips there are.

Clips are laid out with room between them, as wide as the window pads, and filled with what it pads with. Then one
convolution or pool goes over all of them, and of its results those are kept that lie within a clip. Where things lie is
calculated on the maps' device from the clips' lengths there, once for a window and a layout, so that nothing waits.

N clips, S maps of all clips, R maps with the room between them, D numbers of a map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atfr.ragged.layout import ClipLayout, Same, Window
from atfr.ragged.operations import packed_like
from atfr.ragged.packed import PackedClips
from atfr.ragged.rows import channels_innermost

Within = Callable[[Float[Tensor, "1 C R H W"]], Float[Tensor, "1 C2 R2 H2 W2"]]
"""A convolution or pool that takes its window and stride in time, but pads nothing there."""


@dataclass(frozen=True)
class Places:
    """Where clips lie that were set apart.

    Attributes:
        total: R.
        maps: the place of each map.
        layout: that of the results.
        results: the places of the results among those of the operation.
    """

    total: int
    maps: Int[Tensor, " S"]
    layout: ClipLayout
    results: Int[Tensor, " S2"]


def at_once(within: Within, clips: PackedClips, window: Window, fill: float = 0.0) -> PackedClips:
    """Run a convolution or pool once for all clips.

    Args:
        fill: what is padded with.
    """
    maps, layout = clips.plain(), clips.clip_layout
    key = (window, maps.device)
    if (places := layout.kept.get(key)) is None:
        places = layout.kept[key] = places_of(layout, window, maps.device)
    rows, form, innermost = as_rows(within(apart(maps, places.maps, places.total, fill)))
    return packed_like(of_rows(rows.index_select(0, places.results), form, innermost), places.layout)


def with_room(
    clips: PackedClips, layout: ClipLayout, before: int | Int[Tensor, " N"] = 0, fill: float = 0.0
) -> PackedClips:
    """Return clips lengthened to those of a layout, by so many maps before each (or by its own number) and the rest
    behind it.
    """
    device, old = clips.device, clips.clip_layout
    with torch.inference_mode(False), torch.no_grad():
        lengths_N = layout.device_lengths(device).clone()
        places = (lengths_N.cumsum(0) - lengths_N + before)[old.clip_index(device)] + old.time_index(device)
        places = places.clamp(max=layout.total - 1) if layout.traced else places  # the last of a bucket may be shorter
    return packed_like(apart(clips.plain(), places, layout.total, fill), layout)


def same_in_time(clips: PackedClips, same: Same, fill: float = 0.0) -> PackedClips:
    """Return clips padded in time as TensorFlow's SAME, each by its own length."""
    lengths_N = clips.clip_layout.device_lengths(clips.device)
    before_N = same.missing(lengths_N) // 2
    return lengthened(clips, same, same.results(lengths_N), before_N, fill)


def lengthened(
    clips: PackedClips, by: Window | Same, results: Int[Tensor, " N"], before: int | Int[Tensor, " N"], fill: float
) -> PackedClips:
    """Return clips padded to so many maps, of which so many lie before each."""
    layout = clips.clip_layout.through(by, results)
    longer = with_room(clips, layout, before, fill)
    if not layout.traced:
        return longer
    device = clips.device  # the last clip of a bucket is longer than that: there it must be finite
    beyond_S = layout.time_index(device) >= results[layout.clip_index(device)]
    return packed_like(longer.plain().masked_fill(beyond_S.view(1, 1, -1, 1, 1), 0), layout)


def apart(
    maps: Float[Tensor, "1 C S H W"], places: Int[Tensor, " S"], total: int, fill: float
) -> Float[Tensor, "1 C R H W"]:
    """Return maps at their places among others of one number."""
    rows, form, innermost = as_rows(maps)
    return of_rows(rows.new_full((total, rows.shape[1]), fill).index_copy(0, places, rows), form, innermost)


def places_of(layout: ClipLayout, window: Window, device: torch.device) -> Places:
    """Return where clips lie, and their results."""
    lengths_N = layout.device_lengths(device)
    with torch.inference_mode(False), torch.no_grad():
        lengths_N = lengths_N.clone()  # training may use what a pass in inference mode has kept
        over_N = lengths_N + (2 * window.padding - window.reach)
        results_N = over_N.div(window.stride, rounding_mode="floor") + 1
        taken_N = lengths_N + window.padding
        if window.clamped:
            results_N = results_N.masked_fill(over_N < 0, 1)
            taken_N = taken_N.clamp(min=window.reach - window.padding)
        slots_N = (taken_N + (window.stride - 1)).div(window.stride, rounding_mode="floor")  # in strides
        begins_N = slots_N.cumsum(0) - slots_N
        total, after = layout.room(window), layout.through(window, results_N)
        time_S = after.time_index(device)
        if layout.traced:  # the last clip of a bucket may be told to have more results than it has
            time_S = time_S.minimum((results_N - 1)[after.clip_index(device)])
        return Places(
            total,
            begins_N[layout.clip_index(device)] * window.stride + window.padding + layout.time_index(device),
            after,
            begins_N[after.clip_index(device)] + time_S,
        )


def as_rows(maps: Float[Tensor, "1 C S H W"]) -> tuple[Float[Tensor, "S D"], torch.Size, bool]:
    """Return maps as rows of numbers as they lie in memory, which indexing is fastest with; and what `of_rows` asks."""
    innermost = channels_innermost(maps)
    rows = maps[0].permute(1, 2, 3, 0) if innermost else maps[0].transpose(0, 1)
    return rows.flatten(1), rows.shape[1:], innermost


def of_rows(rows: Float[Tensor, "S D"], form: torch.Size, innermost: bool) -> Float[Tensor, "1 C S H W"]:
    """Return rows of numbers as maps."""
    maps = rows.unflatten(1, form).unsqueeze(0)
    # in a format that PyTorch knows, strides of sizes of 1 too: on CPUs its batch norm's gradients are wrong otherwise
    return maps.permute(0, 4, 1, 2, 3) if innermost else maps.transpose(1, 2).contiguous()
