"""The picture of a quickstart: accuracy against cost, time per clip, and the active bins of the adaptive network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from atfr.viz.figures import COLOURS


def draw(comparison: Mapping[str, Any], path: Path) -> None:
    """Draw `Comparison.to_dict()` into a PNG file."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, cost, bins = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    networks = comparison["networks"]
    draw_accuracy(accuracy, networks, len(comparison["conditions"]["labels"]))
    draw_cost(cost, networks)
    (kept,) = networks["adaptive"]["test"]["active_bins"].values()  # one site
    draw_bins(bins, kept, comparison["conditions"]["clip"]["frames"])
    figure.savefig(path, format="png", dpi=130)


def draw_accuracy(axes: Axes, networks: Mapping[str, Any], num_classes: int) -> None:
    """Draw top-1 with its standard error, and what guessing would reach."""
    for place, (name, network) in enumerate(networks.items()):
        top1, error = (100 * network["test"][key] for key in ("top1", "top1_standard_error"))
        axes.bar(name, top1, yerr=error, color=COLOURS[name], capsize=4)
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
    for offset, (name, network) in zip((-0.2, 0.2), networks.items(), strict=True):
        shares = [100 * measure(network) / measure(static) for measure in measures.values()]
        bars = axes.bar([x + offset for x in range(len(measures))], shares, width=0.4, color=COLOURS[name], label=name)
        texts = [f"{measure(network):.3g}" for measure in measures.values()]
        axes.bar_label(bars, texts, fontsize=9)
    axes.set_xticks(range(len(measures)), list(measures))
    axes.set(title="per clip (% of static)", ylim=(0, 140))
    axes.legend(loc="upper center", ncols=2, fontsize=8, frameon=False)


def draw_bins(axes: Axes, counts: Mapping[int, int], frames: int) -> None:
    """Draw how many clips kept how many of their maps."""
    kept = {int(active): count for active, count in counts.items()}
    axes.bar(list(kept), list(kept.values()), color=COLOURS["adaptive"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        title=f"active bins of a clip of {frames} frames",
        xlabel="feature maps kept",
        ylabel="clips",
        xlim=(0.4, frames + 0.6),
    )
