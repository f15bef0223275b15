"""Networks as PyTorch runs them, with and without SGS, ready to be timed."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.adapt import restore_
from atfr.adapt.places import evaluating
from atfr.adapt.trace import site_names
from atfr.kernels.allocator import freed_memory_kept
from atfr.measure.clocked import Clocked
from atfr.measure.forcing import forced
from atfr.measure.saving import Pair, Work
from atfr.measure.turns import Timing, Variant, in_turns


def without_sgs(model: nn.Module) -> nn.Module:
    """Return a copy of a network without SGS."""
    static = copy.deepcopy(model)
    restore_(static)
    return static


@contextmanager
def eager(
    adaptive: nn.Module, clips: Float[Tensor, "N C T H W"], work: Work, static: nn.Module | None = None
) -> Iterator[Pair]:
    """Give a network with SGS and the same without, in evaluation and inference mode, both on the same clips.

    While the context is open, A is that of `work`, and points of both networks are marked.

    Args:
        adaptive: with SGS at one place; it is as before afterwards.
        clips: on the network's device.
    """
    static = without_sgs(adaptive) if static is None else static
    layers = list(site_names(adaptive).values())
    paths = {layer: path for path, layer in adaptive.named_modules()}
    stages = [static.get_submodule(paths[layer].rpartition(".")[0]) for layer in layers]
    own = Clocked(lambda: static(clips), ["before"] * len(stages) + ["after"], clips.device)
    full = Clocked(lambda: adaptive(clips), ["before", "sgs"] * len(layers) + ["after"], clips.device)

    def seconds(timing: Timing) -> dict[str, tuple[float, ...]]:
        """Return the times of both, and of their parts in the same passes."""
        without, with_sgs = own.seconds(timing.rounds), full.seconds(timing.rounds)
        return {**timing.seconds, **without, "sgs": with_sgs["sgs"], "after sgs": with_sgs["after"]}

    with ExitStack() as stack, torch.inference_mode():
        for network in (static, adaptive):
            stack.enter_context(evaluating(network))
        stack.enter_context(forced(adaptive, work.active_bins))
        stack.enter_context(own.at(*((stage, stage is static) for stage in stages)))  # at the input: before all
        stack.enter_context(full.at(*((layer, before) for layer in layers for before in (True, False))))
        yield Pair({"static": own, "adaptive": full}, seconds, work)


def forward_in_turns(
    networks: Mapping[str, nn.Module], batches: Sequence[Float[Tensor, "N C T H W"]], **options: Any
) -> Timing:
    """Time the forward passes of networks in evaluation mode, in turns.

    Each round takes the next batch, and all batches have had a round before: PyTorch prepares its kernels for each
    shape that is new to it.

    Args:
        networks: all on one device.
        batches: clips, on any device; moving them is not timed.
        options: of `atfr.measure.in_turns`.
    """
    device = next(next(iter(networks.values())).parameters()).device
    there = [batch.to(device) for batch in batches]

    def passes(network: nn.Module) -> Variant:
        in_order = itertools.cycle(there)
        return lambda: network(next(in_order))

    with ExitStack() as stack, torch.inference_mode(), freed_memory_kept():
        for network in networks.values():
            stack.enter_context(evaluating(network))
        variants = {name: passes(network) for name, network in networks.items()}
        return in_turns(variants, warm_up=len(there), device=device, **options)
