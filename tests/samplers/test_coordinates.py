"""Several coordinates (Eq. 9): angles and spherical coordinates against the oracle, at poles, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck

import atfr
from atfr.errors import InputError
from tests.reference import sgs as reference
from tests.samplers.build import chosen_layer, expected, noise, run

KERNELS = reference.KERNELS
EDGES = ("center", "paper")
SEVERAL = ("angular", "spherical")


def check(features: Tensor, embedding: Tensor, **options: object) -> list[reference.SampledClip]:
    """The layer in float64 equals the oracle to 1e-9, maps and trace; returns the oracle's clips."""
    layer = chosen_layer(embedding.double(), features.shape[1], **options)
    maps, site = run(layer, features.double())
    clips = expected(features, embedding, **options)
    assert site.active_bins.tolist() == [clip.active_bins for clip in clips]
    for i, clip in enumerate(clips):
        np.testing.assert_allclose(maps[i].permute(1, 0, 2, 3).numpy(), clip.maps, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(site.weights[i].numpy(), clip.weights, rtol=1e-6, atol=1e-7)  # kept in float32
        if clip.fell_back:
            assert len(set(site.assignment[i].tolist())) == 1
            assert site.assignment[i].min() >= 0
        else:
            assert site.assignment[i].tolist() == clip.assignment.tolist()
    return clips


@st.composite
def known_coordinate(draw: st.DrawFn, frames: int, bins: int, top_edge: str, most: float) -> tuple[list, list]:
    """One coordinate of a clip, built bin first: its values and their bins, a tenth of gamma from edges and centres."""
    maximum = draw(st.floats(most / 3, most))
    gamma = reference.half_width(maximum, bins, top_edge)
    top = draw(st.integers(0, frames - 1))
    values, found = [], []
    for t in range(frames):
        b = bins - 1 if t == top else draw(st.integers(0, bins - 1))
        below = top_edge == "center" and b == bins - 1
        offset = draw(st.floats(0.1, 0.9)) * (-1 if below else draw(st.sampled_from([-1, 1])))
        values.append(maximum if t == top else gamma * (2 * b + 1 + offset))
        found.append(b)
    return values, found


@st.composite
def known_spherical(draw: st.DrawFn, frames: int, bins: list[int], top_edge: str, similarity: str):
    """Embeddings T L of chosen spherical coordinates, and the flat bin of each frame."""
    most = [math.pi - 0.05] * (len(bins) - 1) + [2 * math.pi - 0.05]
    if similarity == "spherical":
        most = [8.0, *most[1:]]
    columns = [draw(known_coordinate(frames, count, top_edge, limit)) for count, limit in zip(bins, most, strict=True)]
    values = [list(point) for point in zip(*(column[0] for column in columns), strict=True)]
    if similarity == "angular":
        values = [[draw(st.floats(0.5, 8.0)), *point] for point in values]
    flat = [0] * frames
    for (_, found), count in zip(columns, bins, strict=True):
        flat = [number * count + b for number, b in zip(flat, found, strict=True)]
    return np.array([reference.point(point) for point in values]), np.array(values), flat


def tied_in_time(clips: list[reference.SampledClip]) -> bool:
    """Whether two bins of a clip have the same mean time, which no order is right for."""
    times = [[reference.mean_time(clip.assignment, clip.weights, b) for b in clip.order] for clip in clips]
    return any(len(clip) > 1 and min(np.diff(clip)) < 1e-3 for clip in times)


@pytest.mark.parametrize("similarity", SEVERAL)
@pytest.mark.parametrize("top_edge", EDGES)
@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=12, deadline=None)
@given(data=st.data(), frames=st.integers(1, 8), dim=st.integers(2, 4), order=st.sampled_from(["magnitude", "time"]))
def test_equals_the_oracle(kernel, top_edge, similarity, data, frames, dim, order):
    count = dim - 1 if similarity == "angular" else dim
    bins = data.draw(st.lists(st.integers(1, 6), min_size=count, max_size=count))
    known = [
        data.draw(known_spherical(frames, bins, top_edge, similarity)) for _ in range(data.draw(st.integers(1, 2)))
    ]
    embedding = torch.from_numpy(np.stack([clip[0] for clip in known]))
    features = noise(len(known), 2, frames, 2, 2, seed=data.draw(st.integers(0, 99)))
    options = {"kernel": kernel, "top_edge": top_edge, "similarity": similarity}
    clips = expected(features, embedding, num_bins=bins, order=order, **options)
    for clip, (_, values, flat) in zip(clips, known, strict=True):  # the oracle itself finds what we put in
        np.testing.assert_allclose(clip.coordinates, values[:, -count:], rtol=1e-9, atol=1e-9)
        if not clip.fell_back:
            assert all(b in (-1, want) for b, want in zip(clip.assignment, flat, strict=True))
    if order == "magnitude" or not tied_in_time(clips):
        check(features, embedding, num_bins=tuple(bins), order=order, **options)


@pytest.mark.parametrize("num_bins", [None, 3])
@pytest.mark.parametrize("similarity", SEVERAL)
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_number_of_bins_is_for_every_coordinate(kernel, similarity, num_bins):
    embedding = noise(3, 6, 4, seed=4, dtype=torch.float64)
    clips = check(noise(3, 2, 6, 2, 2), embedding, kernel=kernel, similarity=similarity, num_bins=num_bins)
    assert {len(beta) for clip in clips for beta in clip.grid} == {num_bins or 6}


@pytest.mark.parametrize("top_edge", EDGES)
@pytest.mark.parametrize("order", ["magnitude", "time"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("similarity", "num_bins"), [("angular", (4, 8)), ("spherical", (2, 4, 4))])
def test_the_settings_of_table_1(similarity, num_bins, kernel, order, top_edge):
    embedding = noise(3, 32, 3, seed=7, dtype=torch.float64)
    options = {"num_bins": num_bins, "kernel": kernel, "order": order, "top_edge": top_edge, "similarity": similarity}
    clips = check(noise(3, 2, 32, 2, 2), embedding, **options)
    assert all(8 < clip.active_bins <= 32 for clip in clips)
    assert list(atfr.SimilarityGuidedSampling(2, embedding_dim=3, **options).possible_active_bins(64)) == [
        *range(1, 33)
    ]


def test_float32_is_near():
    embedding = noise(4, 16, 3, seed=7)
    features = noise(4, 2, 16, 2, 2)
    maps, _ = run(chosen_layer(embedding, 2, num_bins=(2, 4, 4), similarity="spherical"), features)
    for got, want in zip(maps, expected(features, embedding, num_bins=(2, 4, 4), similarity="spherical"), strict=True):
        np.testing.assert_allclose(got.permute(1, 0, 2, 3).numpy(), want.maps, rtol=1e-4, atol=1e-4)


def test_golden_values_by_hand():
    # L = 2, spherical: radius with B = 2 and maximum 3 (gamma 1, centres 1 and 3), the angle with B = 2 and maximum
    # 3 pi / 2 (gamma pi / 2, centres pi / 2 and 3 pi / 2).
    point = [[3.0, 1.5 * math.pi], [1.5, 0.75 * math.pi], [0.75, 1.25 * math.pi], [2.5, 0.25 * math.pi]]
    embedding = torch.tensor([[[r * math.cos(a), r * math.sin(a)] for r, a in point]])
    features = torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(1, 1, 4, 1, 1)
    layer = chosen_layer(embedding, 1, num_bins=2, similarity="spherical")
    maps, site = run(layer, features)
    assert site.assignment.tolist() == [[3, 0, 1, 2]]  # radius first, and slowest
    want = torch.tensor([1.0, 0.5 * 0.5, 0.75 * 0.5, 0.5 * 0.5])
    torch.testing.assert_close(site.weights[0], want)
    torch.testing.assert_close(maps[0].flatten(), torch.tensor([2.5, 37.5, 250.0, 1.0]))


@pytest.mark.parametrize("num_bins", [None, 1, 3])
@pytest.mark.parametrize("similarity", SEVERAL)
@pytest.mark.parametrize("top_edge", EDGES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_identical_frames_make_one_map(kernel, top_edge, similarity, num_bins):
    features = noise(2, 3, 1, 2, 2).expand(2, 3, 5, 2, 2)
    embedding = torch.stack([torch.zeros(5, 3), noise(1, 3, seed=1).expand(5, 3)])
    check(features, embedding, kernel=kernel, top_edge=top_edge, similarity=similarity, num_bins=num_bins)
    layer = chosen_layer(embedding, 3, kernel=kernel, top_edge=top_edge, similarity=similarity, num_bins=num_bins)
    maps, site = run(layer, features)
    assert site.active_bins.tolist() == [1, 1]
    times = 5 if (kernel, top_edge) == ("linear", "center") else 1
    for got, clip in zip(maps, features, strict=True):
        torch.testing.assert_close(got, times * clip[:, :1])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_coordinate_that_is_zero_throughout_is_one_bin(kernel):
    """Points of the half plane in which the last angle is 0: the grouping is that of the other two coordinates."""
    points = [[1.0, 0.3, 0.0], [3.0, 2.2, 0.0], [2.4, 1.1, 0.0], [0.7, 0.9, 0.0]]
    flat = [reference.point(point[:2]) for point in points]  # L = 2 has an angle up to 2 pi of its own, here below pi
    embedding = torch.from_numpy(np.stack([reference.point(point) for point in points]))[None]
    options = {"kernel": kernel, "similarity": "spherical"}
    features = noise(1, 2, 4, 2, 2)
    clips = check(features, embedding, num_bins=(3, 4, 5), **options)
    without = expected(features, torch.from_numpy(np.stack(flat))[None], num_bins=(3, 4), **options)
    np.testing.assert_allclose(clips[0].maps, without[0].maps)
    assert {b % 5 for b in clips[0].assignment} == {4}


@pytest.mark.parametrize("kernel", KERNELS)
def test_read_literally_a_coordinate_that_is_zero_throughout_leaves_no_weight(kernel):
    """Every frame is the largest in it, and so on the outer edge: the clip becomes its mean."""
    points = [[1.0, 0.3, 0.0], [3.0, 2.2, 0.0], [2.4, 1.1, 0.0], [0.7, 0.9, 0.0]]
    embedding = torch.from_numpy(np.stack([reference.point(point) for point in points]))[None]
    features = noise(1, 2, 4, 2, 2)
    (clip,) = check(features, embedding, kernel=kernel, top_edge="paper", similarity="spherical", num_bins=3)
    assert clip.fell_back
    np.testing.assert_allclose(clip.maps[0], features[0].double().mean(1).numpy())


def test_angles_go_all_the_way_round():
    angle = torch.arange(8) * (math.pi / 4) + 0.1
    embedding = torch.stack([angle.cos(), angle.sin()], dim=-1)[None].double()
    (clip,) = check(noise(1, 2, 8, 2, 2), embedding, similarity="angular", num_bins=8)
    np.testing.assert_allclose(clip.coordinates[:, 0], angle.numpy(), rtol=1e-6)
    _, site = run(chosen_layer(embedding, 2, similarity="angular", num_bins=8), noise(1, 2, 8, 2, 2).double())
    assert site.assignment[0].diff().min() >= 0  # the last angle rises with the frames, as it was made


@pytest.mark.parametrize("similarity", SEVERAL)
def test_vectors_along_an_axis_have_the_angle_of_their_sign(similarity):
    """0 along an axis, pi against it, whatever is left of the other coordinates."""
    axes = [[2.0, 0, 0], [-2.0, 0, 0], [0, 1.5, 0], [0, -1.5, 0], [0, 0, 1.0], [0, 0, -1.0], [0, 0, 0], [-1.0, 1e-5, 0]]
    embedding = torch.tensor([axes], dtype=torch.float64)
    (clip,) = check(noise(1, 2, 8, 2, 2), embedding, similarity=similarity, num_bins=4, kernel="kronecker")
    right = math.pi / 2
    want = [[0, 0], [2, 0], [1, 0], [1, 2], [1, 1], [1, 3], [0, 0], [2, 0]]
    np.testing.assert_allclose(clip.coordinates[:, -2:] / right, want, atol=1e-4)
    assert clip.active_bins >= 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("similarity", SEVERAL)
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_finite_at_the_poles_and_near_them(kernel, similarity, dtype):
    near = [1e-3, 1e-6, 1e-7, 1e-12, 1e-20, 1e-30, 1e-42]
    poles = [
        [0.0] * 4,
        [1.0, 0, 0, 0],
        [-1.0, 0, 0, 0],
        [0, 1.0, 0, 0],
        [0, -1.0, 0, 0],
        [0, 0, -1.0, 0],
        [0, 0, -1, -0.0],
    ]
    poles += [[1.0, e, 0, 0] for e in near] + [[-1.0, -e, e, -e] for e in near] + [[e, e, e, e] for e in near]
    for pole in poles:
        ordinary = noise(4, 4, seed=1, dtype=dtype)
        embedding = torch.cat([torch.tensor([pole], dtype=dtype), ordinary])[None].requires_grad_()
        layer = chosen_layer(embedding, 2, kernel=kernel, similarity=similarity, num_bins=3)
        maps, _ = run(layer, noise(1, 2, 5, 2, 2, dtype=dtype))
        maps[0].square().sum().backward()
        assert maps[0].isfinite().all(), pole
        assert embedding.grad.isfinite().all(), pole
        assert embedding.grad[0, 1:].abs().max() > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("similarity", reference.SIMILARITIES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_not_finite_stays_in_its_clip(kernel, similarity, value):
    embedding, features = noise(3, 6, 3, seed=5), noise(3, 2, 6, 2, 2)
    options = {"kernel": kernel, "similarity": similarity, "num_bins": 4}
    want, _ = run(chosen_layer(embedding, 2, **options), features)
    broken = embedding.clone()
    broken[1, 2, 1] = value
    got, site = run(chosen_layer(broken, 2, **options), features)
    for i in (0, 2):
        torch.testing.assert_close(got[i], want[i])
    assert site.lengths[1] >= 1
    if math.isnan(value) or similarity != "angular":  # an infinite vector has a direction
        assert got[1].isnan().all()


@pytest.mark.parametrize("kernel", ["linear", "linear_mean"])
@pytest.mark.parametrize("similarity", SEVERAL)
def test_gradcheck_at_fixed_bins(kernel, similarity):
    """The frames that are largest in a coordinate stay as they are, so the bins do; others lie away from edges."""
    points = [[2.0, 1.0, 5.0], [5.0, 0.8, 0.9], [2.9, 2.6, 2.0], [1.8, 1.2, 4.6], [2.2, 1.1, 4.8], [3.4, 0.5, 1.2]]
    base = torch.from_numpy(np.stack([reference.point(point) for point in points]))[None]
    coordinates = reference.coordinates_of(base[0].numpy(), similarity)
    largest = set(coordinates.argmax(axis=0))
    others = [t for t in range(len(points)) if t not in largest]
    assert len(others) >= 3
    options = {"num_bins": 2, "kernel": kernel, "similarity": similarity}
    (clip,) = expected(noise(1, 2, 6, 1, 1), base, **options)
    for k in range(coordinates.shape[1]):
        position = coordinates[others, k] / clip.half_widths[k]
        assert np.abs(position - position.round()).min() > 0.02, "a frame lies on an edge or a centre"

    def sampled(features: Tensor, free: Tensor) -> tuple[Tensor, ...]:
        embedding = base.clone()
        embedding[:, others] = free
        return tuple(chosen_layer(embedding, 2, **options)(features).unpack())

    features = noise(1, 2, 6, 1, 2, dtype=torch.float64).requires_grad_()
    free = base[:, others].clone().requires_grad_()
    assert gradcheck(sampled, (features, free))
    (grad,) = torch.autograd.grad(sum(m.sum() for m in sampled(features, free)), free)
    assert grad.abs().max() > 1e-3


@pytest.mark.parametrize("similarity", SEVERAL)
def test_kronecker_is_straight_through_in_each_coordinate(similarity):
    """Forward 1 in every coordinate; backward each one's linear slope (Eq. 8), over the number of frames in the bin."""
    points = [[2.0, 1.0, 5.0], [5.0, 0.8, 0.9], [2.9, 2.6, 2.0], [1.8, 1.2, 4.6], [2.2, 1.1, 4.8]]
    embedding = torch.from_numpy(np.stack([reference.point(point) for point in points]))[None].requires_grad_()
    features = noise(1, 2, 5, 1, 2, dtype=torch.float64)
    options = {"num_bins": 2, "kernel": "kronecker", "similarity": similarity}
    (clip,) = expected(features, embedding, **options)
    (maps,) = chosen_layer(embedding, 2, **options)(features).unpack()
    upstream = noise(*maps.shape, seed=8, dtype=torch.float64)
    (maps * upstream).sum().backward()
    z, step, checked = embedding.detach()[0].numpy(), 1e-6, 0
    for t in (3, 4):  # largest in no coordinate, in a bin with another frame
        b = clip.assignment[t]
        count = int((clip.assignment == b).sum())
        checked += count > 1
        of_weight = float((upstream[:, clip.order.index(b)] * features[0, :, t]).sum()) / count
        bins = np.unravel_index(b, [len(beta) for beta in clip.grid])
        for i in range(3):
            moved = [z.copy(), z.copy()]
            moved[0][t, i] += step
            moved[1][t, i] -= step
            up, down = (reference.coordinates_of(each, similarity)[t] for each in moved)
            slopes = [
                reference.kernel_slope(clip.coordinates[t, k], clip.grid[k][bins[k]], clip.half_widths[k])
                for k in range(len(bins))
            ]
            want = of_weight * float(np.dot(slopes, (up - down) / (2 * step)))
            np.testing.assert_allclose(embedding.grad[0, t, i].item(), want, rtol=1e-6, atol=1e-8)
    assert checked == 2


@pytest.mark.parametrize("similarity", reference.SIMILARITIES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_similarity_network_learns(kernel, similarity):
    layer = atfr.SimilarityGuidedSampling(6, 4, kernel, embedding_dim=3, similarity=similarity)
    layer(noise(2, 6, 8, 3, 3)).plain().square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0, name


def test_what_does_not_fit_is_refused_with_the_remedy():
    make = atfr.SimilarityGuidedSampling
    with pytest.raises(InputError, match="at least 2"):
        make(4, embedding_dim=1, similarity="angular")
    assert make(4, embedding_dim=2, similarity="angular", num_bins=(5,)).num_bins == (5,)
    with pytest.raises(InputError, match=r"2 coordinates.*got 3.*embedding_dim=4"):
        make(4, embedding_dim=3, similarity="angular", num_bins=(2, 4, 4))
    with pytest.raises(InputError, match=r"8 coordinates.*got 3.*embedding_dim=3"):
        make(4, similarity="spherical", num_bins=(2, 4, 4))
    with pytest.raises(InputError, match=r"1 coordinates.*got 2"):
        make(4, num_bins=(2, 4))
    for bad in ((2, 0), (2, 2.5), (True, 2), "ab", 2.5):
        with pytest.raises(InputError, match="at least 1"):
            make(4, embedding_dim=3, similarity="angular", num_bins=bad)
    with pytest.raises(InputError, match="did you mean 'spherical'"):
        make(4, similarity="sferical")


def test_more_bins_than_can_be_numbered_are_refused_with_the_remedy():
    features = noise(1, 2, 4, 2, 2)
    options = {"embedding_dim": 8, "similarity": "spherical"}
    atfr.SimilarityGuidedSampling(2, 128, **options)(features)
    for layer in (
        atfr.SimilarityGuidedSampling(2, 256, **options),
        atfr.SimilarityGuidedSampling(2, 200, temporal_block=1, **options),
    ):
        with pytest.raises(InputError, match="smaller num_bins or embedding_dim"):
            layer(features)


def test_set_num_bins_takes_the_same_tuple():
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    atfr.adapt_(model, after="0", num_bins=(4, 8), embedding_dim=3, similarity="angular")
    layer = model[0].sgs
    for bins, kept in (((2, 3), (2, 3)), ([5, 6], (5, 6)), (7, 7), (None, None)):
        atfr.set_num_bins_(model, bins)
        assert layer.num_bins == kept
    with pytest.raises(InputError, match="2 coordinates"):
        atfr.set_num_bins_(model, (1, 2, 3))
    assert layer.num_bins is None
