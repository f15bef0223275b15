"""each_clip and cat_clips against loops over the clips alone, in float64, and under torch.export."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.errors import InputError, UnsupportedOperationError
from atfr.ragged import PackedClips, cat_clips, each_clip

LENGTHS = (3, 1, 5)


def clips(channels: int = 4, size: int = 2, lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    return [torch.randn(channels, n, size, size, dtype=torch.float64) for n in lengths]


def attention(a: Tensor, b: Tensor) -> Tensor:
    """Something that looks at all times of a clip at once, and halves the channels."""
    assert type(a) is type(b) is Tensor
    scores = torch.einsum("nctxy,ncsuv->nts", a, b).softmax(2)
    return torch.einsum("nts,ncsxy->nctxy", scores, a[:, ::2])


def test_each_clip_is_the_loop_over_clips() -> None:
    first, second = clips(), clips(size=3)
    together = each_clip(attention, PackedClips.pack(first), PackedClips.pack(second))
    assert isinstance(together, PackedClips)
    assert together.lengths == LENGTHS
    for got, a, b in zip(together.unpack(), first, second, strict=True):
        torch.testing.assert_close(got, attention(a[None], b[None])[0], rtol=0, atol=0)


def test_each_clip_passes_plain_clips_on_as_they_are() -> None:
    a, b = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 3, 3)
    got = each_clip(attention, a, b)
    assert type(got) is Tensor
    torch.testing.assert_close(got, attention(a, b), rtol=0, atol=0)


def test_each_clip_may_change_lengths() -> None:
    got = each_clip(lambda clip: clip[:, :, ::2], PackedClips.pack(clips()))
    assert got.lengths == (2, 1, 3)
    assert got.mean((2, 3, 4)).shape == (3, 4)  # a plain batch again


def test_gradients_through_each_clip_are_those_of_the_loop() -> None:
    first, second = clips(), clips(size=3)
    leaves = [clip.requires_grad_() for clip in (*first, *second)]
    alone = [attention(a[None], b[None]).square().sum() for a, b in zip(first, second, strict=True)]
    expected = torch.autograd.grad(sum(alone), leaves)
    together = each_clip(attention, PackedClips.pack(first), PackedClips.pack(second))
    got = torch.autograd.grad(together.square().mean((2, 3, 4)).sum(1) @ rows_to_sums(), leaves)
    for gradient, want in zip(got, expected, strict=True):
        torch.testing.assert_close(gradient, want)


def rows_to_sums() -> Tensor:
    """What makes the sum over a clip of its mean: its length times 2 x 2 pixels."""
    return 4 * torch.tensor(LENGTHS, dtype=torch.float64)


def test_gradcheck_of_each_clip() -> None:
    def through(data: Tensor) -> Tensor:
        packed = PackedClips.pack(list(data.split(LENGTHS, dim=1)))
        return each_clip(attention, packed, packed * 2).mean((2, 3, 4))

    data = torch.cat(clips(channels=2), dim=1).requires_grad_()
    assert torch.autograd.gradcheck(through, (data,))


@pytest.mark.parametrize("other", [(3, 1, 4), (1, 3, 5), (3, 6), (3, 1, 5, 1)])
def test_each_clip_refuses_clips_of_other_lengths(other: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedOperationError, match=r"do not match, of lengths \(3, 1, 5\)"):
        each_clip(attention, PackedClips.pack(clips()), PackedClips.pack(clips(lengths=other)))


@pytest.mark.parametrize("packed_first", [True, False])
def test_each_clip_refuses_packed_with_plain(packed_first: bool) -> None:
    tensors = [PackedClips.pack(clips()), torch.randn(3, 4, 3, 2, 2, dtype=torch.float64)]
    with pytest.raises(UnsupportedOperationError, match="plain"):
        each_clip(attention, *(tensors if packed_first else tensors[::-1]))


@pytest.mark.parametrize(
    "func",
    [
        lambda clip: clip.mean((2, 3, 4)),
        lambda clip: clip[0],
        lambda clip: clip[:, :, :0],
        lambda clip: torch.cat([clip, clip]),
        lambda clip: None,
        lambda clip: (clip, clip),
    ],
)
def test_each_clip_refuses_functions_that_return_no_clip(func) -> None:
    with pytest.raises(InputError, match="must return a tensor 1 x C x A x H x W"):
        each_clip(func, PackedClips.pack(clips()))


def padded_to(clip: Tensor, length: int) -> Tensor:
    """C x T x H x W with zeros up to a length, independent of F.pad."""
    out = torch.zeros(clip.shape[0], length, *clip.shape[2:], dtype=clip.dtype)
    out[:, : clip.shape[1]] = clip
    return out


def test_cat_clips_of_packed_clips_pads_clip_by_clip() -> None:
    first, second = clips(), clips(channels=2, lengths=(1, 4, 5))
    joined = cat_clips([PackedClips.pack(first), PackedClips.pack(second)])
    assert joined.lengths == (3, 4, 5)
    for got, a, b in zip(joined.unpack(), first, second, strict=True):
        length = got.shape[1]
        assert torch.equal(got, torch.cat([padded_to(a, length), padded_to(b, length)]))


@pytest.mark.parametrize("plain_first", [True, False])
def test_cat_clips_of_packed_and_plain_clips(plain_first: bool) -> None:
    packed, plain = clips(), torch.randn(3, 2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    tensors = [plain, PackedClips.pack(packed)] if plain_first else [PackedClips.pack(packed), plain]
    joined = cat_clips(tensors)
    assert joined.lengths == (4, 4, 5)
    for got, a, b in zip(joined.unpack(), packed, plain, strict=True):
        parts = [padded_to(clip, got.shape[1]) for clip in ((b, a) if plain_first else (a, b))]
        assert torch.equal(got, torch.cat(parts))
    weights = torch.tensor([4.0, 4, 5], dtype=torch.float64) * 4
    (joined.mean((2, 3, 4)).sum(1) @ weights).backward()
    torch.testing.assert_close(plain.grad, torch.ones_like(plain))


@pytest.mark.parametrize("lengths", [(3, 3), (3, 5), (5, 2), (1, 4)])
def test_cat_clips_of_plain_clips(lengths: tuple[int, int]) -> None:
    a, b = (torch.randn(2, c, n, 3, 2) for c, n in zip((4, 1), lengths, strict=True))
    joined = cat_clips([a, b])
    assert type(joined) is Tensor
    for i in range(2):
        assert torch.equal(joined[i], torch.cat([padded_to(a[i], max(lengths)), padded_to(b[i], max(lengths))]))


def test_cat_clips_refuses_other_numbers_of_clips() -> None:
    with pytest.raises(UnsupportedOperationError, match="different numbers of clips"):
        cat_clips([PackedClips.pack(clips()), torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)])


class Merging(nn.Module):
    """Two pathways whose lengths are known only when it runs, a lateral convolution and something behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.Conv3d(2, 2, (5, 1, 1), stride=(4, 1, 1), padding=(2, 0, 0))
        self.behind = nn.Conv3d(4, 3, (3, 1, 1), padding=(1, 0, 0))

    def bright(self, clip: Tensor) -> Tensor:
        kept = (clip.mean((0, 1, 3, 4)) > 0).nonzero()[:, 0]
        torch._check(kept.shape[0] >= 1)
        return clip.index_select(2, kept)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return F.relu(self.behind(cat_clips([self.bright(slow), self.lateral(self.bright(fast))]))).mean((2, 3, 4))


@pytest.mark.parametrize("strict", [False, True])
def test_cat_clips_exports_with_lengths_unknown_until_it_runs(strict: bool) -> None:
    def inputs(slow: int, fast: int) -> tuple[Tensor, Tensor]:
        """One clip, of which so many maps are bright in each pathway."""
        signs = [torch.ones(8), torch.ones(16)]
        signs[0][slow:], signs[1][fast:] = -1, -1
        return tuple(torch.rand(1, 2, len(sign), 2, 2) * sign.view(1, 1, -1, 1, 1) for sign in signs)

    module = Merging().eval()
    program = torch.export.export(module, inputs(5, 9), strict=strict).module()
    with torch.no_grad():
        for slow, fast in [(5, 9), (8, 1), (1, 16), (4, 16), (1, 1)]:
            clip = inputs(slow, fast)
            torch.testing.assert_close(program(*clip), module(*clip))
