"""split: an adapted network as what comes before its SGS, the SGS layers, and what comes behind.

The network is exported once (`torch.export`) with its SGS layers opened: each hands out the maps that come in, and
passes on maps that come from outside. What comes before and what comes behind are two halves of this one graph.

N batch, C channels, T maps in, A maps a clip keeps, H, W, K classes.
"""

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.export import Dim

from atfr.adapt.meta import on_meta
from atfr.adapt.trace import site_names
from atfr.errors import UnsupportedNetworkError
from atfr.samplers.sampler import TemporalSampler

CHECKS = ("_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size")
"""Operations of an exported graph that compute nothing: they hold an input to what the graph was made for."""


@dataclass(frozen=True)
class Split:
    """An adapted network in three; it shares its parameters. It is as in evaluation mode.

    Attributes:
        before: clips N x C x T x H x W to the maps that come to each site, a tuple.
        samplers: the SGS layer (or control) of each site.
        after: the maps that each site keeps, N x C x A x H x W, one argument a site, to logits. Every clip of a call
            has the same A; it may differ from site to site and from call to call.
    """

    before: fx.GraphModule
    samplers: dict[str, TemporalSampler]
    after: fx.GraphModule

    def __call__(self, clip: Float[Tensor, "1 C T H W"]) -> Float[Tensor, "1 K"]:
        """Do what the network does with one clip."""
        features = self.before(clip)
        kept = [layer(maps).plain() for layer, maps in zip(self.samplers.values(), features, strict=True)]
        return self.after(*kept)


def split(model: nn.Module, clip_shape: Sequence[int] | None = None) -> Split:
    """Split a network, as it is in evaluation mode, at its SGS layers, for clips of one shape and any number of them.

    Args:
        model: a network that takes clips N x C x T x H x W, with SGS (or a control) at one site or at several beside
            each other.
        clip_shape: C, T, H, W; by default the one that a network of atfr is made for.

    Raises:
        UnsupportedNetworkError: no SGS, one behind another, a way around it, or torch.export cannot take the network.

    Examples:
        >>> import atfr
        >>> late = nn.Conv3d(8, 8, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten(1), nn.Linear(8, 4)
        >>> model = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), *late).eval()
        >>> report = atfr.adapt_(model, after="0")
        >>> parts = split(model, (3, 8, 32, 32))
        >>> (maps,) = parts.before(torch.rand(1, 3, 8, 32, 32))
        >>> kept = parts.samplers["0"](maps)
        >>> parts.after(kept.plain()).shape
        torch.Size([1, 4])
    """
    name = type(model).__name__
    samplers = site_names(model)
    if not samplers:
        raise UnsupportedNetworkError(f"{name} has no SGS to be split at; put one in with atfr.adapt_")
    like = next(model.parameters())
    graph = exported(Opened(model), like.new_zeros(2, *(clip_shape or model.clip_shape)))
    sites = list(samplers)
    outputs: Any = graph.graph.output_node().args[0]
    *features, logits = outputs
    inputs = graph.graph.find_nodes(op="placeholder")
    for site, node in zip(sites, features, strict=True):
        if needed(node) - {inputs[0]}:
            raise UnsupportedNetworkError(
                f"{name} has SGS at {', '.join(sites)}, of which {site!r} stands behind another; it runs as it is, "
                "but cannot be split: put SGS behind one stage"
            )
    if inputs[0] in needed(logits):
        raise UnsupportedNetworkError(
            f"{name} has a way around SGS at {', '.join(sites)} and cannot be split there; put SGS behind a module "
            "that all later ones depend on"
        )
    return Split(part(graph, inputs[:1], tuple(features)), samplers, part(graph, inputs[1:], logits))


class Ends:
    """The two ends of a cut: the maps that came in, and those to pass on."""

    features: Tensor
    kept: Tensor | None = None


class Opening(nn.Module):
    """Stands at an SGS layer's place: keeps what comes in, and passes on what it is given, if anything."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = Ends()  # an object of its own: torch.export watches what modules hold

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C A H W"]:
        """Pass on the maps that were given."""
        self.ends.features = features
        return features if self.ends.kept is None else self.ends.kept


class Opened(nn.Module):
    """A copy of a network, with its own parameters, whose SGS layers' inputs come out, and outputs go in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.network = copy.deepcopy(model, shared).eval()
        openings = []
        paths = {module: path for path, module in self.network.named_modules()}
        for layer in site_names(self.network).values():
            openings.append(Opening())
            self.network.set_submodule(paths[layer], openings[-1])
        self.ends = [opening.ends for opening in openings]

    def forward(self, clips: Float[Tensor, "N C T H W"], *kept: Float[Tensor, "N _ A _ _"]) -> tuple[Tensor, ...]:
        """Return the maps that come to each site, then the logits."""
        for ends, maps in zip(self.ends, kept, strict=False):
            ends.kept = maps
        logits = self.network(clips)
        return *(ends.features for ends in self.ends), logits


def exported(opened: Opened, clips: Float[Tensor, "N C T H W"]) -> fx.GraphModule:
    """Return the graph of an opened network, with any number of clips, and of maps that they keep.

    Raises:
        UnsupportedNetworkError: torch.export cannot take the network.
    """
    *features, _ = on_meta(opened)(clips.to("meta"))
    kept = [torch.zeros_like(maps, device=clips.device) for maps in features]
    frames = [maps.shape[2] for maps in features]
    dynamic = [{0: Dim.AUTO}] + [{0: Dim.AUTO, 2: Dim.AUTO} if longest > 1 else {0: Dim.AUTO} for longest in frames]
    try:
        with torch.no_grad():
            program = torch.export.export(opened, (clips, *kept), dynamic_shapes=(dynamic[0], tuple(dynamic[1:])))
    except Exception as error:
        raise UnsupportedNetworkError(
            f"torch.export cannot take {type(opened.network).__name__} apart at its SGS: {type(error).__name__}: "
            f"{(str(error).strip().splitlines() or [''])[0]}"
        ) from error
    return program.module(check_guards=False)


def needed(node: fx.Node) -> set[fx.Node]:
    """Return the graph's inputs that a node depends on."""
    seen, ahead = {node}, [node]
    while ahead:
        new = set(ahead.pop().all_input_nodes) - seen
        seen |= new
        ahead += new
    return {one for one in seen if one.op == "placeholder"}


def part(graph: fx.GraphModule, inputs: Sequence[fx.Node], result: fx.Node | tuple[fx.Node, ...]) -> fx.GraphModule:
    """Return the part of a graph that leads from some of its inputs to some of its nodes."""
    own, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.graph.nodes:
        if node in inputs or node.op in ("call_function", "get_attr"):
            with contextlib.suppress(KeyError):  # what another part's inputs lead to
                copies[node] = own.node_copy(node, copies.__getitem__)
    own.output(fx.map_arg(result, copies.__getitem__))
    for node in reversed(own.nodes):
        if not node.users and getattr(node.target, "_opname", "") in CHECKS:
            own.erase_node(node)
    own.eliminate_dead_code()
    return fx.GraphModule(graph, own)
