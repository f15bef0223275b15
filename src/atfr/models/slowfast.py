"""SlowFast networks (Feichtenhofer et al. 2019, https://arxiv.org/abs/1812.03982): two pathways, two frame rates.

The slow pathway sees every alpha-th frame with many channels, the fast one all frames with an eighth of them. Behind
the stem and res2 to res4 a lateral connection brings the fast maps down to the slow rate and joins them to the slow
ones.

Parameters carry PyTorchVideo's names, so its state dicts load: ``blocks.0`` is the stem, ``blocks.1`` to ``4`` are res2
to res5, each with its pathways in ``multipathway_blocks`` (slow, fast) and its lateral connection in
``multipathway_fusion``; ``blocks.6`` is the classifier. Two things differ: pathways are averaged over whatever time and
space is left, where PyTorchVideo pools windows of the clip size a network was made for; and a list of pathways that
comes in stays as it was. The networks with non-local blocks (PyTorchVideo has none) follow PySlowFast's
``SLOWFAST_NLN_16x8_R101_50_50``; a block behind residual block i of res4 has the key
``blocks.3.multipathway_blocks.0.nonlocal_blocks.i``.

N batch, C channels, T frames in, H, W, K classes.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.errors import InputError
from atfr.kernels.conv3d import Conv3d, channels_last
from atfr.models.base import VideoModel, check_clips, initialise_
from atfr.models.nonlocal_block import NonLocal
from atfr.models.residual import Bottleneck, Stage, Stem
from atfr.ragged.clipwise import cat_clips

STAGES = ("stem", "res2", "res3", "res4", "res5")
CHANNELS = (64, 256, 512, 1024, 2048)  # of the slow pathway, behind each stage
BETA_INVERSE = 8  # times more channels in the slow pathway than in the fast one
LATERAL_FACTOR = 2  # times the channels of the fast pathway come out of a lateral connection
TEMPORAL_BLOCKS = 6  # blocks of a stage, from the first, whose convolutions may see other frames

Pathways = tuple[Float[Tensor, "N C T H W"], Float[Tensor, "N C2 T2 H W"]]
"""Slow and fast features of the same clips."""


@dataclass(frozen=True)
class Variant:
    """What sets the members of the family apart."""

    frames: int  # frames of a clip at the fast rate
    alpha: int  # the slow pathway sees every alpha-th of them
    depths: tuple[int, int, int, int]  # blocks of res2 to res5
    lateral_kernel: int  # fast maps that a lateral connection sees
    nonlocal_behind: tuple[int, ...] = ()  # blocks of the slow pathway's res4 that a non-local block follows, from 0


R18, R50, R101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)


class NonLocalStage(Stage):
    """A stage with non-local blocks behind some of its residual blocks."""

    def __init__(
        self,
        num_blocks: int,
        channels: tuple[int, int, int],
        temporal_kernels: Sequence[int],
        strides: tuple[int, int],
        behind: Sequence[int],
    ) -> None:
        super().__init__(num_blocks, channels, temporal_kernels, strides)
        self.nonlocal_blocks = nn.ModuleDict({str(i): NonLocal(channels[-1]) for i in behind})

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C2 T H2 W2"]:
        """Features with H and W divided by their stride, rounded up."""
        for i, block in self.res_blocks.named_children():
            features = block(features)
            if i in self.nonlocal_blocks:
                features = self.nonlocal_blocks[i](features)
        return features


class FuseFastToSlow(nn.Module):
    """A lateral connection: a convolution over time brings the fast features down to the slow rate.

    Behind SGS the pathways' maps of a clip may differ in number by any factor; the fewer are zero-padded at their end.
    """

    def __init__(self, fast_channels: int, kernel: int, alpha: int) -> None:
        super().__init__()
        out_channels = LATERAL_FACTOR * fast_channels
        self.conv_fast_to_slow = Conv3d(
            fast_channels, out_channels, (kernel, 1, 1), stride=(alpha, 1, 1), padding=(kernel // 2, 0, 0), bias=False
        )
        self.norm = nn.BatchNorm3d(out_channels)

    def forward(self, pathways: Pathways) -> Pathways:
        """The slow features with the fast ones joined to their channels, and the fast ones."""
        slow, fast = pathways
        fused = F.relu(self.norm(self.conv_fast_to_slow(fast)))
        return cat_clips([slow, fused]), fast


class MultiPathway(nn.Module):
    """One stage of both pathways, and the lateral connection behind it."""

    def __init__(self, slow: nn.Module, fast: nn.Module, fusion: nn.Module) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleList([slow, fast])
        self.multipathway_fusion = fusion

    def forward(self, pathways: Pathways) -> Pathways:
        """Slow and fast features."""
        slow, fast = (block(path) for block, path in zip(self.multipathway_blocks, pathways, strict=True))
        return self.multipathway_fusion((slow, fast))


class PoolConcatPathway(nn.Module):
    """Averages each pathway over its own maps, as many as they are, and joins the means."""

    def forward(self, pathways: Pathways) -> Float[Tensor, "N C"]:
        """One row a clip: slow channels, then fast ones."""
        return torch.cat([path.mean((2, 3, 4)) for path in pathways], dim=1)


class SlowFast(VideoModel):
    """SlowFast 4x16 or 8x8 on ResNet-18 or -50, or 8x8 or 16x8 on ResNet-101 with non-local blocks.

    A name T x tau tells what the slow pathway sees: T frames, tau apart in the video, where the fast one's are 2 apart.
    """

    variants: ClassVar[Mapping[str, Variant]] = MappingProxyType(
        {
            "slowfast_4x16_r50": Variant(frames=32, alpha=8, depths=R50, lateral_kernel=5),
            "slowfast_8x8_r18": Variant(frames=32, alpha=4, depths=R18, lateral_kernel=7),
            "slowfast_8x8_r50": Variant(frames=32, alpha=4, depths=R50, lateral_kernel=7),
            "slowfast_8x8_r101_nl": Variant(32, alpha=4, depths=R101, lateral_kernel=5, nonlocal_behind=(6, 13, 20)),
            "slowfast_16x8_r101_nl": Variant(64, alpha=4, depths=R101, lateral_kernel=5, nonlocal_behind=(6, 13, 20)),
        }
    )
    stage_paths: ClassVar[Mapping[str, str | tuple[str, ...]]] = MappingProxyType(
        {
            stage: (f"blocks.{i}.multipathway_blocks.1", f"blocks.{i}.multipathway_blocks.0")
            for i, stage in enumerate(STAGES)
        }
        | {
            f"{stage}.{pathway}": f"blocks.{i}.multipathway_blocks.{j}"
            for i, stage in enumerate(STAGES)
            for pathway, j in (("fast", 1), ("slow", 0))
        }
    )

    def __init__(self, name: str = "slowfast_4x16_r50", num_classes: int = 400, dropout: float = 0.5) -> None:
        super().__init__(name, num_classes, dropout)
        variant = self.variants[name]
        self.alpha = variant.alpha
        self.clip_shape = (3, variant.frames, 224, 224)
        fast_channels = CHANNELS[0] // BETA_INVERSE
        stem = Stem(CHANNELS[0]), Stem(fast_channels, temporal_kernel=5)
        blocks: list[nn.Module] = [MultiPathway(*stem, _lateral(CHANNELS[0], variant))]
        blocks += [_stage(stage, variant) for stage in range(1, len(STAGES))]
        head = OrderedDict(
            dropout=nn.Dropout(dropout),
            proj=nn.Linear(CHANNELS[-1] + CHANNELS[-1] // BETA_INVERSE, num_classes),
        )
        self.blocks = nn.Sequential(*blocks, PoolConcatPathway(), nn.Sequential(head))
        norms = [module.norm_c for module in self.modules() if isinstance(module, Bottleneck)]
        initialise_(self, norms + [module.norm for module in self.modules() if isinstance(module, NonLocal)])

    def forward(self, clips: Float[Tensor, "N C T H W"] | Sequence[Float[Tensor, "N C _ H W"]]) -> Float[Tensor, "N K"]:
        """Logits of clips at the fast rate, of any number of frames and any size from 8 x 8 pixels.

        Args:
            clips: Clips with 3 channels, of which the network takes every alpha-th frame, from the first, for its slow
                pathway itself; or both pathways' clips, [slow, fast], where slow has T / alpha frames, rounded up, of
                fast's T (PyTorchVideo's recipes choose other ones, spread from the first frame to the last).

        Raises:
            InputError: Something else, or pathways that do not fit together.
        """
        return self.blocks(self._pathways(clips))

    def _pathways(self, clips: Tensor | Sequence[Tensor]) -> Pathways:
        if isinstance(clips, Tensor):
            check_clips(clips)
            return channels_last(clips[:, :, :: self.alpha]), channels_last(clips)
        if not isinstance(clips, list | tuple) or len(clips) != 2:
            got = f"{len(clips)} entries" if isinstance(clips, list | tuple) else type(clips).__name__
            raise InputError(
                "expected clips N x 3 x T x H x W at the fast rate, of which the network takes the slow frames itself, "
                f"or a list of both pathways' clips, [slow, fast]; got {got}"
            )
        slow, fast = clips
        check_clips(slow)
        check_clips(fast)
        n, channels, frames, height, width = fast.shape
        expected = (n, channels, -(-frames // self.alpha), height, width)
        if slow.shape != expected or slow.dtype != fast.dtype or slow.device != fast.device:
            raise InputError(
                f"for fast clips of shape {list(fast.shape)} the slow ones must be {list(expected)}: every "
                f"{self.alpha}th frame, the first among them, of the same type and device; got {slow.dtype} on "
                f"{slow.device} of shape {list(slow.shape)} with {fast.dtype} on {fast.device}; or pass the fast clips "
                "alone"
            )
        return channels_last(slow), channels_last(fast)


def _lateral(slow_channels: int, variant: Variant) -> FuseFastToSlow:
    return FuseFastToSlow(slow_channels // BETA_INVERSE, variant.lateral_kernel, variant.alpha)


def _stage(stage: int, variant: Variant) -> MultiPathway:
    """res2 (stage 1) to res5 (stage 4) of both pathways."""
    before, after = CHANNELS[stage - 1], CHANNELS[stage]
    num_blocks = variant.depths[stage - 1]
    strides = (1, 1 if stage == 1 else 2)
    temporal = [3 if i < TEMPORAL_BLOCKS else 1 for i in range(num_blocks)]
    slow_channels = (before + LATERAL_FACTOR * before // BETA_INVERSE, after // 4, after)
    fast_channels = (before // BETA_INVERSE, after // 4 // BETA_INVERSE, after // BETA_INVERSE)
    slow_temporal = temporal if STAGES[stage] in ("res4", "res5") else [1] * num_blocks
    slow: nn.Module
    if STAGES[stage] == "res4" and variant.nonlocal_behind:
        slow = NonLocalStage(num_blocks, slow_channels, slow_temporal, strides, variant.nonlocal_behind)
    else:
        slow = Stage(num_blocks, slow_channels, slow_temporal, strides)
    fast = Stage(num_blocks, fast_channels, temporal, strides)
    return MultiPathway(slow, fast, nn.Identity() if STAGES[stage] == "res5" else _lateral(after, variant))
