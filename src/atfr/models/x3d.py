"""X3D-XS to -XL (Feichtenhofer 2020, https://arxiv.org/abs/2004.04730): narrow networks of channel-wise convolutions.

Parameters carry PyTorchVideo's names (``blocks.0`` is the stem, ``blocks.1`` to ``4`` are res2 to res5, ``blocks.5`` is
the head), so its state dicts load. Two things differ: the head averages over whatever time and space is left, where
PyTorchVideo pools windows of the clip size a network was made for (the same thing at that size); and the output is
logits, in evaluation too, where PyTorchVideo's networks return probabilities.

N batch, C channels, T frames in, H, W, K classes.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.kernels.conv3d import Conv3d
from atfr.models import residual
from atfr.models.base import BLOCKS, VideoModel, initialise_

STAGE_WIDTHS = (12, 24, 48, 96)  # channels of res2 to res5 before the width factor
STAGE_DEPTHS = (1, 2, 5, 3)  # blocks of res2 to res5 before the depth factor
BOTTLENECK_FACTOR = 2.25
SQUEEZE_FACTOR = 1 / 16
HEAD_CHANNELS = 2048


@dataclass(frozen=True)
class Expansion:
    """What sets the members of the family apart: the clip's frames and size in pixels, and the factors of Table 1."""

    frames: int
    size: int
    width: float = 2.0
    depth: float = 2.2


class Stem(nn.Module):
    """A spatial convolution, then one over time for each channel alone."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            OrderedDict(  # in PyTorchVideo's names conv_t is the spatial one
                conv_t=Conv3d(3, out_channels, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
                conv_xy=Conv3d(
                    out_channels, out_channels, (5, 1, 1), padding=(2, 0, 0), groups=out_channels, bias=False
                ),
            )
        )
        self.norm = nn.BatchNorm3d(out_channels)

    def forward(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T H2 W2"]:
        """Features at half the height and width."""
        return F.relu(self.norm(self.conv(clips)))


class SqueezeExcitation(nn.Module):
    """Weighs each channel of a clip by a function of all channels' means over time and space (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_width(channels * SQUEEZE_FACTOR)
        self.block = nn.Sequential(
            nn.Conv3d(channels, squeezed, 1), nn.ReLU(), nn.Conv3d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T H W"]:
        """The weighted features."""
        return features * self.block(features.mean((2, 3, 4), keepdim=True))


class Bottleneck(nn.Module):
    """A residual branch: widen, 3 x 3 x 3 channel by channel, narrow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        inner = int(BOTTLENECK_FACTOR * out_channels)
        self.conv_a = Conv3d(in_channels, inner, 1, bias=False)
        self.norm_a = nn.BatchNorm3d(inner)
        self.conv_b = Conv3d(inner, inner, 3, stride=(1, stride, stride), padding=1, groups=inner, bias=False)
        self.norm_b = nn.Sequential(nn.BatchNorm3d(inner), SqueezeExcitation(inner) if squeeze else nn.Identity())
        self.conv_c = Conv3d(inner, out_channels, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(out_channels)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T H2 W2"]:
        """What the block adds to its shortcut."""
        features = F.relu(self.norm_a(self.conv_a(features)))
        features = F.silu(self.norm_b(self.conv_b(features)))
        return self.norm_c(self.conv_c(features))


def block(in_channels: int, out_channels: int, stride: int, squeeze: bool) -> residual.Block:
    """A residual block; a shortcut that keeps the width has no batch norm."""
    branch = Bottleneck(in_channels, out_channels, stride, squeeze)
    return residual.Block(in_channels, out_channels, (1, stride), branch, norm=in_channels != out_channels)


class Stage(nn.Module):
    """Blocks in a row; the first has the stride, and every other one, from the first, squeeze-and-excitation."""

    def __init__(self, num_blocks: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.res_blocks = nn.Sequential(
            block(in_channels, out_channels, stride=2, squeeze=True),
            *(block(out_channels, out_channels, stride=1, squeeze=i % 2 == 0) for i in range(1, num_blocks)),
        )

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T H2 W2"]:
        """Features at half the height and width."""
        return self.res_blocks(features)


class Head(residual.Head):
    """Widen, average over time and space, widen once more, classify."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__(HEAD_CHANNELS, num_classes, dropout)
        inner = int(BOTTLENECK_FACTOR * in_channels)
        self.pool = nn.Sequential(
            OrderedDict(
                pre_conv=Conv3d(in_channels, inner, 1, bias=False),
                pre_norm=nn.BatchNorm3d(inner),
                pre_act=nn.ReLU(),
                pool=nn.AdaptiveAvgPool3d(1),
                post_conv=Conv3d(inner, HEAD_CHANNELS, 1, bias=False),
                post_act=nn.ReLU(),
            )
        )


class X3D(VideoModel):
    """X3D-XS, -S, -M, -L or -XL, each designed for its own `clip_shape`; XS differs from S in the clip only."""

    variants: ClassVar[Mapping[str, Expansion]] = MappingProxyType(
        {
            "x3d_xs": Expansion(frames=4, size=160),
            "x3d_s": Expansion(frames=13, size=160),
            "x3d_m": Expansion(frames=16, size=224),
            "x3d_l": Expansion(frames=16, size=312, depth=5.0),
            "x3d_xl": Expansion(frames=16, size=312, depth=5.0, width=2.9),
        }
    )
    stage_paths: ClassVar[Mapping[str, str]] = BLOCKS

    def __init__(self, name: str = "x3d_s", num_classes: int = 400, dropout: float = 0.5) -> None:
        super().__init__(name, num_classes, dropout)
        expansion = self.variants[name]
        self.clip_shape = (3, expansion.frames, expansion.size, expansion.size)
        channels = round_width(STAGE_WIDTHS[0] * expansion.width)
        blocks: list[nn.Module] = [Stem(channels)]
        for width, depth in zip(STAGE_WIDTHS, STAGE_DEPTHS, strict=True):
            out_channels = round_width(width * expansion.width)
            blocks.append(Stage(math.ceil(depth * expansion.depth), channels, out_channels))
            channels = out_channels
        blocks.append(Head(channels, num_classes, dropout))
        self.blocks = nn.Sequential(*blocks)
        initialise_(self, (module.norm_c for module in self.modules() if isinstance(module, Bottleneck)))


def round_width(width: float) -> int:
    """The multiple of 8 nearest to a number of channels, or the next one where that would lose more than a tenth."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8
