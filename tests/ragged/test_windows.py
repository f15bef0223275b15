"""Convolutions and pools of packed clips: each clip gets its own result, clip by clip or once for all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.errors import AtfrError, UnsupportedOperationError
from atfr.kernels import conv3d
from atfr.ragged import windows
from tests.ragged.build import CHANNELS, LENGTHS, make_clips, results, right_or_refused, same_as_loop


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def way(request, monkeypatch) -> None:
    """Operations across time: clip by clip or by our kernels; once for all clips."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(windows, "all_at_once", lambda clips: len(clips.lengths) > 1)
        monkeypatch.setattr(conv3d, "trains_here", lambda maps: False)


# --- convolution -------------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "1x1x1": {"kernel_size": 1},
    "1x3x3": {"kernel_size": (1, 3, 3), "padding": (0, 1, 1)},
    "3x1x1": {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)},
    "3x3x3": {"kernel_size": 3, "padding": 1},
    "5x3x3": {"kernel_size": (5, 3, 3), "padding": (2, 1, 1)},
    "7x1x1": {"kernel_size": (7, 1, 1), "padding": (3, 0, 0)},
    "space stride": {"kernel_size": 3, "padding": 1, "stride": (1, 2, 2)},
    "time stride": {"kernel_size": 3, "padding": 1, "stride": 2},
    "time stride, 5": {"kernel_size": (5, 1, 1), "padding": (2, 0, 0), "stride": (2, 1, 1)},
    "pointwise time stride": {"kernel_size": 1, "stride": 2},
    "time stride 3": {"kernel_size": 3, "padding": 1, "stride": (3, 1, 1)},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": CHANNELS},
    "depthwise 5x1x1": {"kernel_size": (5, 1, 1), "padding": (2, 0, 0), "groups": CHANNELS},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "time dilation": {"kernel_size": 3, "padding": (2, 1, 1), "dilation": (2, 1, 1)},
    "dilation": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "dilation and stride": {"kernel_size": 3, "padding": 2, "dilation": 2, "stride": 2},
    "same": {"kernel_size": (3, 3, 3), "padding": "same"},
    "same, even": {"kernel_size": (2, 3, 2), "padding": "same"},
    "same, dilated": {"kernel_size": (3, 1, 1), "padding": "same", "dilation": (2, 1, 1)},
    "even kernel": {"kernel_size": (2, 2, 2), "padding": 1},
    "wide padding": {"kernel_size": (3, 1, 1), "padding": (2, 0, 0)},
    "wider than the clip": {"kernel_size": (9, 1, 1), "padding": (4, 0, 0)},
}


@pytest.mark.usefixtures("way")
@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel:UserWarning")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv3d(name, bias):
    torch.manual_seed(0)
    conv = nn.Conv3d(CHANNELS, 2 * CHANNELS, bias=bias, **CONVOLUTIONS[name])
    same_as_loop(conv, parameters=tuple(conv.parameters()), tolerance=1e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["3x3x3", "time stride", "depthwise", "time dilation", "same", "1x1x1"])
def test_conv3d_in_double_and_of_other_lengths(name):
    torch.manual_seed(0)
    conv = nn.Conv3d(CHANNELS, CHANNELS, **CONVOLUTIONS[name]).double()
    for lengths in ((1,), (4,), (1, 1, 1), (6, 6), (2, 7, 1, 1, 4)):
        same_as_loop(conv, lengths=lengths, dtype=torch.float64, parameters=tuple(conv.parameters()), tolerance=1e-10)


@pytest.mark.usefixtures("way")
def test_a_nan_does_not_cross_over():
    clips = make_clips((2, 3, 2), channels=32, size=(2, 2))
    clips[1][:] = torch.nan
    first, broken, last = nn.Conv3d(32, 32, 3, padding=1)(atfr.PackedClips.pack(clips)).unpack()
    assert first.isfinite().all()
    assert last.isfinite().all()
    assert broken.isnan().all()


@pytest.mark.usefixtures("way")
def test_conv3d_without_time_padding():
    """Valid convolution shortens every clip on its own; a clip shorter than the kernel is an error in torch too."""
    torch.manual_seed(0)
    for kernel, stride in ((3, 1), (2, 2), (3, 2)):
        conv = nn.Conv3d(CHANNELS, CHANNELS, (kernel, 3, 3), stride=(stride, 1, 1), padding=(0, 1, 1))
        right_or_refused(conv, lengths=(3, 5, 4), parameters=tuple(conv.parameters()))
    with pytest.raises((AtfrError, RuntimeError)):
        nn.Conv3d(CHANNELS, CHANNELS, (3, 1, 1))(atfr.PackedClips.pack(make_clips((5, 2))))


@pytest.mark.usefixtures("way")
def test_conv3d_functional_and_other_padding_modes():
    weight, bias = torch.randn(3, CHANNELS, 3, 3, 3), torch.randn(3)
    same_as_loop(lambda x: F.conv3d(x, weight, bias, padding=1))
    same_as_loop(lambda x: torch.conv3d(x, weight, bias=bias, padding=(1, 0, 0)))
    for mode in ("replicate", "circular", "reflect"):
        conv = nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1, padding_mode=mode)
        right_or_refused(conv, lengths=(3, 2, 5))


# --- pooling -----------------------------------------------------------------------------------------------------

POOLS = {
    "space": {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)},
    "space 2": {"kernel_size": (1, 2, 2)},
    "time 2": {"kernel_size": (2, 1, 1), "stride": (2, 1, 1)},
    "time 3 stride 1": {"kernel_size": (3, 1, 1), "stride": 1, "padding": (1, 0, 0)},
    "3x3x3 stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "time 4": {"kernel_size": (4, 2, 2)},
    "time 4 stride 1": {"kernel_size": (4, 1, 1), "stride": (1, 1, 1)},
    "time 16": {"kernel_size": (16, 5, 6), "stride": 1},
}


def triple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(value)


def window(clip: Tensor, options: dict) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride and padding of a pool, the temporal kernel cut to the padded clip."""
    kernel, padding = triple(options["kernel_size"]), triple(options.get("padding", 0))
    stride = triple(options.get("stride", kernel))
    return (min(kernel[0], clip.shape[2] + 2 * padding[0]), *kernel[1:]), stride, padding


def plain_max_pool(clip: Tensor, options: dict) -> Tensor:
    kernel, stride, padding = window(clip, options)
    rest = {k: v for k, v in options.items() if k not in ("kernel_size", "stride", "padding")}
    return F.max_pool3d(clip, kernel, stride, padding, **rest)


def plain_avg_pool(clip: Tensor, options: dict) -> Tensor:
    """The mean over each window of the clip padded by hand: torch itself refuses clips shorter than a padded kernel."""
    kernel, stride, (t, h, w) = window(clip, options)
    total, count = (F.avg_pool3d(F.pad(x, (w, w, h, h, t, t)), kernel, stride) for x in (clip, torch.ones_like(clip)))
    return total if options.get("count_include_pad", True) else total / count


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", POOLS)
def test_max_pool3d(name):
    options = POOLS[name]
    same_as_loop(lambda x: F.max_pool3d(x, **options), per_clip=lambda clip, i: plain_max_pool(clip, options))
    same_as_loop(nn.MaxPool3d(**options), per_clip=lambda clip, i: plain_max_pool(clip, options))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("name", POOLS)
def test_avg_pool3d(name, include):
    options = POOLS[name] | {"count_include_pad": include}
    same_as_loop(lambda x: F.avg_pool3d(x, **options), per_clip=lambda clip, i: plain_avg_pool(clip, options))
    same_as_loop(nn.AvgPool3d(**options), per_clip=lambda clip, i: plain_avg_pool(clip, options))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("pool", [F.max_pool3d, F.avg_pool3d], ids=["max", "avg"])
def test_pool_with_ceil_mode_is_right_or_refused(pool):
    right_or_refused(lambda x: pool(x, (2, 2, 2), stride=2, ceil_mode=True), lengths=(3, 2, 5, 7))


@pytest.mark.parametrize("size", [1, (1, 1, 1)])
def test_adaptive_avg_pool3d_to_one_is_dense(size):
    same_as_loop(lambda x: F.adaptive_avg_pool3d(x, size), packed_result=False)
    same_as_loop(nn.AdaptiveAvgPool3d(size), packed_result=False)
    dense = nn.AdaptiveAvgPool3d(size)(atfr.PackedClips.pack(make_clips()))
    assert type(dense) is Tensor
    assert dense.shape == (len(LENGTHS), CHANNELS, 1, 1, 1)


@pytest.mark.parametrize("size", [(None, 1, 1), (None, 2, 3), (None, None, None)])
def test_adaptive_avg_pool3d_of_space(size):
    same_as_loop(nn.AdaptiveAvgPool3d(size))


@pytest.mark.parametrize("size", [(2, 1, 1), 2, (1, 2, 2), (1, None, None)])
def test_adaptive_pools_to_a_fixed_time_are_right_or_refused(size):
    for pool in (nn.AdaptiveAvgPool3d(size), nn.AdaptiveMaxPool3d(size)):
        try:
            value = pool(atfr.PackedClips.pack(make_clips()))
        except UnsupportedOperationError:
            continue
        for a, clip in zip(results(value), make_clips(), strict=True):
            torch.testing.assert_close(a, pool(clip[None])[0])


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("dims", [(2, 3, 4), [2, 3, 4], (-3, -2, -1), (4, 2, 3), (-1, 2, 3)])
def test_mean_over_time_and_space_is_dense(dims, keepdim):
    same_as_loop(lambda x: x.mean(dims, keepdim=keepdim), packed_result=False)
    same_as_loop(lambda x: torch.mean(x, dim=dims, keepdim=keepdim), packed_result=False)
    dense = atfr.PackedClips.pack(make_clips()).mean(dims, keepdim=keepdim)
    assert type(dense) is Tensor
    assert dense.shape == (len(LENGTHS), CHANNELS, *([1, 1, 1] if keepdim else []))


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("dims", [(2,), 2, (1, 2, 3, 4), (2, 3)])
def test_means_over_time_are_dense(dims, keepdim):
    same_as_loop(lambda x: x.mean(dims, keepdim=keepdim), packed_result=False)


@pytest.mark.parametrize("dims", [(3, 4), (1,), 1, -1])
def test_means_within_maps_stay_packed(dims):
    same_as_loop(lambda x: x.mean(dims, keepdim=True))


@pytest.mark.parametrize("dims", [(0,), 0, (0, 2), (), None])
def test_means_over_the_batch_are_refused(dims):
    with pytest.raises(UnsupportedOperationError, match="mean"):
        atfr.PackedClips.pack(make_clips()).mean(dims)
