"""The modified 3DResNet of the paper (Fayyaz et al. 2021, Table A.1): bottleneck blocks, full temporal resolution.

Time is never reduced by the network itself; 3 x 1 x 1 convolutions in res2 and res5 look across it. The spatial stride
of a stage sits in the 1 x 3 x 3 convolution of its first block.

N batch, C channels, T frames in, H, W, K classes.
"""

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.kernels.conv3d import Conv3d, channels_last
from atfr.models import residual
from atfr.models.base import VideoModel, check_clips, initialise_

STEM_CHANNELS = 8


class Bottleneck(residual.Bottleneck):
    """A residual block: (temporal) x 1 x 1, 1 x 3 x 3 and 1 x 1 x 1 convolutions, and a shortcut around them.

    Arguments are those of `residual.Bottleneck`; the stride is spatial.
    """

    def __init__(
        self, in_channels: int, inner_channels: int, out_channels: int, temporal_kernel: int = 1, stride: int = 1
    ) -> None:
        super().__init__(in_channels, inner_channels, out_channels, temporal_kernel, (1, stride), factorised=False)
        self.shortcut = residual.projection(in_channels, out_channels, (1, stride))

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T H2 W2"]:
        """The block's output: H and W divided by the stride, rounded up."""
        return F.relu(self.shortcut(features) + super().forward(features))


class ResNet3D(VideoModel):
    """3DResNet-18 or -50 of Table A.1, designed for 32 frames of 224 x 224 pixels.

    Both have bottleneck blocks; they differ in the number of blocks of each stage.
    """

    variants: ClassVar[Mapping[str, tuple[int, int, int, int]]] = MappingProxyType(
        {"resnet3d_18": (2, 2, 2, 2), "resnet3d_50": (3, 4, 6, 3)}
    )
    stage_paths: ClassVar[Mapping[str, str]] = MappingProxyType(
        {stage: stage for stage in ("stem", "res2", "res3", "res4", "res5")}
    )

    def __init__(self, name: str = "resnet3d_18", num_classes: int = 400, dropout: float = 0.0) -> None:
        super().__init__(name, num_classes, dropout)
        self.clip_shape = (3, 32, 224, 224)
        blocks = self.variants[name]
        self.stem = nn.Sequential(
            OrderedDict(
                conv=Conv3d(3, STEM_CHANNELS, (5, 7, 7), stride=(1, 2, 2), padding=(2, 3, 3), bias=False),
                norm=nn.BatchNorm3d(STEM_CHANNELS),
                relu=nn.ReLU(),
                pool=nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            )
        )
        self.res2 = _stage(blocks[0], (STEM_CHANNELS, 8, 32), temporal_kernel=3, stride=1)
        self.res3 = _stage(blocks[1], (32, 64, 256), temporal_kernel=1, stride=2)
        self.res4 = _stage(blocks[2], (256, 128, 512), temporal_kernel=1, stride=2)
        self.res5 = _stage(blocks[3], (512, 256, 1024), temporal_kernel=3, stride=2)
        self.head = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool3d(1),
                flatten=nn.Flatten(1),
                dropout=nn.Dropout(dropout),
                fc=nn.Linear(1024, num_classes),
            )
        )
        initialise_(self, (block.norm_c for block in self.modules() if isinstance(block, Bottleneck)))

    def forward(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N K"]:
        """Logits of clips with 3 channels, any number of frames and any size from 8 x 8 pixels."""
        check_clips(clips)
        features = self.res2(self.stem(channels_last(clips)))
        features = self.res5(self.res4(self.res3(features)))
        return self.head(features)


def _stage(num_blocks: int, channels: tuple[int, int, int], temporal_kernel: int, stride: int) -> nn.Sequential:
    in_channels, inner, out_channels = channels
    first = Bottleneck(in_channels, inner, out_channels, temporal_kernel, stride)
    rest = [Bottleneck(out_channels, inner, out_channels, temporal_kernel) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)
