"""Temporal double attention: the baseline of the paper's appendix G, which weighs maps and merges none.

N batch, C channels, T maps, H, W, M channels of a descriptor, D descriptors.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.checks import at_least_one
from atfr.ragged import each_clip
from atfr.samplers.sampler import check_features, pooled


class TemporalDoubleAttention(nn.Module):
    """Gathers descriptors from all maps of a clip, and hands each map the mixture it asks for (A²-Net, over time).

    Both attentions are read off the maps' spatial means, so that whole maps are weighed, as SGS weighs them. The
    block's output convolution starts at 0: a network that gets the block starts as it was.

    Source: Fayyaz et al. 2021, appendix G and Table A.6, after Chen et al. 2018 (https://arxiv.org/abs/1810.11579),
    whose C/4 channels and descriptors are kept. The paper gives no more detail than this.

    Args:
        channels: channels C of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = at_least_one("channels", channels)
        inner = max(channels // 4, 1)
        self.reduce = nn.Conv3d(channels, inner, 1)
        self.gather = nn.Conv1d(channels, inner, 1)
        self.distribute = nn.Conv1d(channels, inner, 1)
        self.expand = nn.Conv3d(inner, channels, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)  # type: ignore[arg-type]

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T H W"]:
        """Return the maps, each with the descriptors it asked for added."""
        check_features(features, self.channels)
        return each_clip(self._attended, features)

    def _attended(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T H W"]:
        means_NCT = pooled(features).to(features.dtype)
        gather_NDT = self.gather(means_NCT).softmax(dim=2)
        distribute_NDT = self.distribute(means_NCT).softmax(dim=1)
        descriptors = torch.einsum("ndt,nmthw->ndmhw", gather_NDT, self.reduce(features))
        return features + self.expand(torch.einsum("ndt,ndmhw->nmthw", distribute_NDT, descriptors))

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `atfr.adapt_` that make this layer, but for its place."""
        return {"sampler": "attention"}
