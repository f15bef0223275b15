"""Run clips through the graphs of a bundle, or through PyTorch.

Clips run one by one: each has its own A, and on a CPU a batch is no faster (benchmarks/runtime.py).

N batch, C channels, T frames in, A maps a clip keeps, H, W, K classes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.adapt.trace import SamplingTrace, SiteTrace, record
from atfr.runtime.engines import Engine
from atfr.runtime.graphs import PER_SITE
from atfr.samplers.sampling import Sampling

Answers = tuple[Float[Tensor, "N K"], SamplingTrace]
"""The logits of clips, and what SGS did with each."""


class StaticGraph:
    """One graph of a network without SGS."""

    def __init__(self, network: Engine) -> None:
        self.requests = Pool(network.request)

    def __call__(self, clips: Float[Tensor, "N C T H W"]) -> Answers:
        """Run clips one by one."""
        with self.requests.lent() as run:
            logits = [torch.from_numpy(run(clip)[0].copy()) for clip in one_by_one(clips)]
        return torch.cat(logits), SamplingTrace({})


class AdaptedGraphs:
    """The early and the late graph of an adapted network.

    Args:
        sites: the sites of SGS, in the order of the graphs.
    """

    def __init__(self, early: Engine, late: Engine, sites: Sequence[str]) -> None:
        self.requests = Pool(lambda: (early.request(), late.request()))
        self.sites = tuple(sites)

    def __call__(self, clips: Float[Tensor, "N C T H W"]) -> Answers:
        """Run clips one by one."""
        trace = SamplingTrace({site: SiteTrace() for site in self.sites})
        logits = []
        with self.requests.lent() as (early, late):
            for clip in one_by_one(clips):
                returned, kept = list(early(clip)), []
                for site in trace.sites.values():
                    maps, *sampled = returned[: len(PER_SITE)]
                    del returned[: len(PER_SITE)]
                    site.samplings.append(sampling(*sampled))
                    kept.append(maps[: site.lengths[-1]])
                logits.append(torch.from_numpy(late(*kept)[0].copy()))
        return torch.cat(logits), trace


class Eager:
    """A network in PyTorch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @torch.inference_mode()
    def __call__(self, clips: Float[Tensor, "N C T H W"]) -> Answers:
        """Run clips together."""
        with record(self.model) as trace:
            logits = self.model(clips.to(next(self.model.parameters())))
        return logits, trace


class Pool:
    """Requests that are lent to one user at a time; there are as many as ever were in use at once."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.free: deque[Any] = deque()  # append and pop are safe between threads

    @contextmanager
    def lent(self) -> Iterator[Any]:
        """Lend a request."""
        try:
            request = self.free.pop()
        except IndexError:
            request = self.make()
        yield request
        self.free.append(request)  # not after an error, which may leave one that is good for nothing


def one_by_one(clips: Float[Tensor, "N C T H W"]) -> Iterator[np.ndarray]:
    """Yield clips of one, each in one piece of memory."""
    for clip in clips.detach().cpu().contiguous():
        yield clip[None].numpy()


def sampling(assignment: np.ndarray, weights: np.ndarray, slots: np.ndarray, active_bins: np.ndarray) -> Sampling:
    """Return what the early graph says of one clip; copied, since the graph writes there again."""
    assigned, weighed, placed = (torch.from_numpy(array.copy()) for array in (assignment, weights, slots))
    return Sampling(assigned, weighed, placed, torch.tensor(active_bins), torch.tensor([assigned.shape[1]]))
