"""Copies of a network to try things with: without numbers, and with a chosen number of maps in a sampler's place.

How many maps a clip keeps depends on its numbers, which the meta device does not have; `StandIn` is told.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from atfr.adapt.trace import site_names
from atfr.ragged import PackedClips
from atfr.ragged.operations import in_backward, without_override
from atfr.samplers.sampler import TemporalSampler

aten = torch.ops.aten
leaves_of = torch.utils._pytree.tree_leaves
"""Returns the tensors in anything that modules take and return, and whatever else is in it."""

EMPTY = (dict, OrderedDict, set)
"""Of these a module holds ten that are empty, for hooks above all, which would be copied one by one."""


class Shapes(TorchDispatchMode):
    """Answers at once what the meta device works out in many steps of Python: ReLU, ReLU6, batch norm keep a shape.

    They are most of the operations of a 3D CNN, and were most of the time of a pass without numbers.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.hardtanh_.default and args[0].is_meta:  # ReLU6 in place
            return args[0]
        if func in (aten.relu.default, aten.native_batch_norm.default) and args[0].is_meta:
            same = aten.empty_like.default(args[0])
            return same if func is aten.relu.default else (same, *(same.new_empty(same.shape[1]) for _ in range(2)))
        return without_override(self.run, func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run any other operation."""
        return func(*args, **kwargs)


class StandIn(nn.Module):
    """Stands in for a sampler: does its work on the maps, then keeps as many of each clip as it is told.

    Attributes:
        keep: maps that each clip keeps, if it has so many; the last number is for all further clips. None passes the
            features on as they are.
        passes: how often it has run forward.
        frames: maps that each clip had in the last pass.
        merging: multiply-adds of the weighted sum in the last pass, if there is one.
    """

    def __init__(self, layer: TemporalSampler) -> None:
        super().__init__()
        self.layer = layer
        self.keep: Sequence[int] | None = None
        self.passes = 0
        self.frames: tuple[int, ...] = ()
        self.merging = 0

    def forward(self, features: Tensor) -> Tensor:
        """Keep the first maps of each clip."""
        self.passes += not in_backward()  # a checkpoint runs again there
        self.merging = 0
        clips = features.unpack() if isinstance(features, PackedClips) else list(features)
        self.frames = tuple(clip.shape[1] for clip in clips)
        if self.keep is None:
            return features
        maps = features.plain() if isinstance(features, PackedClips) else features
        self.layer.describe(maps)
        self.merging = 0 if self.layer.one_each else maps.numel()
        return PackedClips.pack([clip[:, : self.keep[min(i, len(self.keep) - 1)]] for i, clip in enumerate(clips)])


def on_meta(model: nn.Module) -> nn.Module:
    """Return a copy of a network that has shapes but no numbers, in evaluation mode."""
    return copied(model, "meta")


def copied(model: nn.Module, device: str | None = None, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy of a network in evaluation mode, on another device or in another float type where these are given.

    It shares nothing that a forward pass may change. `copy.deepcopy` refuses tensors that were computed (as old-style
    weight norm and pruning leave them) and shares what functions refer to, hooks above all; here they are copied too.
    """
    held = [value for module in model.modules() for value in vars(module).values()]
    values = [value for value in held if type(value) not in EMPTY or value]
    empty = {id(value): type(value)() for value in held if type(value) in EMPTY and not value}
    leaves = [leaf for value in values if isinstance(value, dict | list | tuple) for leaf in leaves_of(value)]
    leaves += [value for value in values if not isinstance(value, dict | list | tuple)]
    with torch.inference_mode(False):
        tensors = {
            id(leaf): moved(leaf, device, dtype)
            for leaf in leaves
            if isinstance(leaf, Tensor) and not nn.parameter.is_lazy(leaf)
        }
        memo: dict[int, Any] = tensors | empty
        try:
            twin = copy.deepcopy(model, memo)
        except Exception:  # a lock, a file, a generator: the copy shares it
            memo = tensors | empty | {id(leaf): leaf for leaf in leaves if not can_be_copied(leaf)}
            twin = copy.deepcopy(model, memo)
        for module in twin.modules():
            for holder in (vars(module), *(own for own in vars(module).values() if isinstance(own, dict))):
                functions = {name: value for name, value in holder.items() if isinstance(value, FunctionType | partial)}
                holder.update({name: with_own_variables(value, memo) for name, value in functions.items()})
    return twin.eval()


def moved(tensor: Tensor, device: str | None, dtype: torch.dtype | None) -> Tensor:
    """Return a copy of a tensor; plain single numbers stay where they are, since they work with any device."""
    is_parameter = isinstance(tensor, nn.Parameter)
    if tensor.is_mkldnn:  # which has no more than its numbers to give
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if device == "meta" else tensor.clone()
    own = tensor.detach().to(
        tensor.device if tensor.dim() == 0 and not is_parameter else device or tensor.device,
        dtype if dtype and tensor.is_floating_point() else tensor.dtype,
        copy=True,
    )
    return nn.Parameter(own, tensor.requires_grad) if is_parameter else own.requires_grad_(tensor.requires_grad)


def can_be_copied(value: Any) -> bool:
    """Whether `copy.deepcopy` takes something that is no tensor (these and modules are copied in any case)."""
    try:
        return isinstance(value, Tensor | nn.Module) or copy.deepcopy(value) is not None
    except Exception:
        return False


def with_own_variables(function: Any, memo: dict[int, Any]) -> Any:
    """Return a function with copies of the variables that it closes over, and of its defaults and its module's lists.

    Functions of torch and of this library are returned as they are, and so is what is no function.
    """
    if isinstance(function, partial):
        return partial(with_own_variables(function.func, memo), *function.args, **function.keywords)
    if not isinstance(function, FunctionType) or str(function.__module__).partition(".")[0] in ("torch", "atfr"):
        return function

    def own(value: Any) -> Any:
        try:
            return copy.deepcopy(value, memo)
        except Exception:
            return value

    world = function.__globals__
    lists = {name: own(world[name]) for name in function.__code__.co_names if isinstance(world.get(name), list | dict)}
    cells = tuple(CellType(own(cell.cell_contents)) for cell in function.__closure__ or ())
    twin = FunctionType(function.__code__, world | lists, function.__name__, own(function.__defaults__), cells)
    twin.__kwdefaults__ = own(function.__kwdefaults__)
    return twin


def put_stand_ins(network: nn.Module) -> dict[str, StandIn]:
    """Replace the samplers of a network by stand-ins; return these by site."""
    paths = {id(module): path for path, module in network.named_modules()}
    stand_ins = {}
    for site, layer in site_names(network).items():
        stand_ins[site] = StandIn(layer)
        network.set_submodule(paths[id(layer)], stand_ins[site])
    return stand_ins
