"""quickstart: four networks of a comparison on generated videos, at one learning rate and one number of frames.

out/base, static, fewer_frames, adaptive, sgs/   checkpoint folders, for `atfr predict` and `atfr test`; all but the
                                                 base have a folder test/ with what their tests found, for `atfr report`
out/quickstart.json                              every figure, with its conditions
out/quickstart.png                               the same as a picture
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from atfr.checks import device_of
from atfr.comparison.making import Ground, Row, Watch, new_base
from atfr.comparison.placement import Placement, placements
from atfr.comparison.plans import Plan
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList
from atfr.evaluate.runs import Difference, paired_difference
from atfr.files import whole, write_json
from atfr.models import VideoModel
from atfr.train.recipe import Recipe
from atfr.viz.figures import COLOURS
from atfr.words import counted

TUNE_LEARNING_RATE = 2 / 3
"""Of what comes from the base, as a share of the base's."""

NAMES = {"fewer_frames": "fewer\nframes"}
"""In the picture, of networks that have others there."""


@dataclass(frozen=True)
class Quickstart:
    """What a quickstart found."""

    rows: dict[str, Row]  # of each network, by its name
    over: dict[str, Difference]  # how much more often the adaptive network is right than each other, on the same videos
    placement: dict[str, Placement]  # where frames are kept, by network, in generated videos, whose truth is known
    conditions: dict[str, Any]  # what the figures depend on: videos, clips, training, machine and versions

    def to_dict(self) -> dict[str, Any]:
        """Turn the comparison into plain JSON values."""
        return {
            "conditions": self.conditions,
            "networks": {name: row.to_dict() for name, row in self.rows.items()},
            "adaptive_over": {name: asdict(difference) for name, difference in self.over.items()},
            "placement": {name: asdict(placement) for name, placement in self.placement.items()},
        }


def samplers(recipe: Recipe) -> dict[str, dict[str, Any] | None]:
    """Return the networks that are compared, each with the arguments of `adapt_` that make it of the static one."""
    kept = recipe.frames_kept
    return {
        "static": None,
        "fewer_frames": {"after": "input", "sampler": "uniform", "active_bins": kept},
        "adaptive": {"after": "input", "sampler": "change", "num_bins": kept},
        "sgs": {"kernel": recipe.kernel, "num_bins": recipe.num_bins, "order": recipe.order, "edge_maps": "found"},
    }


def quickstart(
    splits: Mapping[str, VideoList],
    recipe: Recipe,
    out: Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    watch: Watch = lambda _: nullcontext(lambda *_: None),
) -> Quickstart:
    """Train, test and time networks on the same videos: with all frames, with fewer, with those that matter, with SGS.

    All start from the same base, and are fine-tuned for as long, on the same clips in the same order.

    Args:
        splits: the lists "train" and "test", and "trimmed" where there are such videos, from which the base learns.
        epochs: of the base; by default the recipe's, for so many videos.
    """
    base = new_base(recipe, len(splits["train"].labels), seed)
    spec = replace(recipe.clip, mean=base.mean, std=base.std)
    epochs = epochs or recipe.epochs(len(splits["train"]))
    tune_epochs, device = math.ceil(recipe.tune_share * epochs), device_of("device", "auto")
    ground = Ground(base, splits, spec, recipe, tune_epochs, seed, out, device, say, watch)
    origin = "ImageNet" if recipe.pretrained else "random"
    first = splits.get("trimmed", splits["train"])
    kind = "trimmed video" if "trimmed" in splits else "video"
    ground.train_base_(first, epochs, f" from {origin} weights", kind)
    clips = ClipDataset(splits["train"], spec, train=True, seed=seed + 1)
    networks: dict[str, VideoModel] = {}
    made: dict[str, Row] = {}
    for name, sampler in samplers(recipe).items():
        say(f"fine-tuning the {name} network: {counted(ground.epochs, 'epoch')}")
        networks[name], made[name] = ground.make(Plan(name, name, sampler), TUNE_LEARNING_RATE, clips)
    rows, timed_batch = ground.with_times(made, networks)
    adaptive = rows["adaptive"].test
    over = {name: paired_difference(adaptive, row.test) for name, row in rows.items() if name != "adaptive"}
    at_input = {name: networks[name].cpu() for name in ("fewer_frames", "adaptive")}
    found = ground.conditions(timed_batch) | {"base_epochs": epochs}
    comparison = Quickstart(rows, over, placements(at_input, splits["test"], spec), found)
    write_json(out / "quickstart.json", comparison.to_dict())
    with whole(out / "quickstart.png") as scratch:
        draw(comparison.to_dict(), scratch)
    return comparison


def draw(comparison: Mapping[str, Any], path: Path) -> None:
    """Draw `Quickstart.to_dict()` into a PNG file: accuracy, cost and time, and where frames are kept."""
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
