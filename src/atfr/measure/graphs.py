"""Networks as an inference runtime runs them, with and without SGS, ready to be timed; one clip at a time.

Parts of a graph cannot be clocked. So the graph of the stages before SGS is timed beside the others, and a round's
differences are the parts: what the early graph takes beyond it is SGS, what the static graph takes beyond it is behind.
"""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.adapt.trace import site_names
from atfr.errors import InputError
from atfr.measure.eager import without_sgs
from atfr.measure.forcing import embedding_of, forcible
from atfr.measure.saving import Pair, Work
from atfr.measure.turns import Timing, Variant
from atfr.runtime.bundle import ENGINES
from atfr.runtime.description import Runtime
from atfr.runtime.graphs import EARLY, LATE, NETWORK, graphs
from atfr.runtime.running import AdaptedGraphs, StaticGraph, one_by_one
from atfr.runtime.split import split

BEFORE = "before"
NEXT_TO_NOTHING = 1e-30


class Forced(nn.Module):
    """A similarity network that does its work, and then returns embeddings that fall into a chosen number of bins."""

    embedding: Tensor

    def __init__(self, similarity: nn.Module, embedding: Float[Tensor, "1 T L"]) -> None:
        super().__init__()
        self.similarity = similarity
        self.register_buffer("embedding", embedding)

    def forward(self, features: Float[Tensor, "1 C T H W"]) -> Float[Tensor, "1 T L"]:
        """Return the embeddings; what was found stays in, too small to count, or a runtime would leave its work out."""
        return self.embedding + NEXT_TO_NOTHING * self.similarity(features)


def with_parts(timing: Timing) -> dict[str, tuple[float, ...]]:
    """Return the times of both networks, and their parts as differences in a round."""

    def differ(whole: str, part: str) -> tuple[float, ...]:
        return tuple(a - b for a, b in zip(timing.seconds[whole], timing.seconds[part], strict=True))

    return {
        **{name: timing.seconds[name] for name in ("static", "adaptive", "before")},
        "after": differ("static", "before"),
        "sgs": differ("early", "before"),
        "after sgs": differ("adaptive", "early"),
    }


@contextmanager
def in_runtime(
    adaptive: nn.Module,
    clip: Float[Tensor, "1 C T H W"],
    work: Work,
    runtime: Runtime,
) -> Iterator[Pair]:
    """Give a network with SGS and the same without as graphs of a runtime that run one clip.

    Args:
        adaptive: with SGS at one place, on the CPU; it stays as it is.

    Raises:
        BundleError: the runtime is not installed.
        InputError: A cannot be forced.
        UnsupportedNetworkError: the network cannot be split at its SGS.
    """
    shape = tuple(clip.shape[1:])
    network = copy.deepcopy(adaptive).eval()
    static = without_sgs(network)
    with torch.no_grad():
        programs = {BEFORE: torch.export.export(split(network, shape).before.eval(), (clip,))}
        programs |= graphs(static, shape)
        for site, sampler in site_names(network).items():
            layer: Any = forcible(sampler, site)
            layer.similarity = Forced(layer.similarity, embedding_of(layer, work.active_bins[site], work.maps[site]))
        programs |= graphs(network, shape)
    kind, threads = ENGINES[runtime], torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        stems = {name: Path(folder) / name for name in programs}
        for name, program in programs.items():
            kind.write(program, stems[name])
        parts = (NETWORK, BEFORE, EARLY, LATE)
        whole, before, first, late = (kind(stems[name], threads, "float32") for name in parts)
    static_graph, both = StaticGraph(whole), AdaptedGraphs(first, late, list(work.active_bins))
    (array,) = one_by_one(clip)
    run_before, run_early = before.request(), first.request()
    _, trace = both(clip)
    if (found := {site: tuple(one.lengths) for site, one in trace.sites.items()}) != work.active_bins:
        raise InputError(f"the graph of {runtime} keeps {found} maps instead of {work.active_bins}")
    variants: dict[str, Variant] = {
        "static": lambda: static_graph(clip),
        "adaptive": lambda: both(clip),
        "before": lambda: run_before(array),
        "early": lambda: run_early(array),
    }
    yield Pair(variants, with_parts, work)
