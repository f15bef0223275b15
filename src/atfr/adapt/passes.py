"""One pass of a network over clips, and how far it is from passes over each of them alone."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.adapt.meta import leaves_of
from atfr.adapt.places import is_clips
from atfr.ragged.packed import TIME, PackedClips
from atfr.ragged.rearranged import RearrangedClips, maps_of
from atfr.ragged.sizes import watched

NOTHING = 1e-12
"""A size below which all is rounding, for clips of numbers from 0 to 1."""


class Pass(NamedTuple):
    """What a network made of clips.

    Attributes:
        seen: a summary of each clip wherever it passes, in order: of what a module's own forward hands to another one,
            by both paths, and of what a module returns, by its path alone; each with the number of such calls.
        results: the network's output, clip by clip.
        gradients: that of a weighted sum of the output in each clip of the input.
        slopes: that in each parameter.
    """

    seen: dict[tuple[str, str, int], list[Float[Tensor, " _"]]]
    results: list[Float[Tensor, " _"]]
    gradients: list[Float[Tensor, " _"]]
    slopes: dict[str, Float[Tensor, "..."]]


def one_pass(network: nn.Module, inputs: Any, count: int) -> Pass:
    """Run a network on so many clips, forward and backward."""
    seen: dict[tuple[str, str, int], list[Tensor]] = {}
    calls: Counter[tuple[str, str]] = Counter()
    starts: list[Tensor] = []
    running: list[str] = []

    def note(giving: str, taking: str, values: Any) -> None:
        calls[giving, taking] += 1
        found = [summary(part) for value in leaves_of(values) for part in parts(value, count)]
        seen[giving, taking, calls[giving, taking]] = found

    def enter(path: str, module: nn.Module, args: Any) -> None:
        if running:
            note(running[-1], path, args)
        running.append(path)

    def leave(path: str, module: nn.Module, args: Any, output: Any) -> None:
        running.pop()
        note(path, "", output)

    def fresh(value: Tensor) -> Tensor:
        if not is_clips(value):
            return value
        starts.append(value.detach().requires_grad_())
        return starts[-1].clone()  # which the network may write over

    with ExitStack() as hooks, watched() if count > 1 else nullcontext():  # of one clip, sizes are its own
        for path, module in own_modules(network):
            hooks.enter_context(module.register_forward_pre_hook(partial(enter, path)))
            hooks.enter_context(module.register_forward_hook(partial(leave, path)))
        output = network(torch.utils._pytree.tree_map_only(Tensor, fresh, inputs))
    values = [clips for value in leaves_of(output) if (clips := parts(value, count))]
    results = [torch.cat([torch.empty(0), *(numbers(clips[i]) for clips in values)]) for i in range(count)]
    slopes = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    weighted = [(clip.flatten() * wave(clip)).sum() for clips in values for clip in clips if clip.requires_grad]
    sources = [*starts, *slopes.values()]
    if weighted:
        torch.autograd.backward(weighted)  # reentrant checkpoints take no torch.autograd.grad
    steep = [torch.zeros_like(source) if source.grad is None else source.grad for source in sources]
    network.zero_grad()
    gradients = [torch.cat([numbers(grad[i]) for grad in steep[: len(starts)]]) for i in range(count)]
    return Pass(seen, results, gradients, dict(zip(slopes, steep[len(starts) :], strict=True)))


def farthest(together: Sequence[Tensor], alone: Sequence[Sequence[Tensor] | None]) -> float:
    """Return how far the clip is that is farthest from what it is alone; 0 where these are no clips.

    Args:
        alone: of each clip by itself as many rows as `together` has for it; None where nothing came.
    """
    each = len(together) // len(alone)
    if each and None in alone:
        return math.inf
    if any(len(one or ()) != each for one in alone):
        return 0.0
    pairs = [(together[k * len(alone) + i], one[k]) for i, one in enumerate(alone) if one for k in range(each)]
    return max((distance(row, other) for row, other in pairs), default=0.0)


def distance(row: Float[Tensor, " _"], other: Float[Tensor, " _"], sizes: Float[Tensor, " _"] | None = None) -> float:
    """Return the largest difference of two rows, as a share of the largest size; infinite where their forms differ."""
    if row.shape != other.shape:
        return math.inf
    if not len(row):
        return 0.0
    same = (row == other) | (row.isnan() & other.isnan())
    apart = torch.where(same, 0.0, (row - other).abs().nan_to_num(math.inf, math.inf))
    sizes = torch.cat([row, other]).abs() if sizes is None else sizes
    return float(apart.amax() / sizes.nan_to_num(0.0, 0.0, 0.0).amax().clamp(min=NOTHING))


def parts(value: Any, count: int) -> list[Tensor]:
    """Return what belongs to each clip, of packed clips or of a plain batch; nothing of anything else."""
    if isinstance(value, PackedClips | RearrangedClips):
        return list(maps_of(value).split(value.lengths, dim=TIME))
    return list(value.split(1)) if isinstance(value, Tensor) and value.dim() and len(value) == count else []


def summary(clip: Tensor) -> Float[Tensor, " _"]:
    """Return three figures that change when a clip's numbers do, or their order."""
    with torch._C.DisableTorchFunction():  # no operation here is the network's, so none is looked at
        row = numbers(clip)
        return torch.stack([row.square().mean().sqrt(), row.mean(), (row * wave(row)).sum() / len(row) ** 0.5])


def numbers(value: Tensor) -> Float[Tensor, " _"]:
    """Return all numbers of a tensor in a row, on the CPU."""
    return value.detach().to("cpu", torch.float64).flatten()


def wave(value: Tensor) -> Float[Tensor, " _"]:
    """Return weights for the numbers of a tensor, all of them different."""
    golden = (5**0.5 - 1) / 2  # no two of its multiples have the same fraction; a cosine would take ten times as long
    weights = torch.arange(1, value.numel() + 1, device="cpu", dtype=torch.float64).mul_(golden).frac_().sub_(0.5)
    return weights.to(value)


def own_modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules that take hooks, each with its path."""
    return [pair for pair in network.named_modules() if not isinstance(pair[1], torch.jit.ScriptModule)]


def failure(network: nn.Module, run: Callable[[], Any]) -> tuple[str, Exception] | None:
    """Run a network; return what it raised, with the innermost module that was running, or None."""
    running: list[str] = []
    with ExitStack() as hooks:
        for path, module in own_modules(network):
            name = f"module {path!r} ({type(module).__name__})" if path else "the network's own forward"
            hooks.enter_context(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
            hooks.enter_context(module.register_forward_hook(lambda *_: running.pop() and None))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it has to say of clips that are made up helps nobody
                run()
        except Exception as error:
            return running[-1] if running else "the network", error
    return None
