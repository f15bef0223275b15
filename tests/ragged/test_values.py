"""Norms and pointwise operations on packed clips: each clip gets its own result, or they are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.errors import AtfrError, UnsupportedOperationError
from tests.ragged.build import CHANNELS, LENGTHS, gradients, make_clips, right_or_refused, same_as_loop

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
