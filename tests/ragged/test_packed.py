"""PackedClips against the plain loop over clips: packed, joined, padded, written over, and what is refused."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.errors import AtfrError, InputError, UnsupportedOperationError
from tests.ragged.build import CHANNELS, LENGTHS, gradients, make_clips, right_or_refused, same_as_loop

TOTAL = sum(LENGTHS)


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
