"""The way back from maps behind samplers to the frames of the clip.

A matrix M x F tells for each of M maps what share of it each of F frames has; a row sums to 1.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from atfr.viz.watch import Watched, merging


def spread(maps: int, steps: int) -> Float[Tensor, "M F"]:
    """Return the shares of maps that stand, in order, for equally long parts of so many steps."""
    part = steps / maps
    start_M1 = part * torch.arange(maps)[:, None]
    step_F = torch.arange(steps)
    overlap_MF = torch.minimum(start_M1 + part, step_F + 1) - torch.maximum(start_M1, step_F)
    return overlap_MF.clamp(min=0) / part


def carried(
    maps: int, behind: Float[Tensor, "A F"] | None, longer: Float[Tensor, "A2 F"] | None, frames: int
) -> Float[Tensor, "M F"]:
    """Return where maps come from that lie behind an SGS layer of their pathway, or behind none.

    Fewer maps than came out of the layer stand for equal parts of them (a temporal stride). More there are where a
    lateral connection has joined a longer pathway, zero-padding the shorter one at its end: the further maps are the
    longer pathway's.
    """
    if behind is None:
        return spread(maps, frames)
    if maps <= len(behind) or longer is None:
        return spread(maps, len(behind)) @ behind
    return torch.cat([behind, (spread(maps, len(longer)) @ longer)[len(behind) :]])


def origins(watched: Watched, frames: int, clip: int = 0) -> dict[str, Float[Tensor, "A F"]]:
    """Return for each site the share of each frame in each map that came out of it, through the layers before it."""
    found: dict[str, Float[Tensor, "A F"]] = {}
    latest: dict[str, Float[Tensor, "A F"]] = {}
    for site, maps in watched.sites.items():
        pathway = watched.pathways[site]
        length = maps.before[clip].shape[1]
        into = carried(length, latest.get(pathway), longest_other(latest, pathway), frames)
        weights = merging(watched.trace.sites[site], clip).matrix
        share_of_bin = weights / weights.sum(1, keepdim=True)
        found[site] = latest[pathway] = share_of_bin[:, :length] @ into
    return found


def longest_other(latest: Mapping[str, Float[Tensor, "A F"]], pathway: str) -> Float[Tensor, "A F"] | None:
    """Return the maps of the other pathway that has most of them."""
    return max((maps for name, maps in latest.items() if name != pathway), key=len, default=None)
