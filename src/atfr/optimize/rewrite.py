"""How the graph of a part of a network is rewritten: the same result in fewer operations.

In this order: what does nothing in evaluation is dropped; batch norms are folded into the convolutions before them;
convolutions become `FusedConv3d`, each with the addition and the activation behind it; what is left of additions,
products and activations writes over its own input where nothing else reads that; a single packed clip is unpacked.
"""

import operator
from typing import Any

from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from atfr.convolution import Conv3d
from atfr.models.inflate import ClipConv3d
from atfr.optimize.activations import ACTIVATIONS, activation_of
from atfr.optimize.conv import FusedConv3d
from atfr.optimize.one_clip import unpack_one_
from atfr.optimize.products import ADDITIONS, PRODUCTS, SIGMOIDS, scaled
from atfr.optimize.regions import has_hooks

CONVOLVES = (nn.Conv3d._conv_forward, Conv3d._conv_forward)
IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FOLDABLE = (ClipConv3d, nn.Conv1d, nn.Conv2d)


def rewrite_(root: nn.Module, graph: fx.Graph, shared: set[int]) -> fx.Graph:
    """Rewrite a graph in place, and the modules it calls; return it.

    Args:
        root: The module whose graph it is; modules are exchanged in it.
        shared: The ids of modules that stand at other places too, which are left as they are.
    """
    Rewriting(root, graph, shared).run()
    unpack_one_(root, graph)
    graph.lint()
    return graph


class Rewriting:
    """One graph that is being rewritten, with the modules it calls."""

    def __init__(self, root: nn.Module, graph: fx.Graph, shared: set[int]) -> None:
        self.root, self.graph, self.shared = root, graph, shared
        targets = [node.target for node in graph.nodes if node.op == "call_module"]
        self.once = {target for target in targets if targets.count(target) == 1}

    def run(self) -> None:
        """Take all steps; each sees what the one before has left."""
        for step in (self.drop, self.swish, self.fold, self.fuse, self.add, self.activate, self.over_inputs):
            for node in list(self.graph.nodes):
                node.type = None  # an annotation of shapes is no name that a pickle could hold
                step(node)

    def own(self, node: Any, *classes: type[nn.Module]) -> Any:
        """Return the module that a node calls, where it is of one of these classes and nothing else calls it.

        Without classes, where it is a 3D convolution as torch's, of whatever class.
        """
        if not isinstance(node, fx.Node) or node.op != "call_module" or node.target not in self.once:
            return None
        module = self.root.get_submodule(str(node.target))
        if id(module) in self.shared or has_hooks(module):
            return None
        return module if (type(module) in classes if classes else convolves(module)) else None

    def called(self, node: fx.Node) -> Any:
        """Return what a node calls: a function, a method's name, or the class of a module."""
        return type(self.root.get_submodule(str(node.target))) if node.op == "call_module" else node.target

    def replace(self, node: fx.Node, by: fx.Node) -> None:
        """Let another node stand for one."""
        node.replace_all_uses_with(by)
        self.graph.erase_node(node)

    def drop(self, node: fx.Node) -> None:
        """Drop what passes its input on."""
        if self.called(node) in IDLE:
            self.replace(node, source_of(node))

    def swish(self, node: fx.Node) -> None:
        """Name a product of maps and their own sigmoid."""
        if node.target not in PRODUCTS or len(node.args) != 2 or node.kwargs:
            return
        for maps, gate in (node.args, reversed(node.args)):
            if isinstance(gate, fx.Node) and gate.args == (maps,) and self.called(gate) in SIGMOIDS:
                with self.graph.inserting_before(node):
                    silu = self.graph.call_function(F.silu, (maps,))
                self.replace(node, silu)
                if not gate.users:
                    self.graph.erase_node(gate)
                return

    def fold(self, node: fx.Node) -> None:
        """Fold a batch norm into the convolution whose output nothing else reads."""
        norm = self.own(node, *NORMS)
        source = source_of(node)
        conv = self.own(source, *FOLDABLE) or self.own(source)
        if conv and norm and norm.running_mean is not None and len(source.users) == 1:
            fold_(conv, norm)
            self.replace(node, source)

    def fuse(self, node: fx.Node) -> None:
        """Exchange a convolution."""
        conv = self.own(node)
        if conv is not None and conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
            self.root.set_submodule(str(node.target), FusedConv3d(conv))

    def add(self, node: fx.Node) -> None:
        """Let a convolution add what is added to its output; the later one of two."""
        if node.target not in ADDITIONS or len(node.args) != 2 or node.kwargs:
            return
        order = {n: place for place, n in enumerate(self.graph.nodes)}
        terms = sorted((arg for arg in node.args if isinstance(arg, fx.Node)), key=lambda term: -order[term])
        if len(terms) != 2 or (changes_input(node, self.root) and len(source_of(node).users) > 1):
            return
        for term, other in (terms, reversed(terms)):
            conv = self.own(term, FusedConv3d)
            if conv is None or len(term.users) > 1 or len(term.args) > 1 or term is other:
                continue
            if any(changes_input(user, self.root) for user in source_of(term).users):
                continue
            with self.graph.inserting_before(node):
                fused = self.graph.call_module(str(term.target), (term.args[0], other))
            self.replace(node, fused)
            self.graph.erase_node(term)
            return

    def activate(self, node: fx.Node) -> None:
        """Let a convolution do the activation behind it."""
        activation = activation_of(node, self.called(node))
        source = source_of(node)
        conv = self.own(source, FusedConv3d) if activation else None
        if conv is not None and conv.activation is None and len(source.users) == 1:
            conv.activation = activation
            self.replace(node, source_of(node))

    def over_inputs(self, node: fx.Node) -> None:
        """Let products and activations write over what nothing reads after them."""
        activation = activation_of(node, self.called(node))
        source = source_of(node)
        if source is None or not self.is_last(node, source):
            return
        if activation and source.target in (*ADDITIONS, *PRODUCTS, scaled):
            node.op, node.target, node.kwargs = "call_function", ACTIVATIONS[activation].in_place, {}
        elif node.target in PRODUCTS and len(node.args) == 2 and not node.kwargs and self.own(source, FusedConv3d):
            node.op, node.target = "call_function", scaled

    def is_last(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether a node is the last to read another."""
        order = {n: place for place, n in enumerate(self.graph.nodes)}
        return max(source.users, key=order.__getitem__) is node and not any(
            user.op == "output" for user in source.users
        )


def convolves(module: nn.Module) -> bool:
    """Whether a module is `nn.Conv3d` in all that it does; torchvision's, for one, differ in their constructor."""
    cls: Any = type(module)
    is_conv = isinstance(module, nn.Conv3d) and cls.forward is nn.Conv3d.forward
    return is_conv and cls._conv_forward in CONVOLVES and not list(module.children())


def source_of(node: fx.Node) -> Any:
    """Return the node whose output is a node's first argument; None where that is something else."""
    return node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None


def fold_(conv: Any, norm: Any) -> None:
    """Fold a batch norm into a convolution's weights, in float64."""

    def wide(tensor: Any) -> Any:
        return None if tensor is None else tensor.detach().double()

    statistics = (wide(norm.running_mean), wide(norm.running_var), norm.eps, wide(norm.weight), wide(norm.bias))
    weight, bias = fuse_conv_bn_weights(wide(conv.weight), wide(conv.bias), *statistics)
    like = conv.weight
    conv.weight = nn.Parameter(weight.detach().to(like.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach().to(like.dtype), requires_grad=False)


def changes_input(node: fx.Node, root: nn.Module) -> bool:
    """Whether a node writes over its input."""
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return bool(node.kwargs.get("inplace")) or name.endswith("_") or node.target in (operator.iadd, operator.imul)
