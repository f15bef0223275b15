"""The layer against the NumPy oracle: every kernel, edge reading and order, any B, and the fall-backs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import atfr
from tests.reference import sgs as reference
from tests.samplers.build import chosen_layer, embed, expected, known_clips, noise, run

KERNELS = reference.KERNELS
EDGES = ("center", "paper")


def check(features, embedding, rtol=1e-5, atol=1e-5, **options):
    """The layer's maps and trace equal the oracle's for every clip; returns the oracle's clips."""
    maps, site = run(chosen_layer(embedding, features.shape[1], **options), features)
    clips = expected(features, embedding, **options)
    assert site.active_bins.tolist() == [clip.active_bins for clip in clips]
    for i, clip in enumerate(clips):
        want = torch.from_numpy(clip.maps).permute(1, 0, 2, 3).to(maps[i].dtype)
        torch.testing.assert_close(maps[i], want, rtol=rtol, atol=atol)
        np.testing.assert_allclose(site.weights[i].numpy(), clip.weights, rtol=rtol, atol=atol)
        if clip.fell_back:  # which bin stands for the clip is not laid down; that it is one bin is
            assert len(set(site.assignment[i].tolist())) == 1
            assert site.assignment[i].min() >= 0
        else:
            assert site.assignment[i].tolist() == clip.assignment.tolist()
    assert site.active_bins.dtype == site.assignment.dtype == torch.int64
    assert site.weights.dtype == torch.float32
    return clips


@pytest.mark.parametrize("order", ["magnitude", "time"])
@pytest.mark.parametrize("top_edge", EDGES)
@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), frames=st.integers(1, 9), num_bins=st.integers(1, 11), dim=st.integers(1, 8))
def test_equals_the_oracle(kernel, top_edge, order, data, frames, num_bins, dim):
    clips = [data.draw(known_clips(frames, num_bins, top_edge)) for _ in range(data.draw(st.integers(1, 3)))]
    seed = data.draw(st.integers(0, 2**16))
    embedding = embed([clip.magnitude for clip in clips], dim, seed)
    features = noise(len(clips), 3, frames, 2, 2, seed=seed)
    options = {"num_bins": num_bins, "kernel": kernel, "top_edge": top_edge, "order": order}
    if order == "time":  # frames placed symmetrically about another bin tie, and a tie has no right order
        for clip in expected(features, embedding, **options):
            times = [reference.mean_time(clip.assignment, clip.weights, b) for b in clip.order]
            if len(times) > 1 and min(np.diff(times)) < 1e-3:
                return
    # float32 rounds Delta / gamma by up to 2 B units of 2^-23; weights, at least 0.05 here, are linear_mean's divisors.
    rounding = 2 * num_bins * 2**-23 / (0.05 if kernel == "linear_mean" else 1)
    tolerance = 1e-5 + features.abs().max().item() * rounding
    answers = check(features, embedding, rtol=1e-5, atol=tolerance, **options)
    exact, _ = run(chosen_layer(embedding.double(), 3, **options), features.double())
    for maps, answer in zip(exact, answers, strict=True):
        np.testing.assert_allclose(maps.permute(1, 0, 2, 3).numpy(), answer.maps, rtol=1e-9, atol=1e-9)
    for known, answer in zip(clips, answers, strict=True):  # the oracle itself: the bins we built are the bins it finds
        for t, b in enumerate(known.assignment):
            if not answer.fell_back and answer.assignment[t] >= 0:
                assert answer.assignment[t] == b


@pytest.mark.parametrize("top_edge", EDGES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_golden_values_by_hand(kernel, top_edge):
    # B = 2. center: gamma = 6/3 = 2, centres 2 and 6. paper: gamma = 6/4 = 1.5, centres 1.5 and 4.5.
    embedding = torch.tensor([[[1.0], [-2.5], [6.0], [5.0]]])
    features = torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(1, 1, 4, 1, 1)
    psi, bins = {
        "center": ([0.5, 0.75, 1.0, 0.5], [0, 0, 1, 1]),
        "paper": ([2 / 3, 1 / 3, 0.0, 2 / 3], [0, 0, -1, 1]),
    }[top_edge]
    weights = {
        ("linear", "center"): psi,
        ("linear", "paper"): psi,
        ("linear_mean", "center"): [0.4, 0.6, 2 / 3, 1 / 3],
        ("linear_mean", "paper"): [2 / 3, 1 / 3, 0.0, 1.0],
        ("kronecker", "center"): [0.5, 0.5, 0.5, 0.5],
        ("kronecker", "paper"): [0.5, 0.5, 0.0, 1.0],
    }[kernel, top_edge]
    maps, site = run(chosen_layer(embedding, 1, num_bins=2, kernel=kernel, top_edge=top_edge), features)
    assert site.assignment.tolist() == [bins]
    torch.testing.assert_close(site.weights, torch.tensor([weights]))
    first = weights[0] * 1 + weights[1] * 10
    second = weights[2] * 100 + weights[3] * 1000
    torch.testing.assert_close(maps[0].flatten(), torch.tensor([first, second]))


@pytest.mark.parametrize("frames", [1, 2, 7, 32])
@pytest.mark.parametrize("top_edge", EDGES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_identical_frames_make_one_map(kernel, top_edge, frames):
    embedding = noise(1, 1, 8, seed=3).expand(2, frames, 8).contiguous()
    features = noise(2, 4, 1, 3, 3).expand(2, 4, frames, 3, 3).contiguous()
    clips = check(features, embedding, kernel=kernel, top_edge=top_edge)
    times = frames if (kernel, top_edge) == ("linear", "center") else 1
    maps, site = run(chosen_layer(embedding, 4, kernel=kernel, top_edge=top_edge), features)
    assert site.active_bins.tolist() == [1, 1]
    for i in range(2):
        torch.testing.assert_close(maps[i], times * features[i, :, :1])
        assert clips[i].fell_back == (top_edge == "paper")


@pytest.mark.parametrize("num_bins", [None, 1, 3, 9])
@pytest.mark.parametrize("top_edge", EDGES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_zero_embeddings_count_as_identical(kernel, top_edge, num_bins):
    features = noise(2, 4, 5, 3, 3)
    embedding = torch.zeros(2, 5, 8)
    embedding[1] = embed([[0.5, 1.0, 1.9, 3.1, 4.0]], 8, seed=1)[0]  # the batch mate is an ordinary clip
    check(features, embedding, kernel=kernel, top_edge=top_edge, num_bins=num_bins)


@pytest.mark.parametrize("kernel", ["linear", "linear_mean"])
def test_every_frame_on_an_edge_falls_back_to_the_mean(kernel):
    # B = 2, literal reading: gamma = 1, bins [0, 2) and [2, 4]; 2 and 4 are the last bin's edges, 0 the first's.
    features = noise(1, 4, 4, 3, 3)
    embedding = torch.tensor([[[2.0], [4.0], [0.0], [4.0]]])
    (clip,) = check(features, embedding, kernel=kernel, top_edge="paper", num_bins=2)
    assert clip.fell_back
    maps, site = run(chosen_layer(embedding, 4, kernel=kernel, top_edge="paper", num_bins=2), features)
    torch.testing.assert_close(maps[0], features[0].mean(1, keepdim=True))
    torch.testing.assert_close(site.weights, torch.full((1, 4), 0.25))


def test_inner_edges_belong_to_the_bin_above():
    # B = 3 by Eq. 2-3: gamma = 1, bins [0, 2), [2, 4), [4, 6], exact in float32. Only Kronecker sees inner edges.
    embedding = torch.tensor([[[0.0], [2.0], [4.0], [6.0], [5.0]]])
    features = noise(1, 2, 5, 2, 2)
    _, site = run(chosen_layer(embedding, 2, kernel="kronecker", top_edge="paper", num_bins=3), features)
    assert site.assignment.tolist() == [[0, 1, 2, -1, 2]]
    _, site = run(chosen_layer(embedding, 2, kernel="linear", top_edge="paper", num_bins=3), features)
    assert site.assignment.tolist() == [[-1, -1, -1, -1, 2]]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("weight", [2e-5, 9e-5, 1.1e-4, 1e-3])
def test_a_frame_counts_above_the_epsilon(kernel, weight):
    # B = 2, center: gamma = 1, Delta_max = 3; the other frame sits `weight` inside the first bin's lower edge.
    embedding = torch.tensor([[[3.0], [weight]]])
    features = noise(1, 2, 2, 2, 2)
    check(features, embedding, kernel=kernel, num_bins=2)


def test_linear_mean_floors_its_divisor():
    # The first bin's only frame weighs 0.004: its map is 0.4 of the frame, not the frame.
    embedding = torch.tensor([[[3.0], [0.004]]])
    features = noise(1, 2, 2, 2, 2)
    check(features, embedding, kernel="linear_mean", num_bins=2)
    maps, _ = run(chosen_layer(embedding, 2, kernel="linear_mean", num_bins=2), features)
    torch.testing.assert_close(maps[0][:, 0], 0.4 * features[0, :, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 4, 8, 16, 32, 33, 64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_lost_when_nothing_is_redundant(kernel, frames):
    # One frame at every centre and B = T: T maps, and each of them is a frame.
    order = torch.randperm(frames, generator=torch.Generator().manual_seed(frames))
    embedding = (2.0 * order + 1).view(1, frames, 1) * 0.37
    features = noise(1, 3, frames, 2, 2)
    maps, site = run(chosen_layer(embedding, 3, kernel=kernel), features)
    assert site.active_bins.tolist() == [frames]
    assert site.assignment.tolist() == [order.tolist()]
    torch.testing.assert_close(maps[0], features[0, :, order.argsort()], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_literal_reading_always_drops_the_top_frame(kernel):
    magnitude = [[0.5, 7.3, 2.2, 3.9, 5.1], [9.9, 0.7, 3.2, 4.6, 8.5]]
    embedding = embed(magnitude, 6, seed=5)
    _, site = run(chosen_layer(embedding, 2, kernel=kernel, top_edge="paper"), noise(2, 2, 5, 2, 2))
    assert site.assignment[0, 1] == -1
    assert site.assignment[1, 0] == -1
    assert (site.assignment >= 0).sum() == 8


@settings(max_examples=60, deadline=None)
@given(
    magnitude=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=40),
    num_bins=st.integers(1, 1024),
    seed=st.integers(0, 2**16),
)
def test_the_literal_reading_drops_the_top_frame_whatever_the_rounding(magnitude, num_bins, seed):
    embedding = embed([magnitude], 8, seed)
    layer = chosen_layer(embedding, 1, kernel="kronecker", top_edge="paper", num_bins=num_bins)
    _, site = run(layer, noise(1, 1, len(magnitude), 1, 1))
    lengths = torch.linalg.vector_norm(embedding, dim=-1)[0]
    top = lengths == lengths.max()
    if not top.all():
        assert (site.assignment[0, top] == -1).all()


def test_order_time_sorts_by_weighted_mean_time():
    # center, B = 4: gamma = 1; bins 3, 0, 0, 2, 3 with mean times (0 * 1 + 4 * 0.5) / 1.5 = 1.33, 1.5, 3.
    embedding = torch.tensor([[[7.0], [1.0], [1.0], [5.0], [6.5]]])
    features = noise(1, 2, 5, 2, 2)
    layer = chosen_layer(embedding, 2, kernel="linear", num_bins=4, order="time")
    maps, site = run(layer, features)
    assert site.assignment.tolist() == [[3, 0, 0, 2, 3]]
    f = features[0]
    want = torch.stack([f[:, 0] + 0.5 * f[:, 4], f[:, 1] + f[:, 2], f[:, 3]], dim=1)
    torch.testing.assert_close(maps[0], want)


def test_the_similarity_network_is_pool_linear_relu_linear():
    torch.manual_seed(0)
    layer = atfr.SimilarityGuidedSampling(6, embedding_dim=5)
    features = noise(3, 6, 7, 4, 5)

    def parameters(linear, rows, columns):
        bias = np.zeros(rows) if linear.bias is None else linear.bias.detach().double().numpy()
        return linear.weight.detach().double().numpy().reshape(rows, columns), bias

    hidden = parameters(layer.similarity.hidden, 6, 6)
    output = parameters(layer.similarity.output, 5, 6)
    got = layer.similarity(features)
    assert got.shape == (3, 7, 5)
    for i in range(3):
        want = reference.similarity(features[i].double().numpy(), *hidden, *output)
        np.testing.assert_allclose(got[i].detach().numpy(), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_whole_layer_with_its_own_network(kernel):
    torch.manual_seed(1)
    layer = atfr.SimilarityGuidedSampling(6, kernel=kernel, num_bins=12)
    ramp = torch.linspace(0.1, 3, 8).view(1, 1, 8, 1, 1)
    features = noise(3, 6, 8, 4, 4).abs() * ramp
    with torch.no_grad():
        maps, site = run(layer, features)
        clips = expected(features, layer.similarity(features), kernel=kernel, num_bins=12)
    assert site.active_bins.tolist() == [clip.active_bins for clip in clips]
    assert max(clip.active_bins for clip in clips) > 1
    for got, clip in zip(maps, clips, strict=True):
        np.testing.assert_allclose(got.numpy(), clip.maps.transpose(1, 0, 2, 3), rtol=1e-3, atol=1e-4)
