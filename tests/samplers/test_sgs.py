"""The layer as a module: dtypes, memory formats, traces, changing B, copies, and what it refuses."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import atfr
from atfr.errors import AtfrError, InputError
from tests.reference.sgs import KERNELS
from tests.samplers.build import chosen_layer, embed, noise, run

MAGNITUDE = [[0.3, 3.05, 5.2, 3.3, 7.1], [4.3, 0.9, 1.35, 6.0, 7.5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_dtype_of_the_features_is_kept(kernel, dtype):
    layer = atfr.SimilarityGuidedSampling(4, kernel=kernel).to(dtype)
    maps, site = run(layer, noise(2, 4, 5, 3, 3, dtype=dtype))
    assert {m.dtype for m in maps} == {dtype}
    assert site.weights.dtype == torch.float32
    assert site.active_bins.dtype == site.assignment.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_autocast_leaves_bins_and_weights_in_float32(kernel, dtype):
    """Magnitudes 4.02 and 3.99 are one number in bfloat16 and two bins in float32."""
    embedding = torch.tensor([[[1.0], [3.99], [4.02], [6.9], [7.0]]])
    features = noise(1, 4, 5, 3, 3, dtype=dtype)
    _, plain = run(chosen_layer(embedding, 4, num_bins=4, kernel=kernel), features)
    with torch.autocast("cpu", torch.bfloat16):
        maps, site = run(chosen_layer(embedding, 4, num_bins=4, kernel=kernel), features)
    assert maps[0].dtype == dtype
    assert site.weights.dtype == torch.float32
    assert torch.equal(site.assignment, plain.assignment)
    assert torch.equal(site.weights, plain.weights)
    assert site.assignment.tolist() == [[0, 1, 2, 3, 3]]


def test_autocast_runs_the_own_network_as_float32_does():
    torch.manual_seed(0)
    layer = atfr.SimilarityGuidedSampling(4, num_bins=3)
    features = noise(2, 4, 6, 3, 3).abs() * torch.linspace(0.1, 3, 6).view(1, 1, 6, 1, 1)
    want, _ = run(layer, features)
    with torch.autocast("cpu", torch.bfloat16):
        maps, site = run(layer, features)
        assert layer.similarity(features).shape == (2, 6, 8)
    assert maps[0].dtype == torch.float32
    assert site.weights.dtype == torch.float32
    assert len(want) == len(maps)
    sum(m.sum() for m in maps).backward()
    assert layer.similarity.output.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("kernel", KERNELS)
def test_memory_formats_do_not_matter(kernel):
    features, embedding = noise(2, 4, 5, 3, 3), embed(MAGNITUDE, 6, seed=1)
    layer = chosen_layer(embedding, 4, kernel=kernel)
    want, _ = run(layer, features)
    for other in (
        features.contiguous(memory_format=torch.channels_last_3d),
        features.transpose(3, 4).contiguous().transpose(3, 4),
        torch.cat([features, features], 2)[:, :, :5],
        features.transpose(0, 2).contiguous().transpose(0, 2),
    ):
        got, _ = run(layer, other)
        for a, b in zip(want, got, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("top_edge", ["center", "paper"])
def test_zero_features(kernel, top_edge, frames):
    """No bias need be zero: frames that are all zero are identical, whatever the network says of them."""
    layer = atfr.SimilarityGuidedSampling(4, kernel=kernel, top_edge=top_edge)
    maps, site = run(layer, torch.zeros(2, 4, frames, 3, 3))
    assert site.active_bins.tolist() == [1, 1]
    for m in maps:
        assert torch.equal(m, torch.zeros(4, 1, 3, 3))


def test_a_single_frame_passes_through():
    features = noise(3, 4, 1, 3, 3)
    for kernel in KERNELS:
        for top_edge in ("center", "paper"):
            for num_bins in (None, 1, 7):
                layer = atfr.SimilarityGuidedSampling(4, kernel=kernel, top_edge=top_edge, num_bins=num_bins)
                maps, _ = run(layer, features)
                torch.testing.assert_close(torch.stack(maps), features)


def test_num_bins_defaults_to_the_number_of_frames():
    for frames in (3, 6, 11):
        embedding = (2 * torch.arange(float(frames)) + 1).view(1, frames, 1)
        _, site = run(chosen_layer(embedding, 4), noise(1, 4, frames, 2, 2))
        assert site.active_bins.tolist() == [frames]


def test_set_num_bins():
    embedding = (2 * torch.arange(8.0) + 1).view(1, 8, 1)
    features = noise(1, 4, 8, 2, 2)
    layer = chosen_layer(embedding, 4)
    model = nn.Sequential(layer)
    assert run(layer, features)[1].active_bins.tolist() == [8]
    for num_bins in (1, 2, 5, 8, 16, 40):
        atfr.set_num_bins_(model, num_bins)
        same = chosen_layer(embedding, 4, num_bins=num_bins)
        (got,), site = run(layer, features)
        (want,), _ = run(same, features)
        assert torch.equal(got, want)
        assert site.active_bins[0] <= min(8, num_bins)
        assert site.assignment.max() == num_bins - 1
    atfr.set_num_bins_(model, None)
    assert run(layer, features)[1].active_bins.tolist() == [8]
    with pytest.raises(AtfrError):
        atfr.set_num_bins_(model, 0)
    assert run(layer, features)[1].active_bins.tolist() == [8]


def test_set_num_bins_needs_a_site():
    with pytest.raises(AtfrError, match=r"SimilarityGuidedSampling|adapt"):
        atfr.set_num_bins_(nn.Sequential(nn.ReLU()), 4)


def test_recording_a_bare_layer_and_a_model():
    embedding = embed(MAGNITUDE, 6, seed=1)
    layer, features = chosen_layer(embedding, 4), noise(2, 4, 5, 3, 3)
    with atfr.record(layer) as bare:
        layer(features)
    with atfr.record(nn.Sequential(nn.Identity(), layer)) as inside:
        layer(features)
    assert torch.equal(bare.active_bins, inside.active_bins)
    assert list(inside.sites) == ["1"]
    site = inside.sites["1"]
    assert site.active_bins.shape == (2,)
    assert site.assignment.shape == site.weights.shape == (2, 5)
    assert not site.weights.requires_grad


def test_recording_stops_with_its_block():
    embedding = embed(MAGNITUDE, 6, seed=1)
    layer, features = chosen_layer(embedding, 4), noise(2, 4, 5, 3, 3)
    model = nn.Sequential(layer)
    with atfr.record(model) as trace:
        model(features)
    kept = trace.active_bins.clone()
    layer.similarity.embedding = torch.ones_like(embedding)
    model(features)
    assert torch.equal(trace.active_bins, kept)
    with pytest.raises(RuntimeError, match="inside"), atfr.record(model):
        raise RuntimeError("inside")
    assert pickle.dumps(model)  # no hook is left behind


def test_two_sites_have_two_traces():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = atfr.SimilarityGuidedSampling(4)
            self.second = atfr.SimilarityGuidedSampling(4)

        def forward(self, x):
            return self.first(x), self.second(x)

    model = Two()
    with atfr.record(model) as trace:
        model(noise(2, 4, 5, 3, 3))
    assert sorted(trace.sites) == ["first", "second"]
    with pytest.raises(AtfrError, match=r"first|second|sites"):
        _ = trace.active_bins


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_sample_alike(again):
    layer = atfr.SimilarityGuidedSampling(4, num_bins=3, kernel="kronecker", top_edge="paper", order="time")
    features = noise(2, 4, 6, 3, 3)
    want, _ = run(layer, features)
    got, _ = run(again(layer), features)
    for a, b in zip(want, got, strict=True):
        assert torch.equal(a, b)


def test_state_dict_round_trip():
    first, second = (atfr.SimilarityGuidedSampling(4, kernel="linear") for _ in range(2))
    second.load_state_dict(first.state_dict())
    features = noise(2, 4, 6, 3, 3)
    for a, b in zip(run(first, features)[0], run(second, features)[0], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((4, 5, 3), "5"), ((4, 5, 3, 3), "5"), ((2, 3, 5, 3, 3), "4"), ((1, 2, 4, 5, 3, 3), "5"), ((2, 4, 0, 3, 3), "0")],
)
def test_refuses_other_shapes(shape, words):
    with pytest.raises(InputError, match=words):
        atfr.SimilarityGuidedSampling(4)(torch.zeros(shape))


def test_refuses_whole_numbers():
    with pytest.raises(InputError, match=r"int64|float"):
        atfr.SimilarityGuidedSampling(4)(torch.zeros(2, 4, 5, 3, 3, dtype=torch.int64))


@pytest.mark.parametrize("num_bins", [0, -3])
def test_refuses_no_bins(num_bins):
    with pytest.raises(InputError, match=str(num_bins)):
        atfr.SimilarityGuidedSampling(4, num_bins=num_bins)


@pytest.mark.parametrize(
    ("option", "typo", "meant"),
    [
        ("kernel", "liner", "linear"),
        ("kernel", "kroneker", "kronecker"),
        ("top_edge", "centre", "center"),
        ("order", "tine", "time"),
    ],
)
def test_unknown_names_suggest_what_was_meant(option, typo, meant):
    with pytest.raises(InputError, match=meant) as error:
        atfr.SimilarityGuidedSampling(4, **{option: typo})
    assert typo in str(error.value)


@pytest.mark.parametrize("options", [{"channels": 0}, {"channels": 4, "embedding_dim": 0}])
def test_refuses_empty_sizes(options):
    with pytest.raises(InputError):
        atfr.SimilarityGuidedSampling(**options)
