"""The stem, bottleneck blocks and head that R(2+1)D-50, I3D-50 and SlowFast are made of, under PyTorchVideo's names.

The networks differ in how far their convolutions reach over time, in their widths, and in whether the middle
convolution of a block is one over space or a pair, over time and then over space.

N batch, C channels, T frames in, H, W, K classes.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.kernels.conv3d import Conv3d


class Stem(nn.Module):
    """A convolution of 7 x 7 pixels at half the height and width, and a spatial max pool that halves them once more.

    Args:
        temporal_kernel: Frames that the convolution sees, an odd number.
        pool: Whether there is the max pool.
    """

    def __init__(self, out_channels: int, temporal_kernel: int = 1, pool: bool = True) -> None:
        super().__init__()
        kernel, padding = (temporal_kernel, 7, 7), (temporal_kernel // 2, 3, 3)
        self.conv = Conv3d(3, out_channels, kernel, stride=(1, 2, 2), padding=padding, bias=False)
        self.norm = nn.BatchNorm3d(out_channels)
        self.pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)) if pool else nn.Identity()

    def forward(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T H2 W2"]:
        """Features at a quarter of the height and width, at half of them without the pool."""
        return self.pool(F.relu(self.norm(self.conv(clips))))


class TimeThenSpace(nn.Module):
    """A 3 x 1 x 1 and a 1 x 3 x 3 convolution in place of one of 3 x 3 x 3 (Tran et al. 2018); each has its stride."""

    def __init__(self, channels: int, temporal_stride: int, stride: int) -> None:
        super().__init__()
        self.conv_t = Conv3d(
            channels, channels, (3, 1, 1), stride=(temporal_stride, 1, 1), padding=(1, 0, 0), bias=False
        )
        self.norm = nn.BatchNorm3d(channels)
        self.conv_xy = Conv3d(channels, channels, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T2 H2 W2"]:
        """T, H and W divided by their strides, rounded up."""
        return self.conv_xy(F.relu(self.norm(self.conv_t(features))))


class Bottleneck(nn.Module):
    """A residual branch: narrow, 3 x 3 pixels with the strides, widen.

    Args:
        temporal_kernel: Frames that the first convolution sees, an odd number.
        strides: Temporal and spatial stride of the second convolution.
        factorised: Whether the second convolution is `TimeThenSpace`, not 1 x 3 x 3.
    """

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        temporal_kernel: int,
        strides: tuple[int, int],
        factorised: bool,
    ) -> None:
        super().__init__()
        temporal_stride, stride = strides
        self.conv_a = Conv3d(
            in_channels, inner_channels, (temporal_kernel, 1, 1), padding=(temporal_kernel // 2, 0, 0), bias=False
        )
        self.norm_a = nn.BatchNorm3d(inner_channels)
        self.conv_b: nn.Module
        if factorised:
            self.conv_b = TimeThenSpace(inner_channels, temporal_stride, stride)
        else:
            self.conv_b = Conv3d(
                inner_channels,
                inner_channels,
                (1, 3, 3),
                stride=(temporal_stride, stride, stride),
                padding=(0, 1, 1),
                bias=False,
            )
        self.norm_b = nn.BatchNorm3d(inner_channels)
        self.conv_c = Conv3d(inner_channels, out_channels, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(out_channels)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T2 H2 W2"]:
        """What the block adds to its shortcut."""
        features = F.relu(self.norm_a(self.conv_a(features)))
        features = F.relu(self.norm_b(self.conv_b(features)))
        return self.norm_c(self.conv_c(features))


class Block(nn.Module):
    """A residual block: a branch plus a shortcut, which is a convolution where the width changes or with a stride.

    Args:
        strides: Temporal and spatial stride of the branch.
        norm: Whether a batch norm follows the shortcut's convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, strides: tuple[int, int], branch: nn.Module, norm: bool = True
    ) -> None:
        super().__init__()
        self.branch1_conv: nn.Module = nn.Identity()
        self.branch1_norm: nn.Module = nn.Identity()
        if in_channels != out_channels or strides != (1, 1):
            temporal_stride, stride = strides
            self.branch1_conv = Conv3d(
                in_channels, out_channels, 1, stride=(temporal_stride, stride, stride), bias=False
            )
            self.branch1_norm = nn.BatchNorm3d(out_channels) if norm else nn.Identity()
        self.branch2 = branch

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T2 H2 W2"]:
        """The block's output: T, H and W divided by their strides, rounded up."""
        shortcut = self.branch1_norm(self.branch1_conv(features))
        return F.relu(shortcut + self.branch2(features))


class Stage(nn.Module):
    """Blocks in a row, the first of which changes the width and has the strides.

    Args:
        channels: Those that come in, those inside the blocks, those that go out.
        temporal_kernels: Frames that the first convolution of each block sees, repeated up to the last block.
        strides: Temporal and spatial stride.
        factorised: See `Bottleneck`.
    """

    def __init__(
        self,
        num_blocks: int,
        channels: tuple[int, int, int],
        temporal_kernels: Sequence[int] = (1,),
        strides: tuple[int, int] = (1, 1),
        factorised: bool = False,
    ) -> None:
        super().__init__()
        in_channels, inner, out_channels = channels
        kernels = [temporal_kernels[i % len(temporal_kernels)] for i in range(num_blocks)]

        def block(channels: int, kernel: int, strides: tuple[int, int] = (1, 1)) -> Block:
            branch = Bottleneck(channels, inner, out_channels, kernel, strides, factorised)
            return Block(channels, out_channels, strides, branch)

        self.res_blocks = nn.Sequential(
            block(in_channels, kernels[0], strides), *(block(out_channels, kernel) for kernel in kernels[1:])
        )

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T2 H2 W2"]:
        """Features with T, H and W divided by their strides, rounded up."""
        return self.res_blocks(features)


def projection(in_channels: int, out_channels: int, strides: tuple[int, int]) -> nn.Module:
    """A shortcut: a convolution and batch norm where the width changes or with a temporal or spatial stride."""
    if in_channels == out_channels and strides == (1, 1):
        return nn.Identity()
    temporal_stride, stride = strides
    convolution = Conv3d(in_channels, out_channels, 1, stride=(temporal_stride, stride, stride), bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(out_channels))


class Head(nn.Module):
    """Average over time and space, then classify."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.pool: nn.Module = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(in_channels, num_classes)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N K"]:
        """The clips' logits."""
        return self.proj(self.dropout(self.pool(features).flatten(1)))
