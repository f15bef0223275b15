"""watch: the maps around every SGS layer, and edges of bins that put every map where the layer put it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import atfr
from atfr import viz
from atfr.errors import InputError
from atfr.viz.watch import merging
from tests.adapt.test_sites import Tiny, clips, tell_apart
from tests.viz.build import by_hand, clip_by_hand


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_bins": 4, "top_edge": "paper", "kernel": "kronecker"},
        {"temporal_block": 4, "order": "time"},
        {"similarity": "spherical", "embedding_dim": 3, "num_bins": (2, 3, 3), "temporal_block": 3},
        {"similarity": "angular", "embedding_dim": 3, "num_bins": 5},
    ],
)
def test_the_edges_put_every_map_into_its_bin(options: dict) -> None:
    model = Tiny().double().eval()
    atfr.adapt_(model, after="early", **options)
    tell_apart(model)
    x = clips().double()[1:]
    with viz.watch(model) as watched:
        model(x)
    names = [one.name for one in watched.sites["early"].coordinates[0]]
    radius = [] if options.get("similarity") == "angular" else ["magnitude"]
    assert names == radius + ["angle 1", "angle 2"] * ("similarity" in options)
    for clip in range(3):
        assignment = merging(watched.trace.sites["early"], clip).assignment.numpy()
        found = np.zeros(9, dtype=int)
        coordinates = watched.sites["early"].coordinates[clip]
        in_a_block = np.prod([len(one.blocks[0].edges) - 1 for one in coordinates])
        for number, blocks in enumerate(zip(*(one.blocks for one in coordinates), strict=True)):
            steps = slice(blocks[0].start, blocks[0].stop)
            for one, (start, stop, edges) in zip(coordinates, blocks, strict=True):
                bins = len(edges) - 1
                place = np.searchsorted(edges.numpy(), one.values[start:stop].numpy(), side="right") - 1
                found[steps] = found[steps] * bins + place.clip(0, bins - 1)
            found[steps] += number * in_a_block
        kept = assignment >= 0
        assert kept.sum() >= 3
        np.testing.assert_array_equal(found[kept], assignment[kept])


def test_values_and_edges_by_hand() -> None:
    model = by_hand()
    with viz.watch(model) as watched:
        model(clip_by_hand())
    ((coordinate,),) = watched.sites["stage"].coordinates
    assert coordinate.name == "magnitude"
    assert coordinate.values.tolist() == [1, 0.5, 3, 2]
    ((start, stop, edges),) = coordinate.blocks
    assert (start, stop, edges.tolist()) == (0, 4, [0, 2, 4])
    one = merging(watched.trace.sites["stage"], 0)
    assert one.matrix.tolist() == [[1, 0.5, 0, 0], [0, 0, 1, 0]]
    assert (one.bins, one.slots.tolist()) == ([0, 1], [0, 0, 1, -1])


def test_maps_after_are_the_weighted_sums_of_those_before_at_every_site_and_in_every_pass() -> None:
    model = tell_apart(Tiny().double().eval())
    atfr.adapt_(model, after=["early", "middle"])
    tell_apart(model)
    x = clips().double()
    plain = model(x)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    with viz.watch(model) as watched:
        logits = [model(x[:3]), model(x[3:])]
    torch.testing.assert_close(torch.cat(logits), plain)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert list(watched.sites) == ["early", "middle"]
    for site, maps in watched.sites.items():
        assert len(maps.before) == len(maps.after) == 4
        for clip, (before, after) in enumerate(zip(maps.before, maps.after, strict=True)):
            matrix = merging(watched.trace.sites[site], clip).matrix[:, : before.shape[1]].double()
            summed = torch.einsum("at,cthw->cahw", matrix, before)
            torch.testing.assert_close(after, summed, rtol=1e-5, atol=1e-5)  # a trace's weights are float32
    with pytest.raises(InputError, match="clips 0 to 3, got clip=4"):
        merging(watched.trace.sites["early"], 4)


def test_maps_that_are_all_zero_have_no_edges() -> None:
    model = by_hand()
    with viz.watch(model) as watched:
        model(torch.zeros(1, 3, 4, 2, 2))
    assert len(watched.sites["stage"].coordinates[0][0].blocks[0].edges) == 0
    viz.magnitudes(watched).draw_without_rendering()


def test_a_control_compares_nothing() -> None:
    model = Tiny().eval()
    atfr.adapt_(model, after="early", sampler="uniform", active_bins=3)
    with viz.watch(model) as watched:
        model(clips()[:1])
    assert watched.sites["early"].coordinates == [()]
    with pytest.raises(InputError, match="nothing is compared at early"):
        viz.magnitudes(watched)
