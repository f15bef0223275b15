"""R(2+1)D-18 and -50 (Tran et al. 2018, https://arxiv.org/abs/1711.11248): convolutions over space and time in pairs.

Each follows the implementation whose state dicts it loads. R(2+1)D-18 is torchvision's `r2plus1d_18`: ``stem``,
``layer1`` to ``layer4`` for res2 to res5, ``fc``; pairs over space, then over time. R(2+1)D-50 is PyTorchVideo's
`r2plus1d_r50`: ``blocks.0`` is the stem, ``blocks.1`` to ``4`` are res2 to res5, ``blocks.5`` is the head; pairs over
time, then over space. Two things differ from PyTorchVideo: the head averages over whatever time and space is left,
where it pools windows of a set size first (the same thing at the clip size a network was made for); and the output is
logits, where its network returns probabilities.

N batch, C channels, T frames in, H, W, K classes.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.errors import InputError
from atfr.kernels.conv3d import Conv3d, channels_last
from atfr.models.base import BLOCKS, VideoModel, check_clips, initialise_
from atfr.models.residual import Bottleneck, Head, Stage, Stem, projection

STEM_CHANNELS = 64
STEM_INNER_CHANNELS = 45  # between R(2+1)D-18's stem convolutions: as many weights as one of 3 x 7 x 7 would have


def space_then_time(
    in_channels: int, inner_channels: int, out_channels: int, strides: tuple[int, int] = (1, 1)
) -> nn.Sequential:
    """A 1 x 3 x 3 and a 3 x 1 x 1 convolution in place of one of 3 x 3 x 3; strides are temporal and spatial."""
    temporal_stride, stride = strides
    return nn.Sequential(
        Conv3d(in_channels, inner_channels, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(inner_channels),
        nn.ReLU(),
        Conv3d(inner_channels, out_channels, (3, 1, 1), stride=(temporal_stride, 1, 1), padding=(1, 0, 0), bias=False),
    )


class BasicBlock(nn.Module):
    """A residual block of two pairs of convolutions, and a shortcut around them.

    Both pairs have the same width inside: the one at which the first has as many weights as a 3 x 3 x 3 convolution.

    Args:
        out_channels: Channels that go out; where they differ from C, or with a stride, the shortcut is a convolution.
        strides: Temporal and spatial stride of the first pair.
    """

    def __init__(self, in_channels: int, out_channels: int, strides: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        inner = in_channels * out_channels * 27 // (in_channels * 9 + out_channels * 3)
        self.conv1 = nn.Sequential(
            space_then_time(in_channels, inner, out_channels, strides), nn.BatchNorm3d(out_channels), nn.ReLU()
        )
        self.conv2 = nn.Sequential(space_then_time(out_channels, inner, out_channels), nn.BatchNorm3d(out_channels))
        self.downsample = projection(in_channels, out_channels, strides)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T2 H2 W2"]:
        """The block's output: T, H and W divided by their strides, rounded up."""
        return F.relu(self.downsample(features) + self.conv2(self.conv1(features)))


class R2Plus1D18(VideoModel):
    """R(2+1)D-18, designed for 16 frames of 112 x 112 pixels.

    Args:
        temporal_strides: Those of res2 to res5; torchvision's when not given.
    """

    variants: ClassVar[Mapping[str, None]] = MappingProxyType({"r2plus1d_18": None})
    stage_paths: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"stem": "stem", "res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}
    )

    mean: ClassVar[tuple[float, float, float]] = (0.43216, 0.394666, 0.37645)  # torchvision's weights, as std
    std: ClassVar[tuple[float, float, float]] = (0.22803, 0.22145, 0.216989)

    def __init__(
        self,
        name: str = "r2plus1d_18",
        num_classes: int = 400,
        dropout: float = 0.0,
        temporal_strides: Sequence[int] = (1, 2, 2, 2),
    ) -> None:
        strides = checked_strides(temporal_strides, name)
        super().__init__(name, num_classes, dropout, temporal_strides=strides)
        self.clip_shape = (3, 16, 112, 112)
        self.stem = nn.Sequential(
            Conv3d(3, STEM_INNER_CHANNELS, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
            nn.BatchNorm3d(STEM_INNER_CHANNELS),
            nn.ReLU(),
            Conv3d(STEM_INNER_CHANNELS, STEM_CHANNELS, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(STEM_CHANNELS),
            nn.ReLU(),
        )
        self.layer1 = nn.Sequential(BasicBlock(STEM_CHANNELS, 64, (strides[0], 1)), BasicBlock(64, 64))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, (strides[1], 2)), BasicBlock(128, 128))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, (strides[2], 2)), BasicBlock(256, 256))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, (strides[3], 2)), BasicBlock(512, 512))
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512, num_classes)
        initialise_(self, (block.conv2[1] for block in self.modules() if isinstance(block, BasicBlock)))

    def forward(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N K"]:
        """Logits of clips with 3 channels, any number of frames and any size from 8 x 8 pixels."""
        check_clips(clips)
        features = self.layer1(self.stem(channels_last(clips)))
        features = self.layer4(self.layer3(self.layer2(features)))
        return self.fc(self.dropout(self.avgpool(features).flatten(1)))


class R2Plus1D50(VideoModel):
    """R(2+1)D-50, designed for 16 frames of 224 x 224 pixels.

    Args:
        temporal_strides: Those of res2 to res5; PyTorchVideo's when not given.
    """

    variants: ClassVar[Mapping[str, None]] = MappingProxyType({"r2plus1d_50": None})
    stage_paths: ClassVar[Mapping[str, str]] = BLOCKS

    def __init__(
        self,
        name: str = "r2plus1d_50",
        num_classes: int = 400,
        dropout: float = 0.5,
        temporal_strides: Sequence[int] = (1, 1, 2, 2),
    ) -> None:
        strides = checked_strides(temporal_strides, name)
        super().__init__(name, num_classes, dropout, temporal_strides=strides)
        self.clip_shape = (3, 16, 224, 224)
        self.blocks = nn.Sequential(
            Stem(STEM_CHANNELS, pool=False),
            Stage(3, (64, 64, 256), strides=(strides[0], 2), factorised=True),
            Stage(4, (256, 128, 512), strides=(strides[1], 2), factorised=True),
            Stage(6, (512, 256, 1024), strides=(strides[2], 2), factorised=True),
            Stage(3, (1024, 512, 2048), strides=(strides[3], 2), factorised=True),
            Head(2048, num_classes, dropout),
        )
        initialise_(self, (branch.norm_c for branch in self.modules() if isinstance(branch, Bottleneck)))


def checked_strides(strides: Sequence[int], name: str) -> list[int]:
    """The temporal strides of res2 to res5 as a list.

    Raises:
        InputError: Not four whole numbers of 1 or more.
    """
    listed = list(strides) if isinstance(strides, Sequence) else []
    if len(listed) != 4 or any(type(stride) is not int or stride < 1 for stride in listed):
        raise InputError(
            "temporal_strides must be 4 whole numbers of 1 or more, one for each stage from res2 to res5, got"
            f" {strides!r} for {name}"
        )
    return listed
