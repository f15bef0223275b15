"""Convolutions that train fast on CPUs against PyTorch's own: values, gradients, formats, and when they are taken."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.kernels import conv3d as convolution
from atfr.optimize.conv import FusedConv3d
from atfr.ragged import PackedClips

LAST = torch.channels_last_3d
# Clips N C T H W, channels out, kernel, stride in height and width, padding, depthwise or not.
CASES = {
    "depthwise": ((2, 3, 5, 6, 7), 3, (3, 3, 3), 1, (1, 1, 1)),
    "depthwise with a stride": ((2, 3, 5, 6, 7), 3, (3, 3, 3), 2, (1, 1, 1)),
    "depthwise over time": ((2, 5, 7, 3, 3), 5, (5, 1, 1), 1, (2, 0, 0)),
    "depthwise over space": ((3, 2, 4, 9, 9), 2, (1, 3, 3), 1, (0, 1, 1)),
    "depthwise, no padding in space": ((2, 3, 6, 8, 8), 3, (3, 5, 5), 1, (1, 0, 0)),
    "depthwise, one map": ((1, 4, 1, 5, 4), 4, (3, 5, 5), 1, (1, 2, 2)),
    "pointwise": ((2, 3, 5, 6, 7), 4, (1, 1, 1), 1, (0, 0, 0)),
    "pointwise with a stride": ((2, 3, 5, 6, 7), 4, (1, 1, 1), 2, (0, 0, 0)),
    "over time": ((2, 3, 5, 6, 7), 4, (3, 1, 1), 1, (1, 0, 0)),
    "over time with a stride": ((2, 3, 5, 6, 7), 4, (5, 1, 1), 2, (2, 0, 0)),
    "over space": ((2, 3, 5, 6, 7), 4, (1, 3, 3), 2, (0, 1, 1)),
    "dense": ((2, 3, 5, 6, 7), 4, (3, 3, 3), 1, (1, 1, 1)),
    "dense with a stride": ((2, 3, 5, 6, 7), 4, (5, 3, 2), 2, (2, 0, 1)),
}
ROWS = {"equal": None, "packed": (2, 1, 4, 3), "one clip": (10,)}
"""Lengths of clips in one row; None: the clips as they are."""


def example(name: str, lengths: tuple[int, ...] | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple, tuple, int]:
    """Clips, kernel, stride, padding and groups of a case; packed clips as one row."""
    shape, out, kernel, stride, padding = CASES[name]
    if lengths is not None:
        shape = (1, shape[1], sum(lengths), *shape[3:])
    groups = shape[1] if name.startswith("depthwise") else 1
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(shape, generator=generator, dtype=dtype).contiguous(memory_format=LAST).requires_grad_()
    weight = torch.randn(out, shape[1] // groups, *kernel, generator=generator, dtype=dtype, requires_grad=True)
    return clips, weight, (1, stride, stride), padding, groups


@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch_clip_by_clip(name: str, lengths: tuple[int, ...] | None) -> None:
    clips, weight, stride, padding, groups = example(name, lengths, torch.float64)
    parts = [clips] if lengths is None else clips.split(list(lengths), 2)
    expected = torch.cat([F.conv3d(part, weight, None, stride, padding, groups=groups) for part in parts], 2)
    output = convolution.convolve(clips, weight, None, stride, padding, lengths or (clips.shape[2],) * len(clips))
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    assert output.is_contiguous(memory_format=LAST)
    slope = torch.randn_like(expected)
    for ours, torchs in zip(
        torch.autograd.grad(output, (clips, weight), slope),
        torch.autograd.grad(expected, (clips, weight), slope),
        strict=True,
    ):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "name", ["depthwise", "depthwise with a stride", "over time", "over space", "dense", "pointwise"]
)
def test_gradients_and_their_gradients_are_slopes(name: str) -> None:
    clips, weight, stride, padding, _ = example(name, (2, 1), torch.float64)
    clips, weight = (tensor.detach()[:, :2, :, :3, :3].requires_grad_() for tensor in (clips, weight))
    bias = torch.randn(len(weight), dtype=torch.float64, requires_grad=True)

    def convolve(clips: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return convolution.convolve(clips, weight, bias, stride, padding, (2, 1))

    if name.startswith("depthwise"):
        weight, bias = (tensor.detach()[:2].requires_grad_() for tensor in (weight, bias))
    assert torch.autograd.gradcheck(convolve, (clips, weight, bias))
    assert torch.autograd.gradgradcheck(convolve, (clips, weight, bias))


def test_a_clip_that_is_not_finite_leaves_the_others_alone() -> None:
    for name in CASES:
        clips, weight, stride, padding, _ = example(name, (3, 2, 4), torch.float32)
        spoilt = clips.detach().clone(memory_format=torch.preserve_format)
        spoilt[:, :, 3:5] = torch.nan
        spoilt.requires_grad_()
        whole, broken = (convolution.convolve(x, weight, None, stride, padding, (3, 2, 4)) for x in (clips, spoilt))
        assert broken[:, :, 3:5].isnan().all()
        torch.testing.assert_close(broken[:, :, [0, 1, 2, 5, 6, 7, 8]], whole[:, :, [0, 1, 2, 5, 6, 7, 8]])
        slope = torch.ones_like(whole)
        slope[:, :, 3:5] = torch.nan
        (gradient,) = torch.autograd.grad(whole, clips, slope)
        assert gradient[:, :, [0, 1, 2, 5, 6, 7, 8]].isfinite().all()


def test_one_gradient_alone() -> None:
    for name in CASES:
        for trained in (0, 1):
            clips, weight, stride, padding, _ = example(name, (2, 3), torch.float32)
            tensors = [clips.detach(), weight.detach()]
            tensors[trained].requires_grad_()
            convolution.convolve(*tensors, None, stride, padding, (2, 3)).sum().backward()
            assert tensors[trained].grad is not None
            assert tensors[1 - trained].grad is None


class Counted:
    """Counts how often the convolution of this module is taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        convolve = convolution.convolve

        def counted(*args: object) -> Tensor:
            self.calls += 1
            return convolve(*args)

        monkeypatch.setattr(convolution, "convolve", counted)


def test_it_is_taken_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    layer = convolution.Conv3d(4, 4, 3, padding=1, groups=4)
    clips = torch.randn(2, 4, 3, 5, 5)
    trained = layer(clips)
    assert counted.calls == 1
    assert trained.is_contiguous()  # the format of the clips
    with torch.inference_mode():
        torch.testing.assert_close(layer(clips), trained, rtol=1e-6, atol=1e-6)
    layer.requires_grad_(False)(clips)
    assert counted.calls == 1


def test_what_is_not_depthwise_is_taken_in_channels_last_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    layer = convolution.Conv3d(4, 8, (1, 3, 3), padding=(0, 1, 1))
    clips = torch.randn(2, 4, 3, 6, 6)
    plain = layer(clips)
    assert counted.calls == 0
    last = layer(clips.contiguous(memory_format=LAST))
    assert counted.calls == 1
    assert last.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(last, plain, rtol=1e-5, atol=1e-5)


def test_networks_train_in_channels_last_on_cpus() -> None:
    clips = torch.randn(1, 3, 2, 8, 8)
    assert convolution.channels_last(clips).is_contiguous(memory_format=LAST)
    for kept in (clips.double(), clips.to("meta"), clips.half()):
        assert convolution.channels_last(kept) is kept
    with torch.no_grad():
        assert convolution.channels_last(clips) is clips


def test_other_convolutions_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    clips = torch.randn(2, 4, 3, 6, 6).contiguous(memory_format=LAST)
    for options in (
        {"padding": 1},  # neither depthwise nor with a flat kernel
        {"groups": 2, "padding": 1},
        {"groups": 4},  # time gets shorter
        {"groups": 4, "padding": 1, "stride": (2, 1, 1)},
        {"groups": 4, "padding": (1, 2, 2), "dilation": (1, 2, 2)},
        {"groups": 4, "padding": 3},
        {"groups": 4, "padding": "same"},
    ):
        layer = convolution.Conv3d(4, 4, 3, **options)
        plain = torch.nn.Conv3d(4, 4, 3, **options)
        plain.load_state_dict(layer.state_dict())
        torch.testing.assert_close(layer(clips), plain(clips), rtol=0, atol=0)
    convolution.Conv3d(4, 8, 3, groups=4, padding=1)(clips)
    convolution.Conv3d(4, 4, 3, groups=4, padding=1).double()(clips.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution.Conv3d(4, 4, 3, groups=4, padding=1)(clips).dtype == torch.bfloat16
    assert convolution.Conv3d(4, 4, 3, groups=4, padding=1).to("meta")(clips.to("meta")).is_meta
    assert counted.calls == 0


@pytest.mark.parametrize("format", [torch.contiguous_format, LAST])
def test_packed_clips_of_anybodys_network_take_it_once(
    format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    clips, weight, _, padding, _ = example("depthwise", (2, 4, 3), torch.float32)
    layer = torch.nn.Conv3d(3, 3, 3, padding=1, groups=3, bias=False)
    layer.weight = torch.nn.Parameter(weight.detach())
    lengths = [2, 4, 3]
    packed = PackedClips.pack(clips[0].split(lengths, 1)).contiguous(memory_format=format)
    output = layer(packed)
    assert counted.calls == 1
    expected = torch.cat([F.conv3d(clip, weight, padding=padding, groups=3) for clip in clips.split(lengths, 2)], 2)
    torch.testing.assert_close(output.plain(), expected)
    slope = torch.randn_like(expected)
    for ours, torchs in zip(
        torch.autograd.grad(output.plain(), (clips, layer.weight), slope),
        torch.autograd.grad(expected, (clips, weight), slope),
        strict=True,
    ):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-4)


def test_the_module_is_a_conv3d() -> None:
    layer = convolution.Conv3d(2, 2, 3, padding=1, groups=2)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert isinstance(other, torch.nn.Conv3d)
        assert other.state_dict().keys() == torch.nn.Conv3d(2, 2, 3, groups=2).state_dict().keys()
    gradients = torch.func.grad(lambda weight: torch.func.functional_call(layer, {"weight": weight}, clips).sum())
    clips = torch.randn(1, 2, 3, 4, 4)
    output = F.conv3d(clips, layer.weight, layer.bias, padding=1, groups=2)
    expected = torch.autograd.grad(output.sum(), layer.weight)[0]
    torch.testing.assert_close(gradients(layer.weight.detach()), expected, rtol=1e-5, atol=1e-5)


def in_eager(ours: convolution.Conv3d, clip: Tensor) -> Tensor:
    return ours(clip)


def as_a_packed_clip(ours: convolution.Conv3d, clip: Tensor) -> Tensor:
    return ours(PackedClips.pack([clip[0]])).plain()


def as_two_packed_clips(ours: convolution.Conv3d, clip: Tensor) -> Tensor:
    return ours(PackedClips.pack([clip[0], clip[0]])).unpack()[1][None]


def optimised(ours: convolution.Conv3d, clip: Tensor) -> Tensor:
    return FusedConv3d(copy.deepcopy(ours).requires_grad_(False))(clip)


def under_autocast(ours: convolution.Conv3d, clip: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return as_a_packed_clip(ours.float(), clip.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("way", [in_eager, as_a_packed_clip, as_two_packed_clips, optimised, under_autocast])
def test_one_map_in_half_precision(
    way: Callable[[convolution.Conv3d, Tensor], Tensor], kernel: int, dtype: torch.dtype
) -> None:
    """With AMX, PyTorch answers NaN where a kernel of three channels meets padding beside the only map of a clip."""
    torch.manual_seed(kernel)
    ours = convolution.Conv3d(3, 16, (kernel, 7, 7), stride=(1, 2, 2), padding=(kernel // 2, 3, 3)).to(dtype)
    clip = torch.randn(1, 3, 1, 32, 32).to(dtype)
    expected = F.conv3d(clip.float(), ours.weight.float(), ours.bias.float(), ours.stride, ours.padding)
    with torch.inference_mode():
        for size in (1 << 12, 1 << 14, 1 << 16, 1 << 18):
            torch.full((size,), float("nan"))  # memory that is given back, and met again
        torch.testing.assert_close(way(ours, clip).float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((5, 1, 1), {"stride": (8, 1, 1), "padding": (2, 0, 0)}),  # SlowFast 4x16
        ((3, 3, 3), {"stride": (4, 2, 2), "padding": 1}),
        ((2, 1, 1), {"stride": (7, 1, 1), "dilation": (3, 1, 1)}),
    ],
)
@pytest.mark.parametrize("way", [in_eager, as_a_packed_clip, as_two_packed_clips, optimised, under_autocast])
def test_strides_longer_than_the_kernel_in_half_precision(
    way: Callable[[convolution.Conv3d, Tensor], Tensor], kernel: tuple, options: dict, dtype: torch.dtype
) -> None:
    """With AMX, PyTorch leaves out results of such convolutions, or writes beyond them."""
    torch.manual_seed(0)
    ours = convolution.Conv3d(32, 64, kernel, **options).to(dtype)
    clip = torch.randn(1, 32, 32, 14, 14).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    window = ours.stride, ours.padding, ours.dilation
    expected = F.conv3d(clip.float(), ours.weight.float(), ours.bias.float(), *window)
    for _ in range(3):
        with torch.inference_mode():
            torch.testing.assert_close(way(ours, clip).float(), expected, rtol=0.02, atol=0.02)


def test_gradients_of_strides_longer_than_the_kernel() -> None:
    torch.manual_seed(0)
    ours = convolution.Conv3d(32, 64, (5, 1, 1), stride=(8, 1, 1), padding=(2, 0, 0))
    clip = torch.randn(1, 32, 32, 14, 14, requires_grad=True)
    expected = torch.autograd.grad(
        F.conv3d(clip, ours.weight, ours.bias, ours.stride, ours.padding).square().mean(), (clip, ours.weight)
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(ours(clip).float().square().mean(), (clip, ours.weight))
    for ours_, exact in zip(found, expected, strict=True):
        assert (ours_ - exact).norm() < 0.02 * exact.norm()


def test_what_oneDNN_does_rightly_is_left_alone() -> None:
    weight = torch.randn(16, 3, 5, 7, 7)
    one, two = torch.randn(1, 3, 1, 32, 32), torch.randn(1, 3, 2, 32, 32)
    window = (1, 1, 1), (2, 3, 3), (1, 1, 1)
    met = convolution.around_faults(one.bfloat16(), weight, *window)
    assert (met[1].shape, met[3]) == ((16, 3, 1, 7, 7), (0, 3, 3))
    for clip, stride in ((one, 1), (one, 8), (two.bfloat16(), 1), (two.bfloat16(), 5)):
        given = clip, weight, (stride, 1, 1), *window[1:]
        assert all(a is b for a, b in zip(convolution.around_faults(*given), given, strict=True))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace")
def test_a_network_is_traced_with_gradients_enabled() -> None:
    """As OpenVINO's convert_model does: "unordered_map::at"."""
    layers = convolution.Conv3d(2, 2, 3, padding=1, groups=2), convolution.Conv3d(2, 4, (3, 1, 1), padding=(1, 0, 0))
    model = nn.Sequential(*layers)
    clips, others = torch.randn(2, 1, 2, 4, 8, 8)
    torch.testing.assert_close(torch.jit.trace(model, clips)(others), model(others))
