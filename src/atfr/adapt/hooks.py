"""How a layer becomes part of a network: a child of the module that it stands behind, or of the network at its input.

A plain `nn.Sequential` runs its children in order, so it needs no more; any other module gets a forward hook that
passes its output (or a pre-hook that passes its clips) through its child.
"""

from typing import Any

from torch import Tensor, nn

from atfr.adapt.layers import LAYERS
from atfr.adapt.trace import CHILD, first_of, run_first
from atfr.errors import UnsupportedOperationError
from atfr.private import is_recorded
from atfr.ragged import PackedClips


def put_behind(target: nn.Module, layer: nn.Module) -> None:
    """Make a layer the child of a module that its output goes through."""
    target.add_module(CHILD, layer)
    if not runs_children_in_order(target):
        target.register_forward_hook(run_child)


def put_before(model: nn.Module, layer: nn.Module) -> None:
    """Make a layer the child of a network that its clips go through first."""
    children = dict(model._modules)
    model._modules.clear()
    model.add_module(CHILD, layer)
    model._modules.update(children)  # a Sequential runs its first child first
    if not runs_children_in_order(model):
        model.register_forward_pre_hook(run_first, with_kwargs=True)


def take_out(model: nn.Module) -> None:
    """Remove all layers that `adapt_` has put into a network, and their hooks."""
    for module in [module for module in model.modules() if was_adapted(module)]:
        delattr(module, CHILD)
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if hook in (run_child, check_rows):
                del module._forward_hooks[key]
        for key, hook in list(module._forward_pre_hooks.items()):
            if hook is run_first:
                del module._forward_pre_hooks[key], module._forward_pre_hooks_with_kwargs[key]


def was_adapted(module: nn.Module) -> bool:
    """Whether `adapt_` put a layer behind this module, or before it; one of the network's own is not its."""
    runs = runs_children_in_order(module) or run_child in module._forward_hooks.values()
    return (runs or first_of(module) is not None) and isinstance(getattr(module, CHILD, None), LAYERS)


def runs_children_in_order(module: nn.Module) -> bool:
    """Whether a module is a plain Sequential, which runs a child added to it."""
    return getattr(type(module), "forward", None) is nn.Sequential.forward  # TorchScript has none


def run_child(module: nn.Module, args: Any, output: Any) -> Any:
    """Pass a module's output through the layer that is its child (a forward hook)."""
    return getattr(module, CHILD)(output)


def check_rows(model: nn.Module, args: Any, output: Any) -> None:
    """Raise where a batch of clips came in and other than one row a clip goes out (a forward hook).

    Operations on packed clips that do not keep them apart raise by themselves; functions of TorchScript do not ask.
    """
    clips = args[0] if args else None
    if isinstance(output, PackedClips) or is_recorded():  # without a head; or one clip more (`atfr.compile`)
        return
    if not isinstance(clips, Tensor) or clips.dim() != 5 or not isinstance(output, Tensor):
        return
    number = len(clips.lengths) if isinstance(clips, PackedClips) else len(clips)
    if len(output) != number:
        raise UnsupportedOperationError(
            f"{number} clips went into {type(model).__name__} and {len(output)} rows came out: something behind "
            "the sampler mixed the clips, as functions made by torch.jit.script can; replace them by Python functions"
        )
