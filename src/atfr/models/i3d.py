"""I3D-50 (Carreira & Zisserman 2017, https://arxiv.org/abs/1705.07750): a ResNet-50 whose kernels partly span time.

Parameters carry PyTorchVideo's names (`i3d_r50`: ``blocks.0`` is the stem, ``blocks.1`` and ``3`` to ``5`` are res2 to
res5, ``blocks.2`` is the temporal pool between them, ``blocks.6`` is the head), so its state dicts load. The head
averages over whatever time and space is left, where PyTorchVideo pools windows of a set size first (the same thing at
the clip size a network was made for).

N batch, C channels, T frames in, H, W, K classes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.models.base import VideoModel, initialise_
from atfr.models.residual import Bottleneck, Head, Stage, Stem
from atfr.ragged import PackedClips


class HalveTime(nn.Module):
    """The maximum of every two frames; a last odd one is dropped, a single one stays.

    PyTorch refuses a window longer than the clip. Packed clips clamp it to each of theirs, and so does this.
    """

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T2 H W"]:
        """Features at half the temporal resolution."""
        if torch.compiler.is_exporting():  # there the length may be a symbol, which cannot be asked whether it is 1
            frames = features.shape[2]
            first = 2 * torch.arange(torch.sym_max(frames // 2, 1), device=features.device)
            second = (first + 1).clamp(max=frames - 1)
            return torch.maximum(features.index_select(2, first), features.index_select(2, second))
        window = 2 if isinstance(features, PackedClips) else min(2, features.shape[2])
        return F.max_pool3d(features, (window, 1, 1), stride=(2, 1, 1))


class I3D(VideoModel):
    """I3D-50, designed for 8 frames of 224 x 224 pixels."""

    variants: ClassVar[Mapping[str, None]] = MappingProxyType({"i3d_50": None})
    stage_paths: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"stem": "blocks.0", "res2": "blocks.1", "res3": "blocks.3", "res4": "blocks.4", "res5": "blocks.5"}
    )

    def __init__(self, name: str = "i3d_50", num_classes: int = 400, dropout: float = 0.5) -> None:
        super().__init__(name, num_classes, dropout)
        self.clip_shape = (3, 8, 224, 224)
        self.blocks = nn.Sequential(
            Stem(64, temporal_kernel=5),
            Stage(3, (64, 64, 256), temporal_kernels=(3,)),
            HalveTime(),
            Stage(4, (256, 128, 512), temporal_kernels=(3, 1), strides=(1, 2)),
            Stage(6, (512, 256, 1024), temporal_kernels=(3, 1), strides=(1, 2)),
            Stage(3, (1024, 512, 2048), temporal_kernels=(1, 3), strides=(1, 2)),
            Head(2048, num_classes, dropout),
        )
        initialise_(self, (branch.norm_c for branch in self.modules() if isinstance(branch, Bottleneck)))
