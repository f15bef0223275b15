"""optimize_for_inference: a copy of a network that does the same in fewer passes over its maps."""

import copy

import torch
from torch import fx, nn

from atfr.adapt.surgery import refuse_wrapped
from atfr.errors import InputError
from atfr.optimize.regions import regions
from atfr.optimize.rewrite import rewrite_


def optimize_for_inference(model: nn.Module) -> nn.Module:
    """Return a copy of a network for inference alone: faster, in evaluation mode, without gradients.

    Batch norms are folded into the convolutions before them; convolutions, the activation behind them and the addition
    of a shortcut become one operation (on CPUs, of oneDNN, whose kernels are kept in its own layout); weights and maps
    are channels last; squeeze-and-excitation works on rows and in place. SGS, controls, `atfr.record`,
    `atfr.clip_cost`, packed batches and `torch.export` work as before, and logits agree within rounding. The network
    itself is left as it was.

    torch.fx reads the forwards of submodules; what it cannot read (control flow that depends on sizes, functions of
    torch.jit.script, modules with hooks) runs as it did, and only what lies within it is optimised. So does a batch
    norm that stands before its convolution, or behind one that another path uses too.

    Not supported: training the copy; `atfr.adapt_` and `atfr.restore_` on it, `load_weights` and `save_pretrained`
    (keep the network for that); autocast, which leaves float32 operations as they are: use ``.to(torch.bfloat16)``.

    Args:
        model: Any network of convolutions, with or without SGS, on any device.

    Raises:
        InputError: It is no module, or one of its weights is shared with a copy that cannot be made.
        AdaptError: It is wrapped (DistributedDataParallel, torch.compile).

    Examples:
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
    network = copy.deepcopy(model).eval().requires_grad_(False)
    shared = shared_modules(network)
    for path, graph in regions(network).items():
        region = network.get_submodule(path)
        module = fx.GraphModule(region, rewrite_(region, graph, shared), type(region).__name__)
        if not path:
            return module.eval().to(memory_format=torch.channels_last_3d)
        network.set_submodule(path, module.eval())
    return network.to(memory_format=torch.channels_last_3d)


def shared_modules(network: nn.Module) -> set[int]:
    """Return the ids of modules that stand at several places, or share a parameter with another."""
    places: dict[int, int] = {}
    owners: dict[int, set[int]] = {}
    for _, module in network.named_modules(remove_duplicate=False):
        places[id(module)] = places.get(id(module), 0) + 1
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    several = {module for module, count in places.items() if count > 1}
    return several | {module for modules in owners.values() if len(modules) > 1 for module in modules}
