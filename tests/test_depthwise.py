"""The gradients of depthwise convolutions against PyTorch's own, and when they are taken."""

import copy
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from atfr import depthwise
from atfr.ragged import PackedClips

CASES = [
    ((2, 3, 5, 6, 7), (3, 3, 3), (1, 1, 1)),
    ((1, 4, 1, 5, 4), (3, 5, 5), (1, 2, 2)),
    ((3, 2, 4, 9, 9), (1, 3, 3), (0, 1, 1)),
    ((2, 5, 7, 3, 3), (5, 1, 1), (2, 0, 0)),
    ((2, 3, 6, 8, 8), (3, 5, 5), (1, 0, 0)),  # padded by the caller: the output is smaller
    ((2, 3, 4, 5, 6), (2, 4, 3), (1, 3, 0)),  # even kernels
]


def example(shape: tuple[int, ...], kernel: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(shape[1], 1, *kernel, generator=generator, dtype=dtype, requires_grad=True)
    return clips, weight


@pytest.mark.parametrize(("shape", "kernel", "padding"), CASES)
def test_gradients_are_those_of_torch(shape: tuple, kernel: tuple, padding: tuple) -> None:
    clips, weight = example(shape, kernel, torch.float64)
    expected = F.conv3d(clips, weight, padding=padding, groups=shape[1])
    output = depthwise.convolve(clips, weight, None, padding)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    slope = torch.randn_like(expected)
    for ours, torchs in zip(
        torch.autograd.grad(output, (clips, weight), slope),
        torch.autograd.grad(expected, (clips, weight), slope),
        strict=True,
    ):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-12)


def test_gradients_and_their_gradients_are_slopes() -> None:
    clips, weight = example((1, 2, 3, 4, 4), (3, 3, 3), torch.float64)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def convolve(*tensors: Tensor) -> Tensor:
        return depthwise.convolve(*tensors, (1, 1, 1))

    assert torch.autograd.gradcheck(convolve, (clips, weight, bias))
    assert torch.autograd.gradgradcheck(convolve, (clips, weight, bias))


def test_one_gradient_alone() -> None:
    for trained in (0, 1):
        tensors = [tensor.detach() for tensor in example((2, 3, 4, 5, 5), (3, 3, 3), torch.float32)]
        tensors[trained].requires_grad_()
        depthwise.convolve(*tensors, None, (1, 1, 1)).sum().backward()
        assert tensors[trained].grad is not None
        assert tensors[1 - trained].grad is None


class Counted:
    """Counts how often the convolution of this module is taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        convolve = depthwise.convolve

        def counted(*args: object) -> Tensor:
            self.calls += 1
            return convolve(*args)

        monkeypatch.setattr(depthwise, "convolve", counted)


def test_it_is_taken_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    layer = depthwise.Conv3d(4, 4, 3, padding=1, groups=4)
    clips = torch.randn(2, 4, 3, 5, 5)
    trained = layer(clips)
    assert counted.calls == 1
    with torch.inference_mode():
        torch.testing.assert_close(layer(clips), trained, rtol=1e-6, atol=1e-6)
    layer.requires_grad_(False)(clips)
    assert counted.calls == 1


def test_other_convolutions_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    clips = torch.randn(2, 4, 3, 6, 6)
    for options in (
        {"padding": 1},  # not depthwise
        {"groups": 2},
        {"groups": 4, "stride": (1, 2, 2)},
        {"groups": 4, "stride": (2, 1, 1)},
        {"groups": 4, "dilation": (1, 2, 2)},
        {"groups": 4, "padding": 3},
        {"groups": 4, "padding": "same"},
    ):
        layer = depthwise.Conv3d(4, 4, 3, **options)
        plain = torch.nn.Conv3d(4, 4, 3, **options)
        plain.load_state_dict(layer.state_dict())
        torch.testing.assert_close(layer(clips), plain(clips), rtol=0, atol=0)
    depthwise.Conv3d(4, 8, 3, groups=4)(clips)
    depthwise.Conv3d(4, 4, 3, groups=4).double()(clips.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise.Conv3d(4, 4, 3, groups=4)(clips).dtype == torch.bfloat16
    assert depthwise.Conv3d(4, 4, 3, groups=4).to("meta")(clips.to("meta")).is_meta
    assert counted.calls == 0


def test_packed_clips_take_it_clip_by_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    clips, weight = example((1, 3, 9, 16, 16), (3, 3, 3), torch.float32)
    layer = torch.nn.Conv3d(3, 3, 3, padding=1, groups=3, bias=False)  # anybody's network
    layer.weight = torch.nn.Parameter(weight.detach())
    lengths = [2, 4, 3]
    packed = PackedClips.pack(clips[0].split(lengths, 1))
    output = layer(packed)
    assert counted.calls == len(lengths)
    expected = torch.cat([F.conv3d(clip, weight, padding=1, groups=3) for clip in clips.split(lengths, 2)], 2)
    torch.testing.assert_close(output.plain(), expected)
    slope = torch.randn_like(expected)
    for ours, torchs in zip(
        torch.autograd.grad(output.plain(), (clips, layer.weight), slope),
        torch.autograd.grad(expected, (clips, weight), slope),
        strict=True,
    ):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-4)


def test_the_module_is_a_conv3d() -> None:
    layer = depthwise.Conv3d(2, 2, 3, groups=2)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert isinstance(other, torch.nn.Conv3d)
        assert other.state_dict().keys() == torch.nn.Conv3d(2, 2, 3, groups=2).state_dict().keys()
    gradients = torch.func.grad(lambda weight: torch.func.functional_call(layer, {"weight": weight}, clips).sum())
    clips = torch.randn(1, 2, 3, 4, 4)
    expected = torch.autograd.grad(F.conv3d(clips, layer.weight, layer.bias, groups=2).sum(), layer.weight)[0]
    torch.testing.assert_close(gradients(layer.weight.detach()), expected, rtol=1e-5, atol=1e-5)
