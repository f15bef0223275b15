"""optimize_for_inference: a copy of a network that does the same in fewer passes over its maps."""

import copy
from collections import Counter
from collections.abc import Set
from typing import Any

from torch import fx, nn

from atfr.adapt.surgery import refuse_wrapped
from atfr.errors import InputError
from atfr.optimize.regions import regions
from atfr.optimize.rewrite import rewrite_


def optimize_for_inference(model: nn.Module) -> nn.Module:
    """Return a copy of a network for inference alone: faster, in evaluation mode, without gradients of its weights.

    Batch norms are folded into the convolutions before them; convolutions, the activation behind them and the addition
    of a shortcut become one operation (on CPUs, of oneDNN, whose kernels are kept in its own layout); weights and maps
    are channels last; squeeze-and-excitation works on rows and in place. SGS, controls, `atfr.record`,
    `atfr.clip_cost`, packed batches and `torch.export` work as before, and logits agree within rounding; so do
    gradients of the clips, where they are asked for (then without oneDNN's operations). NaN and inf come out where they
    do of the network. The network itself is left as it was.

    torch.fx reads the forwards of submodules; only what is known to do the same is exchanged. What has hooks, is used
    by something else too or is written over through a view stays as it was; so do batch norms that stand before their
    convolution, or behind one that another path uses too. A forward that torch.fx cannot read (control flow that
    depends on sizes, optional arguments, attributes that it sets, `isinstance`) stays as it was with all that lies
    below it, unless it is of atfr or torch's Sequential: PyTorchVideo's SlowFast gains nothing, as its module of
    several pathways asks what its input is. Its X3D and ResNets, and torchvision's, are read from their root.

    Where a convolution in the network exceeds float32 before a batch norm that would bring it back, the copy may stay
    within. Not supported: training the copy; hooks that are put into the network later; `atfr.adapt_` and
    `atfr.restore_` on the copy, `load_weights` and `save_pretrained` (keep the network for that). Under autocast,
    convolutions run as PyTorch's own; ``.to(torch.bfloat16)`` is faster.

    Args:
        model: Any network of convolutions, with or without SGS, on any device.

    Raises:
        InputError: It is no module, or one of its weights is shared with a copy that cannot be made.
        AdaptError: It is wrapped (DistributedDataParallel, torch.compile).

    Examples:
        >>> import torch
        >>> import atfr
        >>> model = atfr.create_model("x3d_xs", num_classes=10).eval()
        >>> report = atfr.adapt_(model, after="res2")
        >>> fast = atfr.optimize_for_inference(model)
        >>> with torch.inference_mode(), atfr.record(fast) as trace:
        ...     logits = fast(torch.rand(2, 3, 4, 64, 64))
        >>> tuple(logits.shape), len(trace.active_bins)
        ((2, 10), 2)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"optimize_for_inference takes a network, an nn.Module, got {type(model).__name__}")
    refuse_wrapped(model)
    memo = Memo()
    network = copy.deepcopy(model, memo).eval().requires_grad_(False)
    shared = shared_modules(network, memo.again)
    for path, found in regions(network).items():
        region = network.get_submodule(path)
        graph = rewrite_(region, found.graph, shared, found.outside)
        module = fx.GraphModule(region, graph, type(region).__name__).eval()
        if not path:
            return module
        network.set_submodule(path, module)
    return network


class Memo(dict[int, Any]):
    """The memo of a deep copy, which knows what was met again: modules and parameters that are held in several places.

    Attributes:
        again: The ids of their copies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.again: set[int] = set()

    def get(self, key: int, default: Any = None) -> Any:
        """Return the copy of an object that was met before."""
        found = super().get(key, default)
        if found is not default:
            self.again.add(id(found))
        return found


def shared_modules(network: nn.Module, again: Set[int]) -> set[int]:
    """Return the ids of modules at several places, or that something else holds, or a parameter of theirs."""
    places = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    return {
        id(module)
        for module in network.modules()
        if places[id(module)] > 1 or again & {id(module), *map(id, module.parameters(recurse=False))}
    }
