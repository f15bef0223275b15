"""Networks as PyTorch runs them, with and without SGS, ready to be timed."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.adapt import restore_
from atfr.bench import Timing, Variant
from atfr.evaluate.forward import evaluating
from atfr.speed.clocked import Clocked
from atfr.speed.forcing import forced
from atfr.speed.saving import Work
from atfr.trace import site_names


@dataclass(frozen=True)
class ClockedPair:
    """A network without SGS ("before", "after" its place) and with it ("before", "sgs", "after"), and its work."""

    static: Clocked
    adaptive: Clocked
    work: Work

    def variants(self) -> dict[str, Variant]:
        """Return both."""
        return {"static": self.static, "adaptive": self.adaptive}

    def seconds(self, timing: Timing) -> dict[str, tuple[float, ...]]:
        """Return the times of both, and of their parts in the same passes."""
        static, adaptive = (one.seconds(timing.rounds) for one in (self.static, self.adaptive))
        return {
            **timing.seconds,
            "before": static["before"],
            "after": static["after"],
            "sgs": adaptive["sgs"],
            "after sgs": adaptive["after"],
        }


def without_sgs(model: nn.Module) -> nn.Module:
    """Return a copy of a network without SGS."""
    static = copy.deepcopy(model)
    restore_(static)
    return static


@contextmanager
def eager(
    adaptive: nn.Module, clips: Float[Tensor, "N C T H W"], work: Work, static: nn.Module | None = None
) -> Iterator[ClockedPair]:
    """Give a network with SGS and the same without, in evaluation and inference mode, both on the same clips.

    While the context is open, A is that of `work`, and points of both networks are marked.

    Args:
        adaptive: with SGS at one place; it is as before afterwards.
        clips: on the network's device.
        static: without SGS; by default a copy.
    """
    static = without_sgs(adaptive) if static is None else static
    layers = list(site_names(adaptive).values())
    paths = {layer: path for path, layer in adaptive.named_modules()}
    stages = [static.get_submodule(paths[layer].rpartition(".")[0]) for layer in layers]
    own = Clocked(lambda: static(clips), ["before"] * len(stages) + ["after"], clips.device)
    full = Clocked(lambda: adaptive(clips), ["before", "sgs"] * len(layers) + ["after"], clips.device)
    with ExitStack() as stack, torch.inference_mode():
        for network in (static, adaptive):
            stack.enter_context(evaluating(network))
        stack.enter_context(forced(adaptive, work.active_bins))
        stack.enter_context(own.at(*((stage, False) for stage in stages)))
        stack.enter_context(full.at(*((layer, before) for layer in layers for before in (True, False))))
        yield ClockedPair(own, full, work)
