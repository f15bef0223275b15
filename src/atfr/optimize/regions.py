"""Which parts of a network torch.fx can read as a whole: its largest such submodules, each with its graph."""

import math
from collections.abc import Set
from typing import Any

from torch import fx, nn

from atfr.adapt.layers import LAYERS
from atfr.ragged import cat_clips, each_clip

CONSTANT = "_tensor_constant"  # what torch.fx calls a tensor that a forward makes of nothing: it would never change


def regions(network: nn.Module) -> dict[str, fx.Graph]:
    """Return the graphs of the largest submodules that can be read, by path.

    What is opaque within one of them, and called as a whole, has regions of its own, which come before it. A network's
    named stages stay modules that can be called: no region is larger than one.
    """
    opaque = {id(network.get_submodule(path)) for path in around_stages(network)}
    graphs: dict[int, fx.Graph] = {}
    for module in reversed(list(network.modules())):  # children before their parents
        if is_leaf(module) or id(module) in opaque:
            continue
        try:
            graph = Reader(opaque).trace(module)
        except Exception:  # a forward may do anything
            opaque.add(id(module))
            continue
        if has_constants(graph) or has_hooks(module):
            opaque.add(id(module))
        else:
            graphs[id(module)] = graph
    return outermost(network, "", graphs, None)


def outermost(
    network: nn.Module, path: str, graphs: dict[int, fx.Graph], region: set[int] | None
) -> dict[str, fx.Graph]:
    """Return the graphs of regions at a path and below, the inner ones first.

    Args:
        region: The modules that the region around it calls as a whole; None where there is no region around it.
    """
    module = network.get_submodule(path)
    region = None if region and id(module) in region else region
    starts = region is None and id(module) in graphs
    if starts:
        calls = [str(node.target) for node in graphs[id(module)].nodes if node.op == "call_module"]
        region = {id(module.get_submodule(target)) for target in calls}
    found: dict[str, fx.Graph] = {}
    for name, _ in module.named_children():
        found |= outermost(network, f"{path}.{name}".lstrip("."), graphs, region)
    return found | ({path: graphs[id(module)]} if starts else {})


def around_stages(network: nn.Module) -> set[str]:
    """Return the paths of the modules in which a network's named stages lie."""
    stages = getattr(network, "stage_paths", {}).values()
    paths = [path for stage in stages for path in ([stage] if isinstance(stage, str) else stage)]
    return {".".join(path.split(".")[:depth]) for path in paths for depth in range(path.count(".") + 1)}


class Reader(fx.Tracer):
    """Reads a forward and those it calls; modules of torch, samplers, and what is opaque, stay modules."""

    def __init__(self, opaque: Set[int] = frozenset()) -> None:  # pickle makes one without
        super().__init__(autowrap_modules=(math,), autowrap_functions=(each_clip, cat_clips))
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module stays one operation."""
        return id(m) in self.opaque or has_hooks(m) or is_leaf(m)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is an operation, not a composition of others."""
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    return isinstance(module, LEAVES) or type(module).__module__.startswith("torch.nn")


LEAVES: Any = (*LAYERS, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.Linear)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of a module does more than its forward."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


def has_constants(graph: fx.Graph) -> bool:
    """Whether a graph holds a tensor that its forward made, by chance perhaps, and that would stay the same."""
    return any(node.op == "get_attr" and CONSTANT in str(node.target) for node in graph.nodes)
