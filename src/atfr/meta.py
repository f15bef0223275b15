"""Networks without numbers: a copy of a network on the meta device, in which a chosen number of maps stands for SGS.

How many maps a clip keeps depends on its numbers, which the meta device does not have; `StandIn` is told.
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from atfr.ragged import PackedClips
from atfr.samplers.sampler import TemporalSampler
from atfr.trace import site_names


class StandIn(nn.Module):
    """Stands in for a sampler: does its work on the maps, then keeps as many of each clip as it is told.

    Attributes:
        keep: maps that each clip keeps, if it has so many; the last number is for all further clips. None passes the
            features on as they are.
        passes: how often it has run.
        frames: maps that each clip had in the last pass.
        merging: multiply-adds of the weighted sum in the last pass, if there is one.
    """

    def __init__(self, layer: TemporalSampler) -> None:
        super().__init__()
        self.layer = layer
        self.keep: Sequence[int] | None = None
        self.passes = 0
        self.frames: tuple[int, ...] = ()
        self.merging = 0

    def forward(self, features: Tensor) -> Tensor:
        """Keep the first maps of each clip."""
        self.passes += 1
        self.merging = 0
        clips = features.unpack() if isinstance(features, PackedClips) else list(features)
        self.frames = tuple(clip.shape[1] for clip in clips)
        if self.keep is None:
            return features
        maps = features.plain() if isinstance(features, PackedClips) else features
        self.layer.describe(maps)
        self.merging = 0 if self.layer.one_each else maps.numel()
        return PackedClips.pack([clip[:, : self.keep[min(i, len(self.keep) - 1)]] for i, clip in enumerate(clips)])


def on_meta(model: nn.Module) -> nn.Module:
    """Return a copy of a network that has shapes but no numbers, in evaluation mode."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo).eval()


def put_stand_ins(network: nn.Module) -> dict[str, StandIn]:
    """Replace the samplers of a network by stand-ins; return these by site."""
    paths = {id(module): path for path, module in network.named_modules()}
    stand_ins = {}
    for site, layer in site_names(network).items():
        stand_ins[site] = StandIn(layer)
        network.set_submodule(paths[id(layer)], stand_ins[site])
    return stand_ins
