"""Small networks, clips and comparisons for tests of atfr.compile."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import atfr
from atfr.adapt.trace import site_names
from atfr.ragged import cat_clips
from tests.models.randomise import scramble_

CHANGE = {"after": "input", "sampler": "change"}


def clips(count: int = 3, frames: int = 16, size: int = 32, dtype: torch.dtype = torch.float64) -> Tensor:
    """A still clip, one that changes all the time, one that stops."""
    made = torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(count), dtype=dtype)
    made[0] = made[0, :, :1]
    made[-1, :, frames // 3 :] = made[-1, :, frames // 3 : frames // 3 + 1]
    return made


class Excited(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3, 4), keepdim=True)).sigmoid()


class Small(nn.Module):
    """What a network has at least, for tests of all but its layers: recording takes a while for each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 4, 3, (1, 2, 2), 1), nn.BatchNorm3d(4), nn.ReLU())
        self.late = nn.Sequential(nn.Conv3d(4, 6, (3, 1, 1), (2, 1, 1), (1, 0, 0)), nn.BatchNorm3d(6), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.late(self.stem(x)).mean((2, 3, 4)))


class Tiny(Small):
    """Most kinds of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Sequential(
            *self.late[:2],
            nn.ReLU(inplace=True),
            nn.MaxPool3d((2, 1, 1), padding=(1, 0, 0)),
            nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0)),
            Excited(6),
            nn.GroupNorm(2, 6),
            nn.ConstantPad3d((0, 0, 0, 0, 1, 2), 0.5),
        )


class TwoPaths(nn.Module):
    """Two pathways, each with a place for a sampler, that meet twice; one writes over its own maps."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv3d(3, 4, 3, (1, 2, 2), 1), nn.BatchNorm3d(4), nn.ReLU(inplace=True))
        self.right = nn.Sequential(nn.Conv3d(3, 2, 3, 2, 1), nn.BatchNorm3d(2), nn.ReLU(inplace=True))
        self.down = nn.Conv3d(4, 2, (3, 1, 1), (2, 1, 1), (1, 0, 0))
        self.late = nn.Sequential(nn.Conv3d(4, 4, 3, 1, 1), nn.BatchNorm3d(4))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x)
        down = self.down(left)  # what lies behind the first sampler runs before the second does
        met = self.late(cat_clips([self.right(x), down]))
        return self.head(torch.cat([cat_clips([met, down]).mean((2, 3, 4)), left.mean((2, 3, 4))], 1))


def tiny(network: type[nn.Module] = Small, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = scramble_(network()).double()
    atfr.adapt_(model, **({"after": "stem"} | options))
    generator = torch.Generator().manual_seed(1)
    for layer in site_names(model).values():
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal in float64, but for rounding."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * max(1.0, float(expected.detach().abs().max())))


def step(model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, gradients and buffers of a training step."""
    model.zero_grad()
    logits = model(batch)
    (logits.square().sum() + logits[:, 0].sum()).backward()
    inner = getattr(model, "_orig_mod", model)
    gradients = {name: p.grad for name, p in inner.named_parameters() if p.grad is not None}
    return logits, gradients, dict(inner.named_buffers())


def assert_same_step(model: nn.Module, compiled: nn.Module, batch: Tensor) -> None:
    expected, found = step(model, batch), step(compiled, batch)
    assert_same(found[0], expected[0])
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_same(ours[name].double(), theirs[name].double())
