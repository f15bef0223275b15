"""The operation itself: layers become children of the modules they stand behind.

A layer is the child named `sgs` of its module. A plain `nn.Sequential` runs its children in order, so it needs no more;
any other module gets a forward hook that passes its output through its child.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atfr.adapt.layers import LAYERS, Sampler, make_layer
from atfr.adapt.places import float_like, output_channels, resolve
from atfr.adapt.trial import try_packed
from atfr.errors import AdaptError, InputError, UnsupportedOperationError
from atfr.ragged import PackedClips
from atfr.samplers import SimilarityGuidedSampling
from atfr.samplers.functional import Kernel, Order, Similarity, TopEdge
from atfr.samplers.sgs import NumBins
from atfr.trace import CHILD, site_names


@dataclass(frozen=True)
class AdaptedSite:
    """One layer that `adapt_` put in.

    Attributes:
        site: the stage or submodule that it stands behind, the name under which `record` lists it.
        path: that submodule's path in the network.
        channels: channels of its output.
        new_parameters: how many numbers the layer adds.
    """

    site: str
    path: str
    channels: int
    new_parameters: int


@dataclass(frozen=True)
class AdaptReport:
    """What `adapt_` did.

    Attributes:
        sites: the layers, in the order asked for.
        tried: whether the adapted network passed a trial on the meta device; False where no trial clip fits the
            network (give `example=`), so that what cannot work shows at the first batch only.
    """

    sites: tuple[AdaptedSite, ...]
    tried: bool

    @property
    def new_parameters(self) -> int:
        """How many numbers the layers add."""
        return sum(site.new_parameters for site in self.sites)

    @property
    def site(self) -> str:
        """The name of the one site."""
        return self._only.site

    @property
    def path(self) -> str:
        """The submodule path of the one site."""
        return self._only.path

    @property
    def channels(self) -> int:
        """The channels at the one site."""
        return self._only.channels

    @property
    def _only(self) -> AdaptedSite:
        if len(self.sites) != 1:
            names = ", ".join(site.site for site in self.sites)
            raise InputError(f"the network was adapted at {len(self.sites)} sites ({names}); read report.sites")
        return self.sites[0]


def adapt_(
    model: nn.Module,
    after: str | Sequence[str] = "res2",
    num_bins: NumBins = None,
    kernel: Kernel = "linear",
    embedding_dim: int = 8,
    top_edge: TopEdge = "center",
    order: Order = "magnitude",
    example: Any = None,
    *,
    similarity: Similarity = "magnitude",
    temporal_block: int | Sequence[int | None] | None = None,
    sampler: Sampler = "sgs",
    active_bins: float | Sequence[float] | None = None,
) -> AdaptReport:
    """Put SGS behind a stage of a network, or behind several, in place.

    Behind it the network runs on packed clips of different lengths; its forward signature does not change. Do this
    before the optimiser is made: the similarity network has parameters of its own.

    Args:
        after: a stage of our models (stem, res2, res3, res4, res5), or the path of a submodule of any network; or
            several of them. A stage of SlowFast is two modules, one a pathway ("res2.fast" and "res2.slow" name one).
        num_bins, kernel, embedding_dim, top_edge, order, similarity: see `SimilarityGuidedSampling`.
        example: an input of the network, where it takes anything else than clips N x 3 x T x H x W.
        temporal_block: group within blocks of so many maps; for several layers one for each, in their order: SlowFast's
            stages are (fast, slow), so that the paper's setting for Something-Something is (8, 2).
        sampler: "sgs"; or at its place a control that keeps the same number of maps without similarity: "uniform"
            (every k-th map), "average" (means of equal groups), "random" (means of random groups); or "attention", the
            temporal double attention of the paper's Table A.6, which merges nothing.
        active_bins: the mean number of maps that a control keeps; for several layers one for each.

    Raises:
        AdaptError: there is no such stage, its output is no N x C x T x H x W, the network is adapted already, or it is
            wrapped (DistributedDataParallel, torch.compile).
        UnsupportedNetworkError: a module behind the layer cannot work on clips of different lengths; the network is
            left as it was.
        InputError: an option out of range, or one that the sampler does not have.

    Examples:
        >>> import atfr
        >>> model = atfr.create_model("x3d_xs", num_classes=10)
        >>> atfr.adapt_(model, after="res2").channels
        24
    """
    names = list(after) if isinstance(after, Sequence) and not isinstance(after, str) else [after]
    if not isinstance(model, nn.Module) or not names or not all(isinstance(name, str) for name in names):
        raise AdaptError(f"adapt_ takes a network and the names of stages or submodules, got {type(model)}, {after!r}")
    refuse_wrapped(model)
    if adapted := [path for path, module in model.named_modules() if was_adapted(module)] or list(site_names(model)):
        raise AdaptError(
            f"the network has SGS behind {', '.join(adapted)} already; take it out with atfr.restore_ first"
        )
    places = resolve(model, after)
    for path in places.values():
        if isinstance(model.get_submodule(path), nn.ModuleList | nn.ModuleDict):
            raise AdaptError(f"{path!r} is a list of modules, which a new child would join; name the module around it")
        if hasattr(model.get_submodule(path), CHILD):
            raise AdaptError(f"{path!r} has an attribute named {CHILD!r} of its own; choose another submodule")
    channels = output_channels(model, list(places.values()), example)
    blocks = one_each("temporal_block", temporal_block, list(places))
    kept = one_each("active_bins", active_bins, list(places))
    options: dict[str, Any] = {"num_bins": num_bins, "kernel": kernel, "embedding_dim": embedding_dim}
    options |= {"top_edge": top_edge, "order": order, "similarity": similarity}
    layers = [
        make_layer(sampler, channels[path], active, options | {"temporal_block": block})
        for path, block, active in zip(places.values(), blocks, kept, strict=True)
    ]
    for path, layer in zip(places.values(), layers, strict=True):
        put_behind(model.get_submodule(path), layer, float_like(model))
    model.register_forward_hook(check_rows)
    try:
        unknown = try_packed(model, example)
    except BaseException:
        restore_(model)
        raise
    if unknown is not None:
        warnings.warn(
            f"adapt_ could not try whether {type(model).__name__} works behind SGS, with no trial clip or with "
            f"example=: {unknown}. What does not work will raise at the first batch; an input that the network takes "
            "tells now: adapt_(model, ..., example=x)",
            stacklevel=2,
        )
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    found = zip(places.items(), sizes, strict=True)
    return AdaptReport(
        tuple(AdaptedSite(site, path, channels[path], size) for (site, path), size in found), unknown is None
    )


def one_each(name: str, value: Any, sites: Sequence[str]) -> list[Any]:
    """Return the option of each layer: one for all, or one for each."""
    if not isinstance(value, Sequence):
        return [value] * len(sites)
    if len(value) != len(sites):
        raise InputError(f"{name} must be one value, or one for each of {', '.join(sites)}, got {value!r}")
    return list(value)


def put_behind(target: nn.Module, layer: nn.Module, like: Tensor) -> None:
    """Make a layer the child of a module that its output goes through."""
    layer.train(target.training)
    layer.to(like.device, like.dtype)
    target.add_module(CHILD, layer)
    if not runs_children_in_order(target):
        target.register_forward_hook(run_child)


def restore_(model: nn.Module) -> None:
    """Take SGS out again: the network's logits and state_dict keys are those from before `adapt_`.

    Raises:
        AdaptError: the network has no SGS put in by `adapt_`.
    """
    targets = [module for module in model.modules() if was_adapted(module)]
    if not targets:
        raise AdaptError("the network has no SGS to take out; atfr.adapt_ puts one in")
    for target in targets:
        delattr(target, CHILD)
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if hook in (run_child, check_rows):
                del module._forward_hooks[key]


def set_num_bins_(model: nn.Module, num_bins: NumBins) -> None:
    """Set the number of similarity bins of every SGS layer, also of a trained network (None: as many as frames).

    Source: Fayyaz et al. 2021, appendix C, Table A.4.

    Raises:
        AdaptError: the network has no SGS.
        InputError: a number below 1, or another number of numbers than SGS has coordinates.
    """
    layers = [layer for layer in site_names(model).values() if isinstance(layer, SimilarityGuidedSampling)]
    if not layers:
        raise AdaptError("the network has no SGS; put one in with atfr.adapt_")
    checked = [layer.checked_bins(num_bins) for layer in layers]
    for layer, bins in zip(layers, checked, strict=True):
        layer.num_bins = bins


def adaptation(model: nn.Module) -> dict[str, Any] | None:
    """Return the arguments of `adapt_` that make the layers the network has now, or None where it has none."""
    stages = {path: stage for stage, path in getattr(model, "stage_paths", {}).items() if isinstance(path, str)}
    layers = {path: module.get_submodule(CHILD) for path, module in model.named_modules() if was_adapted(module)}
    if not layers:
        return None
    named = [path for path in stages if path in layers]
    paths = named + [path for path in layers if path not in named]
    sites = [stages.get(path, path) for path in paths]
    settings = [layers[path].settings() for path in paths]
    if len(sites) == 1:
        return {"after": sites[0], **settings[0]}
    own = {name for each in settings for name in each} & {"temporal_block", "active_bins"}
    return {"after": sites, **settings[0], **{name: [each.get(name) for each in settings] for name in sorted(own)}}


def check_rows(model: nn.Module, args: Any, output: Any) -> None:
    """Raise where a batch of clips came in and other than one row a clip goes out (a forward hook).

    Operations on packed clips that do not keep them apart raise by themselves; functions of TorchScript do not ask.
    """
    clips = args[0] if args else None
    if isinstance(output, PackedClips):  # a network without a head: its features know their clips
        return
    if isinstance(clips, Tensor) and clips.dim() == 5 and isinstance(output, Tensor) and len(output) != len(clips):
        raise UnsupportedOperationError(
            f"{len(clips)} clips went into {type(model).__name__} and {len(output)} rows came out: something behind "
            "SGS mixed the clips, as functions made by torch.jit.script can; replace them by Python functions"
        )


def runs_children_in_order(module: nn.Module) -> bool:
    """Whether a module is a plain Sequential, which runs a child added to it."""
    return type(module).forward is nn.Sequential.forward


def was_adapted(module: nn.Module) -> bool:
    """Whether `adapt_` put a layer behind this module; one of the network's own is not its."""
    runs = runs_children_in_order(module) or run_child in module._forward_hooks.values()
    return runs and isinstance(getattr(module, CHILD, None), LAYERS)


def run_child(module: nn.Module, args: Any, output: Any) -> Any:
    """Pass a module's output through the SGS layer that is its child (a forward hook)."""
    return getattr(module, CHILD)(output)


def refuse_wrapped(model: nn.Module) -> None:
    """Raise where changing the network would not reach its wrapper."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(model, (*wrappers, torch.jit.ScriptModule)) or hasattr(model, "_orig_mod"):
        raise AdaptError(
            f"cannot adapt a network inside {type(model).__name__}: adapt the network itself, then wrap it"
        )
