"""Networks as PyTorch runs them, with and without SGS, ready to be timed."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.adapt import restore_
from atfr.evaluate.forward import evaluating
from atfr.speed.clocked import Clocked
from atfr.speed.forcing import forced
from atfr.speed.saving import Pair, Work
from atfr.trace import site_names


@contextmanager
def eager(
    adaptive: nn.Module, clips: Float[Tensor, "N C T H W"], work: Work, static: nn.Module | None = None
) -> Iterator[Pair]:
    """Give a network with SGS and the same without, in evaluation and inference mode, both on the same clips.

    While the context is open, A is that of `work`, and points of both networks are marked.

    Args:
        adaptive: with SGS at one place; it is as before afterwards.
        clips: on the network's device.
        static: without SGS; by default a copy.
    """
    if static is None:
        static = copy.deepcopy(adaptive)
        restore_(static)
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
        yield Pair(own, full, work)
