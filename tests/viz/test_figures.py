"""Figures hold the right data: what their artists draw is read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import atfr
from atfr import viz
from atfr.errors import InputError
from atfr.evaluate.predict import Prediction
from atfr.measure import Timing
from atfr.viz.figures import DARK, LIGHT, bin_colours, ink_on
from atfr.viz.maps import chosen, overlaid, some
from atfr.viz.watch import Watched
from tests.viz.build import Sum, by_hand, clip_by_hand

FRAMES = torch.arange(4 * 6 * 6 * 3).remainder(251).to(torch.uint8).view(4, 6, 6, 3)


@pytest.fixture(scope="module")
def watched() -> Watched:
    """Frames 0 and 1 in bin 0, frame 2 in bin 1, frame 3 dropped."""
    model = by_hand()
    with viz.watch(model) as watched:
        model(clip_by_hand())
    return watched


def drawn(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    assert figure.get_figwidth() < 5  # read on a phone
    return figure


def test_frames_of_a_bin_share_a_frame_in_its_colour(watched: Watched) -> None:
    (axes,) = drawn(viz.frame_strip(watched, FRAMES, numbers=[10, 12, 14, 16])).axes
    for image, frame in zip(axes.images, FRAMES, strict=True):
        np.testing.assert_array_equal(image.get_array(), frame.numpy())
    first, second = bin_colours(2)
    assert [to_hex(border.get_edgecolor()) for border in axes.patches] == [first, first, second, "#9a9a9a"]
    for border, image in zip(axes.patches, axes.images, strict=True):
        left, right, bottom, top = image.get_extent()
        x, y = border.get_xy()
        assert left < x < right
        assert top < y < bottom
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["10", "12", "14", "16", "bin 0", "bin 0", "bin 1", "dropped"]


def test_magnitudes_and_edges(watched: Watched) -> None:
    (axes,) = drawn(viz.magnitudes(watched)).axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0, 1, 2, 3]
    assert line.get_ydata().tolist() == [1, 0.5, 3, 2]
    edges = next(one for one in axes.collections if isinstance(one, LineCollection))
    assert [segment[0][1] for segment in edges.get_segments()] == [0, 2, 4]
    kept, dropped = (one for one in axes.collections if one is not edges)
    assert kept.get_offsets().tolist() == [[0, 1], [1, 0.5], [2, 3]]
    assert dropped.get_offsets().tolist() == [[3, 2]]
    assert [to_hex(colour) for colour in kept.get_facecolors()] == [bin_colours(2)[slot] for slot in (0, 0, 1)]
    assert axes.get_title("left") == "magnitude at stage"


def test_flow_goes_from_each_map_to_its_output_map(watched: Watched) -> None:
    (axes,) = drawn(viz.flow(watched.trace)).axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose([line.get_xdata() for line in lines], [[1 / 8, 1 / 4], [3 / 8, 1 / 4], [5 / 8, 3 / 4]])
    thin = [line.get_linewidth() for line in lines]
    assert thin[0] == thin[2] > thin[1]  # weights 1, 1/2, 1
    crosses = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"]
    assert crosses == [7 / 8]
    assert axes.get_title("left") == "4 maps -> 2 at stage"


def test_weights(watched: Watched) -> None:
    axes = drawn(viz.weights(watched.trace)).axes[0]
    assert axes.images[0].get_array().tolist() == [[1, 0.5, 0, 0], [0, 0, 1, 0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]


def test_feature_maps_before_and_after(watched: Watched) -> None:
    before, after = drawn(viz.feature_maps(watched, FRAMES, channels=[1, 0], columns=2)).axes
    pictures, *rows = [image.get_array() for image in before.images]
    np.testing.assert_array_equal(pictures, torch.cat([FRAMES[0], FRAMES[3]], dim=1).numpy())
    clip = clip_by_hand()[0]
    for row, channel in zip(rows, (1, 0), strict=True):
        np.testing.assert_array_equal(row, torch.cat([clip[channel, 0], clip[channel, 3]], dim=1).numpy())
    merged = torch.stack([clip[:, 0] + clip[:, 1] / 2, clip[:, 2]], dim=1)
    for image, channel in zip(after.images, (1, 0), strict=True):
        np.testing.assert_array_equal(image.get_array(), torch.cat(list(merged[channel]), dim=1).numpy())
    assert [label.get_text() for label in after.get_yticklabels()] == ["ch. 1", "ch. 0"]
    assert [label.get_text() for label in after.get_xticklabels()] == ["bin 0", "bin 1"]


def test_channels_that_vary_most_and_maps_spread_evenly() -> None:
    maps = torch.zeros(4, 2, 3, 3)
    maps[3, 0, 0, 0], maps[1, 1, 1, 1] = 9, 5
    assert chosen(maps, 2) == [1, 3]
    assert chosen(maps, 9) == [0, 1, 2, 3]
    assert some(5, 8) == [0, 1, 2, 3, 4]
    assert some(31, 4) == [0, 10, 20, 30]


def test_activation_maps_are_bright_where_a_place_speaks_for_the_class() -> None:
    maps = torch.zeros(4, 2, 2)
    maps[1, 0, 1], maps[2, 1, 1] = 3, -5
    found = viz.Activation(0, 1.0, {"fast": maps, "slow": torch.zeros(4, 2, 2)})
    fast, slow = drawn(viz.activation_maps(found, FRAMES)).axes
    grey = 0.7 * FRAMES.numpy() @ np.array([0.299, 0.587, 0.114])
    for frame in (0, 2, 3):  # what speaks against the class is not drawn
        for axes in (fast, slow):
            picture = axes.images[frame].get_array()
            np.testing.assert_array_equal(picture, grey[frame].round()[..., None].repeat(3, 2))
    difference = np.abs(fast.images[1].get_array().astype(int) - grey[1][..., None]).max(2)
    brightest = np.unravel_index(difference.argmax(), difference.shape)
    assert brightest[0] < 3 <= brightest[1]
    assert difference[5, 0] < 1
    assert fast.get_title("left") == "what speaks for the class, fast pathway"


def test_full_strength_hides_the_frame() -> None:
    strength = np.array([[[0.0, 1.0]]])
    assert overlaid(np.array([[[200.0, 200.0]]]), strength).tolist() == [[[[140, 140, 140], [252, 255, 164]]]]


def prediction(labels: tuple[str, ...] = ("a", "b $x\udcff", "c" * 80)) -> Prediction:
    scores = torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64)
    return Prediction(Path("v.mp4"), labels, scores, {"res2": (5,)}, (1.5,), 4.0, 9.0)


def test_top_classes() -> None:
    (axes,) = drawn(viz.top_classes(prediction())).axes
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [70, 20, 10])
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["70.0 %", "20.0 %", "10.0 %", "b $x\\udcff", "a", "c" * 49 + "…"]


def test_saving() -> None:
    timing = Timing({"static": (0.03, 0.02, 1.0), "adaptive": (0.01, 0.01, 0.001)})
    gflops, ms = drawn(viz.saving(prediction(), timing)).axes
    assert [bar.get_width() for bar in gflops.patches] == [4.0, 1.5]
    assert [bar.get_width() for bar in ms.patches] == pytest.approx([30.0, 10.0])
    assert [text.get_text() for text in ms.texts] == ["30", "10"]
    assert len(viz.saving(prediction()).axes) == 1


def test_a_static_network_has_frames_and_no_bins() -> None:
    model = Sum()
    with viz.watch(model) as watched:
        model(clip_by_hand())
    (axes,) = drawn(viz.frame_strip(watched, FRAMES)).axes
    assert len(axes.images) == 4
    assert not axes.patches
    for draw in (viz.flow, viz.weights):
        with pytest.raises(InputError, match="no SGS"):
            draw(watched.trace)


def test_sites_one_above_the_other_and_frames_of_merged_maps() -> None:
    """A second SGS merges bins of the first: a frame goes where its bin goes."""
    model = by_hand()
    atfr.restore_(model)
    model.stage = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Sequential(torch.nn.Identity()))
    atfr.adapt_(model, after=["stage.0", "stage.1"], num_bins=2, embedding_dim=1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, atfr.SimilarityGuidedSampling):
                for parameter in module.parameters():
                    parameter.zero_()
                module.similarity.hidden.weight[0, 0, 0] = module.similarity.output.weight[0, 0, 0] = 1
    with viz.watch(model) as watched, torch.no_grad():
        model(clip_by_hand())  # the first gives bins of 1.25 and 3, the second keeps both apart
    figure = drawn(viz.frame_strip(watched, FRAMES))
    assert [axes.get_title("left") for axes in figure.axes] == ["frames by bin at stage.0", "frames by bin at stage.1"]
    named = [[text.get_text() for text in axes.texts][4:] for axes in figure.axes]
    assert named == [["bin 0", "bin 0", "bin 1", "dropped"]] * 2
    assert len(viz.flow(watched.trace).axes) == 2
    assert len(viz.magnitudes(watched).axes) == 2


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_bins_have_colours_of_their_own_with_text_that_is_read_on_them(count: int) -> None:
    colours = bin_colours(count)
    assert len(set(colours)) == count

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for colour in colours:
        high, low = sorted([luminance(colour), luminance(ink_on(colour))], reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.2, 1.4.3
    assert {ink_on(colour) for colour in bin_colours(64)} == {DARK, LIGHT}
