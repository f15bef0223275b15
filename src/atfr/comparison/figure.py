"""The picture of a quickstart: accuracy, cost and time of each network, and where frames are kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from atfr.viz.figures import COLOURS

NAMES = {"fewer_frames": "fewer\nframes"}


def draw(comparison: Mapping[str, Any], path: Path) -> None:
    """Draw `Comparison.to_dict()` into a PNG file."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    accuracy, cost, third = figure.subplots(1, 3, width_ratios=(1, 1.5, 0.8))
    networks = comparison["networks"]
    draw_accuracy(accuracy, networks, len(comparison["conditions"]["labels"]))
    draw_cost(cost, networks)
    if comparison["placement"]:
        draw_placement(third, comparison["placement"])
    else:
        (kept,) = networks["sgs"]["test"]["active_bins"].values()  # one site
        draw_bins(third, kept, comparison["conditions"]["clip"]["frames"])
    figure.savefig(path, format="png", dpi=130)


def draw_accuracy(axes: Axes, networks: Mapping[str, Any], num_classes: int) -> None:
    """Draw top-1 with its standard error, and what guessing would reach."""
    for place, (name, network) in enumerate(networks.items()):
        top1, error = (100 * network["test"][key] for key in ("top1", "top1_standard_error"))
        axes.bar(NAMES.get(name, name), top1, yerr=error, color=COLOURS[name], capsize=4)
        axes.text(place, top1 / 2, f"{top1:.1f}", color="white", ha="center", va="center")
    axes.axhline(100 / num_classes, color="black", linewidth=1, linestyle=":")
    axes.annotate("chance", (0.5, 100 / num_classes), ha="center", va="bottom", fontsize=8)
    axes.set(title="top-1 on held-out videos (%)", ylim=(0, 104))


def draw_cost(axes: Axes, networks: Mapping[str, Any]) -> None:
    """Draw multiply-adds and time per clip, both as shares of the static network's."""
    static = networks["static"]
    measures = {
        "GFLOPs": lambda network: network["test"]["gflops_per_clip"]["mean"],
        "ms": lambda network: network["ms_per_clip"],
    }
    width = 0.8 / len(networks)
    for number, (name, network) in enumerate(networks.items()):
        shares = [100 * measure(network) / measure(static) for measure in measures.values()]
        places = [x + (number - (len(networks) - 1) / 2) * width for x in range(len(measures))]
        bars = axes.bar(places, shares, width=width, color=COLOURS[name], label=name)
        axes.bar_label(bars, [f"{measure(network):.2g}" for measure in measures.values()], fontsize=8)
    axes.set_xticks(range(len(measures)), list(measures))
    axes.set(title="per clip (% of static)", ylim=(0, 150))
    axes.legend(loc="upper center", ncols=2, fontsize=8, frameon=False)


def draw_placement(axes: Axes, placement: Mapping[str, Any]) -> None:
    """Draw the share of the kept frames that show the motion."""
    for place, (name, one) in enumerate(placement.items()):
        axes.bar(NAMES.get(name, name), 100 * one["inside"], color=COLOURS[name])
        axes.text(place, 50 * one["inside"], f"{100 * one['inside']:.0f}", color="white", ha="center", va="center")
    axes.set(title="kept frames that show\nthe motion (%)", ylim=(0, 104))


def draw_bins(axes: Axes, counts: Mapping[int, int], frames: int) -> None:
    """Draw how many clips kept how many of their maps behind SGS."""
    kept = {int(active): count for active, count in counts.items()}
    axes.bar(list(kept), list(kept.values()), color=COLOURS["sgs"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=f"SGS: maps kept of {frames}", xlabel="feature maps kept", ylabel="clips", xlim=(0.4, frames + 0.6))
