"""Operations that move, merge, cut or pool axes of packed clips: each clip's own result in any form, or a refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import atfr
from atfr.errors import UnsupportedOperationError
from atfr.ragged.rearranged import RearrangedClips, maps_of, rearrange
from tests.ragged.build import CHANNELS, LENGTHS, gradients, make_clips

SIZE = (5, 6)


def clips_of(value: Tensor) -> list[Tensor]:
    """A result as one tensor a clip, each as that clip alone would give it (with its batch axis)."""
    if isinstance(value, RearrangedClips):
        return [rearrange(maps, value.form) for maps in maps_of(value).split(value.lengths, dim=2)]
    if isinstance(value, atfr.PackedClips):
        return [clip[None] for clip in value.unpack()]
    return [row[None] for row in value]


def same_as_loop(
    operation: Callable[[Tensor], Tensor], lengths=LENGTHS, size=SIZE, parameters: tuple[Tensor, ...] = ()
) -> Tensor:
    """``operation`` of the packed clips equals it on every clip alone, with all gradients; returns its result."""
    left, right = (
        [clip.requires_grad_() for clip in make_clips(lengths, size=size, dtype=torch.float64)] for _ in range(2)
    )
    value = operation(atfr.PackedClips.pack(left))
    got, want = clips_of(value), [operation(clip[None]) for clip in right]
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    pairs = zip(gradients(got, [*left, *parameters]), gradients(want, [*right, *parameters]), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    return value


# --- heads -------------------------------------------------------------------------------------------------------

HEADS = {
    "mean": lambda x: x.mean([2, 3, 4]),
    "mean, negative": lambda x: x.mean(dim=(-3, -2, -1)),
    "mean, axis by axis": lambda x: x.mean(-1).mean(-1).mean(-1),
    "mean of space, then of time": lambda x: x.mean((3, 4)).mean(2),
    "mean of time, then of space": lambda x: x.mean(2).mean((2, 3)),
    "flatten and mean": lambda x: x.flatten(2).mean(2),
    "flatten of space": lambda x: x.flatten(3).mean(3).mean(2),
    "view and mean": lambda x: x.view(x.size(0), x.size(1), -1).mean(-1),
    "view, sizes": lambda x: x.view(*x.shape[:2], x.shape[2:].numel()).mean(-1),
    "reshape, keepdim": lambda x: x.reshape(x.shape[0], x.shape[1], -1).mean(-1, keepdim=True).flatten(1),
    "amax": lambda x: x.amax((2, 3, 4)),
    "amin": lambda x: torch.amin(x, (2, 3, 4), keepdim=True),
    "amax of tied values": lambda x: F.relu(x - 1).amax((2, 3, 4)),
    "amax of flattened": lambda x: x.flatten(2).amax(-1),
    "adaptive pool, flatten": lambda x: F.adaptive_avg_pool3d(x, 1).flatten(1),
    "adaptive pool, torch.flatten": lambda x: torch.flatten(F.adaptive_avg_pool3d(x, (1, 1, 1)), 1),
    "adaptive max pool": lambda x: F.adaptive_max_pool3d(x, 1).flatten(1),
    "sum of space, mean of time": lambda x: x.sum((3, 4)).mean(2),
    "space pooled, squeezed": lambda x: F.adaptive_avg_pool3d(x, (None, 1, 1)).squeeze(-1).squeeze(-1).mean(2),
    "tokens": lambda x: F.gelu(x.flatten(2).transpose(1, 2)).mean(1),
    "channels last": lambda x: x.permute(0, 2, 3, 4, 1).mean((1, 2, 3)),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_give_one_row_a_clip(name):
    assert type(same_as_loop(HEADS[name])) is Tensor
    same_as_loop(HEADS[name], lengths=(1,))


# --- forms -------------------------------------------------------------------------------------------------------

LINEAR = nn.Linear(CHANNELS, 3).double()
GATE = torch.rand(CHANNELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FORMS = {
    "permute and back": lambda x: x.permute((0, 2, 3, 4, 1)).permute((0, 4, 1, 2, 3)),
    "permute": lambda x: x.permute(dims=(0, 2, 3, 4, 1)),
    "movedim": lambda x: F.softmax(x.movedim(1, -1), dim=-1).movedim(-1, 1),
    "transpose": lambda x: x.transpose(1, 4).transpose(1, 4) + 1,
    "linear": lambda x: LINEAR(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3),
    "tokens and linear": lambda x: LINEAR(x.flatten(2).transpose(1, 2)),
    "layer norm, channels last": lambda x: F.layer_norm(x.permute(0, 2, 3, 4, 1), (CHANNELS,)).movedim(4, 1),
    "layer norm of maps": lambda x: F.layer_norm(x, SIZE),
    "rms norm": lambda x: F.rms_norm(x.movedim(1, -1), (CHANNELS,)),
    "batch norm of means": lambda x: F.batch_norm(x.mean((3, 4)), GATE, GATE),
    "a gate by channel": lambda x: GATE * x.movedim(1, -1) + GATE,
    "two of a form": lambda x: torch.sigmoid(x.flatten(2)) * x.flatten(2),
    "in place": lambda x: (x * 1).movedim(1, -1).mul_(GATE).add_(1).movedim(-1, 1),
    "a flag in place": lambda x: F.relu((x * 1).flatten(2), inplace=True),
    "softmax of channels": lambda x: x.softmax(1),
    "log_softmax": lambda x: F.log_softmax(x, dim=1),
    "softmax in tokens": lambda x: x.flatten(2).softmax(1),
    "normalize": F.normalize,
    "slice of channels": lambda x: x[:, :3],
    "slices": lambda x: x[:, 1::2, :, 1:4],
    "slice at the end": lambda x: x[..., 2:],
    "slice of flattened": lambda x: x.flatten(2)[:, 1:],
    "chunks": lambda x: torch.cat(x.chunk(2, dim=1)[::-1], dim=1),
    "split": lambda x: x.split([1, 3], 1)[1],
    "narrow": lambda x: torch.narrow(x, 1, 1, 2),
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 0])),
    "gated channels": lambda x: x[:, :2] * torch.sigmoid(x[:, 2:]),
    "channel_shuffle": nn.ChannelShuffle(2),
    "sum of space": lambda x: x.sum((3, 4), keepdim=True),
    "amax of channels": lambda x: torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1),
    "mean without keepdim": lambda x: x.mean((3, 4)),
    "channels padded": lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 0, 2)),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "squeeze of nothing": lambda x: x.squeeze(3),
}


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_keep_the_clips_apart(name):
    value = same_as_loop(FORMS[name], parameters=(LINEAR.weight,) if "linear" in name else ())
    assert value.lengths == LENGTHS
    assert str(LENGTHS) in repr(value)


@pytest.mark.parametrize("mode", ["nearest", "trilinear"])
@pytest.mark.parametrize("factor", [(1, 2, 2), 2, (2, 1, 1)])
def test_interpolate_by_a_factor(factor, mode):
    same_as_loop(lambda x: F.interpolate(x, scale_factor=factor, mode=mode))


def test_dropout_of_channels_is_drawn_for_each_clip():
    clips = [torch.ones(64, n, 2, 2) for n in (2, 2, 1)]
    masks = [clip.amax((1, 2, 3)) for clip in nn.Dropout3d(0.5)(atfr.PackedClips.pack(clips)).unpack()]
    assert all(set(mask.tolist()) == {0.0, 2.0} for mask in masks)
    assert not torch.equal(masks[0], masks[1])


def test_one_map_each_joins_plain_rows():
    packed = atfr.PackedClips.pack(make_clips((1, 1, 1)))
    rows = torch.randn(3, 2, 1, 5, 6)
    for clip, a, b in zip(torch.cat([packed, rows], 1).unpack(), packed.unpack(), rows, strict=True):
        assert torch.equal(clip, torch.cat([a, b]))
    for other in (torch.randn(1, 2, 3, 5, 6), torch.randn(2, 2, 1, 5, 6), torch.randn(3, 2, 2, 5, 6)):
        with pytest.raises(UnsupportedOperationError, match="cat"):
            torch.cat([packed, other], 1)
    with pytest.raises(UnsupportedOperationError, match="cat"):
        torch.cat([atfr.PackedClips.pack(make_clips((1, 2, 1))), rows], 1)


# --- functions of autograd's own ---------------------------------------------------------------------------------


class Swish(torch.autograd.Function):
    """As PyTorchVideo writes it: the gradient, a plain tensor, meets the packed clips that were saved."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradient * (gate * (1 + x * (1 - gate)))


@pytest.mark.parametrize("form", [lambda x: x, lambda x: x.flatten(2)], ids=["packed", "rearranged"])
def test_a_networks_own_autograd_function(form):
    same_as_loop(lambda x: Swish.apply(form(x)))


def test_checkpointing():
    same_as_loop(lambda x: checkpoint(lambda y: F.silu(y * 2) + y, x, use_reentrant=False))


def test_reentrant_checkpointing():
    """It sets requires_grad of the clips it has detached, and works with backward() only."""
    results = []
    for run in (lambda f, x: checkpoint(f, x, use_reentrant=True), lambda f, x: f(x)):
        clips = [clip.requires_grad_() for clip in make_clips()]
        run(lambda y: F.silu(y * 2) + y, atfr.PackedClips.pack(clips)).mean((2, 3, 4)).sum().backward()
        results.append([clip.grad for clip in clips])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


# --- refusals ----------------------------------------------------------------------------------------------------

REFUSED = {
    "view": lambda x: x.view(x.shape[0], -1),
    "view ": lambda x: x.view(4, CHANNELS, -1),
    "view  ": lambda x: x.view(1, 2, 2, 8, *SIZE),
    "reshape": lambda x: x.permute(0, 2, 1, 3, 4).reshape(-1, CHANNELS, *SIZE),
    "flatten": lambda x: x.flatten(1),
    "flatten ": lambda x: x.flatten(),
    "flatten  ": lambda x: x.mean((3, 4)).flatten(1),
    "flatten   ": lambda x: x.transpose(1, 2).flatten(0, 1),
    "squeeze": lambda x: x.squeeze(),
    "squeeze ": lambda x: x.squeeze(0),
    "squeeze  ": lambda x: x.squeeze(2),
    "unsqueeze": lambda x: x.mean(4).unsqueeze(0),
    "mean": lambda x: x.mean(),
    "mean ": lambda x: x.mean((3, 4)).mean(0),
    "mean  ": lambda x: x.flatten(2).mean((0, 2)),
    "sum": lambda x: x.sum((2, 3, 4)),
    "sum ": lambda x: x.sum(),
    "sum  ": lambda x: x.flatten(2).sum(-1),
    "amax": lambda x: x.amax(0),
    "max": lambda x: x.flatten(2).max(-1),
    "softmax": lambda x: x.softmax(2),
    "softmax ": lambda x: x.softmax(0),
    "softmax  ": lambda x: x.flatten(2).softmax(-1),
    "normalize": lambda x: F.normalize(x, dim=2),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[2:]),
    "layer_norm ": lambda x: F.layer_norm(x.flatten(2), (x.shape[2:].numel(),)),
    "linear": lambda x: F.linear(x.flatten(2), torch.ones(3, x.shape[2:].numel())),
    "batch_norm": lambda x: F.batch_norm(x.transpose(1, 2), None, None, training=True),
    "chunk": lambda x: x.chunk(2),
    "chunk ": lambda x: x.chunk(2, 2),
    "split": lambda x: x.split(1, 2),
    "narrow": lambda x: x.narrow(2, 0, 1),
    "__getitem__  ": lambda x: x[:, :, 1:],
    "indexing ": lambda x: x[0],
    "indexing  ": lambda x: x[:, 0],
    "indexing   ": lambda x: x[None],
    "indexing    ": lambda x: x[x > 0] if type(x) is Tensor else x[torch.tensor([0])],
    "indexing     ": lambda x: x.flatten(2)[..., 0],
    "__getitem__": lambda x: x[:1],
    "__getitem__ ": lambda x: x.flatten(2)[..., :7],
    "interpolate": lambda x: F.interpolate(x, size=(x.shape[2], 10, 12)),
    "pad": lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 0, 0, 1, 0)),
    "add": lambda x: x.flatten(2) + x,
    "add ": lambda x: x + x.transpose(3, 4),
    "add  ": lambda x: x.mean(4) + x.mean(3),
    "mul": lambda x: x.flatten(2) * torch.ones(8 * 5 * 6),
    "mul ": lambda x: x.mean((3, 4)) * torch.ones(4, CHANNELS, 1),
    "mul  ": lambda x: x.mean((3, 4)) * torch.ones(1, CHANNELS, 8),
    "matmul": lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
    "einsum": lambda x: torch.einsum("ncthw,kc->nkthw", x, torch.ones(2, CHANNELS)),
    "conv1d": lambda x: F.conv1d(x.mean((3, 4)), torch.ones(2, CHANNELS, 3)),
    "conv2d": lambda x: F.conv2d(x.mean(2, keepdim=True) * x, torch.ones(2, CHANNELS, 1, 1)),
    "cat": lambda x: torch.cat([x.flatten(2), x.flatten(2)], 2),
    "stack": lambda x: torch.stack([x, x]),
    "flip": lambda x: x.transpose(1, 2).flip(1),
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_mix_clips_is_refused_by_name(name):
    packed = atfr.PackedClips.pack(make_clips((2, 2, 2, 2)))
    with pytest.raises(UnsupportedOperationError, match=name.strip()):
        REFUSED[name](packed)


def test_packed_and_rearranged_clips_do_not_meet():
    """The sizes are such that the operands would broadcast."""
    packed = atfr.PackedClips.pack(make_clips((3, 2), size=(5, 5)))
    for operation in (torch.add, torch.mul, torch.maximum):
        with pytest.raises(UnsupportedOperationError, match="packed clips"):
            operation(packed, packed[:, :1].mean(4))
        with pytest.raises(UnsupportedOperationError, match="beside packed clips"):
            operation(packed[:, :1].mean(4), packed)


# --- any chain of operations -------------------------------------------------------------------------------------

NO_STEPS = ("chunk", "split", "max", "batch_norm", "mean", "unsqueeze", "add", "mul")  # give tuples or mix plain rows
STEPS = {
    **FORMS,
    **{name: HEADS[name] for name in ("mean", "flatten and mean", "amax", "adaptive max pool", "tokens")},
    **{name: step for name, step in REFUSED.items() if name.strip() not in NO_STEPS},
    "to channels last": lambda x: x.movedim(1, -1),
    "swap": lambda x: x.transpose(1, 2),
    "swap the last": lambda x: x.transpose(-1, -2),
    "flatten(2)": lambda x: x.flatten(2),
    "flatten(3)": lambda x: x.flatten(3),
    "flatten of two": lambda x: x.flatten(-3, -2),
    "mean(-1)": lambda x: x.mean(-1),
    "mean(1)": lambda x: x.mean(1),
    "mean(2), keepdim": lambda x: x.mean(2, keepdim=True),
    "amax(2)": lambda x: x.amax(2),
    "sum(-1)": lambda x: x.sum(-1),
    "softmax(-1)": lambda x: x.softmax(-1),
    "squeeze(-1)": lambda x: x.squeeze(-1),
    "a linear map of six": lambda x: F.linear(x, torch.ones(2, 6, dtype=x.dtype)),
    "a linear map of four": lambda x: F.linear(x, torch.ones(2, 4, dtype=x.dtype)),
    "group norm": lambda x: F.group_norm(x, 1),
    "its own mean away": lambda x: x - x.mean(-1, keepdim=True),
    "its time's mean away": lambda x: x - x.mean(2, keepdim=True),
    "convolution": lambda x: F.conv3d(x, torch.ones(4, 4, 3, 1, 1, dtype=x.dtype), padding=(1, 0, 0)),
    "half the last": lambda x: x[..., ::2],
    "half the second": lambda x: x[:, ::2],
    "row of four": lambda x: x * torch.arange(4, dtype=x.dtype),
    "row of six": lambda x: x * torch.arange(6, dtype=x.dtype),
}


@settings(max_examples=300, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=5),
    lengths=st.lists(st.integers(1, 4), min_size=2, max_size=4),
)
def test_any_chain_is_right_or_refused(names, lengths):
    """Sizes are those an axis of time could be taken for: 4 channels, 4 high, 6 wide, 4 or 6 maps in all.

    Once the result is plain, with one row a clip, it is the network's own again.
    """
    clips = make_clips(lengths, size=(4, 6), dtype=torch.float64)
    value, want = atfr.PackedClips.pack(clips), [clip[None] for clip in clips]
    for name in names:
        if type(value) is Tensor:
            break
        try:
            value = STEPS[name](value)
        except Exception:  # refused, or wrong on any tensor
            continue
        want = [STEPS[name](clip) for clip in want]
    got = clips_of(value)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)  # an empty slice's mean
