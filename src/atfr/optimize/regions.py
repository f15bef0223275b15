"""Which parts of a network torch.fx can read as a whole: its largest such submodules, each with its graph.

torch.fx runs a forward with proxies in place of tensors and writes down what is done with them. What it would not see,
or would see once and for all, ends the reading: the module stays as it is. So do all parts of it, unless it is known
that it only calls them: a class of atfr, torch's lists, or what nothing but hooks of ours keeps from being a region.
"""

import inspect
import math
import operator
import sys
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from atfr.adapt.layers import LAYERS
from atfr.optimize.numbers import are_numbers
from atfr.optimize.one_clip import only_layout, packed_again, plain_maps
from atfr.optimize.operations import OURS, in_own_format
from atfr.private import has_hooks, hooks_of
from atfr.ragged import cat_clips, each_clip


@dataclass
class Region:
    """A submodule that is read as a whole.

    Attributes:
        graph: What its forward does.
        outside: Whether what reads its output may depend on how maps lie in memory.
    """

    graph: fx.Graph
    outside: bool


def regions(network: nn.Module) -> dict[str, Region]:
    """Return the largest submodules that can be read, by path.

    What is opaque within one of them, and called as a whole, has regions of its own, which come before it. A network's
    named stages stay modules that can be called: no region is larger than one.
    """
    opaque = {id(network.get_submodule(path)) for path in around_stages(network)}
    opaque |= {id(each) for each in network.modules() if has_hooks(each) or not (is_leaf(each) or can_be_read(each))}
    graphs: dict[int, fx.Graph] = {}
    callers: set[int] = set()
    read_into(network, opaque, graphs, callers)
    found: dict[str, Region] = {}
    for path, (*above, region) in outermost(network, graphs, "", []):
        if all(id(module) in callers for module in above):
            inside = above and all(is_ours(module) and has_only_our_hooks(module) for module in above)
            found[path] = Region(graphs[id(region)], not inside)
    return found


def read_into(module: nn.Module, opaque: set[int], graphs: dict[int, fx.Graph], callers: set[int]) -> None:
    """Read a module as a whole; where that fails, what is in it first, and then what calls that.

    Args:
        opaque: modules that stay whole; those that cannot be read are added.
        graphs: gets what was read.
        callers: get what could not, and is known to do no more than call its parts.
    """
    if is_leaf(module) or id(module) in graphs.keys() | callers:
        return
    graph = None if id(module) in opaque else read(module, opaque)
    if graph is None:
        for part in module.children():
            read_into(part, opaque, graphs, callers)
        graph = None if id(module) in opaque else read(module, opaque)
    if graph is not None:
        graphs[id(module)] = graph
        for node in graph.find_nodes(op="call_module"):
            read_into(module.get_submodule(node.target), opaque, graphs, callers)
        return
    opaque.add(id(module))
    if is_ours(module) or (has_only_our_hooks(module) and only_calls(module, graphs.keys(), opaque)):
        callers.add(id(module))


def is_ours(module: nn.Module) -> bool:
    """Whether a module's forward is known: one of atfr, or of torch's Sequential and lists."""
    cls: Any = type(module)
    known = str(cls.forward.__module__).startswith("atfr.") or cls in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return known and "forward" not in vars(module)


def has_only_our_hooks(module: nn.Module) -> bool:
    """Whether all hooks of a module are of atfr."""
    return all(getattr(hook, "func", hook).__module__.startswith("atfr.") for hook in hooks_of(module))


def only_calls(module: nn.Module, parts: Set[int], opaque: Set[int]) -> bool:
    """Whether a module's forward can be read with stand-ins for these parts, which can be called and nothing else."""
    held = [(each._modules, dict(each._modules)) for each in module.modules()]
    try:
        for modules, before in held:
            modules.update({name: nn.Identity() for name, part in before.items() if id(part) in parts})
        return read(module, opaque) is not None
    finally:
        for modules, before in held:
            modules.update(before)


def can_be_read(module: nn.Module) -> bool:
    """Whether calling a module is its class's forward, without optional arguments, and its hooks."""
    cls: Any = type(module)
    parameters = list(inspect.signature(cls.forward).parameters.values())
    plain = all(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    return plain and "forward" not in vars(module) and cls.__call__ is nn.Module.__call__


def read(module: nn.Module, opaque: Set[int]) -> fx.Graph | None:
    """Return the graph of a module's forward, if that says all that a forward does, and always the same."""
    if not can_be_read(module):
        return None
    try:
        with unchanged(module):
            graph = Reader(opaque).trace(module)
            with torch.no_grad():
                again = Reader(opaque).trace(module)
    except Exception:  # a forward may do anything
        return None
    tensors = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    made = any(node.op == "get_attr" and node.target not in tensors for node in graph.nodes)
    return None if made or str(graph) != str(again) else graph


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Raise where a forward has changed attributes of modules, and set them back: torch.fx does not write that down."""
    held = [(values, values.copy()) for each in module.modules() for values in holders(vars(each))]
    try:
        yield
    finally:
        changed = [(values, before) for values, before in held if identities(values) != identities(before)]
        for values, before in changed:
            values.clear()
            values.extend(before) if isinstance(values, list) else values.update(before)
    if changed:
        raise UnreadableError("a forward that keeps something")


def outermost(
    module: nn.Module, graphs: dict[int, fx.Graph], path: str, above: list[nn.Module], within: Set[int] = frozenset()
) -> Iterator[tuple[str, list[nn.Module]]]:
    """Yield the paths of regions at a module and below, the inner ones first, with what they lie in and themselves.

    Args:
        within: The modules that the region around it calls as a whole; empty where there is no region around it.
    """
    if id(module) in within:
        within, above = frozenset(), []
    above = [*above, module]
    starts = not within and id(module) in graphs
    if starts:
        calls = [str(node.target) for node in graphs[id(module)].nodes if node.op == "call_module"]
        within = {id(module.get_submodule(target)) for target in calls}
    for name, child in module.named_children():
        yield from outermost(child, graphs, f"{path}.{name}".lstrip("."), above, within)
    if starts:
        yield path, above


def around_stages(network: nn.Module) -> set[str]:
    """Return the paths of the modules in which a network's named stages lie."""
    stages = getattr(network, "stage_paths", {}).values()
    paths = [path for stage in stages for path in ([stage] if isinstance(stage, str) else stage)]
    return {".".join(path.split(".")[:depth]) for path in paths for depth in range(path.count(".") + 1)}


class UnreadableError(Exception):
    """A forward does what torch.fx does not see."""


class Watched(fx.Proxy):
    """Stands for a tensor, and does not pretend to be one where that is asked."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise UnreadableError(f"sets {name} of a tensor")
        super().__setattr__(name, value)

    @property
    def __class__(self) -> Any:  # isinstance asks it
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not caller.startswith("torch."):
            raise UnreadableError("asks what is a tensor")
        return Watched


def in_place(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    """Return how a proxy is written over, which torch.fx takes for an operation with a result of its own."""
    function = getattr(operator, name)
    return lambda proxy, other: proxy.tracer.create_proxy("call_function", function, (proxy, other), {})


for _name in "iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift".split():
    setattr(Watched, f"__{_name}__", in_place(_name))


WHOLE = (each_clip, cat_clips, *OURS, in_own_format, plain_maps, only_layout, packed_again, are_numbers)
"""Functions that stay one operation, also where a copy of a graph is read again from a pickle."""


class Reader(fx.Tracer):
    """Reads a forward and those it calls; modules of torch, samplers, and what is opaque, stay modules."""

    def __init__(self, opaque: Set[int] = frozenset()) -> None:  # pickle makes one without
        super().__init__(autowrap_modules=(math,), autowrap_functions=WHOLE)
        self.opaque = opaque
        self.modes = modes()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module stays one operation."""
        return id(m) in self.opaque or is_leaf(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for a tensor."""
        return Watched(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Write an operation down, in the modes of the whole forward."""
        if modes() != self.modes:
            raise UnreadableError("switches gradients or autocast, or has a backward pass of its own")
        return super().create_node(*args, **kwargs)


def modes() -> tuple[bool, ...]:
    """Return what decides how operations run, and is not in a graph."""
    autocast = (torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast


def holders(attributes: dict[str, Any]) -> list[Any]:
    """Return a module's attributes and the lists, dicts and sets among them."""
    return [attributes, *(value for value in attributes.values() if type(value) in (list, dict, set))]


def identities(values: Any) -> list[Any]:
    """Return what a list, dict or set holds, as objects."""
    return [(key, id(value)) for key, value in values.items()] if isinstance(values, dict) else [*map(id, values)]


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is an operation, not a composition of others."""
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    return isinstance(module, LEAVES) or type(module).__module__.startswith("torch.nn")


LEAVES: Any = (*LAYERS, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.Linear)
