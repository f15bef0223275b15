"""Operations across time as a GPU runs them: for whole networks right, and as many calls for 32 clips as for 2."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import atfr
from atfr.kernels import conv3d
from atfr.models.nonlocal_block import NonLocal
from atfr.ragged import Same, same_in_time, windows
from tests.models.narrow import narrow, short, shorter

FAMILIES = ["resnet3d_18", "x3d_xs", "r2plus1d_18", "i3d_50", "i3d_inception", "slowfast_8x8_r18"]
FRAMES, SIDE = 16, 16


@pytest.fixture
def at_once(monkeypatch) -> None:
    monkeypatch.setattr(windows, "all_at_once", lambda clips: len(clips.lengths) > 1)
    monkeypatch.setattr(conv3d, "trains_here", lambda maps: False)


@functools.cache
def adapted(family: str, after: str) -> nn.Module:
    torch.manual_seed(0)
    with short():
        model = narrow(family, num_classes=5, dropout=0.0).double().eval()
    if family in ("r2plus1d_18", "i3d_50"):
        shorter(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.running_mean, std=0.1)
    atfr.adapt_(model, after=after, sampler="change", num_bins=12, edge_maps=2)
    return model


def clips(count: int) -> Tensor:
    """Clips that stop at different times, so that they keep different numbers of frames."""
    x = torch.randn(count, 3, FRAMES, SIDE, SIDE, dtype=torch.float64)
    for i, clip in enumerate(x):
        moving = 1 + 3 * (i % 3)
        clip[:, moving:] = clip[:, moving - 1 : moving]
    return x


class Calls(TorchDispatchMode):
    """Counts what is asked of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def calls(model: nn.Module, x: Tensor, backward: bool) -> int:
    with Calls() as made:
        logits = model(x)
        if backward:
            logits.sum().backward()
    return made.count


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("after", ["input", "res2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_each_clip_alone(family, after) -> None:
    model, x = adapted(family, after), clips(3)
    with torch.no_grad(), atfr.record(model) as trace:
        together = model(x)
    assert any(len(set(site.active_bins.tolist())) > 1 for site in trace.sites.values())
    with torch.no_grad():
        alone = torch.cat([model(clip[None]) for clip in x])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_calls_do_not_depend_on_the_number_of_clips(family, training) -> None:
    model, x = copy.deepcopy(adapted(family, "res2")).train(training), clips(5)
    with torch.set_grad_enabled(training):
        assert calls(model, x[:3], training) == calls(model, x, training)


def test_clip_by_clip_they_do() -> None:
    """What the test above compares does depend on it on a CPU."""
    model, x = adapted("x3d_xs", "res2"), clips(5)
    with torch.no_grad():
        assert calls(model, x[:3], False) < calls(model, x, False)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("size", [1, 2])
def test_batch_norm_behind_it_has_the_gradients_of_each_clip_alone(format, size) -> None:
    """PyTorch's batch norm is wrong on CPUs where the strides of its input fit no memory format."""
    layers = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1, groups=4), nn.BatchNorm3d(4)).double().eval()
    maps = torch.randn(1, 4, 6, size, size, dtype=torch.float64).contiguous(memory_format=format).requires_grad_()
    slope = torch.randn(1, 4, 6, size, size, dtype=torch.float64)
    packed = layers(atfr.PackedClips(maps, atfr.ragged.ClipLayout([2, 1, 3]))).plain()
    alone = torch.cat([layers(clip) for clip in maps.split([2, 1, 3], 2)], 2)
    for one, other in zip(
        *(torch.autograd.grad(y, [maps, *layers.parameters()], slope) for y in (packed, alone)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_is_that_of_each_clip_alone(kernel, stride) -> None:
    if kernel < stride:
        return
    clips, same = [torch.randn(3, n, 2, 2) for n in (1, 2, 3, 4, 7)], Same(kernel, stride)
    found = same_in_time(atfr.PackedClips.pack(clips), same, -9.0).unpack()
    for clip, padded in zip(clips, found, strict=True):
        length = clip.shape[1]
        results = -(-length // stride)  # TensorFlow: as many as length / stride, rounded up; more behind than before
        more = max((results - 1) * stride + kernel - length, 0)
        expected = F.pad(clip, (0, 0, 0, 0, more // 2, more - more // 2), value=-9.0)
        assert torch.equal(padded, expected)


@pytest.mark.usefixtures("at_once")
def test_attention_at_once_is_that_of_each_clip_alone() -> None:
    torch.manual_seed(0)
    block = NonLocal(4).double().eval()
    nn.init.normal_(block.norm.weight)
    clips = [torch.randn(4, n, 5, 4, dtype=torch.float64, requires_grad=True) for n in (1, 4, 2)]
    together = block(atfr.PackedClips.pack(clips)).unpack()
    alone = [block(clip[None])[0] for clip in clips]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(sum(x.square().sum() for x in each), clips) for each in (together, alone)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        counts = set()
        for some in (clips[:2], clips):
            packed = atfr.PackedClips.pack(some)
            with Calls() as made:
                block(packed)
            counts.add(made.count)
    assert len(counts) == 1


class Convolved(TorchDispatchMode):
    """Notes how many maps come into each convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.maps.append(args[0].shape[2 if args[0].dim() == 5 else 0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("lengths", "kernel", "maps"),
    [
        ((2,), (3, 3, 3), [2]),
        ((2, 3, 1), (3, 3, 3), [6, 5, 5]),  # a call for each tap, over all clips: PyTorch is slow on small ones
        ((2, 3, 1), (3, 1, 1), [2, 3, 1]),
        ((2, 2), (3, 3, 3), [2]),  # a plain batch
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_which_maps_are_convolved_together_on_cpus(lengths, kernel, maps, training) -> None:
    packed = atfr.PackedClips.pack([torch.randn(4, length, 3, 3) for length in lengths])
    with torch.set_grad_enabled(training), Convolved() as seen:
        nn.functional.conv3d(packed, torch.randn(32, 4, *kernel), padding=(1, kernel[1] // 2, kernel[2] // 2))
    assert seen.maps == ([4, 3, 3] if training and lengths == (2, 2) else maps)
