"""Recording an adapted network as two graphs of plain tensors: up to what its samplers find, and what lies behind.

N clips, T frames, S maps of all clips and of the one behind them, K classes.
"""

import copy
import functools
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.batchnorm import _NormBase

from atfr.adapt.trace import site_names
from atfr.errors import AtfrError, UnsupportedNetworkError
from atfr.private import MAKE_FX, SET_GRAD, one_fake_mode
from atfr.ragged import PackedClips
from atfr.ragged.bucket import Bucket, Filling
from atfr.ragged.operations import packed_like
from atfr.samplers.sampler import TemporalSampler, check_features, merged, merged_into

MARK = torch.ops.aten.alias_copy.default  # at what the graph behind takes; no network calls it
OF_OPERATIONS = "GeneratedBackwardFor"  # gradients of operations made with torch.library, which graphs hold
ENDS = 6
"""Tensors with which the graph before ends, for each sampler: the maps that come to it, and their `Sampling`."""


@dataclass(frozen=True)
class Recording:
    """Two graphs, for clips of one form, and numbers of maps behind the samplers.

    Attributes:
        before: clips to what the samplers find: `ENDS` tensors for each.
        behind: the maps that come to each sampler, weights, slots and active bins to logits.
        sites: the samplers' names, in the order in which they are called.
    """

    before: fx.GraphModule
    behind: fx.GraphModule
    sites: tuple[str, ...]


def recorded(model: nn.Module, clips: Float[Tensor, "N C T H W"], filling: Filling) -> Recording:
    """Record a network for clips of one form.

    Args:
        filling: how many maps of the clips go on; it is told where paths of different lengths are joined.

    Raises:
        UnsupportedOperationError: something in it cannot be recorded.
    """
    name = type(model).__name__
    if MAKE_FX is None:
        raise UnsupportedNetworkError("this version of PyTorch records no graphs (make_fx): run without atfr.compile")
    refuse_counting_norms(model)
    ends: dict[str, tuple[Tensor, ...]] = {}

    def sample(site: str, sampler: TemporalSampler, features: Float[Tensor, "N C T H W"]) -> PackedClips:
        """Do what a sampler does, but for one clip more, which takes what is left of the maps."""
        check_alone(site, sampler, features, ends)
        found, told = sampler.sampling_of(features), operator.itemgetter(len(ends))
        total = filling.total(told)
        ends[site] = (features, found.assignment, found.weights, found.slots, found.active_bins, found.maps)
        *sampled, active_bins = map(MARK, (features, found.weights, found.slots, found.active_bins))
        maps = merged_into(total, *sampled, one_each=sampler.one_each)
        lengths = torch.cat([active_bins, total - active_bins.sum(0, keepdim=True)])
        return packed_like(torch.ops.aten.alias(maps), Bucket(lengths, total, told, filling))

    twin = with_samplers(model, sample)
    own = {id(tensor): path for path, tensor in (*twin.named_parameters(), *twin.named_buffers())}

    def run(clips: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        logits = twin(clips)
        refuse_own_gradients(logits, name)
        if not isinstance(logits, Tensor) or isinstance(logits, PackedClips) or len(logits) != len(clips) + 1:
            raise UnsupportedNetworkError(f"atfr.compile takes networks that give one row a clip; {name} does not")
        return tuple(tensor for found in ends.values() for tensor in found), logits[:-1]

    with randomness_kept(clips), one_fake_mode():
        try:
            module = MAKE_FX(run, pre_dispatch=True)(clips.detach().clone())  # it may be written over
        except (AtfrError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            raise UnsupportedNetworkError(
                f"{name} cannot be recorded for atfr.compile: {(str(error).strip().splitlines() or [''])[0]} (What is "
                "computed must not depend on the maps' numbers. Behind the sampler a batch has one clip more than goes "
                "in, so nothing may lead around it.)"
            ) from error
    before, behind = halves(module, own, name)
    constants = {node.target: getattr(module, node.target) for node in module.graph.find_nodes(op="get_attr")}
    tensors: dict[str, Any] = {**constants, **dict(model.named_parameters()), **dict(model.named_buffers())}
    return Recording(fx.GraphModule(tensors, before), fx.GraphModule(tensors, behind), tuple(ends))


def samplers_of(model: nn.Module) -> dict[str, TemporalSampler]:
    """Return the samplers of a network that has one at least, by their sites."""
    if not (samplers := site_names(model)):
        raise UnsupportedNetworkError(
            f"{type(model).__name__} has no sampler: put one in with atfr.adapt_, or use torch.compile"
        )
    return samplers


def first_filling(model: nn.Module, clips: Float[Tensor, "N C T H W"]) -> Filling:
    """Return how many maps of the clips go on, by a pass that ends at the last sampler."""
    kept: dict[str, Sequence[int]] = {}
    frames: list[int] = []
    samplers = samplers_of(model)

    def sample(site: str, sampler: TemporalSampler, features: Float[Tensor, "N C T H W"]) -> PackedClips:
        check_alone(site, sampler, features, kept)
        found = sampler.sampling_of(features)
        kept[site] = found.layout.lengths
        frames.append(features.shape[2])
        if len(kept) == len(samplers):
            raise Reached
        return merged(features, found.weights, found.slots, found)

    with torch.no_grad(), randomness_kept(clips):
        try:
            with_samplers(model, sample)(clips.detach().clone())
        except Reached:
            return Filling(list(kept.values()), frames)
    never = ", ".join(samplers.keys() - kept)
    raise UnsupportedNetworkError(f"{type(model).__name__} does not run its sampler at {never}")


class Reached(Exception):  # noqa: N818  no error: it ends a pass
    """How many maps go on is known at all samplers."""


def with_samplers(model: nn.Module, sample: Callable[[str, TemporalSampler, Any], PackedClips]) -> nn.Module:
    """Return a copy of a network, whose parameters are the network's own, with another forward of its samplers."""
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in model.parameters()})  # its buffers are written to
    for site, sampler in site_names(twin).items():
        sampler.forward = functools.partial(sample, site, sampler)  # type: ignore[method-assign]
    return twin


def check_alone(site: str, sampler: TemporalSampler, features: Any, before: dict[str, Any]) -> None:
    """Raise where a sampler gets no plain maps, or runs again."""
    check_features(features, sampler.channels)
    if isinstance(features, PackedClips) or site in before:
        why = "runs twice" if site in before else f"stands behind another ({', '.join(before)})"
        raise UnsupportedNetworkError(f"the sampler at {site} {why}, which atfr.compile does not take")


def randomness_kept(clips: Tensor) -> AbstractContextManager[None]:
    """Give random state back."""
    return torch.random.fork_rng([clips.device] if clips.device.type == "cuda" else [])


def refuse_own_gradients(logits: Any, name: str) -> None:
    """Raise where a network has an autograd function, whose backward pass is not recorded."""
    seen, ahead = set[Any](), [getattr(logits, "grad_fn", None)]
    while ahead:
        if (node := ahead.pop()) is None or node in seen:
            continue
        if isinstance(node, BackwardCFunction) and not type(node).__name__.startswith(OF_OPERATIONS):
            raise UnsupportedNetworkError(
                f"{name} has an autograd function of its own ({type(node).__name__.removesuffix('Backward')}), whose "
                "gradient atfr.compile does not record; train without it"
            )
        seen.add(node)
        ahead += [after for after, _ in node.next_functions]


def refuse_counting_norms(model: nn.Module) -> None:
    """Raise where a batch norm in training weighs each batch by how many there were: a graph would hold that number."""
    for path, module in model.named_modules():
        if isinstance(module, _NormBase) and module.training and module.momentum is None and module.track_running_stats:
            raise UnsupportedNetworkError(
                f"{path} is a batch norm with momentum=None, whose weights of batches change with each; give it a "
                "momentum, or train without atfr.compile"
            )
        if isinstance(module, nn.SyncBatchNorm | nn.BatchNorm1d) and module.training:
            raise UnsupportedNetworkError(f"{path} is a {type(module).__name__}, which atfr.compile does not train")


def halves(module: fx.GraphModule, own: dict[int, str], name: str) -> tuple[fx.Graph, fx.Graph]:
    """Return the part of a recorded graph that its samplers need, and what lies behind, as graphs of their own.

    Args:
        own: paths of the network's tensors by their ids; others are constants.
        name: the network's, for errors.
    """
    outputs: Any = module.graph.output_node().args[0]
    ends, logits = outputs
    (clips,) = module.graph.find_nodes(op="placeholder")
    inputs = module.graph.find_nodes(op="call_function", target=MARK)
    late = behind_the(inputs, module.graph, name)
    before, behind = graphs = fx.Graph(), fx.Graph()
    copies = ({clips: before.placeholder("clips")}, {node: behind.placeholder(node.name) for node in inputs})
    for node in module.graph.nodes:
        if node.op != "call_function" or node in inputs:
            continue
        graph, known = graphs[node in late], copies[node in late]
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                known[source] = graph.get_attr(own.get(id(getattr(module, source.target)), source.target))
            elif source not in known:
                raise UnsupportedNetworkError(
                    f"{name} has a way around its sampler ({source.name} is used behind it) and cannot be compiled "
                    'there; put the sampler where all later layers depend on it, after="input" for one'
                )
        known[node] = graph.node_copy(node, known.__getitem__)
    before.output(tuple(copies[0][node] for node in ends))
    behind.output(copies[1][logits])
    for graph in graphs:
        for node in reversed(graph.nodes):
            is_operation = isinstance(node.target, torch._ops.OpOverload)
            if is_operation and not node.users and not node.all_input_nodes:
                graph.erase_node(node)  # promote_types, which gives no tensor, would break a graph of torch.compile
    return before, behind


def behind_the(inputs: Sequence[fx.Node], graph: fx.Graph, name: str) -> set[fx.Node]:
    """Return the nodes that belong behind the samplers: all after the last, and those between that need what one made.

    What samplers take must be as it was when they took it, and modes of PyTorch must be those of the whole network.
    """
    nodes = list(graph.nodes)
    first, last = (nodes.index(node) for node in (inputs[0], inputs[-1]))
    late, there = set(nodes[last + 1 : -1]), set(nodes[:first])  # but the output, which takes from both
    outer = learns = torch.is_grad_enabled()
    casts = 0
    for node in nodes[: last + 1]:
        if node.target is SET_GRAD:
            (learns,) = node.args
        casts += ("enter_autocast" in node.name) - ("exit_autocast" in node.name)
        if node in inputs or late.intersection(node.all_input_nodes):
            late.add(node)
            if learns != outer:
                raise UnsupportedNetworkError(
                    f"{name} has its sampler within torch.no_grad() or torch.enable_grad(): let that end before the "
                    "sampler, or freeze what is before it by requires_grad_(False)"
                )
            if casts:
                raise UnsupportedNetworkError(
                    f"{name} has its sampler within torch.autocast: let that end before the sampler, or put it around "
                    "the whole network"
                )
        elif node not in there and written(node) in there:
            raise UnsupportedNetworkError(
                f"{name} writes over maps ({node.name}) after one of its samplers has run: write the result elsewhere"
            )
    for node in reversed(nodes[first:last]):  # numbers that are made for what lies behind
        if node.users and late.issuperset(node.users):
            late.add(node)
    return late


def written(node: fx.Node) -> fx.Node | None:
    """Return what first gave the memory that an operation writes over, if it writes."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return None
    found: Any = node
    while isinstance(found.target, torch._ops.OpOverload) and of_its_input(found.target):
        found = found.args[0]
    return found


def of_its_input(operation: torch._ops.OpOverload) -> bool:
    """Whether an operation returns its first argument, or a view of it."""
    returns = operation._schema.returns
    return bool(returns) and returns[0].alias_info is not None
