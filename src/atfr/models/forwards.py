"""Forwards of image networks, read for clips: which operations mean the same for both, and which are exchanged.

A module's forward is traced with torch.fx, its children as black boxes. Feature maps of images are N C H W, of clips
N C T H W, so an operation suits both where it names the channels as axis 1 and no other axis.
"""

import functools
import inspect
import math
import operator
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from atfr.errors import InputError
from atfr.models.base import check_clips
from atfr.ragged import PackedClips
from atfr.ragged.operations import ARITHMETIC, POINTWISE

OPERATORS = {operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv, operator.neg}
ALONG = {"cat": 1, "concat": 1, "chunk": 2, "split": 2, "softmax": 1, "log_softmax": 1}
"""Operations along one axis, which must be that of channels, with the place of that argument."""
OVER_SPACE = "mean amax amin".split()
WINDOWS: dict[Any, Any] = {F.max_pool2d: F.max_pool3d, F.avg_pool2d: F.avg_pool3d}
ADAPTIVE: dict[Any, Any] = {F.adaptive_avg_pool2d: F.adaptive_avg_pool3d, F.adaptive_max_pool2d: F.adaptive_max_pool3d}


@dataclass
class ClipForward:
    """Stands in for a module's forward; is pickled and copied with the module."""

    module: nn.Module
    sources: dict[bool, str]  # what torch.fx wrote, for training (True) and evaluation

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.function(self.module, *args, **kwargs)

    @property
    def function(self) -> FunctionType:
        """The function for the mode that the module is in."""
        return compiled(self.sources[self.module.training])

    @property
    def __code__(self) -> CodeType:  # torch.export asks, as for a function
        return self.function.__code__

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(MethodType(self.function, self.module))


def check_input(channels: int, module: nn.Module, args: tuple[Any, ...]) -> None:
    """Refuse what is no batch of clips, before an inflated network's forward; packed clips are clips.

    Raises:
        InputError: As `check_clips`, but of any size.
    """
    if args and not isinstance(args[0], PackedClips):
        check_clips(args[0], channels, min_side=1)


@functools.cache
def compiled(source: str) -> FunctionType:
    """The function of a source that torch.fx wrote of operations on the lists here."""
    names: dict[str, Any] = {"torch": torch, "inf": math.inf}
    exec(source, names)
    return names["forward"]


class OneLevel(fx.Tracer):
    """Traces a forward and none of those it calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Every module is."""
        return True


def forward_for_clips(module: nn.Module, name: str) -> dict[bool, str] | None:
    """The sources of a module's forward for clips, or None where its own serves clips as well.

    Args:
        module: One that may be changed: it is traced in training and in evaluation.

    Raises:
        InputError: The forward cannot be traced, or has an operation that is not on the list.
    """
    sources, exchanged = {}, False
    for mode in (True, False):
        module.training = mode
        try:
            graph = OneLevel().trace(module, defaults(module))
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"cannot inflate {name}: torch.fx cannot read its forward ({type(error).__name__}: {reason}); a forward"
                " may not depend on sizes or numbers"
            ) from error
        exchanged = sum([for_clips(node, module, name) for node in graph.nodes]) > 0 or exchanged
        sources[mode] = graph.python_code("self").src
    return sources if exchanged else None


def defaults(module: nn.Module) -> dict[str, Any]:
    """The arguments of a forward that have a default, which it is taken to be called with."""
    code = type(module).forward.__code__
    values = type(module).forward.__defaults__ or ()
    return dict(zip(code.co_varnames[code.co_argcount - len(values) : code.co_argcount], values, strict=True))


def for_clips(node: fx.Node, module: nn.Module, name: str) -> bool:
    """Change an operation in place where that is needed; return whether it was.

    Raises:
        InputError: It is not known to be right on clips.
    """
    node.type = None  # an annotation would be looked up when the source runs
    if node.op in ("placeholder", "output", "call_module"):
        return False
    if node.op == "get_attr":
        value = functools.reduce(getattr, str(node.target).split("."), module)
        if isinstance(value, Tensor) and value.ndim:
            raise InputError(
                f"cannot inflate {name}: its forward uses its own tensor {node.target!r}, whose axes are those of "
                "images; put it into a module of its own that torch.nn has for images and clips"
            )
        return False
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    own = (
        node.op == "call_method" or getattr(torch, target, None) is node.target or getattr(F, target, 0) is node.target
    )
    if node.target in OPERATORS or (own and target in (*POINTWISE, *ARITHMETIC)) or checks_default(node):
        return False
    if own and target in ALONG and argument(node, ALONG[target], "dim", 0) == 1:
        return False
    if own and target == "flatten" and spans(node):
        return False
    if is_part(node) or is_batch_size(node) or (own and target in ("view", "reshape") and keeps_rows(node)):
        return False
    if own and target in OVER_SPACE and is_space(axes := argument(node, 1, "dim", None)):
        set_argument(node, "dim", (2, 3, 4))
        return True
    if node.target in WINDOWS and in_space(node):
        return True
    if node.target in ADAPTIVE and fixed_size(node):
        return True
    axes = f" with {', '.join(map(str, node.args[1:]))}" if node.args[1:] else ""
    raise InputError(
        f"cannot inflate {name}: its forward has the operation {target or node.target!r}{axes}, which is not known to "
        "mean the same for clips N C T H W; see atfr.models.forwards for those that are"
    )


def argument(node: fx.Node, position: int, keyword: str, default: Any) -> Any:
    """An argument of an operation, given by its position or by its keyword."""
    return node.kwargs.get(keyword, node.args[position] if len(node.args) > position else default)


def set_argument(node: fx.Node, keyword: str, value: Any) -> None:
    """Give the argument behind the first, the maps, another value."""
    if keyword in node.kwargs:
        node.update_kwarg(keyword, value)
    else:
        node.update_arg(1, value)


def checks_default(node: fx.Node) -> bool:
    """Whether a node is part of what torch.fx writes to assert that an argument has its default."""
    of_argument = bool(node.all_input_nodes) and node.all_input_nodes[0].op == "placeholder"
    return node.target is torch._assert or (node.target is operator.eq and of_argument)


def is_space(axes: Any) -> bool:
    """Whether axes of N C H W are height and width, in any order and spelling."""
    return isinstance(axes, tuple | list) and len(axes) == 2 and {axis % 4 for axis in axes} == {2, 3}


def fixed_size(node: fx.Node) -> bool:
    """Turn a pool of a fixed output size into one over all of time too; return whether that could be done."""
    size = argument(node, 1, "output_size", None)
    if not isinstance(size, int | tuple | list) or not all(isinstance(part, int) for part in pair_of(size)):
        return False
    set_argument(node, "output_size", (1, *pair_of(size)))
    node.target = ADAPTIVE[node.target]
    return not argument(node, 2, "return_indices", False)


def spans(node: fx.Node) -> bool:
    """Whether a flatten makes rows of one clip each."""
    return bool(argument(node, 1, "start_dim", 0) == 1 and argument(node, 2, "end_dim", -1) == -1)


def is_batch_size(node: fx.Node) -> bool:
    """Whether a node is the batch size, or the shape it is taken from, and serves a reshaping into rows only."""
    if (node.target is getattr and node.args[1] == "shape") or (node.target == "size" and not node.args[1:]):
        return all(map(is_first, node.users))
    is_size = is_first(node) or (node.target == "size" and node.args[1:] == (0,))
    return is_size and all(user.target in ("view", "reshape", torch.reshape) for user in node.users)


def is_first(node: fx.Node) -> bool:
    """Whether a node takes the first number of a shape."""
    source = node.args[0] if node.args else None
    of_shape = isinstance(source, fx.Node) and (source.target == "size" or source.target is getattr)
    return of_shape and node.target is operator.getitem and bool(node.args[1] == 0)


def is_part(node: fx.Node) -> bool:
    """Whether a node takes one of the parts that a chunk or split gave."""
    source = node.args[0] if node.args else None
    of_parts = isinstance(source, fx.Node) and source.target in ("chunk", "split", torch.chunk, torch.split)
    return of_parts and node.target is operator.getitem


def keeps_rows(node: fx.Node) -> bool:
    """Whether a view is ``x.view(x.size(0), -1)``."""
    shape = node.args[1:] if len(node.args) == 3 else argument(node, 1, "shape", ())
    pair = isinstance(shape, tuple | list) and len(shape) == 2
    return pair and isinstance(shape[0], fx.Node) and bool(shape[1] == -1)


def in_space(node: fx.Node) -> bool:
    """Turn a pool with a window into one that leaves time alone; return whether that could be done."""
    last = ("ceil_mode", "count_include_pad", "divisor_override")
    if node.target is F.max_pool2d:
        last = ("dilation", "ceil_mode", "return_indices")
    settings = dict(zip(("input", "kernel_size", "stride", "padding", *last), node.args, strict=False)) | node.kwargs
    settings["stride"] = settings.get("stride") or settings.get("kernel_size")
    for setting, in_time in {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}.items():
        if setting in settings:
            if not isinstance(settings[setting], int | tuple | list):  # computed from the input's size
                return False
            settings[setting] = (in_time, *pair_of(settings[setting]))
    node.target = WINDOWS[node.target]
    node.args, node.kwargs = (settings.pop("input"),), settings
    return not settings.get("return_indices")


def pair_of(value: Any) -> tuple[Any, ...]:
    """A setting for height and width; an only one is for both."""
    listed = (value, value) if isinstance(value, int) else tuple(value)
    return listed * 2 if len(listed) == 1 else listed
