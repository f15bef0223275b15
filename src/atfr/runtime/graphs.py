"""The graphs of a network that an inference runtime runs: one for a static network, two for an adapted one.

The early graph ends with SGS, the late one begins behind it. Neither has an operation whose result's shape depends on
data: the early one merges the T maps of a clip into T, of which the first A are those that it keeps, and the late one
takes them. Maps go from one to the other as T x H x W x C, so that the first A lie in one piece of memory.

C channels, T maps in, A maps a clip keeps, H, W, K classes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from atfr.adapt.trace import site_names
from atfr.runtime.split import Split, split
from atfr.samplers.sampling import Sampling

NETWORK, EARLY, LATE = "network", "early", "late"
PER_SITE = ("maps", "assignment", "weights", "slots", "active_bins")
"""What the early graph returns for each site: the maps, and the fields of a `Sampling` of one clip."""


class Early(nn.Module):
    """One clip to the maps that it keeps and what SGS did, for each site."""

    def __init__(self, parts: Split) -> None:
        super().__init__()
        self.stages = parts.before
        self.samplers = nn.ModuleList(parts.samplers.values())

    def forward(self, clip: Float[Tensor, "1 C T H W"]) -> list[Tensor]:
        """Return what `PER_SITE` lists, site after site."""
        returned = []
        samplers: Iterable[Any] = self.samplers
        for sampler, maps in zip(samplers, self.stages(clip), strict=True):
            lengths = torch.full((1,), maps.shape[2], device=maps.device)
            sampling = sampler.sampling(sampler.describe(maps), lengths)
            kept = merged(maps, sampling)
            returned += [kept, sampling.assignment, sampling.weights, sampling.slots, sampling.active_bins]
        return returned


def merged(maps: Float[Tensor, "1 C T H W"], sampling: Sampling) -> Float[Tensor, "T H2 W2 C2"]:
    """Return `functional.aggregate` with T output maps, as a product with a matrix, which runtimes do fastest."""
    maps_THWC = maps.permute(0, 2, 3, 4, 1).flatten(0, 1)  # selecting the one clip would cost OpenVINO two copies
    places_T = torch.arange(len(maps_THWC), device=maps.device)
    merge_TT = torch.where(sampling.slots == places_T[:, None], sampling.weights, 0.0).to(maps.dtype)
    return (merge_TT @ maps_THWC.flatten(1)).view(maps_THWC.shape)


class Late(nn.Module):
    """The maps that a clip keeps, one argument a site, to its logits."""

    def __init__(self, parts: Split) -> None:
        super().__init__()
        self.stages = parts.after

    def forward(self, *kept: Float[Tensor, "_ _ _ _"]) -> Float[Tensor, "1 K"]:
        """Return the logits of one clip."""
        return self.stages(*(maps.permute(3, 0, 1, 2)[None] for maps in kept))


@torch.no_grad()
def graphs(model: nn.Module, clip_shape: Sequence[int]) -> dict[str, ExportedProgram]:
    """Export a network for one clip of a shape, as it is in evaluation mode.

    Returns:
        `NETWORK` alone for a static network; else `EARLY` and `LATE`, whose first axis is the clip's A.

    Raises:
        UnsupportedNetworkError: the network cannot be split at its SGS.
    """
    clip = next(model.parameters()).new_zeros(1, *clip_shape)
    if not site_names(model):
        return {NETWORK: export(model, (clip,))}
    parts = split(model, clip_shape)
    early, late = Early(parts).eval(), Late(parts).eval()
    kept = early(clip)[:: len(PER_SITE)]
    axes = tuple({0: Dim.AUTO} if len(maps) > 1 else {} for maps in kept)
    return {EARLY: export(early, (clip,)), LATE: export(late, tuple(kept), dynamic_shapes=(axes,))}
