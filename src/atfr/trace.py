"""record(model): what every SGS layer did with every clip, without touching the network or its forward signature."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from atfr.errors import InputError
from atfr.sgs.layer import SimilarityGuidedSampling, observers
from atfr.sgs.sampling import Sampling

CHILD = "sgs"
"""What `adapt_` calls the layer, as a child of the module it stands behind."""


@dataclass
class SiteTrace:
    """What one SGS layer did with the clips of all forward passes recorded, in order.

    N counts the clips of all passes.
    """

    samplings: list[Sampling] = field(default_factory=list)

    @property
    def active_bins(self) -> Int[Tensor, " N"]:
        """The number of maps that each clip kept, A."""
        return self._joined([sampling.active_bins for sampling in self.samplings])

    @property
    def assignment(self) -> Int[Tensor, "N T"]:
        """The bin of each map, 0..B-1 in order of magnitude, -1 where the map was dropped."""
        return self._joined([sampling.assignment for sampling in self.samplings])

    @property
    def weights(self) -> Float[Tensor, "N T"]:
        """The factor with which each map entered the output map of its bin."""
        return self._joined([sampling.weights.float() for sampling in self.samplings])

    def _joined(self, parts: list[Tensor]) -> Tensor:
        if not parts:
            raise InputError("nothing was recorded: run the model inside `with atfr.record(model) as trace:`")
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = [tuple(part.shape) for part in parts]
            raise InputError(f"recorded passes must have the same number of frames to be joined, got {shapes}")
        return torch.cat(parts)


@dataclass(frozen=True)
class SamplingTrace:
    """The record of a network's SGS layers by site: the stage or submodule that each stands behind."""

    sites: dict[str, SiteTrace]

    @property
    def active_bins(self) -> Int[Tensor, " N"]:
        """The number of maps that each clip kept, where the network has one SGS layer."""
        if len(self.sites) != 1:
            raise InputError(
                f"active_bins is for networks with one SGS layer, this one has {len(self.sites)} "
                f"({', '.join(self.sites) or 'not adapted'}); read trace.sites[name].active_bins"
            )
        return next(iter(self.sites.values())).active_bins


def site_names(model: nn.Module) -> dict[str, SimilarityGuidedSampling]:
    """Return the SGS layers of a network by site: the stage's name where the network names stages, else its path."""
    stages = {path: stage for stage, path in getattr(model, "stage_paths", {}).items()}
    sites = {}
    for path, module in model.named_modules():
        if isinstance(module, SimilarityGuidedSampling):
            parent, _, own = path.rpartition(".")
            site = parent if own == CHILD and parent else path
            sites[stages.get(site, site)] = module
    return sites


@contextmanager
def record(model: nn.Module) -> Iterator[SamplingTrace]:
    """Record what the SGS layers of a network do while the context is open.

    Other threads that run the same network are not recorded. A network without SGS gives a trace without sites.

    Example:
        >>> import atfr
        >>> model = atfr.create_model("resnet3d_18", num_classes=4)
        >>> report = atfr.adapt_(model, after="res2")
        >>> with atfr.record(model) as trace:
        ...     logits = model(torch.rand(2, 3, 8, 32, 32))
        >>> trace.sites["res2"].assignment.shape
        torch.Size([2, 8])
    """
    names = {id(layer): name for name, layer in site_names(model).items()}
    trace = SamplingTrace({name: SiteTrace() for name in names.values()})

    def observe(layer: SimilarityGuidedSampling, sampling: Sampling) -> None:
        if (name := names.get(id(layer))) is not None:
            detached = replace(sampling, weights=sampling.weights.detach())  # a trace keeps no graph alive
            trace.sites[name].samplings.append(detached)

    token = observers.set((*observers.get(), observe))
    try:
        yield trace
    finally:
        observers.reset(token)
