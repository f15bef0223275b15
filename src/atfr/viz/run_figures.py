"""Figures of a test: maps kept, by class, motion and correctness; what is dropped; what is confused; how sure it is.

Each function takes the result of a test, or several by name, and returns a matplotlib figure narrow enough for a phone.
What belongs to an SGS layer has one axes a run and site, so that SlowFast has two; a static network has none.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, PowerNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from atfr.errors import InputError
from atfr.evaluate import analysis
from atfr.evaluate.result import TestResult
from atfr.evaluate.runs import bases, costs
from atfr.viz.figures import COLOURS, brief, ink_on, new_figure, short, style

Runs = TestResult | Mapping[str, TestResult]

PALETTE = (COLOURS["adaptive"], "#d55e00", "#009e73")
"""Of runs, but static ones: 3 : 1 at least on the light and on the dark page. The colour-blind tell no more such
colours apart; further runs differ by their markers."""
MARKERS = "osD^vPX"
DENSITY = ListedColormap(colormaps["cividis"](np.linspace(0.3, 1, 256)))
"""Without colours so dark that they are lost on the dark page."""
ENDS = 5
"""Classes at either end, as in the paper's Table 5."""
SHOWN_CLASSES, NAMED = 12, 16
"""Rows of a confusion matrix, and letters of their names, at most."""


WIDTH_IN = 3.7
"""Narrower than figures of frames, so that their text is larger on a phone."""


class Panel(NamedTuple):
    """What a run did at one site, and what to call that."""

    result: TestResult
    site: str
    title: str


def named(runs: Runs) -> dict[str, TestResult]:
    """Return results by name; a single one needs none."""
    return {"": runs} if isinstance(runs, TestResult) else dict(runs)


def panels(runs: Runs) -> list[Panel]:
    """Return what there is to draw of each run and site.

    Raises:
        InputError: no run has an SGS layer, or another in its place.
    """
    found = [
        Panel(result, site, f"{short(name, 30)}, {site}" if name else site)
        for name, result in named(runs).items()
        for site in result.sites
    ]
    if not found:
        raise InputError("a static network keeps all maps of every clip; there is nothing to draw of its active bins")
    return found


def most_maps(panel: Panel) -> int:
    """Return T, the most maps that come into a site."""
    return max(maps for video in panel.result.videos for maps in video.sites[panel.site].maps)


def columns_of(runs: Runs, height_in: float, share_x: bool = True) -> tuple[Figure, list[tuple[Axes, Panel]]]:
    """Return a figure with one axes below the other, each titled, and what there is to draw in it."""
    found = panels(runs)
    figure = new_figure(0.3 + height_in * len(found), WIDTH_IN)
    drawn = list(zip(figure.subplots(len(found), squeeze=False, sharex=share_x)[:, 0], found, strict=True))
    for axes, panel in drawn:
        axes.set_title(panel.title, loc="left", fontsize=9, parse_math=False)
        style(axes)
    return figure, drawn


def run_styles(runs: Mapping[str, TestResult]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for each run; static networks are grey."""
    styles, number = {}, 0
    for place, (name, result) in enumerate(runs.items()):
        colour = COLOURS["static"] if result.network["sgs"] is None else PALETTE[number % len(PALETTE)]
        number += result.network["sgs"] is not None
        styles[name] = (colour, MARKERS[place % len(MARKERS)])
    return styles


def active_bins(runs: Runs) -> Figure:
    """Draw which share of the clips keeps how many maps; the dotted line is the mean.

    Source: Fayyaz et al. 2021, Fig. 3.
    """
    figure, drawn = columns_of(runs, 1.5)
    for axes, panel in drawn:
        counts = panel.result.active_bins[panel.site]
        total = sum(counts.values())
        axes.bar(list(counts), [100 * count / total for count in counts.values()], color=COLOURS["adaptive"])
        mean = sum(kept * count for kept, count in counts.items()) / total
        axes.axvline(mean, color="black", linewidth=1, linestyle=":")
        axes.set_title(f"{panel.title}: mean {brief(mean)}", loc="left", fontsize=9, parse_math=False)
        axes.set_ylabel("clips (%)", fontsize=8)
    drawn[-1][0].set_xlim(0.4, max(most_maps(panel) for _, panel in drawn) + 0.6)
    drawn[-1][0].set_xlabel("maps that a clip keeps, A", fontsize=8)
    return figure


def accuracy_against_gflops(runs: Runs) -> Figure:
    """Draw top-1, with its standard error, against the mean GFLOPs of a clip, or of a video where views stop.

    A line joins a run with the static network that it was adapted from, where both were tested on the same videos.

    Source: Fayyaz et al. 2021, Fig. 4.
    """
    results = named(runs)
    of, gflops = costs(results)
    styles = run_styles(results)
    figure = new_figure(2.6 + 0.18 * len(results), WIDTH_IN)
    axes = figure.subplots()
    for name, base in bases(results).items():
        points = [(gflops[one], 100 * results[one].top1) for one in (base, name)]
        solid = results[name].network["sgs"].get("sampler", "sgs") in ("sgs", "change")
        axes.plot(*zip(*points, strict=True), color=styles[name][0], linewidth=1.2, linestyle="-" if solid else ":")
    for name, result in results.items():
        colour, marker = styles[name]
        at, error = (gflops[name], 100 * result.top1), 100 * result.top1_standard_error
        label = f"{short(name, 24)}: {100 * result.top1:.1f} %, {brief(at[0])} GFLOPs"
        axes.errorbar(*at, yerr=error, color=colour, marker=marker, markersize=7, capsize=3, linestyle="", label=label)
    style(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(y=0.12)
    axes.set_xlim(0, 1.1 * max(gflops.values()))
    axes.set_xlabel(f"GFLOPs (multiply-adds / 1e9) of a {of}", fontsize=8)
    axes.set_ylabel("top-1 (%)", fontsize=8)
    legend(figure)
    return figure


def legend(figure: Figure) -> None:
    """Put the names of runs below a figure."""
    found = figure.legend(loc="outside lower left", fontsize=8, frameon=False, ncols=1)
    for text in found.get_texts():
        text.set_parse_math(False)


def named_bars(
    axes: Axes, title: str, values: Sequence[float], names: Sequence[str], places: Sequence[float], colour: str
) -> None:
    """Draw bars across, from above, each below its name."""
    axes.barh(places, values, height=0.3, color=colour)
    for place, name in zip(places, names, strict=True):
        axes.text(0, place - 0.38, name, va="center", fontsize=8, parse_math=False)
    style(axes)
    axes.spines["left"].set_visible(False)
    axes.set(yticks=[], ylim=(places[-1] + 0.35, -0.75))
    axes.set_title(title, loc="left", fontsize=9, parse_math=False)


def class_resolutions(runs: Runs, ends: int = ENDS) -> Figure:
    """Draw the mean number of maps kept by the clips of the classes at either end, with the spread over clips.

    Source: Fayyaz et al. 2021, Table 5.
    """
    found = panels(runs)
    rows = [analysis.resolution_ends(panel.result, panel.site, ends) for panel in found]
    ratios = [0.9 + len(low) + len(high) for low, high in rows]
    figure = new_figure(0.36 * sum(ratios), WIDTH_IN)
    all_axes = figure.subplots(len(found), squeeze=False, height_ratios=ratios)[:, 0]
    for axes, panel, (low, high) in zip(all_axes, found, rows, strict=True):
        shown = [*low, *high]
        places = [row + (0.4 if row >= len(low) else 0) for row in range(len(shown))]
        kept = [one.active_bins[panel.site] for one in shown]
        means, spread = [one.mean for one in kept], [one.std for one in kept]
        names = [f"{short(one.label, 40)}: {brief(mean)}" for one, mean in zip(shown, means, strict=True)]
        named_bars(axes, panel.title, means, names, places, COLOURS["adaptive"])
        axes.errorbar(means, places, xerr=spread, color="black", linewidth=0.8, linestyle="")
        axes.set_xlim(0, most_maps(panel))
    all_axes[-1].set_xlabel("maps that a clip keeps, mean and spread over clips", fontsize=8)
    return figure


def motion(runs: Runs) -> Figure:
    """Draw how many clips keep how many maps at how much motion in the same clip, and the rank correlation."""
    figure, drawn = columns_of(runs, 2.1)
    for axes, panel in drawn:
        kept = [count for video in panel.result.videos for count in video.active_bins[panel.site]]
        energy = [100 * value for video in panel.result.videos for value in video.motion]
        draw_density(figure, axes, energy, kept)
        relation = analysis.motion_relation(panel.result, panel.site)
        told = "none" if math.isnan(relation.clips) else f"{relation.clips:.2f}"
        axes.set_title(f"{panel.title}: rank correlation {told}", loc="left", fontsize=9, parse_math=False)
        axes.set_ylabel("maps kept, A", fontsize=8)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    drawn[-1][0].set_xlabel("motion: mean change of a pixel from frame to frame (%)", fontsize=8)
    return figure


def draw_density(figure: Figure, axes: Axes, energy: Sequence[float], kept: Sequence[int]) -> None:
    """Draw how many clips there are of each number of maps and about as much motion, on a logarithmic scale."""
    steps = np.linspace(min(energy), max(energy) + 1e-6, 41)
    rows = np.arange(min(kept), max(kept) + 2) - 0.5
    clips, _, _ = np.histogram2d(kept, energy, bins=(rows, steps))
    where = (steps[0], steps[-1], rows[0], rows[-1])
    options: dict[str, Any] = {"origin": "lower", "aspect": "auto", "interpolation": "none"}
    most = max(2, int(clips.max()))
    norm = LogNorm(1, most)
    image = axes.imshow(np.ma.masked_equal(clips, 0), norm=norm, cmap=DENSITY, extent=where, **options)
    ticks = [digit * 10**power for power in range(len(str(most))) for digit in (1, 2, 5)]
    bar = figure.colorbar(image, ax=axes, pad=0.02, ticks=[tick for tick in ticks if tick <= most], format="%d")
    bar.minorticks_off()
    bar.set_label("clips", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def dropped(runs: Runs) -> Figure:
    """Draw which share of the clips drops how many maps, and gives how many little weight beside others."""
    figure, drawn = columns_of(runs, 1.6)
    for axes, panel in drawn:
        sites = [video.sites[panel.site] for video in panel.result.videos]
        kinds = {
            "dropped": [count for one in sites for count in one.dropped],
            "down-weighted": [count for one in sites for count in one.down_weighted],
        }
        for shift, (kind, counts) in zip((-0.2, 0.2), kinds.items(), strict=True):
            numbers, clips = np.unique(counts, return_counts=True)
            share = 100 * clips / clips.sum()
            colour = PALETTE[1] if kind == "dropped" else PALETTE[0]
            axes.bar(numbers + shift, share, width=0.4, color=colour, label=kind, hatch="//" * (kind == "dropped"))
        axes.set_ylabel("clips (%)", fontsize=8)
    handles, labels = drawn[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", fontsize=8, frameon=False, ncols=2)
    drawn[-1][0].set_xlabel("maps of a clip", fontsize=8)
    return figure


def correctness(runs: Runs) -> Figure:
    """Draw the share of the videos that is right, by the maps they keep; bars are 95 % intervals, numbers videos."""
    figure, drawn = columns_of(runs, 1.9, share_x=False)
    for axes, panel in drawn:
        groups = analysis.accuracy_by_bins(panel.result, panel.site)
        middles = [(one.low + one.high - 1) / 2 for one in groups]
        shares = [100 * one.accuracy for one in groups]
        ends = np.array([[100 * end for end in one.interval] for one in groups]).T
        reach = np.abs(ends - shares)
        axes.errorbar(middles, shares, yerr=reach, color=COLOURS["adaptive"], marker="o", capsize=3, linestyle="")
        axes.axhline(100 * panel.result.top1, color="black", linewidth=1, linestyle=":")
        for middle, one in zip(middles, groups, strict=True):
            axes.text(middle, -12, str(one.videos), ha="center", va="center", fontsize=7)
        axes.set(ylim=(-22, 105), yticks=[0, 50, 100])
        axes.set_xticks(middles, [group_name(one) for one in groups])
        axes.margins(x=0.1)
        axes.set_ylabel("right (%)", fontsize=8)
    drawn[-1][0].set_xlabel("maps that a video's clips keep on average", fontsize=8)
    return figure


def group_name(group: analysis.Group) -> str:
    """Return which numbers of maps a group has; of a single one, the means that begin with it."""
    return f"{group.low}" if group.high - group.low == 1 else f"{group.low}–{group.high - 1}"


def confusion_matrix(runs: Runs, most: int = SHOWN_CLASSES) -> Figure:
    """Draw which share of the videos of a class (down) is taken for which (across), in percent.

    Of more classes than `most`, those that are confused most are shown, what is taken for each other side by side; the
    last column then sums up all others.
    """
    found = {name: analysis.confusion(result) for name, result in named(runs).items()}
    heights = [1.6 + 0.2 * min(len(one.labels), most) for one in found.values()]
    figure = new_figure(sum(heights), WIDTH_IN)
    all_axes = figure.subplots(len(found), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, one) in zip(all_axes, found.items(), strict=True):
        labels, shares = one.part(most)
        axes.imshow(shares, cmap="cividis", norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="none")
        colours = axes.images[0].cmap(axes.images[0].norm(shares))
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                ink = ink_on(to_hex(colours[row, column]))
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=ink)
        style(axes)
        rest = ["other"] * (shares.shape[1] - len(labels))
        names = [short(label, NAMED) for label in labels]
        axes.set_yticks(range(len(labels)), names)
        axes.set_xticks(range(shares.shape[1]), [*names, *rest], rotation=90)
        for text in (*axes.get_yticklabels(), *axes.get_xticklabels()):
            text.set_parse_math(False)
        axes.tick_params(length=0)
        shown = f"{len(labels)} of {len(one.labels)} classes" if rest else ""
        title = ": ".join(part for part in (short(name, 30), shown) if part)
        axes.set_title(title, loc="left", fontsize=9, parse_math=False)
        axes.set_xlabel("told to be (%)", fontsize=8)
    return figure


def most_confused(runs: Runs, most: int = 10) -> Figure:
    """Draw what is taken for what most often, in videos.

    Raises:
        InputError: every video is classified correctly.
    """
    found = {name: analysis.confusion(result).pairs(most) for name, result in named(runs).items()}
    found = {name: pairs for name, pairs in found.items() if pairs}
    if not found:
        raise InputError("every video is classified correctly; there is nothing to draw of what is confused")
    ratios = [0.9 + len(pairs) for pairs in found.values()]
    figure = new_figure(0.36 * sum(ratios), WIDTH_IN)
    all_axes = figure.subplots(len(found), squeeze=False, height_ratios=ratios, sharex=True)[:, 0]
    for axes, (name, pairs) in zip(all_axes, found.items(), strict=True):
        texts = [f"{short(one, 24)} → {short(two, 24)}: {n} ({100 * share:.0f} %)" for one, two, n, share in pairs]
        named_bars(axes, short(name, 40), [n for _, _, n, _ in pairs], texts, range(len(pairs)), PALETTE[1])
    all_axes[-1].set_xlim(0, 1.05 * max(count for pairs in found.values() for _, _, count, _ in pairs))
    all_axes[-1].set_xlabel("videos (share of the class)", fontsize=8)
    return figure


def reliability(runs: Runs) -> Figure:
    """Draw how often predictions of some probability are right, and below which share of the videos has it."""
    results = named(runs)
    styles = run_styles(results)
    figure = new_figure(3.2 + 0.18 * len(results), WIDTH_IN)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    above.plot([0, 100], [0, 100], color="black", linewidth=1, linestyle=":")
    for name, result in results.items():
        colour, marker = styles[name]
        found = analysis.calibration(result)
        probabilities = [100 * one.probability for one in found.bins]
        error = f"calibration error {100 * found.error:.1f} %"
        label = f"{short(name, 24)}: {error}" if name else error
        shares = [100 * one.accuracy for one in found.bins]
        above.plot(probabilities, shares, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
        videos = [100 * one.videos / len(result.videos) for one in found.bins]
        below.plot(probabilities, videos, color=colour, marker=marker, markersize=3, linewidth=1)
    for axes in (above, below):
        style(axes)
    above.set(xlim=(0, 102), ylim=(-2, 102))
    above.set_ylabel("right (%)", fontsize=8)
    below.set_ylim(bottom=0)
    below.set_ylabel("videos (%)", fontsize=8)
    below.set_xlabel("probability of the prediction (%)", fontsize=8)
    legend(figure)
    return figure
