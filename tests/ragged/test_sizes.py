"""What calculates with the sizes of a packed batch is refused when a network is adapted; harmless forwards pass."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.errors import UnsupportedNetworkError
from atfr.ragged import PackedClips


class Own(nn.Module):
    """A network with a middle of the test's choice."""

    def __init__(self, middle) -> None:
        super().__init__()
        self.early, self.late = nn.Conv3d(3, 6, 3, padding=1), nn.Conv3d(6, 6, 3, padding=1)
        self.middle = middle

    def forward(self, clips: Tensor) -> Tensor:
        return self.late(self.middle(self.early(clips))).mean((2, 3, 4))


MIXING = {
    "times its length": lambda x: x * x.shape[2],
    "length in a condition": lambda x: x if x.shape[2] > 4 else 2 * x,
    "equal to a number": lambda x: x if x.size(2) == 4 else 2 * x,
    "root of its length": lambda x: x / math.sqrt(x.size(dim=2)),
    "a tensor of its length": lambda x: x + torch.tensor(x.shape[2]),
    "window by its length": lambda x: F.avg_pool3d(x, (max(x.shape[2] // 4, 1), 1, 1), stride=1),
    "mean repeated": lambda x: x.mean(2, keepdim=True).expand(-1, -1, x.shape[2], -1, -1),
    "number of elements": lambda x: x / x.numel(),
    "batch size": lambda x: x * len(x),
    "batch size in a view": lambda x: x * x.mean((2, 3, 4)).view(x.shape[0], x.shape[1], 1, 1, 1),
    "pooled to its length": lambda x: F.adaptive_avg_pool3d(x, (x.shape[2], 1, 1)),
    "length of flattened clips": lambda x: x * x.flatten(2).shape[2],
}

HARMLESS = {
    "whole window": lambda x: x * F.avg_pool3d(x, x.size()[2:]).sigmoid(),
    "view of pixels": lambda x: x * x.view(x.size(0), x.size(1), -1).mean(2)[:, :, None, None, None],
    "view by product": lambda x: x * x.view(*x.shape[:2], math.prod(x.shape[2:])).mean(2)[:, :, None, None, None],
    "same shape": lambda x: x + (x if x.shape == x.relu().shape else 0),
    "channels and pixels": lambda x: x / (x.shape[1] * x.shape[3] * x.shape[4]),
    "expand_as": lambda x: x * x.mean((2, 3, 4), keepdim=True).expand_as(x),
    "zeros_like": lambda x: x + torch.zeros_like(x),
}


@pytest.mark.parametrize("middle", MIXING.values(), ids=MIXING)
def test_refused_before_anything_is_computed(middle) -> None:
    model = Own(middle)
    keys = list(model.state_dict())
    with pytest.raises(UnsupportedNetworkError, match="the network's own forward: calculating with x"):
        atfr.adapt_(model, after="early")
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("middle", HARMLESS.values(), ids=HARMLESS)
def test_harmless_sizes_pass_and_keep_clips_apart(middle) -> None:
    torch.manual_seed(0)
    model = Own(middle).double()
    assert atfr.adapt_(model, after="early").tried
    nn.init.normal_(model.early.sgs.similarity.output.weight, std=5.0)
    clips = torch.randn(3, 3, 6, 8, 8, dtype=torch.float64) * torch.linspace(0, 3, 6).view(-1, 1, 1)
    clips[0] = clips[0, :, -1:]
    with atfr.record(model) as trace:
        together = model(clips)
    assert len(set(trace.kept_maps)) > 1
    torch.testing.assert_close(together, torch.cat([model(clip[None]) for clip in clips]), rtol=1e-9, atol=1e-9)


def test_zeros_like_is_packed() -> None:
    packed = PackedClips.pack([torch.ones(2, 3, 4, 4), torch.ones(2, 1, 4, 4)])
    assert torch.zeros_like(packed).lengths == (3, 1)
    assert not torch.zeros_like(packed).plain().any()


def test_sizes_are_plain_numbers_outside_a_trial() -> None:
    packed = PackedClips.pack([torch.ones(2, 3, 4, 4), torch.ones(2, 1, 4, 4)])
    assert packed.shape == (1, 2, 4, 4, 4)
    assert packed.shape[2] * 2 == 8
    assert type(packed.size(2)) is int
