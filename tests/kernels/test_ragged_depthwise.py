"""The depthwise kernel against nn.Conv3d clip by clip in float64, and its twin; Triton's interpreter runs it here.

Where there is a GPU, it runs there, compiled.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.kernels import conv3d, ragged_depthwise
from atfr.kernels.ragged_depthwise import bounds_of, fits, twin
from atfr.kernels.ragged_depthwise import ragged_depthwise as run

triton = pytest.importorskip("triton", reason="no Triton here")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def here(monkeypatch) -> None:
    """The kernel takes maps on this device too, which the interpreter makes slow."""
    monkeypatch.setattr(
        ragged_depthwise, "takes", lambda maps, *layer: maps.device.type == DEVICE and fits(maps, *layer)
    )


@pytest.fixture
def used(monkeypatch) -> list[tuple]:
    """The calls of the kernel for clips."""
    calls: list[tuple] = []
    real = ragged_depthwise.depthwise_clips
    monkeypatch.setattr(ragged_depthwise, "depthwise_clips", lambda *a: calls.append(a) or real(*a))
    return calls


def bounds(lengths) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor(lengths, device=DEVICE)
    ends = lengths.cumsum(0)
    return (ends - lengths).repeat_interleave(lengths).int(), ends.repeat_interleave(lengths).int()


def each_alone(maps: Tensor, weight: Tensor, bias: Tensor, lengths, stride, padding) -> Tensor:
    """The oracle: PyTorch's convolution of each clip, in float64."""
    clips = maps.split(list(lengths))
    done = [F.conv3d(c.transpose(0, 1)[None], weight, bias, (1, *stride), padding, groups=len(weight)) for c in clips]
    return torch.cat([clip[0].transpose(0, 1) for clip in done])


def random(lengths, channels, size, kernel, dtype) -> list[Tensor]:
    made = torch.randn(sum(lengths), channels, *size), torch.randn(channels, 1, *kernel), torch.randn(channels)
    return [x.to(DEVICE, dtype).requires_grad_() for x in made]


KERNELS = [(3, 3, 3), (5, 1, 1), (1, 3, 3), (3, 1, 1), (3, 5, 3)]
EPS = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


@settings(max_examples=5, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    channels=st.sampled_from([1, 3, 17, 65]),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.sampled_from(KERNELS),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    dtype=st.sampled_from(list(EPS)),
)
def test_results_and_gradients_are_those_of_each_clip_alone(lengths, channels, size, kernel, stride, dtype) -> None:
    torch.manual_seed(0)
    values = random(lengths, channels, size, kernel, dtype)
    padding = tuple(k // 2 for k in kernel)
    output = run(*values, *bounds(lengths), (stride, padding))
    gradient = torch.randn_like(output)
    wide = [x.detach().double().requires_grad_() for x in values]
    expected = each_alone(*wide, lengths, stride, padding)
    close(output, expected, EPS[dtype])
    found = torch.autograd.grad(output, values, gradient)
    wanted = torch.autograd.grad(expected, wide, gradient.double())
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        close(one, other, EPS[dtype])


def close(found: Tensor, expected: Tensor, eps: float) -> None:
    """Within so much of the largest number; NaN is never close."""
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= eps * max(1.0, float(expected.detach().abs().max()))


@pytest.mark.parametrize("activation", [None, "relu", "relu6", "silu"])
@pytest.mark.parametrize("dtype", list(EPS))
def test_bias_and_activation_in_inference(activation, dtype) -> None:
    maps, weight, bias = random((1, 2), 5, (3, 2), (3, 3, 3), dtype)
    window = ((1, 1), (1, 1, 1))
    with torch.no_grad():
        found = run(4 * maps, weight, bias, *bounds((1, 2)), window, activation)
        wide = ((4 * maps).double(), weight.double(), bias.double())
        close(found, twin(*wide, *bounds((1, 2)), window, activation), EPS[dtype])


@pytest.mark.usefixtures("unwritten_is_nan")
def test_a_nan_stays_in_its_clip_and_every_result_is_written() -> None:
    maps, weight, bias = random((2, 3, 1), 4, (3, 3), (3, 3, 3), torch.float32)
    maps = maps.detach()
    maps[2:5] = torch.nan
    found = run(maps.requires_grad_(), weight, bias, *bounds((2, 3, 1)), ((1, 1), (1, 1, 1)))
    assert found[:2].isfinite().all()
    assert found[5:].isfinite().all()
    assert found[2:5].isnan().all()
    (gradient,) = torch.autograd.grad(found[:2].sum() + found[5:].sum(), maps)
    assert gradient.isfinite().all()


def test_second_gradients_are_those_of_the_twin() -> None:
    maps, weight, bias = (x.double() for x in random((1, 2), 2, (3, 3), (3, 3, 3), torch.float32))
    leaves = [x.detach().float().requires_grad_() for x in (maps, weight, bias)]

    def second(operation) -> list[Tensor]:
        output = operation(*leaves, *bounds((1, 2)), ((1, 1), (1, 1, 1)))
        first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(x.square().sum() for x in first), leaves))

    for one, other in zip(second(run), second(twin), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("here")
def test_networks_use_it_for_packed_clips_and_plain_ones(used, monkeypatch) -> None:
    """An adapted network, optimized and not, against the one without the kernel."""
    torch.manual_seed(0)
    of_space, of_time = conv3d.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1), groups=4), nn.Conv3d(4, 4, 3, 1, 1, groups=4)
    model = nn.Sequential(of_space, nn.BatchNorm3d(4), nn.ReLU(), of_time, nn.SiLU(), nn.AdaptiveAvgPool3d(1)).eval()
    nn.init.normal_(model[1].running_mean)
    with pytest.MonkeyPatch.context() as patch:  # adapt_ tries large maps
        patch.setattr(ragged_depthwise, "takes", lambda *layer: False)
        atfr.adapt_(model.to(DEVICE), after="2", sampler="change", num_bins=3)
    x = torch.randn(2, 4, 4, 6, 6, device=DEVICE)
    x[1, :, 1:] = x[1, :, :1]
    with torch.no_grad():
        fast = atfr.optimize_for_inference(model)
        found = [network(x) for network in (model, fast)]
        assert len(used) == 4
        monkeypatch.setattr(ragged_depthwise, "takes", lambda *layer: False)
        expected = model(x)
    for one in found:
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("here")
def test_conv3d_trains_with_it(used) -> None:
    torch.manual_seed(0)
    ours = conv3d.Conv3d(4, 4, 3, (1, 2, 2), 1, groups=4).to(DEVICE)
    clips = torch.randn(2, 4, 3, 5, 5, device=DEVICE, requires_grad=True)
    output = ours(clips)
    expected = F.conv3d(clips, ours.weight, ours.bias, ours.stride, 1, 1, 4)
    gradient = torch.randn_like(output)
    leaves = [clips, *ours.parameters()]
    for one, other in zip(
        [output, *torch.autograd.grad(output, leaves, gradient)],
        [expected, *torch.autograd.grad(expected, leaves, gradient)],
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert len(used) == 1


@pytest.mark.usefixtures("here")
def test_under_autocast_in_its_type_with_gradients_in_that_of_the_weights(used) -> None:
    torch.manual_seed(0)
    conv = conv3d.Conv3d(4, 4, 3, 1, 1, groups=4).to(DEVICE)
    clips = torch.randn(2, 4, 3, 5, 5, device=DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        output = conv(clips)
    assert (output.dtype, len(used)) == (torch.bfloat16, 1)
    wide = [x.detach().double().requires_grad_() for x in conv.parameters()]
    expected = F.conv3d(clips.double(), *wide, 1, 1, 1, 4)
    close(output, expected, EPS[torch.bfloat16])
    gradient = torch.randn_like(output)
    found = torch.autograd.grad(output, tuple(conv.parameters()), gradient)
    for one, other in zip(found, torch.autograd.grad(expected, wide, gradient.double()), strict=True):
        assert one.dtype == torch.float32
        close(one, other, EPS[torch.bfloat16])


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 1},
        {"groups": 2},
        {"padding": 0},
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"padding": (1, 3, 1)},
    ],
)
def test_what_it_does_not_do_is_left_to_pytorch(options) -> None:
    conv = nn.Conv3d(4, 4, 3, **({"groups": 4, "padding": 1} | options))
    assert not fits(torch.ones(1, 4, 3, 5, 5), conv.weight, conv.stride, conv.padding, conv.dilation, conv.groups)


def test_the_gradient_of_a_kernel_over_several_steps_of_a_part(monkeypatch) -> None:
    monkeypatch.setattr(ragged_depthwise, "PARTS", 2)
    maps, weight, _ = random((1,), 1, (70, 70), (1, 1, 1), torch.float32)
    output = run(maps, weight, None, *bounds((1,)), ((1, 1), (0, 0, 0)))
    (found,) = torch.autograd.grad(output, weight, torch.ones_like(output))
    close(found.flatten(), maps.detach().double().sum().view(1), 1e-4)


def test_bounds_of_clips_of_one_length() -> None:
    begins, ends = bounds_of(2, 3, torch.device("cpu"))
    assert (begins.tolist(), ends.tolist()) == ([0, 0, 0, 3, 3, 3], [3, 3, 3, 6, 6, 6])
