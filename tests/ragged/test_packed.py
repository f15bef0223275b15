"""PackedClips against the plain loop over clips: every operation gives each clip its own result, or refuses."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.errors import AtfrError, InputError, UnsupportedOperationError
from atfr.kernels import conv3d
from atfr.ragged import windows

LENGTHS = (3, 1, 5, 2)
CHANNELS = 4


def make_clips(lengths=LENGTHS, channels=CHANNELS, size=(5, 6), seed=0, dtype=torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(channels, n, *size, generator=generator, dtype=torch.float64).to(dtype) for n in lengths]


def gradients(outputs: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of one fixed random linear function of the outputs."""
    generator = torch.Generator().manual_seed(99)
    loss = torch.zeros((), dtype=outputs[0].dtype)
    for output in outputs:
        loss = loss + (output * torch.randn(output.shape, generator=generator, dtype=output.dtype)).sum()
    return list(torch.autograd.grad(loss, leaves, allow_unused=True))


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def way(request, monkeypatch) -> None:
    """Operations across time: clip by clip or by our kernels; once for all clips."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(windows, "all_at_once", lambda clips: len(clips.lengths) > 1)
        monkeypatch.setattr(conv3d, "trains_here", lambda maps: False)


def results(value: atfr.PackedClips | Tensor, packed_type: type = atfr.PackedClips) -> list[Tensor]:
    """A result as one tensor per clip: C T H W of a packed one, the row of a dense one."""
    return value.unpack() if isinstance(value, packed_type) else list(value)


def same_as_loop(
    operation: Callable[[Tensor], Tensor],
    *,
    lengths=LENGTHS,
    channels=CHANNELS,
    size=(5, 6),
    dtype=torch.float32,
    per_clip: Callable[[Tensor, int], Tensor] | None = None,
    parameters: tuple[Tensor, ...] = (),
    tolerance: float = 1e-5,
    packed_result: bool = True,
) -> None:
    """``operation`` of the packed clips equals it on every clip alone (1 C T H W), with all gradients."""
    clips = make_clips(lengths, channels, size, dtype=dtype)
    left, right = ([c.clone().requires_grad_() for c in clips] for _ in range(2))
    value = operation(atfr.PackedClips.pack(left))
    assert isinstance(value, atfr.PackedClips) == packed_result
    assert len(value.lengths if packed_result else value) == len(lengths)
    got = results(value)
    loop = per_clip or (lambda clip, i: operation(clip))
    want = [loop(clip[None], i)[0] for i, clip in enumerate(right)]
    if packed_result:
        assert value.lengths == tuple(w.shape[1] for w in want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        assert type(a) is Tensor
    leaves = list(zip(gradients(got, [*left, *parameters]), gradients(want, [*right, *parameters]), strict=True))
    for a, b in leaves:
        torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=10 * tolerance)


def right_or_refused(operation: Callable[[Tensor], Tensor], **options: object) -> None:
    """An operation atfr need not support: the right answer or a refusal, nothing else."""
    with contextlib.suppress(UnsupportedOperationError):
        same_as_loop(operation, **options)


# --- packing -----------------------------------------------------------------------------------------------------


def test_pack_and_unpack():
    clips = make_clips()
    packed = atfr.PackedClips.pack(clips)
    assert isinstance(packed, torch.Tensor)
    assert packed.lengths == LENGTHS
    assert all(type(n) is int for n in packed.lengths)
    assert packed.dtype == torch.float32
    for a, b in zip(packed.unpack(), clips, strict=True):
        assert torch.equal(a, b)
        assert type(a) is Tensor


@pytest.mark.parametrize("length", [1, 2, 9])
def test_one_clip(length):
    (clip,) = make_clips((length,))
    packed = atfr.PackedClips.pack([clip])
    assert packed.lengths == (length,)
    assert torch.equal(packed.unpack()[0], clip)


def test_packing_copies_and_carries_gradients():
    clips = [c.requires_grad_() for c in make_clips()]
    packed = atfr.PackedClips.pack(clips)
    assert packed.requires_grad
    for a, b in zip(gradients(packed.unpack(), clips), gradients(clips, clips), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "clips",
    [
        [],
        [torch.zeros(4, 3, 5)],
        [torch.zeros(1, 4, 3, 5, 6)],
        [torch.zeros(4, 3, 5, 6), torch.zeros(3, 3, 5, 6)],
        [torch.zeros(4, 3, 5, 6), torch.zeros(4, 3, 5, 7)],
        [torch.zeros(4, 3, 5, 6), torch.zeros(4, 3, 6, 6)],
        [torch.zeros(4, 3, 5, 6), torch.zeros(4, 0, 5, 6)],
        [torch.zeros(4, 3, 5, 6), torch.zeros(4, 3, 5, 6, dtype=torch.float64)],
        [torch.zeros(4, 3, 5, 6), "clip"],
    ],
    ids=["none", "3-D", "5-D", "channels", "width", "height", "no frames", "dtypes", "no tensor"],
)
def test_pack_refuses_wrong_shapes(clips):
    with pytest.raises(InputError):
        atfr.PackedClips.pack(clips)


@pytest.mark.parametrize("again", ["deepcopy", "copy", "pickle", "torch.save", "clone", "detach"])
def test_copies_keep_the_lengths(again):
    packed = atfr.PackedClips.pack(make_clips())
    if again == "torch.save":
        file = io.BytesIO()
        torch.save(packed, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = {
            "deepcopy": copy.deepcopy,
            "copy": copy.copy,
            "pickle": lambda p: pickle.loads(pickle.dumps(p)),
            "clone": lambda p: p.clone(),
            "detach": lambda p: p.detach(),
        }[again](packed)
    assert type(other) is atfr.PackedClips
    assert other.lengths == LENGTHS
    for a, b in zip(other.unpack(), packed.unpack(), strict=True):
        assert torch.equal(a, b)
    assert F.relu(other).lengths == LENGTHS


def test_casts_keep_the_lengths():
    packed = atfr.PackedClips.pack(make_clips())
    for other, dtype in (
        (packed.double(), torch.float64),
        (packed.to(torch.bfloat16), torch.bfloat16),
        (packed.float(), torch.float32),
        (packed.to("cpu"), torch.float32),
        (packed.contiguous(), torch.float32),
    ):
        assert other.dtype == dtype
        assert other.lengths == LENGTHS
        for a, b in zip(other.unpack(), packed.unpack(), strict=True):
            assert torch.equal(a, b.to(dtype))


def test_repr_says_what_it_is():
    text = repr(atfr.PackedClips.pack(make_clips()))
    assert "PackedClips" in text


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


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3, "padding": 1}, {"kernel_size": (5, 1, 1), "padding": (2, 0, 0)}]
)
@pytest.mark.parametrize("lengths", [(4,), (1, 1, 1), (3, 1, 5)])
def test_conv3d_whose_kernel_is_larger_than_the_clips(options, lengths):
    """These take one convolution with gaps between the clips instead of one a clip."""
    conv = nn.Conv3d(32, 32, **options).double()
    parameters = tuple(conv.parameters())
    same_as_loop(conv, lengths=lengths, channels=32, size=(2, 2), dtype=torch.float64, parameters=parameters)


@pytest.mark.usefixtures("way")
def test_a_nan_does_not_cross_the_gap():
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


# --- normalisation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_in_evaluation(affine):
    norm = nn.BatchNorm3d(CHANNELS, affine=affine)
    norm.running_mean.copy_(torch.tensor([0.5, -1.0, 0.0, 2.0]))
    norm.running_var.copy_(torch.tensor([0.5, 1.0, 4.0, 2.0]))
    same_as_loop(norm.eval(), parameters=tuple(norm.parameters()))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("track", [True, False])
def test_batch_norm_in_training_sees_the_real_frames_only(track, momentum):
    torch.manual_seed(0)
    packed_norm = nn.BatchNorm3d(CHANNELS, momentum=momentum, track_running_stats=track)
    with torch.no_grad():
        packed_norm.weight.uniform_(0.5, 2)
        packed_norm.bias.uniform_(-1, 1)
    plain_norm = copy.deepcopy(packed_norm)
    left, right = ([c.requires_grad_() for c in make_clips()] for _ in range(2))
    for _ in range(2):
        packed = packed_norm(atfr.PackedClips.pack(left))
        plain = plain_norm(torch.cat(right, dim=1)[None])
    assert packed.lengths == LENGTHS
    got, want = packed.unpack(), list(plain[0].split(LENGTHS, dim=1))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for (name, a), b in zip(packed_norm.state_dict().items(), plain_norm.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name, rtol=1e-5, atol=1e-6)
        assert type(a) is Tensor
    frames = torch.cat(right, dim=1).flatten(1)
    if track and momentum is None:  # the running figures are the plain average: here the statistics themselves
        torch.testing.assert_close(packed_norm.running_mean, frames.mean(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(packed_norm.running_var, frames.var(1, unbiased=True), rtol=1e-4, atol=1e-5)
    pairs = zip(
        gradients(got, [*left, *packed_norm.parameters()]),
        gradients(want, [*right, *plain_norm.parameters()]),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(2, CHANNELS),
        nn.InstanceNorm3d(CHANNELS),
        nn.InstanceNorm3d(CHANNELS, affine=True),
        nn.InstanceNorm3d(CHANNELS, track_running_stats=True).eval(),
    ],
    ids=["group", "instance", "instance affine", "instance running"],
)
def test_norms_over_time_see_one_clip(norm):
    same_as_loop(norm.double(), parameters=tuple(norm.parameters()), dtype=torch.float64, tolerance=1e-10)


def test_norms_whose_statistics_would_mix_clips_are_refused():
    packed = atfr.PackedClips.pack(make_clips())
    with pytest.raises(UnsupportedOperationError, match="instance_norm"):
        nn.InstanceNorm3d(CHANNELS, track_running_stats=True)(packed)


# --- pointwise ---------------------------------------------------------------------------------------------------

POINTWISE = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "method relu": lambda x: x.relu(),
    "nn.ReLU": nn.ReLU(),
    "sigmoid": torch.sigmoid,
    "nn.Sigmoid": nn.Sigmoid(),
    "F.silu": F.silu,
    "nn.SiLU": nn.SiLU(),
    "hardswish": F.hardswish,
    "nn.Hardswish": nn.Hardswish(),
    "gelu": F.gelu,
    "nn.GELU": nn.GELU(),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "dropout": nn.Dropout(0.5).eval(),
    "x * sigmoid(x)": lambda x: x * torch.sigmoid(x),
    "identity": nn.Identity(),
    "add scalar": lambda x: x + 2,
    "scalar add": lambda x: 2.5 + x,
    "sub scalar": lambda x: x - 0.5,
    "scalar sub": lambda x: 3 - x,
    "mul scalar": lambda x: x * -2.0,
    "scalar mul": lambda x: 2 * x,
    "div scalar": lambda x: x / 4,
    "torch.add alpha": lambda x: torch.add(x, x, alpha=3),
    "add packed": lambda x: x + F.relu(x),
    "sub packed": lambda x: x - F.relu(x),
    "mul packed": lambda x: x * F.relu(x),
    "div packed": lambda x: x / (torch.sigmoid(x) + 1),
    "scalar tensor": lambda x: x * torch.tensor(3.0),
    "scalar tensor first": lambda x: torch.tensor(3.0) * x,
}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(name):
    same_as_loop(POINTWISE[name])


MAYBE_POINTWISE = {
    "dropout3d": nn.Dropout3d(0.5).eval(),
    "neg": lambda x: -x,
    "abs": torch.abs,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "square": lambda x: x**2,
    "clamp": lambda x: x.clamp(min=0),
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "hardtanh": F.relu6,
    "scalar div": lambda x: 1 / (x + 10),
    "maximum": lambda x: torch.maximum(x, -1 * x),
    "where": lambda x: torch.where(x > 0, x, x * 0.5),
    "H x W tensor": lambda x: x * torch.arange(30.0).view(5, 6),
}


@pytest.mark.parametrize("name", MAYBE_POINTWISE)
def test_other_pointwise_operations_are_right_or_refused(name):
    right_or_refused(MAYBE_POINTWISE[name])


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.relu(x, inplace=True),
        torch.relu_,
        lambda x: x.relu_(),
        nn.ReLU(inplace=True),
        nn.SiLU(inplace=True),
        nn.Hardswish(inplace=True),
        nn.Dropout(0.5, inplace=True).eval(),
        lambda x: x.add_(1),
        lambda x: x.mul_(2),
        lambda x: x.sub_(1),
        lambda x: x.div_(2),
    ],
    ids=["F.relu", "relu_", "x.relu_", "ReLU", "SiLU", "Hardswish", "Dropout", "add_", "mul_", "sub_", "div_"],
)
def test_in_place(operation):
    same_as_loop(lambda x: operation(x * 1))
    packed = atfr.PackedClips.pack(make_clips())
    result = operation(packed)
    assert result.lengths == packed.lengths == LENGTHS
    for a, b in zip(packed.unpack(), result.unpack(), strict=True):
        assert torch.equal(a, b)


def test_in_place_addition_of_a_residual():
    def residual(x):
        out = torch.sigmoid(x) * 2
        out += x
        return F.relu(out, inplace=True)

    same_as_loop(residual)


@pytest.mark.parametrize("operator", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize("packed_first", [True, False])
def test_per_channel_parameters(operator, packed_first):
    parameter = torch.rand(1, CHANNELS, 1, 1, 1, generator=torch.Generator().manual_seed(4)) + 2
    parameter.requires_grad_()
    apply = getattr(torch, operator)

    def operation(x):
        return apply(x, parameter) if packed_first else apply(parameter, torch.sigmoid(x) + 1)

    same_as_loop(operation, parameters=(parameter,))


@pytest.mark.parametrize("operator", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize("packed_first", [True, False])
@pytest.mark.parametrize("channels", [CHANNELS, 1])
def test_one_vector_per_clip(operator, packed_first, channels):
    """N C 1 1 1 meets packed clips clip by clip, as squeeze-and-excitation and attention gates need."""
    gate = torch.rand(len(LENGTHS), channels, 1, 1, 1, generator=torch.Generator().manual_seed(4)) + 2
    gate.requires_grad_()
    apply = getattr(torch, operator)

    def combine(x, rows):
        return apply(x, rows) if packed_first else apply(rows, torch.sigmoid(x) + 1)

    same_as_loop(
        lambda x: combine(x, gate), per_clip=lambda clip, i: combine(clip, gate[i : i + 1]), parameters=(gate,)
    )


def test_one_vector_per_clip_in_place():
    gate = torch.rand(len(LENGTHS), CHANNELS, 1, 1, 1)
    same_as_loop(lambda x: (x * 1).mul_(gate), per_clip=lambda clip, i: (clip * 1).mul_(gate[i : i + 1]))


TOTAL = sum(LENGTHS)


@pytest.mark.parametrize(
    "shape",
    [
        (TOTAL, 1, 1),
        (TOTAL, 5, 6),
        (1, CHANNELS, TOTAL, 5, 6),
        (1, 1, TOTAL, 1, 1),
        (CHANNELS, TOTAL, 5, 6),
        (len(LENGTHS), 1, TOTAL, 1, 1),
        (len(LENGTHS) + 1, CHANNELS, 1, 1, 1),
        (len(LENGTHS) - 1, CHANNELS, 1, 1, 1),
        (len(LENGTHS), CHANNELS + 1, 1, 1, 1),
        (TOTAL, CHANNELS, 1, 1, 1),
    ],
    ids=str,
)
def test_dense_tensors_that_do_not_fit_are_refused(shape):
    """The first shapes fit the storage by accident: adding them would mix clips without a word."""
    packed, dense = atfr.PackedClips.pack(make_clips()), torch.ones(shape)
    for operation in (lambda: packed + dense, lambda: dense * packed, lambda: packed.clone().add_(dense)):
        with pytest.raises((AtfrError, RuntimeError)):
            operation()


def test_packed_clips_of_other_lengths_do_not_add():
    a = atfr.PackedClips.pack(make_clips((3, 1, 5, 2)))
    for lengths in ((2, 2, 5, 2), (3, 1, 5), (1, 3, 5, 2), (11,)):
        b = atfr.PackedClips.pack(make_clips(lengths))
        for operation in (torch.add, torch.sub, torch.mul, torch.div, lambda a, b: a.clone().add_(b)):
            with pytest.raises(AtfrError, match=r"length"):
                operation(a, b)


def test_dropout_in_training_drops_and_scales():
    torch.manual_seed(0)
    packed = nn.Dropout(0.5)(atfr.PackedClips.pack([torch.ones(8, n, 8, 8) for n in LENGTHS]))
    assert packed.lengths == LENGTHS
    for clip in packed.unpack():
        assert set(clip.unique().tolist()) == {0.0, 2.0}


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


# --- joining and padding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, -4])
def test_cat_on_channels(dim):
    same_as_loop(lambda x: torch.cat([x, F.relu(x), x * 2], dim=dim))


def test_cat_on_channels_pads_the_shorter_clip_by_clip():
    fast_lengths, slow_lengths = (5, 1, 4, 2), (2, 3, 4, 1)
    fast, slow = make_clips(fast_lengths, 2), make_clips(slow_lengths, 3, seed=1)
    left = [c.clone().requires_grad_() for c in (*fast, *slow)]
    right = [c.clone().requires_grad_() for c in (*fast, *slow)]
    value = torch.cat([atfr.PackedClips.pack(left[:4]), atfr.PackedClips.pack(left[4:])], dim=1)
    assert value.lengths == (5, 3, 4, 2)
    want = []
    for a, b in zip(right[:4], right[4:], strict=True):
        length = max(a.shape[1], b.shape[1])
        padded = []
        for clip in (a, b):
            frames = [clip[:, t] for t in range(clip.shape[1])]
            frames += [torch.zeros_like(clip[:, 0])] * (length - len(frames))
            padded.append(torch.stack(frames, dim=1))
        want.append(torch.cat(padded, dim=0))
    for a, b in zip(value.unpack(), want, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(gradients(value.unpack(), left), gradients(want, right), strict=True):
        torch.testing.assert_close(a, b)


def test_cat_on_other_dimensions_or_counts_is_refused():
    packed = atfr.PackedClips.pack(make_clips())
    for dim in (2, 3, 4, -1, -3):
        with pytest.raises(UnsupportedOperationError, match="cat"):
            torch.cat([packed, packed], dim=dim)
    with pytest.raises(AtfrError):
        torch.cat([packed, atfr.PackedClips.pack(make_clips((3, 1)))], dim=1)
    with pytest.raises(AtfrError):
        torch.cat([packed, torch.zeros(1, CHANNELS, TOTAL, 5, 6)], dim=1)


@pytest.mark.parametrize("padding", [(1, 2), (1, 1, 2, 0), (0, 1, 0, 1, 0, 0)])
@pytest.mark.parametrize("options", [{}, {"value": 1.5}, {"mode": "replicate"}])
def test_pad_of_space(padding, options):
    if "mode" in options:
        padding = (*padding, 0, 0, 0, 0)[:6]
    same_as_loop(lambda x: F.pad(x, padding, **options))


@pytest.mark.parametrize("padding", [(0, 0, 0, 0, 1, 1), (1, 0, 0, 1, 2, 0), (0, 0, 0, 0, 0, -1)])
def test_pad_of_time_is_right_or_refused(padding):
    right_or_refused(lambda x: F.pad(x, padding), lengths=(3, 2, 5))


def test_pad_of_channels_or_batch_is_right_or_refused():
    right_or_refused(lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 0, 2)))
    with pytest.raises(UnsupportedOperationError):
        F.pad(atfr.PackedClips.pack(make_clips()), (0, 0, 0, 0, 0, 0, 0, 0, 1, 0))


# --- refusals ----------------------------------------------------------------------------------------------------

# Equal lengths whose total a wrong implementation could reshape without noticing.
REFUSED = {
    "view": lambda x: x.view(-1),
    "reshape": lambda x: x.reshape(4, -1),
    "reshape ": lambda x: x.permute(0, 2, 1, 3, 4).reshape(8, CHANNELS, 5, 6),
    "view ": lambda x: x.permute(0, 2, 1, 3, 4).view(-1, CHANNELS, 5, 6),
    "flatten": lambda x: x.flatten(1),
    "flatten ": lambda x: x.transpose(1, 2).flatten(0, 1),
    "softmax": lambda x: x.softmax(2),
    "log_softmax": lambda x: F.log_softmax(x, 2),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-3:]),
    "getitem": lambda x: x[:, :, 0],
    "getitem ": lambda x: x[:, :, 1::2],
    "getitem  ": lambda x: x[0],
    "setitem": lambda x: x.__setitem__((slice(None), slice(None), 0), 0.0),
    "sum": lambda x: x.sum(2),
    "sum ": lambda x: x.sum((2, 3, 4)),
    "amax": lambda x: x.amax(),
    "max": lambda x: x.max(2),
    "var": lambda x: x.var(2),
    "std": lambda x: x.std(),
    "mean": lambda x: x.mean(),
    "cumsum": lambda x: x.cumsum(2),
    "flip": lambda x: x.flip(2),
    "roll": lambda x: torch.roll(x, 1, 2),
    "linear": lambda x: F.linear(x, torch.ones(3, x.shape[-1])),
    "matmul": lambda x: x @ torch.ones(x.shape[-1], 2),
    "einsum": lambda x: torch.einsum("ncthw->nct", x),
    "bmm": lambda x: torch.bmm(x, x),
    "stack": lambda x: torch.stack([x, x]),
    "chunk": lambda x: x.chunk(2, 2),
    "split": lambda x: x.split(1, 2),
    "unbind": lambda x: x.unbind(2),
    "narrow": lambda x: x.narrow(2, 0, 1),
    "select": lambda x: x.select(2, 0),
    "index_select": lambda x: x.index_select(2, torch.tensor([0])),
    "gather": lambda x: x.gather(2, torch.zeros(1, 1, 1, 1, 1, dtype=torch.int64)),
    "repeat": lambda x: x.repeat(1, 1, 2, 1, 1),
    "expand": lambda x: x.expand(2, -1, -1, -1, -1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 2),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "squeeze": lambda x: x.squeeze(0),
    "unfold": lambda x: x.unfold(2, 2, 1),
    "interpolate": lambda x: F.interpolate(x, size=(8, 10, 12)),
    "conv_transpose3d": lambda x: F.conv_transpose3d(x, torch.ones(CHANNELS, 2, 2, 1, 1)),
    "normalize": lambda x: F.normalize(x, dim=2),
    "lp_pool3d": lambda x: F.lp_pool3d(x, 2.0, 2),
    "conv2d": lambda x: F.conv2d(x, torch.ones(2, CHANNELS, 1, 1)),
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "sort": lambda x: x.sort(2),
    "topk": lambda x: x.topk(1, 2),
    "diff": lambda x: torch.diff(x, dim=2),
    "norm": lambda x: x.norm(dim=2),
    "T": lambda x: x.mT,
    "cross_entropy": lambda x: F.cross_entropy(x, torch.zeros(1, 8, 5, 6, dtype=torch.int64)),
    "numpy": lambda x: x.numpy(),
    "tolist": lambda x: x.tolist(),
    "iter": list,
    "dropout2d": lambda x: F.dropout2d(x, 0.5, training=True),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-3:]),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "as_strided": lambda x: torch.as_strided(x, (2,), (1,)),
    "resize_": lambda x: x.resize_(2),
    "triu": lambda x: x.triu(),
}
UNNAMED = {"iter", "T", "getitem", "setitem", "bmm"}  # torch reaches these under another name


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_unknown_operations_are_refused_by_name(name):
    packed = atfr.PackedClips.pack(make_clips((2, 2, 2, 2)))
    with pytest.raises(UnsupportedOperationError) as error:
        REFUSED[name](packed)
    if name.strip() not in UNNAMED:
        assert name.strip() in str(error.value)


def test_the_refusal_holds_without_gradients_and_in_inference_mode():
    packed = atfr.PackedClips.pack(make_clips())
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode, pytest.raises(UnsupportedOperationError):
            packed.flatten(1)
    with torch.inference_mode():
        inside = atfr.PackedClips.pack(make_clips())
        assert F.relu(inside).lengths == LENGTHS


def test_writing_past_the_packing_is_refused():
    packed = atfr.PackedClips.pack(make_clips())
    with pytest.raises(AtfrError):
        torch.add(torch.zeros(1), torch.zeros(1), out=packed)
    with pytest.raises(AtfrError):
        torch.relu(packed).copy_(torch.zeros(1, CHANNELS, TOTAL, 5, 6))


# --- autocast ----------------------------------------------------------------------------------------------------


def test_autocast():
    torch.manual_seed(0)
    conv, norm = nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm3d(CHANNELS).eval()
    clips = make_clips()

    def stack(x):
        return F.relu(norm(conv(x))) + x

    with torch.autocast("cpu", torch.bfloat16):
        raw = conv(atfr.PackedClips.pack(clips))
        got = stack(atfr.PackedClips.pack(clips))
        want = [stack(c[None])[0] for c in clips]
        dtype = conv(clips[0][None]).dtype
    assert raw.dtype == dtype == torch.bfloat16
    assert got.dtype == want[0].dtype
    for a, b in zip(got.unpack(), want, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
    sum(c.float().sum() for c in got.unpack()).backward()
    assert conv.weight.grad.isfinite().all()


# --- a whole tail ------------------------------------------------------------------------------------------------


class Tail(nn.Module):
    """conv - bn - relu - pool - squeeze-and-excitation - residual - head, as the stages after SGS have them."""

    def __init__(self, time_stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(CHANNELS, 8, 3, stride=(time_stride, 1, 1), padding=1, bias=False)
        self.norm = nn.BatchNorm3d(8)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.time_pool = nn.MaxPool3d((2, 1, 1), 1)
        self.depthwise = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0), groups=8)
        self.squeeze = nn.AdaptiveAvgPool3d(1)
        self.excite = nn.Sequential(nn.Conv3d(8, 2, 1), nn.ReLU(), nn.Conv3d(2, 8, 1), nn.Sigmoid())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm(self.conv(x))))
        out = self.depthwise(x)
        out = out * self.excite(self.squeeze(out))
        out += x
        return self.head(self.time_pool(F.silu(out)).mean((2, 3, 4)))


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    time_stride=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_a_tail_gives_each_clip_its_own_logits(lengths, time_stride, seed):
    torch.manual_seed(seed)
    tail = Tail(time_stride).double().eval()
    with torch.no_grad():
        tail.norm.running_mean.normal_()
        tail.norm.running_var.uniform_(0.5, 2)
    clips = make_clips(lengths, seed=seed, dtype=torch.float64)
    reference = copy.deepcopy(tail)
    left, right = ([c.clone().requires_grad_() for c in clips] for _ in range(2))
    got = tail(atfr.PackedClips.pack(left))
    assert type(got) is Tensor
    assert got.shape == (len(lengths), 5)
    want = []
    for clip in right:
        # the contract: a temporal kernel longer than the clip is cut to it
        reference.time_pool.kernel_size = (min(2, -(-clip.shape[1] // time_stride)), 1, 1)
        want.append(reference(clip[None])[0])
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-9, atol=1e-9)
    pairs = zip(
        gradients(list(got), [*left, *tail.parameters()]),
        gradients(want, [*right, *reference.parameters()]),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("lengths", [(1,), (1, 1), (2, 3)])
@pytest.mark.parametrize("write", ["add_", "mul_", "__iadd__"])
def test_clips_are_written_over_in_place(lengths, write):
    packed = atfr.PackedClips.pack(make_clips(lengths))
    expected = getattr(packed.plain().clone(), write)(packed.plain().clone())
    result = getattr(packed, write)(packed)
    assert result.data_ptr() == packed.data_ptr()
    torch.testing.assert_close(packed.plain(), expected, rtol=0, atol=0)


def test_clips_whose_maps_were_written_over_under_autograd():
    maps = torch.randn(1, 4, 3, 5, 5, requires_grad=True) * 1
    packed = atfr.PackedClips(maps, atfr.ragged.ClipLayout([1, 2]))
    packed.register_hook(lambda gradient: gradient)
    maps.mul_(2)  # torch now gives the view another grad_fn, and forgets its hooks
    torch.testing.assert_close(packed.plain(), maps, rtol=0, atol=0)
