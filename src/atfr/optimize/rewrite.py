"""How the graph of a part of a network is rewritten: the same result in fewer operations.

In this order: what does nothing in evaluation is dropped; batch norms are folded into the convolutions before them;
convolutions become `FusedConv3d`, each with the addition and the activation behind it; what is left of additions,
products and activations writes over its own input where nothing else reads that; a single packed clip is unpacked.

`Rewriting.is_plain`, `own`, `is_alone` and `is_still` decide for all of these; what they do not know stays as it is.
"""

import math
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from atfr.adapt.layers import LAYERS
from atfr.kernels.conv3d import ClipConv3d, Conv3d
from atfr.optimize.conv import FusedConv3d
from atfr.optimize.numbers import watch_
from atfr.optimize.one_clip import packed_again, unpack_one_
from atfr.optimize.operations import (
    ACTIVATIONS,
    ADDITIONS,
    MEANS,
    OURS,
    OVER,
    POINTWISE,
    PRODUCTS,
    SIGMOIDS,
    Activation,
    in_own_format,
    scaled,
)
from atfr.private import has_hooks
from atfr.ragged import cat_clips, each_clip

CONVOLVES = (nn.Conv3d._conv_forward, Conv3d._conv_forward)
IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
FLATTENS = (nn.Flatten, torch.flatten, "flatten")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FOLDABLE = (ClipConv3d, nn.Conv1d, nn.Conv2d)
POOLS = (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d)
ANEW = (nn.Linear, FusedConv3d, *POOLS, *NORMS, *FOLDABLE)
"""Modules that write over nothing and give memory of their own."""
FORMATLESS = OURS | {torch.cat, F.max_pool3d, F.avg_pool3d, F.adaptive_avg_pool3d, packed_again, each_clip, cat_clips}
PATCHES = {"forward", "__call__", "_call_impl", "_conv_forward", "_compiled_call_impl"}


def rewrite_(root: nn.Module, graph: fx.Graph, shared: set[int], outside: bool = True) -> fx.Graph:
    """Rewrite a graph in place, and the modules it calls; return it.

    Args:
        root: The module whose graph it is; modules are exchanged in it.
        shared: The ids of modules that something else may use too, which are left as they are.
        outside: Whether the memory format of what comes out may matter to what reads it.
    """
    rewriting = Rewriting(root, graph, shared)
    rewriting.run()
    unpack_one_(graph, rewriting.module)
    rewriting.keep_format(outside)
    watch_(graph, rewriting)
    graph.lint()
    return graph


class Rewriting:
    """One graph that is being rewritten, with the modules it calls."""

    def __init__(self, root: nn.Module, graph: fx.Graph, shared: set[int]) -> None:
        self.root, self.graph, self.shared = root, graph, shared
        targets = [str(node.target) for node in graph.nodes if node.op == "call_module"]
        read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
        self.once = {target for target in targets if targets.count(target) == 1} - read

    def run(self) -> None:
        """Take all steps; each sees what the one before has left."""
        for step in (self.drop, self.swish, self.fold, self.fuse, self.add, self.activate, self.over_inputs):
            for node in list(self.graph.nodes):
                node.type = None  # an annotation of shapes is no name that a pickle could hold
                step(node)

    def module(self, node: Any) -> Any:
        """Return the module that a node calls, if it is plain."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        module = self.root.get_submodule(str(node.target))
        return module if is_plain(module) else None

    def own(self, node: Any, *classes: type[nn.Module]) -> Any:
        """Return the module that a node calls, where it is of one of these classes and nothing else uses it.

        Without classes, where it is a 3D convolution as torch's, of whatever class.
        """
        module = self.module(node)
        if module is None or node.target not in self.once or id(module) in self.shared:
            return None
        return module if (type(module) in classes if classes else convolves(module)) else None

    def called(self, node: fx.Node) -> Any:
        """Return what a node calls: a function, a method's name, or the class of a plain module."""
        if node.op == "call_module":
            return type(self.module(node))
        return node.target if node.op in ("call_function", "call_method") else None

    def is_anew(self, node: fx.Node) -> bool:
        """Whether a node is known to write over nothing and to give memory of its own."""
        module, called = self.module(node), self.called(node)
        if called in OVER or called in OURS or node.kwargs.get("inplace") or getattr(module, "inplace", False):
            return False
        if "out" in node.kwargs or not all(source in node.args for source in node.all_input_nodes):
            return False
        return called in POINTWISE or called in MEANS or type(module) in ANEW or convolves(module)

    def is_alone(self, node: fx.Node, source: Any) -> bool:
        """Whether a node may write over the output of another: no view or alias is there, nothing reads it later."""
        if not isinstance(source, fx.Node) or not (self.is_anew(source) or source.target is scaled):
            return False
        readers = [user for user in source.users if user is not node]
        return all(user < node and self.is_anew(user) for user in readers)

    def is_still(self, first: fx.Node, last: fx.Node) -> bool:
        """Whether nothing that lies between two nodes may write over what the first one reads."""
        node = first.next
        while node is not last and (self.is_anew(node) or self.called(node) in (*IDLE, *FLATTENS)):
            node = node.next
        return node is last

    def replace(self, node: fx.Node, by: fx.Node) -> None:
        """Let another node stand for one."""
        node.replace_all_uses_with(by)
        self.graph.erase_node(node)

    def drop(self, node: fx.Node) -> None:
        """Drop what passes its input on."""
        idle = self.called(node) in IDLE and source_of(node) and is_unary(node)
        # packed clips are copied in a dropout: that is no difference where nothing is written over behind it
        if idle and (self.called(node) is nn.Identity or self.is_still(node, self.graph.output_node())):
            self.replace(node, source_of(node))

    def swish(self, node: fx.Node) -> None:
        """Name a product of maps and their own sigmoid."""
        if not is_binary(node, PRODUCTS) or (node.target in OVER and not self.is_alone(node, source_of(node))):
            return
        pairs: Any = (node.args, reversed(node.args))
        for maps, gate in pairs:
            own = isinstance(gate, fx.Node) and gate.args == (maps,) and not gate.kwargs
            if own and self.called(gate) in SIGMOIDS and self.is_still(gate, node):
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
        if conv and norm and norm.running_mean is not None and len(source.users) == 1 and fold_(conv, norm):
            self.replace(node, source)

    def fuse(self, node: fx.Node) -> None:
        """Exchange a convolution."""
        conv = self.own(node)
        if conv is None or not is_unary(node) or not isinstance(conv.weight, nn.Parameter):
            return
        if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
            self.root.set_submodule(str(node.target), FusedConv3d(conv).eval())

    def add(self, node: fx.Node) -> None:
        """Let a convolution add what is added to its output; the later one of two."""
        terms: Any = node.args
        if not is_binary(node, ADDITIONS) or not all(isinstance(arg, fx.Node) for arg in terms):
            return
        over = node.target in OVER
        if over and not self.is_alone(node, source_of(node)):
            return
        for term in sorted(terms, reverse=True):
            conv, other = self.own(term, FusedConv3d), terms[terms[0] is term]
            if conv is None or len(term.users) > 1 or not is_unary(term) or term is other:
                continue
            if not self.is_still(term, node):
                continue
            conv.add, conv.comes_second = operator.iadd if over else operator.add, terms[1] is term
            with self.graph.inserting_before(node):
                fused = self.graph.call_module(str(term.target), (term.args[0], other))
            self.replace(node, fused)
            self.graph.erase_node(term)
            return

    def activate(self, node: fx.Node) -> None:
        """Let a convolution do the activation behind it."""
        activation, source = self.activation_of(node), source_of(node)
        conv = self.own(source, FusedConv3d) if activation else None
        if conv is not None and conv.activation is None and len(source.users) == 1:
            conv.activation = activation
            self.replace(node, source)

    def over_inputs(self, node: fx.Node) -> None:
        """Let products and activations write over what nothing else reads."""
        activation, source = self.activation_of(node), source_of(node)
        if source is None or not self.is_alone(node, source):
            return
        if activation and source.target in (*ADDITIONS, *PRODUCTS, scaled):
            node.op, node.target, node.kwargs = "call_function", ACTIVATIONS[activation].over, {}
        elif is_binary(node, PRODUCTS - OVER) and node.args[1] is not source and self.own(source, FusedConv3d):
            node.op, node.target = "call_function", scaled

    def keep_format(self, outside: bool) -> None:
        """Give maps in PyTorch's own memory format to what may depend on it, as `view` does; ours are channels last."""
        ours: set[fx.Node] = set()
        for node in list(self.graph.nodes):
            carries = self.takes_any_format(node) and ours.intersection(node.all_input_nodes)
            if not carries and not isinstance(self.module(node), FusedConv3d):
                continue
            readers = [user for user in node.users if outside or user.op != "output"]
            if all(self.takes_any_format(user) for user in readers):
                ours.add(node)
                continue
            with self.graph.inserting_after(node):
                kept = self.graph.call_function(in_own_format, (node,))
            node.replace_all_uses_with(kept, delete_user_cb=lambda user, kept=kept: user is not kept)

    def takes_any_format(self, node: fx.Node) -> bool:
        """Whether the result of a node does not depend on how its input lies in memory."""
        module = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        ours = isinstance(module, LAYERS) and not has_hooks(module)
        over = self.activation_of(node) and self.is_alone(node, source_of(node))
        return bool(ours or over or self.is_anew(node) or self.called(node) in FORMATLESS)

    def activation_of(self, node: fx.Node) -> Activation | None:
        """Return which activation a node is, if it is one."""
        called, module = self.called(node), self.module(node)
        if len(node.args) != 1 or (called is nn.ReLU6 and (module.min_val, module.max_val) != (0, 6)):
            return None
        return next((name for name, form in ACTIVATIONS.items() if called in form.spellings), None)


def is_plain(module: nn.Module) -> bool:
    """Whether a call of a module is what its class does in evaluation: no hooks, nothing patched or compiled."""
    changed = PATCHES & {name for name, value in vars(module).items() if value is not None}
    return not (has_hooks(module) or module.training or changed or module._modules)


def convolves(module: Any) -> bool:
    """Whether a module is `nn.Conv3d` in all that it does; torchvision's, for one, differ in their constructor."""
    cls: Any = type(module)
    is_conv = isinstance(module, nn.Conv3d) and cls.forward is nn.Conv3d.forward
    return is_conv and cls._conv_forward in CONVOLVES and cls.__call__ is nn.Module.__call__


def source_of(node: fx.Node) -> Any:
    """Return the node whose output is a node's first argument; None where that is something else."""
    return node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None


def is_unary(node: fx.Node) -> bool:
    """Whether a node has one argument."""
    return len(node.args) == 1 and not node.kwargs


def is_binary(node: fx.Node, calls: frozenset[Any]) -> bool:
    """Whether a node calls one of these, with two arguments."""
    return node.op != "placeholder" and node.target in calls and len(node.args) == 2 and not node.kwargs


def fold_(conv: Any, norm: Any) -> bool:
    """Fold a batch norm into a convolution's weights, in float64; return whether all numbers are finite, as they must.

    A factor that is not would make NaN of numbers that the batch norm gives, or numbers of its NaN.
    """

    def wide(tensor: Any) -> Any:
        return None if tensor is None else tensor.detach().double()

    statistics = (wide(norm.running_mean), wide(norm.running_var), norm.eps, wide(norm.weight), wide(norm.bias))
    like = conv.weight
    folded = fuse_conv_bn_weights(wide(like), wide(conv.bias), *statistics)
    weight, bias = (value.detach().to(like.dtype) for value in folded)
    numbers = (weight, bias, like, *(value for value in statistics if isinstance(value, torch.Tensor)))
    if not all(math.isfinite(end) for value in numbers for end in value.aminmax()):  # one pass each
        return False
    conv.weight, conv.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return True
