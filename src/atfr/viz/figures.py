"""Figures of one clip: frames by bin, magnitudes over time, where maps go, with which weights, and what it is worth.

Each function returns a matplotlib figure of the same width, narrow enough for a phone. Bins are told apart by colour
and by number; frames, maps and bins count from 0. What is drawn in black or left blank takes the page's colours.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from atfr.adapt.trace import SamplingTrace
from atfr.errors import InputError
from atfr.viz.watch import Coordinate, Merging, Watched, merging, origins
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.evaluate.predict import Prediction
    from atfr.measure import Timing

WIDTH_IN = 4.4
COLOURS = {
    "static": "#6b7280",
    "fewer_frames": "#b45309",
    "adaptive": "#0072b2",
    "sgs": "#7a3e9d",
}  # told apart by the colour-blind, and in print
DROPPED = "#9a9a9a"
DARK, LIGHT = "#010101", "#ffffff"  # of text on colours; black itself takes the page's colour
LONGEST = 50  # characters of a class's name
ROW = 1.2
"""Height of a row of a strip, in widths of a picture."""


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """Return an empty figure, of the common width unless another is given, without a background."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def bin_colours(count: int) -> list[str]:
    """Return as many colours, dark to bright, that the colour-blind tell apart as others do."""
    return [to_hex(colormaps["viridis"](step)) for step in np.linspace(0.08, 0.95, count)]


def ink_on(colour: str) -> str:
    """Return the colour of text that is read on another one: the one with more contrast, 4.5 at least (WCAG 2.2)."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return DARK if linear @ [0.2126, 0.7152, 0.0722] > 0.18 else LIGHT


def brief(value: float) -> str:
    """Return a number with three digits, or as many as it has before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def short(label: str, longest: int = LONGEST) -> str:
    """Return a class's name as it can be drawn: names of folders may be any bytes, and long."""
    name = label.encode(errors="backslashreplace").decode()
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def mergings(trace: SamplingTrace, clip: int) -> dict[str, Merging]:
    """Return what each layer made of one clip.

    Raises:
        InputError: there is no SGS in the network, or no such clip.
    """
    if not trace.sites:
        raise InputError("the network has no SGS whose work could be drawn; atfr.adapt_ puts one in")
    return {name: merging(site, clip) for name, site in trace.sites.items()}


def frame_strip(
    watched: Watched, frames: UInt8[Tensor, "T H W 3"], *, clip: int = 0, numbers: Sequence[int] | None = None
) -> Figure:
    """Draw the frames of a clip, each framed in the colour of its bin; one block of rows a site.

    A frame that several maps of a site come from counts to the one it has the largest share in.

    Args:
        frames: the clip's frames.
        numbers: what to call them; by default 0..T-1.
    """
    sites = list(watched.trace.sites)
    figure = new_figure(max(len(sites), 1) * strip_height(len(frames)))
    all_axes = figure.subplots(max(len(sites), 1), squeeze=False)[:, 0]
    for axes in all_axes:
        show_frames(axes, frames.numpy(), numbers)
        axes.set_title("frames", loc="left", fontsize=9)
    for axes, site in zip(all_axes, sites, strict=bool(sites)):
        axes.set_title(f"frames by bin at {site}", loc="left", fontsize=9)
        frame_by_bin(axes, frame_bins(watched, len(frames), site, clip), merging(watched.trace.sites[site], clip).bins)
    return figure


def frame_by_bin(axes: Axes, slots: Sequence[int], bins: Sequence[int]) -> None:
    """Frame the pictures of a strip in the colours of their bins."""
    colours = bin_colours(len(bins))
    for step, slot in enumerate(slots):
        x, y = place(step, len(slots))
        colour, dashes = (DROPPED, ":") if slot < 0 else (colours[slot], "-")
        border = Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, fill=False, color=colour, linewidth=3, linestyle=dashes)
        axes.add_patch(border)
        name, ink = "dropped" if slot < 0 else f"bin {bins[slot]}", ink_on(colour)
        axes.text(x + 0.5, y + 0.88, name, ha="center", va="center", fontsize=7, color=ink, bbox=box(colour))


def box(colour: str) -> dict[str, Any]:
    """Return the box behind a number, with an edge in the page's ink, so that it is seen on any page."""
    return {"facecolor": colour, "edgecolor": "black", "linewidth": 0.4, "boxstyle": "round,pad=0.25"}


def frame_bins(watched: Watched, frames: int, site: str, clip: int = 0) -> list[int]:
    """Return for each frame the output map of a site that it has the largest share in, -1 where it has none."""
    share, slot = origins(watched, frames, clip)[site].max(0)
    return torch.where(share > 0, slot, -1).tolist()


def per_row(count: int) -> int:
    """Return how many pictures of a strip stand beside each other."""
    return 4 if count <= 8 else 6


def place(step: int, count: int) -> tuple[int, float]:
    """Return the upper left corner of a picture in a strip of so many; below it is room for a name."""
    return step % per_row(count), (step // per_row(count)) * ROW


def strip_height(count: int) -> float:
    """Return the height in inches of a strip of so many pictures, with its title."""
    return 0.3 + ROW * WIDTH_IN / per_row(count) * -(-count // per_row(count))


def show_frames(axes: Axes, frames: np.ndarray, numbers: Sequence[int] | None) -> None:
    """Show pictures in rows, from left to right, with their numbers below (by default 0..T-1), and hide the axes."""
    names = range(len(frames)) if numbers is None else numbers
    for step, (picture, name) in enumerate(zip(frames, names, strict=True)):
        x, y = place(step, len(frames))
        axes.imshow(picture, extent=(x, x + 1, y + 1, y))
        axes.text(x + 0.5, y + 1.1, str(name), ha="center", va="center", fontsize=7)
    bottom = place(len(frames) - 1, len(frames))[1] + ROW
    axes.set(xlim=(0, per_row(len(frames))), ylim=(bottom, -0.02), aspect="equal")
    axes.set_axis_off()


def magnitudes(watched: Watched, *, clip: int = 0) -> Figure:
    """Draw what samplers compare the maps by, over time, and the edges of the bins; one axes a site and coordinate.

    The vertical axis shows the range of the values, and may not begin at 0.

    Raises:
        InputError: there is no SGS in the network, or only controls, which compare nothing.
    """
    found = mergings(watched.trace, clip)
    shown = [(site, one) for site in found for one in watched.sites[site].coordinates[clip]]
    if not shown:
        raise InputError(f"nothing is compared at {', '.join(found)}: a control stands in the place of SGS")
    figure = new_figure(0.3 + 2 * len(shown))
    for axes, (site, one) in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
        draw_coordinate(axes, one, found[site])
        axes.set_title(f"{one.name} at {site}", loc="left", fontsize=9)
        axes.set_xlabel("map", fontsize=8)
    return figure


def draw_coordinate(axes: Axes, coordinate: Coordinate, merging: Merging) -> None:
    """Draw one coordinate: a line, its points in the colours of their bins, crosses where maps were dropped."""
    values = coordinate.values.numpy()
    steps = np.arange(len(values))
    colours = bin_colours(merging.active_bins)
    for block in coordinate.blocks:
        axes.hlines(block.edges.numpy(), block.start - 0.5, block.stop - 0.5, color=DROPPED, linewidth=0.6)
    axes.plot(steps, values, color="black", linewidth=0.8, zorder=2)
    slots = merging.slots[: len(values)].numpy()
    kept = slots >= 0
    shades = [colours[slot] for slot in slots[kept]]
    axes.scatter(steps[kept], values[kept], c=shades, s=42, zorder=3, edgecolors="black", linewidths=0.4)
    if not kept.all():
        axes.scatter(steps[~kept], values[~kept], color="black", marker="x", s=30, zorder=3, label="dropped")
        axes.legend(fontsize=7, frameon=False)
    for step in steps[kept]:
        if step == 0 or slots[step] != slots[step - 1]:
            above: dict[str, Any] = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
            axes.annotate(str(int(merging.assignment[step])), (step, values[step]), fontsize=7, **above)
    widths = [float(block.edges[1]) for block in coordinate.blocks if len(block.edges)]
    margin = 1.5 * max(widths, default=1.0)
    axes.set(ylim=(values.min() - margin, values.max() + margin), xlim=(-0.6, len(values) - 0.4))
    style(axes)


def style(axes: Axes) -> None:
    """Make axes quiet: no box, whole steps, small numbers, the page's background."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=7)


def flow(trace: SamplingTrace, *, clip: int = 0) -> Figure:
    """Draw where the T maps of each site go: a line from each to its output map, thicker where its weight is larger."""
    found = mergings(trace, clip)
    figure = new_figure(0.2 + 2 * len(found))
    for axes, (site, one) in zip(figure.subplots(len(found), squeeze=False)[:, 0], found.items(), strict=True):
        colours = bin_colours(one.active_bins)
        total = len(one.slots)
        inputs = (np.arange(total) + 0.5) / total
        outputs = (np.arange(one.active_bins) + 0.5) / one.active_bins
        share = (one.weights / one.weights.max().clamp(min=1e-12)).tolist()
        for step, slot in enumerate(one.slots.tolist()):
            if slot < 0:
                axes.plot(inputs[step], 1, marker="x", color="black", markersize=5)
                continue
            width = 0.8 + 2.4 * share[step]
            (line,) = axes.plot([inputs[step], outputs[slot]], [1, 0], color=colours[slot], linewidth=width)
            line.set_path_effects([Stroke(linewidth=width + 0.8, foreground="black"), Normal()])
            axes.plot(inputs[step], 1, marker="o", color=colours[slot], markersize=5, mec="black", mew=0.4)
        for slot in every_so_many(one.active_bins):
            ink = ink_on(colours[slot])
            text = str(one.bins[slot])
            axes.text(outputs[slot], -0.06, text, ha="center", va="top", fontsize=7, color=ink, bbox=box(colours[slot]))
        for step in every_so_many(total):
            axes.text(inputs[step], 1.08, str(step), ha="center", va="bottom", fontsize=7)
        axes.set_title(f"{counted(total, 'map')} -> {one.active_bins} at {site}", loc="left", fontsize=9)
        axes.set(xlim=(0, 1), ylim=(-0.3, 1.25))
        axes.set_axis_off()
    return figure


def weights(trace: SamplingTrace, *, clip: int = 0) -> Figure:
    """Draw the weight of each map (across) in each output map (down) as a heat map, one axes a site."""
    found = mergings(trace, clip)
    heights_in = [0.9 + 0.16 * min(one.active_bins, 24) for one in found.values()]
    figure = new_figure(sum(heights_in))
    all_axes = figure.subplots(len(found), squeeze=False, height_ratios=heights_in)[:, 0]
    for axes, (site, one) in zip(all_axes, found.items(), strict=True):
        image = axes.imshow(one.matrix.numpy(), cmap="cividis", aspect="auto", interpolation="none", vmin=0)
        bar = figure.colorbar(image, ax=axes, pad=0.02)
        bar.set_label("weight", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        axes.set_title(f"weights at {site}", loc="left", fontsize=9)
        axes.set_xlabel("map", fontsize=8)
        axes.set_ylabel("bin", fontsize=8)
        style(axes)
        ticks = every_so_many(one.active_bins)
        axes.set_yticks(ticks, [str(one.bins[slot]) for slot in ticks])
    return figure


def every_so_many(count: int, most: int = 16) -> range:
    """Return numbers below count, every k-th, at most so many: their names stand side by side."""
    return range(0, count, -(-count // most))


def top_classes(prediction: "Prediction", k: int = 5) -> Figure:
    """Draw the k most probable classes."""
    top = prediction.top(k)
    figure = new_figure(0.5 + 0.4 * len(top))
    axes = figure.subplots()
    bars = axes.barh(range(len(top)), [100 * share for _, share in top], height=0.35, color=COLOURS["adaptive"])
    axes.bar_label(bars, [f"{100 * share:.1f} %" for _, share in top], padding=3, fontsize=8)
    for row, (label, _) in enumerate(top):
        axes.text(0, row - 0.38, short(label), va="center", fontsize=8, parse_math=False)
    style(axes)
    axes.spines["left"].set_visible(False)
    axes.set(xlim=(0, 118), xticks=[0, 50, 100], yticks=[], ylim=(len(top) - 0.7, -0.75))
    axes.set_xlabel("probability (%)", fontsize=8)
    return figure


def saving(prediction: "Prediction", timing: "Timing | None" = None) -> Figure:
    """Draw what the views of a video cost beside what they cost without SGS: multiply-adds and, if timed, time."""
    gflops = {"static": prediction.total_static_gflops, "adaptive": prediction.total_gflops}
    panels = [("GFLOPs", gflops)]
    if timing is not None:
        panels.append(("ms per clip", {name: timing.ms(name).median for name in ("static", "adaptive")}))
    figure = new_figure(1.6)
    for axes, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        bars = axes.barh(list(values), list(values.values()), color=[COLOURS[name] for name in values])
        axes.bar_label(bars, [brief(value) for value in values.values()], padding=3, fontsize=8)
        axes.set_title(title, loc="left", fontsize=9)
        style(axes)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * max(values.values()))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.tick_params("y", labelsize=8)
    return figure
