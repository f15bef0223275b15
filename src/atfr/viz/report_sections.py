"""The sections of a report: every figure with what it shows, in words and in numbers."""

import math

from atfr.evaluate import analysis
from atfr.evaluate.runs import costs
from atfr.viz import run_figures as figures
from atfr.viz.figures import brief
from atfr.viz.page import Section, Table
from atfr.viz.report import Report
from atfr.viz.run_figures import Panel
from atfr.words import counted

LISTED = 200
"""Mistakes in the table of a confusion matrix of many classes, at most."""


def drawn(report: Report) -> figures.Runs:
    """Return what figures take: a single result needs no name."""
    return report.runs if len(report.runs) > 1 else report.runs[report.first]


def percent(share: float) -> str:
    """Return a share of 1 as a percentage, a dash where there is none."""
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"


def number(value: float) -> str:
    """Return a correlation, a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def accuracy(report: Report) -> Section:
    """Accuracy against cost."""
    of, gflops = costs(report.runs)
    told = [f"{name}: {percent(one.top1)} at {brief(gflops[name])} GFLOPs" for name, one in report.runs.items()]
    text = [
        f"Top-1 with its standard error against the GFLOPs of a {of}. A line goes from a static network to the same "
        "network with a sampler, a dotted one to a control."
    ]
    if report.not_comparable:
        text.append("Points of runs that are not comparable say nothing about each other.")
    return Section("Accuracy against cost", text, figures.accuracy_against_gflops(report.runs), f"{'; '.join(told)}.")


def active_bins(report: Report, found: list[Panel]) -> Section:
    """How many maps clips keep."""
    told, rows = [], []
    for panel in found:
        counts = panel.result.active_bins[panel.site]
        most = max(counts, key=lambda kept: counts[kept])
        told.append(f"{panel.title}: from {min(counts)} to {max(counts)} maps, most often {most}")
        rows += [[panel.title, kept, clips] for kept, clips in counts.items()]
    return Section(
        "How many maps clips keep",
        ["The network goes on with A of T maps of a clip; A is the clip's own. The dotted line is the mean."],
        figures.active_bins(drawn(report)),
        f"Histograms of active bins. {'; '.join(told)}.",
        Table(["site", "maps kept", "clips"], rows),
    )


def classes(report: Report, found: list[Panel]) -> Section:
    """Which classes need most maps."""
    told, rows = [], []
    for panel in found:
        low, high = analysis.resolution_ends(panel.result, panel.site, figures.ENDS)
        shown = [*low, *high]
        told.append(f"{panel.title}: fewest {shown[0].label}, most {shown[-1].label}")
        every, _ = analysis.resolution_ends(panel.result, panel.site, len(panel.result.classes))
        rows += [
            [panel.title, one.label, one.num_videos, f"{one.active_bins[panel.site].mean:.2f}", percent(one.accuracy)]
            for one in every
        ]
    return Section(
        "Classes of low and high temporal resolution",
        [f"Classes whose clips keep fewest and most maps, {figures.ENDS} at either end where there are more."],
        figures.class_resolutions(drawn(report)),
        f"Mean number of maps by class. {'; '.join(told)}.",
        Table(["site", "class", "videos", "maps kept", "right"], rows),
    )


def motion(report: Report, found: list[Panel]) -> Section:
    """Whether maps follow motion."""
    told, rows = [], []
    for panel in found:
        one = analysis.motion_relation(panel.result, panel.site)
        rows.append([panel.title, *map(number, (one.clips, one.videos, one.within_class))])
        told.append(f"{panel.title}: rank correlation {number(one.clips)}")
    return Section(
        "Do maps follow motion?",
        [
            "Brighter where there are more clips. Motion is the mean change of a pixel from one frame of the clip to "
            "the next. Clips of a class may share both; the table has the correlation within classes."
        ],
        figures.motion(drawn(report)),
        f"Maps kept against motion. {'; '.join(told)}.",
        Table(["site", "over clips", "over videos", "within a class"], rows),
    )


def dropped(report: Report, found: list[Panel]) -> Section:
    """What is lost."""
    told, rows = [], []
    for panel in found:
        one = analysis.map_use(panel.result, panel.site)
        rows.append([panel.title, *map(percent, (one.kept, one.dropped, one.down_weighted, one.clips_with_dropped))])
        lost = f"{percent(one.dropped)} of the maps are dropped, {percent(one.down_weighted)} down-weighted"
        told.append(f"{panel.title}: {lost}")
    return Section(
        "Maps dropped or down-weighted",
        [
            "A dropped map is in none of those that go on. A down-weighted one has less than half the weight of the "
            "map that counts most in the same bin."
        ],
        figures.dropped(drawn(report)),
        f"{'; '.join(told)}.",
        Table(["site", "maps that go on", "dropped", "down-weighted", "clips that drop a map"], rows),
    )


def correctness(report: Report, found: list[Panel]) -> Section:
    """Whether videos that keep many maps are classified correctly more often."""
    rows, told = [], []
    for panel in found:
        right, wrong = analysis.correct_and_wrong(panel.result, panel.site)
        for one in analysis.accuracy_by_bins(panel.result, panel.site):
            low, high = one.interval
            cells = [percent(one.accuracy), f"{percent(low)} to {percent(high)}"]
            rows.append([panel.title, figures.group_name(one), one.videos, *cells])
        means = [f"{sum(kept) / len(kept):.1f}" if kept else "–" for kept in (right, wrong)]
        told.append(f"{panel.title}: videos classified correctly keep {means[0]} maps on average, others {means[1]}")
    return Section(
        "Maps kept and being right",
        [
            f"{'; '.join(told)}.",
            "Videos by the maps their clips keep on average, with 95 % intervals; the numbers below are videos, the "
            "dotted line is top-1.",
        ],
        figures.correctness(drawn(report)),
        f"The share of videos classified correctly, by maps kept. {'; '.join(told)}.",
        Table(["site", "maps kept", "videos", "right", "95 % interval"], rows),
    )


def confusion(report: Report) -> Section:
    """What is taken for what, class by class."""
    rows = []
    for name, result in report.runs.items():
        found = analysis.confusion(result)
        cells = found.cells() if len(found.labels) <= figures.SHOWN_CLASSES else found.pairs(LISTED)
        rows += [[name, label, prediction, count, percent(share)] for label, prediction, count, share in cells]
    return Section(
        "What is taken for what",
        [
            "Rows are classes, columns what their videos are told to be, in percent. Of more than "
            f"{figures.SHOWN_CLASSES} classes those are shown that are confused most; their numbers are the {LISTED} "
            "most frequent mistakes."
        ],
        figures.confusion_matrix(drawn(report)),
        f"Confusion matrix. {told_pairs(report, 1)}",
        Table(["run", "class", "told to be", "videos", "share of the class"], rows),
    )


def most_confused(report: Report) -> Section:
    """What is taken for what most often."""
    return Section(
        "Confused most",
        ["Class → what it was told to be, videos, and their share of the class."],
        figures.most_confused(drawn(report), 10 if len(report.runs) == 1 else 5),
        told_pairs(report, 3),
    )


def told_pairs(report: Report, most: int) -> str:
    """Return what is confused most in words."""
    told = []
    for name, result in report.runs.items():
        pairs = analysis.confusion(result).pairs(most)
        each = [f"{label} is taken for {prediction} {counted(count, 'time')}" for label, prediction, count, _ in pairs]
        told.append(f"{name}: {', '.join(each) or 'every video is classified correctly'}.")
    return " ".join(told)


def reliability(report: Report) -> Section:
    """How sure the network is, and how right."""
    rows, told = [], []
    for name, result in report.runs.items():
        found = analysis.calibration(result)
        told.append(f"{name}: expected calibration error {percent(found.error)}")
        rows += [
            [name, *map(percent, (one.low, one.high)), one.videos, *map(percent, (one.probability, one.accuracy))]
            for one in found.bins
        ]
    return Section(
        "Is it as sure as it is right?",
        [
            "Below the diagonal the network is surer than it is right. The expected calibration error is the mean gap "
            f"over videos, in {analysis.CALIBRATION_BINS} bins of probability (Guo et al. 2017)."
        ],
        figures.reliability(drawn(report)),
        f"{'; '.join(told)}.",
        Table(["run", "from", "to", "videos", "mean probability", "right"], rows),
    )


OF_SITES = (active_bins, classes, motion, dropped, correctness)
"""What there is to say of networks with SGS, or something in its place."""
