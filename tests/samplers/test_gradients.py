"""Eq. 7 and 8: the layer's gradients against hand loops, finite differences of the oracle, and gradcheck.

Every check holds the bins fixed, as the paper does: gamma and beta are constants of the backward pass.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import atfr
from tests.reference import sgs as reference
from tests.samplers.build import chosen_layer, embed, noise

# Away from edges and centres for 4 bins in both readings (frame 4 is the largest); bins are shared by several frames.
MAGNITUDE = [[0.3, 3.05, 5.2, 3.3, 7.1, 6.3, 0.8], [4.3, 0.9, 1.35, 6.0, 7.5, 2.6, 6.2]]
TOP = 4
BINS = 4


def problem(kernel: str, top_edge: str = "center", dim: int = 5):
    """A double-precision batch: features, embedding (both leaves) and an upstream gradient per clip."""
    embedding = embed(MAGNITUDE, dim, seed=2, dtype=torch.float64).requires_grad_()
    features = noise(2, 3, 7, 2, 2, dtype=torch.float64).requires_grad_()
    layer = chosen_layer(embedding, 3, num_bins=BINS, kernel=kernel, top_edge=top_edge).double()
    maps = layer(features).unpack()
    upstream = [noise(*m.shape, seed=9 + i, dtype=torch.float64) for i, m in enumerate(maps)]
    loss = sum((m * g).sum() for m, g in zip(maps, upstream, strict=True))
    loss.backward()
    clips = [
        reference.sample(f.detach().numpy(), z.detach().numpy(), BINS, kernel, top_edge)
        for f, z in zip(features, embedding, strict=True)
    ]
    return features, embedding, upstream, clips


def magnitude_gradient(embedding: torch.Tensor) -> np.ndarray:
    """dLoss/dDelta_t from dLoss/dZ_t: the gradient is radial, so its part along Z_t is all of it."""
    direction = embedding / embedding.norm(dim=-1, keepdim=True)
    radial = (embedding.grad * direction).sum(-1, keepdim=True)
    torch.testing.assert_close(radial * direction, embedding.grad, rtol=1e-6, atol=1e-9)
    return radial[..., 0].detach().numpy()


def inner(upstream: torch.Tensor, clip: reference.SampledClip, t: int, features: np.ndarray) -> float:
    """<dLoss/dO_b, I_t> with b the bin of frame t."""
    a = clip.order.index(clip.assignment[t])
    return float((upstream[:, a].numpy() * features[:, t]).sum())


@pytest.mark.parametrize("top_edge", ["center", "paper"])
@pytest.mark.parametrize("kernel", reference.KERNELS)
def test_gradient_of_the_features_is_the_weight(kernel, top_edge):
    """Eq. 7: dO_b/dI_t is the frame's weight, 0 for a frame that is dropped."""
    features, _, upstream, clips = problem(kernel, top_edge)
    for i, clip in enumerate(clips):
        for t in range(7):
            got = features.grad[i, :, t]
            if clip.assignment[t] < 0:
                want = torch.zeros_like(got)
            else:
                want = clip.weights[t] * upstream[i][:, clip.order.index(clip.assignment[t])]
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("top_edge", ["center", "paper"])
def test_gradient_of_the_magnitude_is_equation_8(top_edge):
    """Eq. 8 with its 1/gamma: I_t / gamma below and at the centre, -I_t / gamma above it, 0 where dropped."""
    features, embedding, upstream, clips = problem("linear", top_edge)
    got = magnitude_gradient(embedding)
    signs = set()
    for i, clip in enumerate(clips):
        for t in range(7):
            if t == TOP:
                continue  # on the kink or on the outer edge: tests of its own below
            b = clip.assignment[t]
            slope = reference.kernel_slope(clip.magnitude[t], clip.centers[b], clip.half_width)
            signs.add(np.sign(slope))
            want = slope * inner(upstream[i], clip, t, features[i].detach().numpy())
            np.testing.assert_allclose(got[i, t], want, rtol=1e-6)
    assert signs == {1.0, -1.0}


def test_the_literal_top_frame_has_no_gradient():
    _, embedding, _, clips = problem("linear", "paper")
    assert clips[0].assignment[TOP] == -1
    assert torch.equal(embedding.grad[:, TOP], torch.zeros(2, 5, dtype=torch.float64))


@pytest.mark.parametrize("kernel", ["linear", "kronecker"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_top_frame_at_its_centre_has_a_fixed_slope(dtype, kernel):
    """In the center reading Delta_max is on the kernel's kink: its slope is Eq. 8's +1/gamma, not rounding's choice."""
    slopes = set()
    for seed in range(40):
        maximum, num_bins = 0.5 + 0.37 * seed, 2 + seed % 16
        embedding = embed([[maximum, 0.0]], 6, seed, dtype).requires_grad_()
        features = torch.ones(1, 1, 2, 1, 1, dtype=dtype)
        layer = chosen_layer(embedding, 1, num_bins=num_bins, kernel=kernel).to(dtype)
        layer(features).unpack()[0][:, -1].sum().backward()
        top = embedding[0, 0].detach()
        direction = top / top.norm()
        gamma = reference.half_width(float(top.norm()), num_bins, "center")
        slopes.add(round(float((embedding.grad[0, 0] * direction).sum()) * gamma, 3))
    assert slopes == {1.0}


@pytest.mark.parametrize("kernel", ["linear", "linear_mean"])
@pytest.mark.parametrize("top_edge", ["center", "paper"])
def test_gradient_equals_finite_differences_of_the_oracle(kernel, top_edge):
    """Central differences of the NumPy oracle with its bins held at the unperturbed Delta_max."""
    features, embedding, upstream, clips = problem(kernel, top_edge)
    step = 1e-6
    for i, clip in enumerate(clips):
        f, z = features[i].detach().numpy(), embedding[i].detach().numpy()

        def loss(z, i=i, f=f, clip=clip):
            moved = reference.sample(f, z, BINS, kernel, top_edge, maximum=max(clip.magnitude))
            return float((moved.maps.transpose(1, 0, 2, 3) * upstream[i].numpy()).sum())

        for t in (t for t in range(7) if t != TOP):
            for k in range(z.shape[1]):
                up, down = z.copy(), z.copy()
                up[t, k] += step
                down[t, k] -= step
                numeric = (loss(up) - loss(down)) / (2 * step)
                np.testing.assert_allclose(embedding.grad[i, t, k].item(), numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kernel", ["linear", "linear_mean"])
@pytest.mark.parametrize("top_edge", ["center", "paper"])
def test_gradcheck_at_fixed_bins(kernel, top_edge):
    """The largest frame stays constant, so the bins do too; every other frame is away from edges and centres."""
    base = embed(MAGNITUDE, 3, seed=2, dtype=torch.float64)
    others = [t for t in range(7) if t != TOP]

    def sampled(features, free):
        embedding = base.clone()
        embedding[:, others] = free
        layer = chosen_layer(embedding, 2, num_bins=BINS, kernel=kernel, top_edge=top_edge).double()
        return tuple(layer(features).unpack())

    features = noise(2, 2, 7, 1, 2, dtype=torch.float64).requires_grad_()
    assert gradcheck(sampled, (features, base[:, others].clone().requires_grad_()))


def test_gradcheck_of_the_kronecker_features():
    """Eq. 5 is a mean: its gradient with respect to the maps is exact, though the bins' is straight-through."""
    embedding = embed(MAGNITUDE, 3, seed=2, dtype=torch.float64)
    layer = chosen_layer(embedding, 2, num_bins=BINS, kernel="kronecker").double()
    features = noise(2, 2, 7, 1, 2, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda x: tuple(layer(x).unpack()), (features,))


@pytest.mark.parametrize("top_edge", ["center", "paper"])
def test_kronecker_is_straight_through(top_edge):
    """Decision 5: forward Eq. 5, backward the linear kernel's slope s_t = +-1/gamma (Eq. 8) in place of delta's.

    The notes leave open what becomes of Eq. 5's divisor, the count n. Readings that use s_t and nothing else:
    the sum of Eq. 8, <g, I_t> s_t; the same over a constant divisor, <g, I_t> s_t / n; and the quotient rule,
    <g, I_t - O_b> s_t / n. atfr takes the second; what matters is that it is one of them for every frame at once.
    """
    features, embedding, upstream, clips = problem("kronecker", top_edge)
    got = magnitude_gradient(embedding)
    readings = {"eq8": [], "constant divisor": [], "quotient rule": []}
    values = []
    for i, clip in enumerate(clips):
        for t in range(7):
            b = clip.assignment[t]
            if t == TOP or b < 0:
                continue
            slope = reference.kernel_slope(clip.magnitude[t], clip.centers[b], clip.half_width)
            count = int((clip.assignment == b).sum())
            a = clip.order.index(b)
            map_part = float((upstream[i][:, a].numpy() * clip.maps[a]).sum())
            frame_part = inner(upstream[i], clip, t, features[i].detach().numpy())
            values.append(got[i, t])
            readings["eq8"].append(frame_part * slope)
            readings["constant divisor"].append(frame_part * slope / count)
            readings["quotient rule"].append((frame_part - map_part) * slope / count)
    matches = [name for name, want in readings.items() if np.allclose(values, want, rtol=1e-6, atol=1e-9)]
    assert matches == ["constant divisor"], {"got": values} | readings


@pytest.mark.parametrize("kernel", reference.KERNELS)
@pytest.mark.parametrize("top_edge", ["center", "paper"])
def test_the_similarity_network_learns(kernel, top_edge):
    torch.manual_seed(0)
    layer = atfr.SimilarityGuidedSampling(6, kernel=kernel, top_edge=top_edge, num_bins=3)
    ramp = torch.linspace(0.1, 3, 8).view(1, 1, 8, 1, 1)
    features = noise(2, 6, 8, 3, 3).abs() * ramp
    packed = layer(features)
    sum((m**2).sum() for m in packed.unpack()).backward()
    parameters = dict(layer.similarity.named_parameters())
    assert parameters
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kernel", reference.KERNELS)
@pytest.mark.parametrize("top_edge", ["center", "paper"])
@pytest.mark.parametrize("clip", ["zero", "identical", "one frame", "zero frame"])
def test_gradients_stay_finite(kernel, top_edge, clip):
    frames = 1 if clip == "one frame" else 5
    embedding = {
        "zero": torch.zeros(1, frames, 4),
        "identical": torch.ones(1, frames, 4),
        "one frame": torch.ones(1, frames, 4),
        "zero frame": torch.arange(5.0).view(1, 5, 1).expand(1, 5, 4).clone(),
    }[clip].requires_grad_()
    features = noise(1, 3, frames, 2, 2).requires_grad_()
    chosen_layer(embedding, 3, kernel=kernel, top_edge=top_edge)(features).unpack()[0].sum().backward()
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() > 0
    assert embedding.grad is None or embedding.grad.isfinite().all()


def test_linear_mean_keeps_the_gradient_bounded():
    """Near an edge the divisor is floored: |dO/dDelta| <= |I| / (floor gamma), whatever the frame's weight."""
    for weight in (2e-4, 1e-3, 9e-3, 2e-2):
        embedding = torch.tensor([[[3.0], [weight]]], dtype=torch.float64, requires_grad=True)
        features = torch.ones(1, 1, 2, 1, 1, dtype=torch.float64)
        layer = chosen_layer(embedding, 1, num_bins=2, kernel="linear_mean").double()
        layer(features).unpack()[0].sum().backward()
        want = 1 / reference.MEAN_FLOOR if weight < reference.MEAN_FLOOR else 0.0  # alone in its bin: weight / weight
        np.testing.assert_allclose(embedding.grad[0, 1, 0].item(), want, rtol=1e-6, atol=1e-9)
