"""watch(model): a trace, and beside it the maps before and after every SGS layer and what their bins are made of.

The way back from maps behind samplers to the frames of the clip is a matrix M x F, which tells for each of M maps what
share of it each of F frames has; a row sums to 1.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from atfr.adapt.trace import SamplingTrace, SiteTrace, record, site_names
from atfr.errors import InputError
from atfr.ragged import PackedClips
from atfr.samplers import ChangeGuidedSampling, SimilarityGuidedSampling
from atfr.samplers import functional as sgs

CHANGE = "accumulated change, in bins"
MOST_BINS = 1000


class Block(NamedTuple):
    """The bins of the maps start..stop-1 of a clip: bin b lies between edges b and b + 1."""

    start: int
    stop: int
    edges: Float[Tensor, " E"]


@dataclass(frozen=True)
class Coordinate:
    """A number by which a sampler compares the maps of a clip."""

    name: str  # "magnitude", or "angle 1" and so on; of change, the bins that have been passed
    values: Float[Tensor, " T"]  # of each map
    # the bins made of it; one block, unless SGS groups within temporal blocks. A block whose values are all 0 has no
    # edges: its maps are alike
    blocks: tuple[Block, ...]


@dataclass
class SiteMaps:
    """What came into an SGS layer and what came out, clip by clip, on the CPU."""

    before: list[Float[Tensor, "C _ H W"]] = field(default_factory=list)  # C x T x H x W of each clip
    after: list[Float[Tensor, "C _ H W"]] = field(default_factory=list)  # C x A x H x W of each clip
    # of each clip; none where a control stands in the place of SGS
    coordinates: list[tuple[Coordinate, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Watched:
    """A network's SGS layers at work.

    Attributes:
        trace: what `atfr.record` records.
        sites: the maps of each site, in the order in which the layers ran.
        pathways: the pathway that each site lies in; "" in a network with one.
    """

    trace: SamplingTrace
    sites: dict[str, SiteMaps]
    pathways: dict[str, str]


@dataclass(frozen=True)
class Merging:
    """What one layer made of one clip of T maps."""

    assignment: Int[Tensor, " T"]  # the bin of each map, -1 where it was dropped
    slots: Int[Tensor, " T"]  # the output map that it went into, 0..A-1; -1 where it was dropped
    weights: Float[Tensor, " T"]  # the factor with which it entered
    active_bins: int  # the number of output maps, A

    @property
    def matrix(self) -> Float[Tensor, "A T"]:
        """The weights as a matrix: output map = sum over t of matrix[:, t] x map t."""
        matrix = self.weights.new_zeros(self.active_bins, len(self.weights))
        kept = (self.slots >= 0).nonzero()[:, 0]
        matrix[self.slots[kept], kept] = self.weights[kept]
        return matrix

    @property
    def bins(self) -> list[int]:
        """The bin that each output map was made of."""
        return [int(self.assignment[self.slots == slot][0]) for slot in range(self.active_bins)]


def merging(site: SiteTrace, clip: int) -> Merging:
    """Return what a layer made of one clip of a trace, counted from 0 over all passes.

    Raises:
        InputError: there is no such clip.
    """
    row = clip
    for sampling in site.samplings:
        lengths = sampling.layout.lengths
        if 0 <= row < len(lengths):
            assignment = sampling.assignment[row].cpu()
            slots = torch.where(assignment >= 0, sampling.slots[row].cpu() - sum(lengths[:row]), -1)
            return Merging(assignment, slots, sampling.weights[row].float().cpu(), lengths[row])
        row -= len(lengths)
    raise InputError(f"the trace has the clips 0 to {len(site.lengths) - 1}, got clip={clip}")


@contextmanager
def watch(model: nn.Module, last: Mapping[str, str] | None = None) -> Iterator[Watched]:
    """Record what the SGS layers of a network do while the context is open, with the maps they work on.

    Args:
        model: any network, adapted or not.
        last: the path of the last module with maps of each pathway, by the pathway's name: for networks of several
            pathways that are not ours.

    Examples:
        >>> import atfr
        >>> from atfr import viz
        >>> model = atfr.create_model("resnet3d_18", num_classes=4)
        >>> report = atfr.adapt_(model, after="res2")
        >>> with viz.watch(model) as watched:
        ...     logits = model(torch.rand(1, 3, 8, 32, 32))
        >>> tuple(watched.sites["res2"].before[0].shape)
        (32, 8, 8, 8)
        >>> figure = viz.magnitudes(watched)
    """
    paths = {id(module): path for path, module in model.named_modules()}
    layers = site_names(model)
    marks = last_layers(model) if last is None else last
    pathways = {site: pathway_of(paths[id(layer)], marks) for site, layer in layers.items()}
    sites: dict[str, SiteMaps] = {}

    def look(site: str, layer: nn.Module, args: Any, output: Any) -> None:
        maps = sites.setdefault(site, SiteMaps())
        before, after = clips_of(args[0]), clips_of(output)
        maps.before += [kept(clip) for clip in before]
        maps.after += [kept(clip) for clip in after]
        maps.coordinates += [coordinates(layer, clip) for clip in before]

    with ExitStack() as stack, record(model) as trace:
        for site, layer in layers.items():
            stack.enter_context(layer.register_forward_hook(partial(look, site)))
        yield Watched(trace, sites, pathways)


def last_layers(model: nn.Module) -> dict[str, str]:
    """Return the path of the last stage of each pathway of our networks, by the pathway's name; {} for others."""
    stages = getattr(model, "stage_paths", {})
    if isinstance(path := stages.get("res5"), str):
        return {"": path}
    named = {stage.removeprefix("res5."): path for stage, path in stages.items() if stage.startswith("res5.")}
    return {name: path for name, path in named.items() if isinstance(path, str)}


def pathway_of(path: str, last: Mapping[str, str]) -> str:
    """Return the pathway that a module lies in.

    The last layers of several pathways differ from some component of their paths on: `blocks.4.multipathway_blocks.0`
    and `.1` mark every module inside some `multipathway_blocks.0` as one of the first pathway.
    """
    if len(last) < 2:
        return next(iter(last), "")
    parts = {name: layer.split(".") for name, layer in last.items()}
    shared = 0
    while len({tuple(layer[: shared + 1]) for layer in parts.values()}) == 1:
        shared += 1
    for name, layer in parts.items():
        if f".{'.'.join(layer[max(shared - 1, 0) :])}." in f".{path}.":
            return name
    return ""


def clips_of(features: Tensor) -> list[Float[Tensor, "C _ H W"]]:
    """Return the clips of a plain or of a packed batch."""
    return features.unpack() if isinstance(features, PackedClips) else list(features.unbind(0))


def kept(features: Tensor) -> Tensor:
    """Return a copy on the CPU: what comes behind may work in place."""
    return features.detach().clone().cpu()


@torch.no_grad()
def coordinates(layer: nn.Module, features: Float[Tensor, "C T H W"]) -> tuple[Coordinate, ...]:
    """Return what a sampler compares the maps of a clip by, and the edges of its bins (of SGS: Eq. 1-3)."""
    if isinstance(layer, ChangeGuidedSampling):
        return (change(layer, features),)
    if not isinstance(layer, SimilarityGuidedSampling):
        return ()
    embedding_1TL = layer.describe(features[None])
    embedding_1TL = embedding_1TL if embedding_1TL.dtype == torch.float64 else embedding_1TL.float()
    values = sgs.coordinates(embedding_1TL, layer.coordinates)
    bins = layer.num_bins if isinstance(layer.num_bins, tuple) else (layer.num_bins,) * len(values)
    frames = embedding_1TL.shape[1]
    size = layer.temporal_block or frames
    spans = [(start, min(start + size, frames)) for start in range(0, frames, size)]

    def blocks(value_1T: Float[Tensor, "1 T"], number: int | None) -> tuple[Block, ...]:
        return tuple(
            Block(start, stop, edges(value_1T[:, start:stop], number or stop - start, layer.top_edge))
            for start, stop in spans
        )

    radius = layer.coordinates != "angular"
    names = ["magnitude"] * radius + [f"angle {k + 1}" for k in range(len(values) - radius)]
    return tuple(
        Coordinate(name, value_1T[0].cpu(), blocks(value_1T, number))
        for name, value_1T, number in zip(names, values, bins, strict=True)
    )


def change(layer: ChangeGuidedSampling, features: Float[Tensor, "C T H W"]) -> Coordinate:
    """Return how many bins have been passed up to each map."""
    frames = features.shape[1]
    path = layer.path(layer.describe(features[None]), torch.tensor([frames], device=features.device))
    lines = torch.arange(min(layer.num_bins or frames, frames) + 1).float()
    return Coordinate(CHANGE, path.place[0].float().cpu(), (Block(0, frames, lines),))


def edges(value_1T: Float[Tensor, "1 T"], num_bins: int, top_edge: sgs.TopEdge) -> Float[Tensor, " E"]:
    """Return the B + 1 edges of the bins of one block; none where all values are 0, or bins too many to be seen."""
    if num_bins > MOST_BINS or not value_1T.any():
        return value_1T.new_zeros(0).cpu()
    width = 2 * sgs.half_width(value_1T, torch.tensor([num_bins], device=value_1T.device), top_edge)
    return (width * torch.arange(num_bins + 1, device=width.device)).cpu()


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
