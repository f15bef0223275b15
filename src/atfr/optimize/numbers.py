"""Where there can be no NaN: oneDNN's activations make numbers of it, so they are used where there is none.

The norm of the maps that come into a graph tells that they are finite, and how large they can be; the weights, how
large what comes out of a convolution can be. Where all stays within float32, no inf and no NaN can arise. Where that
is not known any more, behind many layers or an operation that is not known, the norm is asked again.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from atfr.optimize.conv import FusedConv3d
from atfr.optimize.one_clip import plain_maps
from atfr.optimize.operations import ACTIVATED, ACTIVATIONS, ADDITIONS, MEANS, OURS, PRODUCTS, SIGMOIDS, scaled
from atfr.private import is_followed, is_recorded

NORM = 1e8
"""Maps of a larger norm are not looked at closely: their activations are operations of their own."""
MOST = 1e37
"""What may come out of a convolution: float32 and bfloat16 reach 3e38."""


def are_numbers(maps: Any) -> bool:
    """Whether maps are finite and of a norm below `NORM`."""
    if torch.compiler.is_compiling() or is_recorded() or not isinstance(maps, Tensor) or maps.device.type != "cpu":
        return False
    if maps.dtype not in (torch.float32, torch.bfloat16) or is_followed(maps):
        return False  # no activation of oneDNN's comes after that
    return torch.linalg.vector_norm(maps.as_subclass(Tensor)).item() < NORM


class Bound(NamedTuple):
    """What is known of a node's output: no number in it is larger, if so many checks were right."""

    most: float
    checks: tuple[fx.Node, ...]


def watch_(graph: fx.Graph, rewriting: Any) -> None:
    """Tell each convolution with an activation of oneDNN's whether its sum is free of NaN."""
    known: dict[Any, Bound] = {}
    checks: list[fx.Node] = []

    def ask(source: fx.Node, before: fx.Node) -> None:
        with graph.inserting_before(before):
            checks.append(graph.call_function(are_numbers, (source,)))
        known[source] = Bound(NORM, (checks[-1],))

    for node in list(graph.nodes):
        conv = rewriting.module(node)
        if node.op == "placeholder" or node.target is plain_maps:
            ask(node, node.next)
            continue
        if not (rewriting.is_anew(node) or node.target in OURS):
            known.clear()  # it may write over anything
            continue
        bound = bound_of(node, conv, rewriting.called(node), known)
        if isinstance(conv, FusedConv3d) and conv.activation and ACTIVATIONS[conv.activation].onednn:
            if bound is None or bound.most > MOST:
                for source in node.all_input_nodes:
                    ask(source, node)
                bound = bound_of(node, conv, None, known)
            if bound is not None and bound.most <= MOST:
                node.args = (node.args[0], node.args[1] if len(node.args) > 1 else None, bound.checks)
        if bound is not None and bound.most <= MOST:
            known[node] = bound
    for check in checks:
        if not check.users:
            graph.erase_node(check)


def bound_of(node: fx.Node, module: nn.Module | None, called: Any, known: dict[Any, Bound]) -> Bound | None:
    """Return the bound of a node's output, where those of its inputs are known and the operation keeps one."""
    bounds = [known.get(source) for source in node.all_input_nodes]
    if not all(bounds):
        return None
    most = [
        known[arg].most if isinstance(arg, fx.Node) else abs(arg)
        for arg in node.args
        if isinstance(arg, fx.Node | int | float)
    ]
    checks = tuple(dict.fromkeys(check for bound in bounds if bound for check in bound.checks))
    if isinstance(module, FusedConv3d):
        return Bound(module.most(*[*most, 0.0][:2]), checks)
    if called in SIGMOIDS:
        return Bound(1.0, checks)
    if called in ACTIVATED or called in MEANS or isinstance(module, nn.AdaptiveAvgPool3d):
        return Bound(most[0], checks)
    if isinstance(module, nn.MaxPool3d) and module.dilation in (1, (1, 1, 1)):
        return Bound(most[0], checks)
    if called in ADDITIONS or called in PRODUCTS or called is scaled:
        return Bound(sum(most) if called in ADDITIONS else most[0] * most[1], checks) if not node.kwargs else None
    return None
