"""Put SGS into any nn.Module, change it, and take it out again, without renaming one parameter of the network.

The layer becomes a child named `sgs` of the module it stands behind. A plain `nn.Sequential` runs its children in
order, so it needs no more; any other module gets a forward hook that passes its output through its child.
"""

import difflib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atfr.errors import AdaptError, UnsupportedOperationError
from atfr.ragged import PackedClips
from atfr.sgs.functional import Kernel, Order, TopEdge
from atfr.sgs.layer import SimilarityGuidedSampling, at_least_one
from atfr.trace import CHILD, site_names

PROBE_CLIP = (16, 112, 112)  # T, H, W of the clip sent through other people's networks, on the meta device


@dataclass(frozen=True)
class AdaptReport:
    """What `adapt_` did.

    Attributes:
        site: the stage or submodule that SGS stands behind, the name under which `record` lists it.
        path: that submodule's path in the network.
        channels: channels of its output.
        new_parameters: how many numbers the similarity network adds.
    """

    site: str
    path: str
    channels: int
    new_parameters: int


def adapt_(
    model: nn.Module,
    after: str = "res2",
    num_bins: int | None = None,
    kernel: Kernel = "linear",
    embedding_dim: int = 8,
    top_edge: TopEdge = "center",
    order: Order = "magnitude",
    example: Any = None,
) -> AdaptReport:
    """Put one SGS layer behind a stage of a network, in place.

    Behind it the network runs on packed clips of different lengths; its forward signature does not change. Do this
    before the optimiser is made: the similarity network has parameters of its own.

    Args:
        after: a stage of our models (stem, res2, res3, res4, res5), or the path of a submodule of any network.
        num_bins, kernel, embedding_dim, top_edge, order: see `SimilarityGuidedSampling`.
        example: an input of the network, where it takes anything else than clips N x 3 x T x H x W.

    Raises:
        AdaptError: there is no such stage, its output is no N x C x T x H x W, the network is adapted already, or it is
            wrapped (DistributedDataParallel, torch.compile).

    Example:
        >>> import atfr
        >>> model = atfr.create_model("x3d_xs", num_classes=10)
        >>> atfr.adapt_(model, after="res2").channels
        24
    """
    if not isinstance(model, nn.Module) or not isinstance(after, str):
        raise AdaptError(f"adapt_ takes a network and the name of one stage or submodule, got {type(model)}, {after!r}")
    refuse_wrapped(model)
    if sites := site_names(model):
        raise AdaptError(f"the network has SGS behind {', '.join(sites)} already; take it out with atfr.restore_ first")
    path = resolve(model, after)
    target = model.get_submodule(path)
    if hasattr(target, CHILD):
        raise AdaptError(f"{path!r} has an attribute named {CHILD!r} of its own; choose another submodule")
    channels = output_channels(model, path, example)
    layer = SimilarityGuidedSampling(channels, num_bins, kernel, embedding_dim, top_edge, order)
    layer.train(target.training)
    layer.to(float_like(model).device, float_like(model).dtype)
    target.add_module(CHILD, layer)
    if not runs_children_in_order(target):
        target.register_forward_hook(run_child)
    model.register_forward_hook(check_rows)
    return AdaptReport(next(iter(site_names(model))), path, channels, sum(p.numel() for p in layer.parameters()))


def restore_(model: nn.Module) -> None:
    """Take SGS out again: the network's logits and state_dict keys are those from before `adapt_`.

    Raises:
        AdaptError: the network has no SGS put in by `adapt_`.
    """
    targets = [module for module in model.modules() if was_adapted(module)]
    if not targets:
        raise AdaptError("the network has no SGS to take out; atfr.adapt_ puts one in")
    for target in targets:
        delattr(target, CHILD)
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if hook in (run_child, check_rows):
                del module._forward_hooks[key]


def set_num_bins_(model: nn.Module, num_bins: int | None) -> None:
    """Set the number of similarity bins of every SGS layer, also of a trained network (None: as many as frames).

    Source: Fayyaz et al. 2021, appendix C, Table A.4.
    """
    sites = site_names(model)
    if not sites:
        raise AdaptError("the network has no SGS; put one in with atfr.adapt_")
    if num_bins is not None:
        at_least_one("num_bins", num_bins)
    for layer in sites.values():
        layer.num_bins = num_bins


def adaptation(model: nn.Module) -> dict[str, Any] | None:
    """Return the arguments of `adapt_` that make the SGS the network has now, or None where it has none."""
    site, layer = next(iter(site_names(model).items()), (None, None))
    if layer is None:
        return None
    return {
        "after": site,
        "num_bins": layer.num_bins,
        "kernel": layer.kernel,
        "embedding_dim": layer.embedding_dim,
        "top_edge": layer.top_edge,
        "order": layer.order,
    }


def check_rows(model: nn.Module, args: Any, output: Any) -> None:
    """Raise where a batch of clips came in and other than one row a clip goes out (a forward hook).

    Operations on packed clips that do not keep them apart raise by themselves; functions of TorchScript do not ask.
    """
    clips = args[0] if args else None
    if isinstance(clips, Tensor) and clips.dim() == 5 and isinstance(output, Tensor) and len(output) != len(clips):
        raise UnsupportedOperationError(
            f"{len(clips)} clips went into {type(model).__name__} and {len(output)} rows came out: something behind "
            "SGS mixed the clips, as functions made by torch.jit.script can; replace them by Python functions"
        )


def runs_children_in_order(module: nn.Module) -> bool:
    """Whether a module is a plain Sequential, which runs a child added to it."""
    return type(module).forward is nn.Sequential.forward


def was_adapted(module: nn.Module) -> bool:
    """Whether `adapt_` put an SGS layer behind this module; one of the network's own is not its."""
    runs = runs_children_in_order(module) or run_child in module._forward_hooks.values()
    return runs and isinstance(getattr(module, CHILD, None), SimilarityGuidedSampling)


def float_like(model: nn.Module) -> Tensor:
    """Return a tensor whose device and type are those of the network's parameters."""
    return next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))


def run_child(module: nn.Module, args: Any, output: Any) -> Any:
    """Pass a module's output through the SGS layer that is its child (a forward hook)."""
    return getattr(module, CHILD)(output)


def refuse_wrapped(model: nn.Module) -> None:
    """Raise where changing the network would not reach its wrapper."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(model, (*wrappers, torch.jit.ScriptModule)) or hasattr(model, "_orig_mod"):
        raise AdaptError(
            f"cannot adapt a network inside {type(model).__name__}: adapt the network itself, then wrap it"
        )


def resolve(model: nn.Module, after: str) -> str:
    """Return the submodule path of a stage name or of a path."""
    stages = getattr(model, "stage_paths", {})
    paths = [path for path, _ in model.named_modules() if path]
    if after in stages:
        return stages[after]
    if after in paths:
        return after
    near = difflib.get_close_matches(after, [*stages, *paths], n=3, cutoff=0.5)
    known = ", ".join(stages) or ", ".join(name for name, _ in model.named_children())
    hint = f"; did you mean {', '.join(map(repr, near))}?" if near else f"; there are {known}"
    raise AdaptError(f"{type(model).__name__} has no stage or submodule {after!r}{hint}")


class _Reached(Exception):  # noqa: N818  no error: it ends the trial
    """Carries the output of the probed module out of the forward pass."""


def output_channels(model: nn.Module, path: str, example: Any = None) -> int:
    """Return the channels of a submodule's real output, by a forward pass on the meta device that stops there."""

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        raise _Reached(output)

    if example is None:
        first = next((m for m in model.modules() if isinstance(m, nn.Conv3d)), None)
        clip = getattr(model, "clip_shape", (first.in_channels if first else 3, *PROBE_CLIP))
        example = torch.empty(1, *clip, dtype=float_like(model).dtype)
    example = torch.utils._pytree.tree_map_only(Tensor, lambda x: x.to("meta"), example)
    state = {name: value.to("meta") for name, value in (*model.named_parameters(), *model.named_buffers())}
    handle = model.get_submodule(path).register_forward_hook(stop)
    try:
        with torch.no_grad():
            torch.func.functional_call(model, state, (example,))
    except _Reached as reached:
        output = reached.args[0]
    except Exception as error:
        raise AdaptError(
            f"a trial clip did not pass through {type(model).__name__} up to {path!r} "
            f"({type(error).__name__}: {error}); pass an input that the network takes: adapt_(model, ..., example=x)"
        ) from error
    else:
        raise AdaptError(f"{path!r} is not used in the forward pass of {type(model).__name__}; choose one that is")
    finally:
        handle.remove()
    if not isinstance(output, Tensor) or isinstance(output, PackedClips) or output.dim() != 5:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise AdaptError(f"SGS goes behind a module whose output is N x C x T x H x W, that of {path!r} is {got}")
    return output.shape[1]
