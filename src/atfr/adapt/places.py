"""Where a layer goes: from a stage's name to submodules, and to the channels of what really comes out of them."""

import difflib
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atfr.adapt.meta import Shapes, copied, on_meta
from atfr.adapt.trace import INPUT
from atfr.errors import AdaptError
from atfr.ragged import PackedClips
from atfr.samplers.sampler import full_precision

TRIAL_CLIPS = ((16, 112, 112), (32, 224, 224), (16, 312, 312))
"""T, H, W of clips sent through other people's networks on the meta device, the first that passes."""


def resolve(model: nn.Module, after: str | Sequence[str]) -> dict[str, str]:
    """Return the sites that are meant, each with its submodule path: stages by their names, the rest by their paths.

    The path of the input is empty: the network itself.

    Raises:
        AdaptError: there is no such stage or submodule, or one is named twice.
    """
    stages = getattr(model, "stage_paths", {})
    names = {path: stage for stage, path in stages.items() if isinstance(path, str)}
    modules = [path for path, _ in model.named_modules() if path]
    sites: dict[str, str] = {}
    for name in [after] if isinstance(after, str) else after:
        if name == INPUT and name not in stages and name not in modules:
            sites[INPUT] = ""
            continue
        if name not in stages and name not in modules:
            near = difflib.get_close_matches(name, list(dict.fromkeys([*stages, *modules])), n=3, cutoff=0.5)
            known = ", ".join(stages) or ", ".join(child for child, _ in model.named_children())
            hint = f"; did you mean {', '.join(map(repr, near))}?" if near else f"; there are {INPUT}, {known}"
            raise AdaptError(f"{type(model).__name__} has no stage or submodule {name!r}{hint}")
        paths = stages.get(name, name)
        for path in [paths] if isinstance(paths, str) else paths:
            if path in sites.values():
                raise AdaptError(f"after={after!r} names {path!r} twice; name each place once")
            sites[names.get(path, path)] = path
    return sites


def trial_inputs(model: nn.Module, example: Any, clips: int = 1) -> list[Any]:
    """Return inputs on the meta device to try the network with: the example, or clips of usual shapes."""
    if example is not None:
        return [torch.utils._pytree.tree_map_only(Tensor, lambda x: several(x.to("meta"), clips), example)]
    first = next((m for m in model.modules() if isinstance(m, nn.Conv3d)), None)
    own = getattr(model, "clip_shape", None)
    shapes = [own] if own else [(first.in_channels if first else 3, *clip) for clip in TRIAL_CLIPS]
    return [torch.empty(clips, *shape, dtype=float_like(model).dtype, device="meta") for shape in shapes]


def several(tensor: Tensor, clips: int) -> Tensor:
    """Return a batch of one clip as a batch of more; others as they are."""
    return tensor.expand(clips, *tensor.shape[1:]) if tensor.dim() == 5 and len(tensor) == 1 else tensor


def is_clips(value: Any) -> bool:
    """Whether something an input is made of holds clips, N x C x T x H x W."""
    return isinstance(value, Tensor) and value.dim() == 5 and value.is_floating_point()


def real_input(
    form: Any, like: Tensor, dtype: torch.dtype, most: Sequence[int | None] | None = (None,) * 3, clips: int = 1
) -> Any:
    """Return an input with numbers, on a tensor's device.

    Args:
        form: an input of the same form.
        dtype: of its numbers, where they are no whole numbers.
        most: most frames, height and width of its clips, which are noise from 0 to 1; None: clips are those of `form`.
        clips: how many there are, where `form` has one.
    """
    generator = torch.Generator().manual_seed(0)

    def real(value: Tensor) -> Tensor:
        if most and is_clips(value):
            number, channels, *size = several(value, clips).shape
            shape = number, channels, *(min(n, limit or n) for n, limit in zip(size, most, strict=True))
            value = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
        return value.detach().to(like.device, dtype if value.is_floating_point() else value.dtype)

    return torch.utils._pytree.tree_map_only(Tensor, real, form)


def output_shapes(model: nn.Module, paths: Sequence[str], example: Any = None) -> dict[str, tuple[int, int]]:
    """Return channels and frames of submodules' outputs, by a forward pass of a copy that stops behind them.

    Those of the network itself (an empty path) are its input's.

    Raises:
        AdaptError: no trial input gets there, or an output is no N x C x T x H x W.
    """
    trial = trial_inputs(model, example)[0]
    if "" in paths:
        if not isinstance(trial, Tensor) or trial.dim() != 5:
            raise AdaptError(
                f"a layer at the input takes clips N x C x T x H x W, {type(model).__name__} takes something else; put "
                "it behind a module"
            )
        inner = [path for path in paths if path]
        return {"": (trial.shape[1], trial.shape[2])} | (output_shapes(model, inner, example) if inner else {})
    try:
        outputs = outputs_of(on_meta(model), paths, {}, trial)
    except AdaptError:  # its forward may need numbers
        like = float_like(model)
        outputs = outputs_of(
            copied(model), paths, {}, real_input(trial if example is None else example, like, like.dtype)
        )
    for path, output in outputs.items():
        if not isinstance(output, Tensor) or isinstance(output, PackedClips) or output.dim() != 5:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise AdaptError(
                f"a sampler goes behind a module whose output is N x C x T x H x W, that of {path!r} is {got}"
            )
    return {path: (outputs[path].shape[1], outputs[path].shape[2]) for path in paths}


class _Reached(Exception):  # noqa: N818  no error: it ends the trial
    """Every module that was watched has run."""


def outputs_of(copy: nn.Module, paths: Sequence[str], state: Mapping[str, Tensor], trial: Any) -> dict[str, Any]:
    """Return submodules' outputs for a trial input and other parameters and buffers; nothing behind them runs.

    Args:
        copy: of a network, since its hooks and what it keeps between passes run too.

    Raises:
        AdaptError: the input does not get there.
    """
    outputs: dict[str, Any] = {}

    def keep(path: str, module: nn.Module, args: Any, output: Any) -> None:
        outputs[path] = output
        if len(outputs) == len(paths):
            raise _Reached

    try:
        with ExitStack() as hooks, undisturbed(copy), torch.no_grad(), Shapes(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for path in paths:
                hooks.enter_context(copy.get_submodule(path).register_forward_hook(partial(keep, path)))
            torch.func.functional_call(copy, dict(state), (trial,))
    except _Reached:
        pass
    except Exception as error:
        raise AdaptError(
            f"a trial clip did not pass through {type(copy).__name__} up to {', '.join(paths)!r} "
            f"({type(error).__name__}: {error}); pass an input that the network takes: adapt_(model, ..., example=x)"
        ) from error
    if unused := [path for path in paths if path not in outputs]:
        name = type(copy).__name__
        raise AdaptError(f"{unused[0]!r} is not used in the forward pass of {name}; choose one that is")
    return outputs


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Compute with gradients and without autocast, and leave random numbers as they were."""
    device = float_like(model).device
    own, states = device.type not in ("cpu", "meta"), (random.getstate(), np.random.get_state())
    with (
        torch.random.fork_rng([device.index or 0] if own else [], device_type=device.type if own else "cuda"),
        torch.inference_mode(False),
        torch.enable_grad(),
        full_precision(device.type),
    ):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and every part of it back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def float_like(model: nn.Module, path: str = "") -> Tensor:
    """Return a parameter of a submodule, or of the nearest module around it that has one: its device and float type."""
    while True:
        own = [p for p in model.get_submodule(path).parameters() if p.is_floating_point()]
        if own or not path:
            return own[0] if own else torch.empty(0)
        path = path.rpartition(".")[0]
