"""One pass of a network over clips, with what it did and what it cost: scores, active bins, multiply-adds, time."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from atfr.adapt.cost import ClipCost, clip_cost
from atfr.adapt.places import evaluating
from atfr.adapt.trace import MapCounts, SamplingTrace, record
from atfr.checks import Precision, has_bfloat16, one_of
from atfr.optimize import optimize_for_inference


@dataclass(frozen=True)
class Pass:
    """What a network made of N clips."""

    scores: Float64[Tensor, "N K"]  # softmax of the logits
    sites: dict[str, MapCounts]  # what became of the clips' maps at each site; empty for a network without SGS
    multiply_adds: list[int]  # of each clip, by its own number of active bins
    times_ms: list[float]  # of each clip: the time of the forward pass that it was in, over the number of clips in it

    def of(self, clips: slice) -> "Pass":
        """Return what the network made of some of the clips."""
        sites = {site: counts.of(clips) for site, counts in self.sites.items()}
        return Pass(self.scores[clips], sites, self.multiply_adds[clips], self.times_ms[clips])

    @classmethod
    def joined(cls, passes: "Sequence[Pass]") -> "Pass":
        """Return several passes as one, one at least."""
        return cls(
            torch.cat([one.scores for one in passes]),
            {site: MapCounts.joined([one.sites[site] for one in passes]) for site in passes[0].sites},
            [count for one in passes for count in one.multiply_adds],
            [time_ms for one in passes for time_ms in one.times_ms],
        )

    @property
    def ms_per_clip(self) -> float:
        """The mean time of a clip."""
        return sum(self.times_ms) / len(self.times_ms)


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
    times_ms = [1000 * elapsed_s / len(logits)] * len(logits)
    return Pass(logits.double().softmax(1).cpu(), sites, multiply_adds, times_ms)


class Forward:
    """Runs a network on clips of one shape, C T H W; its cost table is counted once, here."""

    def __init__(self, model: nn.Module, clip_shape: Sequence[int]) -> None:
        self.model = model
        self.clip_shape = tuple(clip_shape)
        self.cost: ClipCost = clip_cost(model, clip_shape)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    @torch.inference_mode()
    def __call__(self, clips: Float[Tensor, "N C T H W"]) -> Pass:
        """Run the network, in evaluation mode and its own type, on clips from any device."""
        clips = clips.to(self.device, non_blocking=True).to(self.dtype)
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


def prepared(model: nn.Module, clip_shape: Sequence[int], precision: Precision = "float32") -> Forward:
    """Return what runs a copy of a network that `optimize_for_inference` has made faster.

    Args:
        precision: "bfloat16" is faster where the hardware has it (GPUs, CPUs with AMX or AVX512-BF16); it moves scores,
            and may move active bins. Batch norms are folded into the weights before these are rounded.
    """
    one_of("precision", precision, get_args(Precision))
    fast = optimize_for_inference(model)
    if precision == "float32":
        return Forward(fast, clip_shape)
    forward = Forward(fast.to(torch.bfloat16), clip_shape)
    if not has_bfloat16(forward.device):
        warnings.warn("this processor has no arithmetic for bfloat16: float32 is many times as fast here", stacklevel=2)
    return forward
