"""One pass of a network over clips, with what it did and what it cost: scores, active bins, multiply-adds, time."""

import itertools
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from atfr.adapt.places import evaluating
from atfr.bench import Timing, Variant, in_turns
from atfr.cost import ClipCost, clip_cost
from atfr.trace import MapCounts, SamplingTrace, record


@dataclass(frozen=True)
class Pass:
    """What a network made of N clips.

    Attributes:
        scores: softmax of the logits.
        sites: what became of the clips' maps at each site; empty for a network without SGS.
        multiply_adds: of each clip, by its own number of active bins.
        ms_per_clip: time of the forward pass over the number of clips; nothing else is in it.
    """

    scores: Float64[Tensor, "N K"]
    sites: dict[str, MapCounts]
    multiply_adds: list[int]
    ms_per_clip: float


class Runner(Protocol):
    """What predicts videos: a network here (`Forward`), or one in an inference runtime (`atfr.runtime`)."""

    cost: ClipCost
    """The multiply-adds of a clip."""

    device: torch.device
    """Where it wants its clips."""

    def __call__(self, clips: Float[Tensor, "N C T H W"]) -> Pass:
        """Run clips, and say what came out and what it took."""


def passed(logits: Float[Tensor, "N K"], trace: SamplingTrace, cost: ClipCost, elapsed_s: float) -> Pass:
    """Return what a network made of clips, from its logits, its trace, and the time it took."""
    sites = {name: site.counts for name, site in trace.sites.items()}
    multiply_adds = cost.of(trace) if cost.sites else [cost.static] * len(logits)
    return Pass(logits.double().softmax(1).cpu(), sites, multiply_adds, 1000 * elapsed_s / len(logits))


class Forward:
    """Runs a network on clips of one shape; its cost table is counted once, here.

    Args:
        model: a network, static or adaptive.
        clip_shape: C T H W of the clips.
    """

    def __init__(self, model: nn.Module, clip_shape: Sequence[int]) -> None:
        self.model = model
        self.clip_shape = tuple(clip_shape)
        self.cost: ClipCost = clip_cost(model, clip_shape)
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, clips: Float[Tensor, "N C T H W"]) -> Pass:
        """Run the network, in evaluation mode, on clips from any device."""
        clips = clips.to(self.device, non_blocking=True)
        with evaluating(self.model), record(self.model) as trace:
            start_s = self._clock_s()
            logits = self.model(clips)
            elapsed_s = self._clock_s() - start_s
        return passed(logits, trace, self.cost, elapsed_s)

    def warm_up(self, num_clips: int) -> None:
        """Run once on noise, so that what a first pass sets up is not in the times that follow."""
        self(torch.randn(num_clips, *self.clip_shape))

    def _clock_s(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def forward_in_turns(
    networks: Mapping[str, nn.Module], batches: Sequence[Float[Tensor, "N C T H W"]], **options: Any
) -> Timing:
    """Time the forward passes of networks in evaluation mode, in turns.

    Each round takes the next batch, and all batches have had a round before: PyTorch prepares its kernels for each
    shape that is new to it.

    Args:
        networks: all on one device.
        batches: clips, on any device; moving them is not timed.
        options: of `atfr.bench.in_turns`.
    """
    device = next(next(iter(networks.values())).parameters()).device
    there = [batch.to(device) for batch in batches]

    def passes(network: nn.Module) -> Variant:
        in_order = itertools.cycle(there)
        return lambda: network(next(in_order))

    with ExitStack() as stack, torch.inference_mode():
        for network in networks.values():
            stack.enter_context(evaluating(network))
        variants = {name: passes(network) for name, network in networks.items()}
        return in_turns(variants, warm_up=len(there), device=device, **options)
