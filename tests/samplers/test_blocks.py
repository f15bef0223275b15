"""Temporal blocks, and SGS on clips that are packed already: each block, and each clip, is on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import atfr
from atfr.errors import InputError
from atfr.ragged import PackedClips
from tests.reference import sgs as reference
from tests.samplers.build import chosen_layer, noise, run

SOAK = pytest.mark.soak
KERNELS = reference.KERNELS
LENGTHS = (5, 1, 9, 4)
OPTIONS = [
    {"kernel": kernel, "order": order, "num_bins": num_bins, "similarity": similarity, "top_edge": top_edge}
    for kernel in KERNELS
    for order, num_bins, similarity, top_edge in [
        ("magnitude", None, "magnitude", "center"),
        ("time", 3, "magnitude", "paper"),
        ("time", None, "spherical", "center"),
        ("magnitude", (2, 4), "angular", "center"),
    ]
]


def check_blocks(maps: list[Tensor], site: object, clips: list[Tensor], embeddings: list[Tensor], size: int, **options):
    """Maps and trace equal the oracle's, block after block; behind a shorter clip's end nothing is traced."""
    for i, (features, z) in enumerate(zip(clips, embeddings, strict=True)):
        want = reference.sample_blocks(features.numpy(), z.numpy(), size, **options)
        frames = len(z)
        assert site.lengths[i] == site.active_bins[i] == want.active_bins
        np.testing.assert_allclose(maps[i].permute(1, 0, 2, 3).numpy(), want.maps, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(site.weights[i, :frames].numpy(), want.weights, rtol=1e-6, atol=1e-7)
        assert (site.assignment[i, frames:] == -1).all()
        assert not site.weights[i, frames:].any()
        if not any(block.fell_back for block in want.blocks):  # which bin stands for a block of equals is not laid down
            assert site.assignment[i, :frames].tolist() == want.assignment.tolist()


@pytest.mark.parametrize("size", [1, 4, 7, 12, 100, *(pytest.param(size, marks=SOAK) for size in (2, 3, 6, 13))])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_block_is_a_clip_of_its_own(options, size):
    embedding, features = noise(3, 12, 3, seed=6, dtype=torch.float64), noise(3, 2, 12, 2, 2, dtype=torch.float64)
    maps, site = run(chosen_layer(embedding, 2, temporal_block=size, **options), features)
    check_blocks(maps, site, list(features), list(embedding), size, **options)
    parts = []
    for start in range(0, 12, size):
        part = slice(start, start + size)
        parts.append(run(chosen_layer(embedding[:, part], 2, **options), features[:, :, part])[0])
    for i in range(3):
        torch.testing.assert_close(maps[i], torch.cat([part[i] for part in parts], dim=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_blocks_of_one_map_keep_every_map(kernel):
    embedding, features = noise(2, 7, 3), noise(2, 2, 7, 2, 2)
    maps, site = run(chosen_layer(embedding, 2, temporal_block=1, num_bins=1, kernel=kernel), features)
    assert torch.equal(torch.stack(maps), features)
    assert site.assignment.tolist() == [list(range(7))] * 2


@pytest.mark.parametrize("size", [4, 20])
def test_zero_and_identical_blocks_make_one_map_each(size):
    embedding = torch.zeros(2, 8, 3)
    embedding[1] = 1.5
    features = noise(2, 2, 8, 2, 2)
    maps, _ = run(chosen_layer(embedding, 2, temporal_block=size, kernel="linear_mean"), features)
    means = torch.stack([block.mean(2) for block in features.split(size, dim=2)], dim=2)
    torch.testing.assert_close(torch.stack(maps), means)


def test_a_nan_stays_in_its_block():
    embedding, features = noise(2, 8, 3), noise(2, 2, 8, 2, 2)
    options = {"temporal_block": 4, "num_bins": 3}
    want, site = run(chosen_layer(embedding, 2, **options), features)
    first = len(site.assignment[0, :4].unique())
    broken = embedding.clone()
    broken[0, 6] = torch.nan
    got, _ = run(chosen_layer(broken, 2, **options), features)
    torch.testing.assert_close(got[0][:, :first], want[0][:, :first])
    assert got[0][:, first:].isnan().all()
    torch.testing.assert_close(got[1], want[1])


def test_gradients_stay_in_their_block():
    embedding = noise(1, 8, 3, dtype=torch.float64).requires_grad_()
    features = noise(1, 2, 8, 2, 2, dtype=torch.float64)
    layer = chosen_layer(embedding, 2, temporal_block=4, num_bins=2)
    maps, site = run(layer, features)
    first = len(set(site.assignment[0, :4].tolist()) - {-1})
    (grad,) = torch.autograd.grad(maps[0][:, :first].square().sum(), embedding)
    assert grad[0, :4].abs().max() > 0
    assert not grad[0, 4:].any()


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "8"])
def test_a_block_has_a_map_at_least(bad):
    with pytest.raises(InputError, match="temporal_block must be an integer of at least 1"):
        atfr.SimilarityGuidedSampling(4, temporal_block=bad)


@pytest.mark.parametrize(("num_bins", "size", "most"), [(None, 4, 10), (3, 4, 8), (2, 10, 2), (None, None, 10)])
def test_the_numbers_of_maps_that_blocks_may_keep(num_bins, size, most):
    layer = atfr.SimilarityGuidedSampling(4, num_bins, temporal_block=size)
    assert layer.possible_active_bins(10) == range(-(-10 // (size or 10)), most + 1)


def packed_clips(channels: int = 2, dim: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """Clips of LENGTHS and their embeddings."""
    clips = [noise(channels, n, 2, 2, seed=n, dtype=torch.float64) for n in LENGTHS]
    return clips, [noise(n, dim, seed=50 + n, dtype=torch.float64) for n in LENGTHS]


@pytest.mark.parametrize("size", [None, 1, 4, *(pytest.param(size, marks=SOAK) for size in (3, 9, 10))])
@pytest.mark.parametrize("options", OPTIONS)
def test_packed_clips_are_each_alone(options, size):
    clips, embeddings = packed_clips()
    layer = chosen_layer(torch.cat(embeddings)[None], 2, temporal_block=size, **options)
    maps, site = run(layer, PackedClips.pack(clips))
    check_blocks(maps, site, clips, embeddings, size or 100, **options)
    assert site.assignment.shape == (4, 9)
    for i, (clip, z) in enumerate(zip(clips, embeddings, strict=True)):
        alone, own = run(chosen_layer(z[None], 2, temporal_block=size, **options), clip[None])
        torch.testing.assert_close(maps[i], alone[0], rtol=1e-12, atol=1e-12)
        assert own.lengths[0] == site.lengths[i]


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("similarity", reference.SIMILARITIES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_packed_clips_with_the_layers_own_network(kernel, similarity, size):
    """Maps and gradients, of the clips and of the parameters, are those of the clips one by one."""
    layer = atfr.SimilarityGuidedSampling(2, 3, kernel, 3, similarity=similarity, temporal_block=size).double()
    clips = [clip.requires_grad_() for clip in packed_clips()[0]]
    parameters = list(layer.parameters())
    together = layer(PackedClips.pack(clips)).unpack()
    alone = [layer(clip[None]).unpack()[0] for clip in clips]
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got, want)
    loss = [sum(maps.square().sum() for maps in result) for result in (together, alone)]
    got, want = (torch.autograd.grad(value, [*clips, *parameters]) for value in loss)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    assert all(grad.abs().max() > 0 for grad in got)


def test_a_nan_stays_in_its_packed_clip():
    clips, embeddings = packed_clips()
    want, _ = run(chosen_layer(torch.cat(embeddings)[None], 2), PackedClips.pack(clips))
    embeddings[2][3] = torch.nan
    got, _ = run(chosen_layer(torch.cat(embeddings)[None], 2), PackedClips.pack(clips))
    assert got[2].isnan().all()
    for i in (0, 1, 3):
        torch.testing.assert_close(got[i], want[i])
