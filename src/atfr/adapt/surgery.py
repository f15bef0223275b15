"""The operation itself: samplers become children of the modules they stand behind, or of the network at its input."""

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from atfr.adapt.hooks import check_rows, put_before, put_behind, take_out, was_adapted
from atfr.adapt.layers import Sampler, make_layer, options_of
from atfr.adapt.padding import edge_maps_at
from atfr.adapt.places import float_like, output_shapes, resolve, undisturbed
from atfr.adapt.trace import CHILD, INPUT, site_names
from atfr.adapt.trial import try_packed
from atfr.checks import at_least_one
from atfr.errors import AdaptError, InputError
from atfr.samplers import WITH_BINS
from atfr.samplers.change import MIX
from atfr.samplers.functional import Kernel, Order, Similarity, TopEdge
from atfr.samplers.sgs import NumBins


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
        tried: whether the adapted network passed a trial; False where no trial clip fits it (give `example=`), so that
            what cannot work shows at the first batch only.
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
    mix: float = MIX,
    dead_zone: float | Sequence[float | None] | None = None,
    edge_maps: int | Sequence[int] | Literal["found"] | None = None,
) -> AdaptReport:
    """Put a sampler at the input of a network, behind a stage, or behind several, in place.

    Behind it the network runs on packed clips of different lengths; its forward signature does not change. Do this
    before the optimiser is made: the similarity network of SGS has parameters of its own.

    The defaults are the paper's, and not what won here: on real videos trimmed to their actions SGS behind res2 was not
    better than evenly spaced maps (2.9 points below; 95 %: -0.8 to +6.7), and where events are brief `after="input",
    sampler="change"` was 10 points above SGS. docs/adaptivity.md has the evidence; `atfr compare` asks your videos.

    Args:
        after: "input"; a stage of our models (stem, res2, res3, res4, res5); or the path of a submodule of any network;
            or several of them. A stage of SlowFast is two modules, one a pathway ("res2.fast" and "res2.slow" name
            one). At the input all of the network saves: what costs as much is the network on fewer frames.
        num_bins: the most maps a clip keeps, of `sampler="sgs"` and "change"; None: as many as come in. SGS has one
            number for each coordinate, or one for all. "change" has one for each layer, or one for that with the most
            maps, of which the others have their share.
        kernel, embedding_dim, top_edge, order, similarity: of SGS, see `SimilarityGuidedSampling`.
        example: an input of the network, where it takes anything else than clips N x 3 x T x H x W.
        temporal_block: SGS groups within blocks of so many maps; for several layers one for each, in their order:
            SlowFast's stages are (fast, slow), so that the paper's setting for Something-Something is (8, 2).
        sampler: "sgs", the paper's; "change", which keeps maps where the clip changes (`ChangeGuidedSampling`); a
            control that keeps as many without looking: "uniform" (every k-th map), "average" (means of equal groups),
            "random" (means of random groups); or "attention", the temporal double attention of the paper's Table A.6,
            which merges nothing.
        active_bins: the mean number of maps that a control keeps; for several layers one for each.
        mix, dead_zone: of "change", see `ChangeGuidedSampling`; for several layers one dead zone for each.
        edge_maps: of SGS and "change": so many maps at either end of a clip are touched by the zero padding of earlier
            layers, and count as the others do; for several layers one for each. "found" counts them. None: found for
            "change", and 0 for SGS, which in the paper takes them as they are.

    Raises:
        AdaptError: there is no such stage, its output is no N x C x T x H x W, the network is no video network, is
            adapted already, or is wrapped (DistributedDataParallel, torch.compile).
        UnsupportedNetworkError: a module behind the layer cannot work on clips of different lengths; the network is
            left as it was.
        InputError: an option out of range, or one that the sampler does not have.

    Examples:
        >>> import atfr
        >>> model = atfr.create_model("x3d_xs", num_classes=10)
        >>> atfr.adapt_(model, after="res2").channels
        24
    """
    given = {name: value for name, value in locals().items() if name != "model"}
    sites = put_samplers_(model, **given)
    try:
        with undisturbed(model):
            unknown = try_packed(model, example)
    except BaseException:
        restore_(model)
        raise
    if unknown is not None:
        if example is None and not any(parameter.dim() == 5 for parameter in model.parameters()):
            restore_(model)
            raise AdaptError(
                f"a sampler works in networks of clips N x C x T x H x W; {type(model).__name__} has no 3D "
                f"convolution, and a trial clip does not pass ({unknown}); if it is one, pass an input that it takes: "
                "adapt_(model, ..., example=x)"
            )
        warnings.warn(
            f"adapt_ could not try whether {type(model).__name__} works behind the sampler, with no trial clip or with "
            f"example=: {unknown}. What does not work will raise at the first batch; an input that the network takes "
            "tells now: adapt_(model, ..., example=x)",
            stacklevel=2,
        )
    return AdaptReport(sites, unknown is None)


def put_samplers_(model: nn.Module, **options: Any) -> tuple[AdaptedSite, ...]:
    """Do what `adapt_` does, with its arguments, but for the trial: for a network that has passed it before."""
    bound = inspect.signature(adapt_).bind(model, **options)
    bound.apply_defaults()
    options = {name: value for name, value in bound.arguments.items() if name != "model"}
    after, sampler, example = (options.pop(name) for name in ("after", "sampler", "example"))
    names = list(after) if isinstance(after, Sequence) and not isinstance(after, str) else [after]
    if not isinstance(model, nn.Module) or not names or not all(isinstance(name, str) for name in names):
        raise AdaptError(f"adapt_ takes a network and the names of stages or submodules, got {type(model)}, {after!r}")
    places = checked_places(model, after)
    shapes = output_shapes(model, list(places.values()), example)
    own, num_bins = options_of(sampler), options["num_bins"]
    if options["edge_maps"] is None and "edge_maps" in own:
        options["edge_maps"] = "found" if sampler == "change" else 0
    if options["edge_maps"] == "found":
        options["edge_maps"] = edge_maps_at(model, list(places.values()), example)
    if sampler == "change" and isinstance(num_bins, int) and not isinstance(num_bins, bool):
        at_least_one("num_bins", num_bins)
        most = max(frames for _, frames in shapes.values())
        options["num_bins"] = [max(1, round(num_bins * shapes[path][1] / most)) for path in places.values()]
    defaults = {name: parameter.default for name, parameter in bound.signature.parameters.items()}
    several = {*EACH, "num_bins"} if sampler == "change" else EACH
    each = {name: one_each(name, options[name], list(places)) for name in several}
    layers = [
        make_layer(sampler, shapes[path][0], options | {name: values[i] for name, values in each.items()}, defaults)
        for i, path in enumerate(places.values())
    ]
    for path, layer in zip(places.values(), layers, strict=True):
        target, like = model.get_submodule(path), float_like(model, path)
        put = put_behind if path else put_before
        put(target, layer.train(target.training).to(like.device, like.dtype))
    model.register_forward_hook(check_rows)
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    found = zip(places.items(), sizes, strict=True)
    return tuple(AdaptedSite(site, path, shapes[path][0], size) for (site, path), size in found)


def checked_places(model: nn.Module, after: str | Sequence[str]) -> dict[str, str]:
    """Return the sites that are meant, each with its submodule path, where layers can be put.

    Raises:
        AdaptError: the network is wrapped or adapted already, or a place is none.
    """
    refuse_wrapped(model)
    adapted = [path or INPUT for path, module in model.named_modules() if was_adapted(module)]
    if adapted := adapted or list(site_names(model)):
        raise AdaptError(
            f"the network has a sampler at {', '.join(adapted)} already; take it out with atfr.restore_ first"
        )
    places = resolve(model, after)
    for path in places.values():
        if isinstance(model.get_submodule(path), nn.ModuleList | nn.ModuleDict):
            raise AdaptError(f"{path!r} is a list of modules, which a new child would join; name the module around it")
        if hasattr(model.get_submodule(path), CHILD):
            raise AdaptError(f"{path or INPUT!r} has an attribute named {CHILD!r} of its own; choose another submodule")
    return places


EACH = ("temporal_block", "active_bins", "dead_zone", "edge_maps")
"""Options that may differ from layer to layer; the number of bins too, where it is one number."""


def one_each(name: str, value: Any, sites: Sequence[str]) -> list[Any]:
    """Return the option of each layer: one for all, or one for each."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * len(sites)
    if len(value) != len(sites):
        raise InputError(f"{name} must be one value, or one for each of {', '.join(sites)}, got {value!r}")
    return list(value)


def restore_(model: nn.Module) -> None:
    """Take all samplers out again: the network's logits and state_dict keys are those from before `adapt_`.

    Raises:
        AdaptError: the network has no layer put in by `adapt_`.
    """
    if not any(was_adapted(module) for module in model.modules()):
        raise AdaptError("the network has no sampler to take out; atfr.adapt_ puts one in")
    take_out(model)


def set_num_bins_(model: nn.Module, num_bins: NumBins) -> None:
    """Set the number of bins of every sampler that has one, also of a trained network.

    Source: Fayyaz et al. 2021, appendix C, Table A.4.

    Args:
        num_bins: for all samplers alike; of SGS also one for each coordinate. None: as many as maps come in, which is
            what `adapt_` gives them where it is not told otherwise.

    Raises:
        AdaptError: the network has no sampler with bins.
        InputError: a number below 1, or another number of numbers than SGS has coordinates.
    """
    layers = [layer for layer in site_names(model).values() if isinstance(layer, WITH_BINS)]
    if not layers:
        raise AdaptError("the network has no sampler with bins (sgs, change); put one in with atfr.adapt_")
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
    sites = [stages.get(path, path) if path else INPUT for path in paths]
    settings = [layers[path].settings() for path in paths]
    if len(sites) == 1:
        return {"after": sites[0], **settings[0]}
    own = {name for each in settings for name in each} & set(EACH)
    own |= {"num_bins"} if settings[0].get("sampler") == "change" else set()
    return {"after": sites, **settings[0], **{name: [each.get(name) for each in settings] for name in sorted(own)}}


def refuse_wrapped(model: nn.Module) -> None:
    """Raise where changing the network would not reach its wrapper, or what PyTorch has compiled of it."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(model, (*wrappers, torch.jit.ScriptModule)) or hasattr(model, "_orig_mod"):
        raise AdaptError(
            f"expected a network itself, got one inside {type(model).__name__}: adapt or optimize it, then wrap it"
        )
    for path, module in model.named_modules():
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted or hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            by = "torch.jit" if scripted else "torch.compile"
            raise AdaptError(
                f"{path or 'the network'!r} was compiled by {by}, which cannot keep clips of different lengths apart; "
                "adapt the network as it was before"
            )
