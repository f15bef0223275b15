"""The picture of a comparison: accuracy and loss against multiply-adds and against time, and what to take."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atfr.comparison import plans
from atfr.viz.figures import COLOURS

LOOKS = {
    plans.STATIC: (COLOURS["static"], "s", "all frames"),
    plans.FEWER_VIEWS: ("#999999", "<", "fewer views"),
    plans.UNTIL_SETTLED: ("#cc79a7", "*", "views until settled"),
    plans.FEWER_FRAMES: (COLOURS["fewer_frames"], "o", "fewer frames, evenly spaced"),
    plans.CHANGE: (COLOURS["adaptive"], "D", "frames by change"),
    plans.UNIFORM_MAPS: ("#e69f00", "v", "maps, evenly spaced"),
    plans.CHANGE_MAPS: ("#56b4e9", "^", "maps by change"),
    plans.SGS: (COLOURS["sgs"], "P", "maps by SGS"),
}
"""Of each kind: colour, marker, words; those that look at the clip are drawn with full lines."""

DOTTED = (plans.FEWER_VIEWS, plans.FEWER_FRAMES, plans.UNIFORM_MAPS)


def draw(comparison: Mapping[str, Any], path: Path) -> None:
    """Draw `Comparison.to_dict()` into a PNG file."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    all_axes = figure.subplots(2, 2, sharex="col", sharey="row")
    costs = {
        "gflops": ("GFLOPs of a video", lambda one: one["gflops"]),
        "time": ("forward passes, ms of a video", lambda one: one["ms"]),
    }
    for row, figure_of in zip(all_axes, (top1, loss), strict=True):
        for axes, (name, (label, cost)) in zip(row, costs.items(), strict=True):
            draw_kinds(axes, comparison, cost, figure_of)
            if figure_of is top1:
                front = [comparison["networks"][one] for one in comparison["frontier"][name]]
                axes.step([cost(one) for one in front], [top1(one) for one in front], where="post", **FRONTIER)
            else:
                axes.set_xlabel(label)
            axes.set_xlim(left=0)
    all_axes[0, 0].set_ylabel(f"top-1 of {comparison['conditions']['test_videos']} test videos (%), ± standard error")
    all_axes[1, 0].set_ylabel("cross-entropy")
    all_axes[1, 0].legend(fontsize=8, frameon=False, title="with the number kept", title_fontsize=8)
    figure.suptitle("\n".join(textwrap.wrap(comparison["sentence"], 130)), fontsize=11, x=0.01, ha="left")
    figure.savefig(path, format="png", dpi=110)


FRONTIER: Mapping[str, Any] = {"color": "black", "linewidth": 0.8, "alpha": 0.5, "zorder": 1}


def top1(network: Mapping[str, Any]) -> float:
    """Return the accuracy in percent."""
    return 100 * network["test"]["top1"]


def loss(network: Mapping[str, Any]) -> float:
    """Return the loss."""
    return float("nan") if network["loss"] is None else network["loss"]


def draw_kinds(axes: Axes, comparison: Mapping[str, Any], cost: Any, figure_of: Any) -> None:
    """Draw each kind's networks, from few frames to many, and a line at static."""
    networks = comparison["networks"]
    axes.axhline(figure_of(networks[plans.STATIC]), color=LOOKS[plans.STATIC][0], linewidth=0.8, linestyle="--")
    for kind, (colour, marker, words) in LOOKS.items():
        own = {name: one for name, one in networks.items() if one["kind"] == kind}
        if own:
            xs, ys = [cost(one) for one in own.values()], [figure_of(one) for one in own.values()]
            line = ":" if kind in DOTTED else "-"
            axes.plot(xs, ys, marker=marker, color=colour, linestyle=line, label=words, markersize=6, zorder=3)
            if figure_of is top1:
                errors = [100 * one["test"]["top1_standard_error"] for one in own.values()]
                axes.errorbar(xs, ys, errors, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.5, capsize=2)
        for name, one in own.items():
            place: dict[str, Any] = {"xytext": (5, 5), "textcoords": "offset points", "fontsize": 8, "color": colour}
            kept = f"{one['views']:.1f}" if kind == plans.UNTIL_SETTLED else str(one["kept"] or one["of"])
            axes.annotate(kept, (cost(one), figure_of(one)), **place)
            if name == comparison["take"]:
                ring: dict[str, Any] = {"s": 260, "facecolors": "none", "edgecolors": "black", "zorder": 4}
                axes.scatter([cost(one)], [figure_of(one)], **ring)
    axes.margins(y=0.1)
    axes.grid(alpha=0.25)
