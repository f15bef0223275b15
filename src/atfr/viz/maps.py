"""Figures of feature maps: before and after SGS, and what places of the frames contribute to a class."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from atfr.viz.activation import Activation
from atfr.viz.figures import WIDTH_IN, mergings, new_figure, show_frames, strip_height
from atfr.viz.watch import Watched


def feature_maps(
    watched: Watched,
    frames: UInt8[Tensor, "T H W 3"],
    *,
    clip: int = 0,
    channels: Sequence[int] | int = 4,
    columns: int = 8,
) -> Figure:
    """Draw channels of the maps that come into each site, below the frames, and of those that come out.

    Of more maps than columns, some are shown, spread evenly. The grey values of a row are its own.

    Args:
        channels: which to show, or how many: those that vary most.

    Source: Fayyaz et al. 2021, Fig. A.5 (8 of 32 frames, the first 4 channels).
    """
    found = mergings(watched.trace, clip)
    shown = {site: chosen(watched.sites[site].before[clip], channels) for site in found}
    ratios = [rows for picked in shown.values() for rows in (len(picked) + 1.4, len(picked) + 0.4)]
    figure = new_figure(0.3 + sum(ratios) * WIDTH_IN / (columns + 1))
    axes = iter(figure.subplots(len(ratios), squeeze=False, height_ratios=ratios)[:, 0])
    for (site, picked), one in zip(shown.items(), found.values(), strict=True):
        before, after = watched.sites[site].before[clip], watched.sites[site].after[clip]
        steps = some(before.shape[1], columns)
        pictures = frames[[step * len(frames) // before.shape[1] for step in steps]]
        above, below = next(axes), next(axes)
        tiles(above, before[picked][:, steps], picked, [str(step) for step in steps], columns, pictures)
        above.set_title(f"maps before {site}'s sampling", loc="left", fontsize=9)
        slots = some(after.shape[1], columns)
        tiles(below, after[picked][:, slots], picked, [f"bin {one.bins[slot]}" for slot in slots], columns)
        below.set_title(f"maps after it, {after.shape[1]} of {before.shape[1]}", loc="left", fontsize=9)
    return figure


def chosen(maps: Float[Tensor, "C T H W"], channels: Sequence[int] | int) -> list[int]:
    """Return the channels asked for, or so many that vary most, in order."""
    if not isinstance(channels, int):
        return list(channels)
    variance = maps.flatten(1).float().var(1, correction=0)
    return sorted(variance.topk(min(channels, len(maps))).indices.tolist())


def some(count: int, most: int) -> list[int]:
    """Return numbers from 0 to count - 1, at most so many, spread evenly."""
    return torch.linspace(0, count - 1, min(count, most)).round().long().tolist()


def tiles(
    axes: Axes,
    maps: Float[Tensor, "K M H W"],
    channels: Sequence[int],
    names: Sequence[str],
    columns: int,
    pictures: UInt8[Tensor, "M H W 3"] | None = None,
) -> None:
    """Show a row of tiles a channel, below a row of pictures if there is one."""
    across, first = len(names), int(pictures is not None)
    if pictures is not None:
        axes.imshow(np.concatenate(list(pictures.numpy()), axis=1), extent=(0, across, 1, 0))
    for row, one in enumerate(maps, start=first):
        beside = np.concatenate(list(one.float().numpy()), axis=1)
        axes.imshow(beside, extent=(0, across, row + 1, row), cmap="gray", interpolation="nearest")
    bottom = first + len(maps)
    axes.set(xlim=(0, columns), ylim=(bottom, 0), aspect="equal")
    axes.set_xticks([column + 0.5 for column in range(across)], names)
    axes.set_yticks([row + 0.5 for row in range(first, bottom)], [f"ch. {channel}" for channel in channels])
    axes.tick_params(labelsize=7, length=0)
    axes.spines[:].set_visible(False)
    axes.patch.set_alpha(0)


def activation_maps(
    activation: Activation, frames: UInt8[Tensor, "T H W 3"], *, numbers: Sequence[int] | None = None
) -> Figure:
    """Draw where the frames of a clip speak for a class: bright where a place contributes most, over grey frames.

    One strip a pathway. What speaks against the class is not drawn. The scale is the strip's own.
    """
    grey = frames.numpy() @ np.array([0.299, 0.587, 0.114])
    figure = new_figure(len(activation.maps) * strip_height(len(frames)))
    all_axes = figure.subplots(len(activation.maps), squeeze=False)[:, 0]
    for axes, (pathway, maps) in zip(all_axes, activation.maps.items(), strict=True):
        heat = F.interpolate(maps[:, None].clamp(min=0), frames.shape[1:3], mode="bilinear")[:, 0].numpy()
        strength = heat / max(heat.max(), np.finfo(np.float32).tiny)
        show_frames(axes, overlaid(grey, strength), numbers)
        where = f", {pathway} pathway" if pathway else ""
        axes.set_title(f"what speaks for the class{where}", loc="left", fontsize=9)
    return figure


def overlaid(grey: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return grey pictures (T x H x W, 0-255) coloured where the strength (T x H x W, 0-1) is high."""
    colour = 255 * colormaps["inferno"](strength)[..., :3]
    share = np.sqrt(strength)[..., None]
    return ((1 - share) * 0.7 * grey[..., None] + share * colour).round().astype(np.uint8)
