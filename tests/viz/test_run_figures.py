"""Figures of tests hold the right data: what their artists draw is read back."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from atfr import viz
from atfr.errors import InputError
from atfr.evaluate import analysis
from atfr.evaluate.result import TestResult
from atfr.viz.figures import COLOURS
from atfr.viz.run_figures import PALETTE, run_styles
from tests.evaluate.made_up import SGS, made_up
from tests.viz.test_page import contrast, themes

SLOWFAST = {"res2.fast": 32, "res2.slow": 8}
OF_SITES = (viz.active_bins, viz.class_resolutions, viz.motion, viz.dropped, viz.correctness)
OF_ANY = (viz.accuracy_against_gflops, viz.confusion_matrix, viz.most_confused, viz.reliability)


@pytest.fixture(scope="module")
def result() -> TestResult:
    return made_up()


@pytest.fixture(scope="module")
def static() -> TestResult:
    return made_up(sites={}, seed=3)


def drawn(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    assert figure.get_figwidth() < 4  # read on a phone
    return figure


def bars(axes: object) -> dict[float, float]:
    """Heights of bars by the middle of each."""
    return {
        round(bar.get_x() + bar.get_width() / 2, 3): bar.get_height()
        for bar in axes.patches
        if isinstance(bar, Rectangle)
    }


def test_histogram_of_active_bins(result: TestResult) -> None:
    (axes,) = drawn(viz.active_bins(result)).axes
    kept = [count for video in result.videos for count in video.active_bins["res2"]]
    assert bars(axes) == pytest.approx({k: 100 * n / len(kept) for k, n in Counter(kept).items()})
    assert axes.lines[0].get_xdata()[0] == pytest.approx(np.mean(kept))
    assert axes.get_title("left") == f"res2: mean {np.mean(kept):.3g}"
    assert axes.get_xlim() == (0.4, 16.6)


def test_accuracy_against_gflops_joins_static_and_adaptive(result: TestResult, static: TestResult) -> None:
    uniform = replace(result, network={**result.network, "sgs": {**SGS, "sampler": "uniform"}})
    other = replace(result, views={**result.views, "frames": 8})
    runs = {"static": static, "adaptive": result, "uniform": uniform, "other": other}
    (axes,) = drawn(viz.accuracy_against_gflops(runs)).axes
    joins = [line for line in axes.lines if len(line.get_xdata()) == 2]
    points = [(one.gflops_per_clip.mean, 100 * one.top1) for one in (static, result)]
    for line, style in zip(joins, ("-", ":"), strict=True):  # the run on other clips is not joined
        np.testing.assert_allclose(line.get_xydata(), points)
        assert line.get_linestyle() == style
    assert len(axes.containers) == 4
    names = [text.get_text().partition(":")[0] for text in axes.figure.legends[0].get_texts()]
    assert names == list(runs)


def test_classes_of_low_and_high_resolution() -> None:
    result = made_up(classes=20, videos=200)
    (axes,) = drawn(viz.class_resolutions(result, ends=3)).axes
    names = [text.get_text() for text in axes.texts]
    low, high = analysis.resolution_ends(result, "res2", 3)
    assert [name.partition(":")[0] for name in names] == [one.label for one in (*low, *high)]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [one.active_bins["res2"].mean for one in (*low, *high)]
    assert widths == sorted(widths)
    assert axes.get_xlim() == (0, 16)


def test_maps_against_motion(result: TestResult) -> None:
    axes, bar = drawn(viz.motion(result)).axes
    points = [
        (100 * energy, kept)
        for video in result.videos
        for energy, kept in zip(video.motion, video.active_bins["res2"], strict=True)
    ]
    assert axes.get_title("left") == f"res2: rank correlation {analysis.motion_relation(result, 'res2').clips:.2f}"
    assert bar.get_ylabel() == "clips"
    (image,) = axes.images
    left, right, bottom, top = image.get_extent()
    clips = image.get_array().filled(0)
    found = np.zeros_like(clips)
    for energy, kept in points:  # every clip is where it is drawn
        column = min(int((energy - left) / (right - left) * clips.shape[1]), clips.shape[1] - 1)
        found[int((kept - bottom) / (top - bottom) * clips.shape[0]), column] += 1
    np.testing.assert_array_equal(found, clips)


def test_dropped_and_down_weighted(result: TestResult) -> None:
    (axes,) = drawn(viz.dropped(result)).axes
    found = bars(axes)
    clips = [one for video in result.videos for one in video.sites["res2"].dropped]
    weak = [one for video in result.videos for one in video.sites["res2"].down_weighted]
    expected = {k - 0.2: 100 * n / len(clips) for k, n in Counter(clips).items()}
    expected |= {k + 0.2: 100 * n / len(weak) for k, n in Counter(weak).items()}
    assert found == pytest.approx(expected)


def test_correctness(result: TestResult) -> None:
    (axes,) = drawn(viz.correctness(result)).axes
    groups = analysis.accuracy_by_bins(result, "res2")
    assert axes.lines[0].get_ydata().tolist() == [100 * one.accuracy for one in groups]
    assert [text.get_text() for text in axes.texts] == [str(one.videos) for one in groups]
    assert [text.get_text() for text in axes.get_xticklabels()] == [str(one.low) for one in groups]


@pytest.mark.parametrize("videos", [2, 60, 3000])
def test_colour_bars_have_whole_numbers(videos: int) -> None:
    *_, bar = drawn(viz.motion(made_up(videos=videos))).axes
    low, high = bar.get_ylim()
    shown = [
        text.get_text() for text, at in zip(bar.get_yticklabels(), bar.get_yticks(), strict=True) if low <= at <= high
    ]
    assert len(shown) > 1
    assert all(re.fullmatch(r"[1-9]\d*", text) for text in shown)
    assert not any(text.get_text() for text in bar.get_yticklabels(minor=True))


def test_motion_that_goes_with_nothing_is_said_in_words() -> None:
    result = made_up(videos=4)
    same = [replace(video, motion=(0.1,) * len(video.motion)) for video in result.videos]
    (axes, _) = drawn(viz.motion(replace(result, videos=tuple(same)))).axes
    assert axes.get_title("left") == "res2: rank correlation none"


def test_confusion_matrix(result: TestResult) -> None:
    (axes,) = drawn(viz.confusion_matrix(result)).axes
    found = analysis.confusion(result)
    np.testing.assert_allclose(axes.images[0].get_array(), found.shares)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [text.get_text() for text in labels] == list(found.labels)
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {
        (column, row): f"{100 * share:.0f}" for (row, column), share in np.ndenumerate(found.shares) if share >= 0.005
    }


def test_of_400_classes_the_matrix_shows_those_confused_most() -> None:
    result = made_up(classes=400, videos=1200)
    (axes,) = drawn(viz.confusion_matrix(result)).axes
    assert axes.images[0].get_array().shape == (12, 13)
    assert axes.get_title("left") == "12 of 400 classes"
    heights = [label.get_window_extent().height for label in axes.get_yticklabels()]
    places = [label.get_window_extent().y0 for label in axes.get_yticklabels()]
    assert max(heights) <= min(abs(np.diff(places)))  # names do not overlap


def test_most_confused(result: TestResult) -> None:
    (axes,) = drawn(viz.most_confused(result, most=3)).axes
    pairs = analysis.confusion(result).pairs(3)
    assert [bar.get_width() for bar in axes.patches] == [count for _, _, count, _ in pairs]
    label, prediction, count, share = pairs[0]
    assert axes.texts[0].get_text() == f"{label} → {prediction}: {count} ({100 * share:.0f} %)"
    few = replace(result, videos=result.videos[:8])
    for axes in drawn(viz.most_confused({"few": few, "all": result})).axes:  # no bar is cut off
        assert axes.get_xlim()[1] > max(count for _, _, count, _ in pairs)
    right = replace(result, videos=tuple(replace(v, prediction=v.label, rank=1) for v in result.videos))
    with pytest.raises(InputError, match="every video is classified correctly"):
        viz.most_confused(right)


def test_reliability(result: TestResult, static: TestResult) -> None:
    above, below = drawn(viz.reliability({"a": result, "b": static})).axes
    diagonal, *curves = above.lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    for line, videos, one in zip(curves, below.lines, (result, static), strict=True):
        found = analysis.calibration(one).bins
        np.testing.assert_allclose(line.get_xydata(), [(100 * b.probability, 100 * b.accuracy) for b in found])
        assert sum(videos.get_ydata()) == pytest.approx(100)


def test_slowfast_has_an_axes_a_pathway_and_runs_stand_below_each_other(result: TestResult) -> None:
    slowfast = made_up(sites=SLOWFAST)
    for make in OF_SITES:
        assert sum(bool(axes.get_title("left")) for axes in drawn(make(slowfast)).axes) == 2
        titles = [axes.get_title("left") for axes in drawn(make({"one": result, "two": slowfast})).axes]
        titles = [title for title in titles if title]  # a scale of colours has none
        sites = [title.partition(":")[0] for title in titles]
        assert sites == ["one, res2", "two, res2.fast", "two, res2.slow"]


def test_static_networks_have_figures_without_sites(static: TestResult) -> None:
    for make in OF_ANY:
        drawn(make(static))
    for make in OF_SITES:
        with pytest.raises(InputError, match="a static network keeps all maps"):
            make(static)


def test_names_are_drawn_as_they_are() -> None:
    """Dollars are no formulas, bytes that are no text no error, long names no wide figure."""
    result = made_up(classes=3, videos=30)
    names = dict(zip(result.labels, ("a $ b $ {", "\udcff", "x" * 300), strict=True))
    videos = tuple(replace(v, label=names[v.label], prediction=names[v.prediction]) for v in result.videos)
    odd = replace(result, videos=videos, labels=tuple(names.values()))
    for make in (*OF_SITES, *OF_ANY):
        drawn(make({"run $ {": odd, "y" * 200: odd}))


SEEN = {  # Machado et al. 2009: what is left of linear RGB without one kind of cones
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def lab(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear.clip(0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", SEEN)
def test_the_colour_blind_tell_the_colours_of_runs_apart(kind: str) -> None:
    colours = {}
    for colour in (COLOURS["static"], *PALETTE):
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        colours[colour] = lab(np.array(SEEN[kind]) @ linear)
    for one, other in combinations(colours, 2):
        assert np.linalg.norm(colours[one] - colours[other]) > 15  # 2 can just be told side by side


def test_colours_of_runs_are_seen_on_both_pages(result: TestResult, static: TestResult) -> None:
    runs = {"static": static, **{f"{number}": result for number in range(6)}}
    styles = run_styles(runs)
    assert len(set(styles.values())) == 7
    assert styles["0"][0] == PALETTE[0]
    for colours in themes():
        for colour, _ in styles.values():
            assert contrast(colour, colours["card"]) >= 3  # WCAG 2.2, 1.4.11
