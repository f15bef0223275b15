"""record(model): what every sampler did with every clip, without touching the network or its forward signature."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.errors import InputError
from atfr.ragged.operations import in_backward
from atfr.samplers.sampler import TemporalSampler, observers
from atfr.samplers.sampling import Sampling

CHILD = "sgs"
"""What `adapt_` calls the layer, as a child of the module it stands behind, or of the network whose input it takes."""

INPUT = "input"
"""The site of a layer that stands before the first module."""

DOWN_WEIGHTED = 0.5
"""A map is down-weighted where its weight is below this share of the largest in its bin."""


@dataclass(frozen=True)
class MapCounts:
    """What became of the maps of N clips at one site, in numbers; each tuple has one of each clip.

    Attributes:
        maps: those that came in.
        active_bins: those that went on, A.
        dropped: those that came in and are in none that went on.
        down_weighted: those with less than half the weight of the one that counts most in the same bin.
    """

    maps: tuple[int, ...]
    active_bins: tuple[int, ...]
    dropped: tuple[int, ...]
    down_weighted: tuple[int, ...]

    def of(self, clips: slice) -> "MapCounts":
        """Return the counts of some of the clips."""
        return MapCounts(*(getattr(self, one.name)[clips] for one in fields(self)))

    @classmethod
    def joined(cls, parts: "Sequence[MapCounts]") -> "MapCounts":
        """Return the counts of the clips of all parts, one part after the other."""
        return cls(*(tuple(count for part in parts for count in getattr(part, one.name)) for one in fields(cls)))


@dataclass
class SiteTrace:
    """What one sampler did with the clips of all forward passes recorded, in order.

    N counts the clips of all passes, T the maps of the longest clip that came in: where clips come in different
    lengths, assignment is -1 and weights are 0 behind a clip's end.
    """

    samplings: list[Sampling] = field(default_factory=list)

    @property
    def active_bins(self) -> Int[Tensor, " N"]:
        """The number of maps that each clip kept, A."""
        return torch.cat([sampling.active_bins for sampling in self._recorded])

    @property
    def lengths(self) -> list[int]:
        """The same numbers in Python, without waiting for the device."""
        return [length for sampling in self.samplings for length in sampling.layout.lengths]

    @property
    def assignment(self) -> Int[Tensor, "N T"]:
        """The bin of each map, 0..B-1 in order of magnitude, -1 where the map was dropped."""
        return joined([sampling.assignment for sampling in self._recorded], padding=-1)

    @property
    def weights(self) -> Float[Tensor, "N T"]:
        """The factor with which each map entered the output map of its bin."""
        return joined([sampling.weights.float() for sampling in self._recorded], padding=0)

    @property
    def counts(self) -> MapCounts:
        """What became of the maps of each clip."""
        return MapCounts.joined([counts(sampling) for sampling in self._recorded])

    @property
    def _recorded(self) -> list[Sampling]:
        if not self.samplings:
            raise InputError("nothing was recorded: run the model inside `with atfr.record(model) as trace:`")
        return self.samplings


def counts(sampling: Sampling) -> MapCounts:
    """Count what became of the maps of each clip; waits for the device."""
    kept_NT = sampling.assignment >= 0
    slots, weights = sampling.slots[kept_NT], sampling.weights[kept_NT].float()
    largest = weights.new_zeros(sampling.layout.total).scatter_reduce(0, slots, weights, "amax")
    weak_NT = kept_NT.clone()
    weak_NT[kept_NT] = weights < DOWN_WEIGHTED * largest[slots]
    dropped_N = sampling.maps - kept_NT.sum(1)
    maps, dropped, weak = torch.stack([sampling.maps, dropped_N, weak_NT.sum(1)]).tolist()
    return MapCounts(tuple(maps), sampling.layout.lengths, tuple(dropped), tuple(weak))


def joined(parts: list[Tensor], padding: int) -> Tensor:
    """Return rows of passes one after the other, the shorter ones filled up."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, longest - part.shape[1]), value=padding) for part in parts])


@dataclass(frozen=True)
class SamplingTrace:
    """The record of a network's samplers by site: the stage or submodule that each stands behind."""

    sites: dict[str, SiteTrace]

    @property
    def kept_maps(self) -> list[int]:
        """The number of maps that each clip kept, summed over the sites; empty without a site."""
        return [sum(clip) for clip in zip(*(site.lengths for site in self.sites.values()), strict=True)]

    @property
    def active_bins(self) -> Int[Tensor, " N"]:
        """The number of maps that each clip kept, where the network has one sampler."""
        if len(self.sites) != 1:
            if not self.sites:
                raise InputError("active_bins: this network has no sampler that leaves maps out; see atfr.adapt_")
            raise InputError(
                f"active_bins is for networks with one sampler, this one has {len(self.sites)} "
                f"({', '.join(self.sites)}); read trace.sites[name].active_bins"
            )
        return next(iter(self.sites.values())).active_bins


def site_names(model: nn.Module) -> dict[str, TemporalSampler]:
    """Return the samplers of a network by site: the stage's name where the network names stages, else its path.

    One at the input comes first. Named stages come in the network's own order, which for SlowFast is fast, then slow;
    others in that of its modules.
    """
    stages = {path: stage for stage, path in getattr(model, "stage_paths", {}).items() if isinstance(path, str)}
    sites = {INPUT: getattr(model, CHILD)} if isinstance(first_of(model), TemporalSampler) else {}
    for path, module in model.named_modules():
        if isinstance(module, TemporalSampler) and module not in sites.values():
            parent, _, own = path.rpartition(".")
            site = parent if own == CHILD and parent else path
            sites[stages.get(site, site)] = module
    order = {stage: place for place, stage in enumerate([INPUT, *stages.values()])}
    return dict(sorted(sites.items(), key=lambda site: order.get(site[0], len(order))))


def run_first(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Pass a network's clips through the layer that is its child (a forward pre-hook, which `adapt_` registers)."""
    layer = getattr(module, CHILD)
    if args:
        return (layer(args[0]), *args[1:]), kwargs
    name = next(iter(kwargs), None)
    return args, kwargs if name is None else kwargs | {name: layer(kwargs[name])}


def first_of(model: nn.Module) -> nn.Module | None:
    """Return the layer that `adapt_` has put before all others of a network, if any."""
    if getattr(type(model), "forward", None) is nn.Sequential.forward:  # which runs its children in order
        name, first = next(iter(model.named_children()), ("", None))
        return first if name == CHILD else None
    return getattr(model, CHILD, None) if run_first in model._forward_pre_hooks.values() else None


@contextmanager
def record(model: nn.Module) -> Iterator[SamplingTrace]:
    """Record what the samplers of a network do while the context is open.

    Other threads that run the same network are not recorded. A network without any gives a trace without sites.

    Raises:
        InputError: it is no module.

    Examples:
        >>> import atfr
        >>> model = atfr.create_model("resnet3d_18", num_classes=4)
        >>> report = atfr.adapt_(model, after="res2")
        >>> with atfr.record(model) as trace:
        ...     logits = model(torch.rand(2, 3, 8, 32, 32))
        >>> trace.sites["res2"].assignment.shape
        torch.Size([2, 8])
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"atfr.record takes a network, an nn.Module, got {type(model).__name__}")
    network = uncompiled(model)
    names = {id(layer): name for name, layer in site_names(network).items()}
    trace = SamplingTrace({name: SiteTrace() for name in names.values()})

    def observe(layer: TemporalSampler, sampling: Sampling) -> None:
        if (name := names.get(id(layer))) is not None and not in_backward():  # where checkpoints run again
            detached = replace(sampling, weights=sampling.weights.detach())  # a trace keeps no graph alive
            trace.sites[name].samplings.append(detached)

    token = observers.set((*observers.get(), observe))
    try:
        yield trace
    finally:
        observers.reset(token)


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the network that `atfr.compile` or `torch.compile` was given; any other as it is."""
    return getattr(model, "_orig_mod", model)
