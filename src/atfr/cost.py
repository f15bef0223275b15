"""clip_cost: multiply-adds of a network for one clip, as a table by the clip's number of active bins.

"GFLOPs" in this field means billions of multiply-adds; so do these. Convolutions and matrix products are counted, as
usual, and SGS's weighted sum. The network is counted once for each number of active bins, on the meta device.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from atfr.errors import InputError
from atfr.ragged import ClipLayout, PackedClips
from atfr.sgs.layer import SimilarityGuidedSampling
from atfr.trace import SamplingTrace, site_names


@dataclass(frozen=True)
class ClipCost:
    """Multiply-adds of one clip.

    Attributes:
        static: without SGS.
        adaptive: with SGS and a active bins, for each a that can occur; empty for a network without SGS.
    """

    static: int
    adaptive: dict[int, int]

    def of(self, trace: SamplingTrace) -> list[int]:
        """Return the multiply-adds of each clip of a trace, from its own number of active bins."""
        try:
            return [self.adaptive[active] for active in trace.active_bins.tolist()]
        except KeyError as error:
            raise InputError(
                f"the trace has a clip of {error} active bins, this cost table is for {sorted(self.adaptive)}: count "
                "the same network at the same clip shape"
            ) from None


class _MultiplyAdds(TorchDispatchMode):
    """Counts as `torch.utils.flop_counter` does, whose own mode also keeps a stack of modules and is slower for it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket not in flop_registry:  # inference mode leaves composite operations whole
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result) // 2  # two operations a multiply-add
        return result


class _MergedTo(nn.Module):
    """Stands in for an SGS layer while counting: does its work on one clip, then keeps a given number of maps."""

    def __init__(self, layer: SimilarityGuidedSampling, active_bins: int | None) -> None:
        super().__init__()
        self.similarity = layer.similarity
        self.active_bins = active_bins
        self.merging = 0
        self.frames = 0

    def forward(self, features: Tensor) -> Tensor:
        self.frames = features.shape[2]
        if self.active_bins is None:
            return features
        self.similarity(features)
        self.merging = features.numel()
        return PackedClips(features[:, :, : self.active_bins], ClipLayout([self.active_bins]))


def clip_cost(model: nn.Module, clip_shape: Sequence[int]) -> ClipCost:
    """Count the multiply-adds of a network for one clip of C x T x H x W.

    Raises:
        InputError: the clip shape is not C x T x H x W, or the network has several SGS layers.

    Example:
        >>> import atfr
        >>> cost = atfr.clip_cost(atfr.create_model("x3d_s"), (3, 13, 160, 160))
        >>> f"{cost.static / 1e9:.2f} GFLOPs (multiply-adds)"
        '1.96 GFLOPs (multiply-adds)'
    """
    if len(clip_shape) != 4 or min(clip_shape) < 1:
        raise InputError(f"clip_shape must be C, T, H, W, got {tuple(clip_shape)}")
    sites = site_names(model)
    if len(sites) > 1:
        raise InputError(f"costs are counted for one SGS layer, the network has {len(sites)}: {', '.join(sites)}")
    network = on_meta(model)
    if not sites:
        return ClipCost(counted(network, clip_shape), {})
    path, layer = next((p, m) for p, m in network.named_modules() if isinstance(m, SimilarityGuidedSampling))
    stand_in = _MergedTo(layer, None)
    network.set_submodule(path, stand_in)
    static = counted(network, clip_shape)
    adaptive = {}
    for active_bins in range(1, min(stand_in.frames, layer.num_bins or stand_in.frames) + 1):
        stand_in.active_bins = active_bins
        adaptive[active_bins] = counted(network, clip_shape) + stand_in.merging
    return ClipCost(static, adaptive)


def on_meta(model: nn.Module) -> nn.Module:
    """Return a copy of a network that has shapes but no numbers, in evaluation mode."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo).eval()


def counted(network: nn.Module, clip_shape: Sequence[int]) -> int:
    """Return the multiply-adds of one forward pass on the meta device."""
    counter = _MultiplyAdds()
    with torch.no_grad(), counter:
        network(torch.empty(1, *clip_shape, device="meta"))
    return counter.total
