"""The SGS layer: a similarity network, the equations, and one call from N x C x T x H x W to packed clips."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from atfr.checks import at_least_one, not_negative, one_of
from atfr.errors import InputError
from atfr.samplers.functional import Kernel, Order, Similarity, TopEdge
from atfr.samplers.sampler import TemporalSampler, full_precision, pooled
from atfr.samplers.sampling import Sampling, sample

NumBins = int | Sequence[int] | None


class SimilarityNet(nn.Module):
    """The mapping f_s of each feature map into the similarity space.

    Global average pooling over height and width, then two 1D convolutions of kernel size 1 with C and L channels.
    Source: Fayyaz et al. 2021, Sec. 4.1. Deviates: the paper names no activation between the two convolutions, without
    which they are one linear map; here it is a ReLU. Computes in float64, which no setting shortens, so that the bin
    that a map falls into does not depend on autocast or TF32; exported, in the type of its weights.
    """

    def __init__(self, channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(channels, channels, 1)
        self.output = nn.Conv1d(channels, embedding_dim, 1)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N T L"]:
        """Return the embedding of each map."""
        own = self.hidden.weight.dtype
        wide = own if torch.compiler.is_exporting() or features.device.type == "mps" else torch.float64
        # autocast leaves float64 as it is, and its contexts break what torch.compile takes
        with nullcontext() if wide == torch.float64 else full_precision(features.device.type):
            hidden = applied(self.hidden, pooled(features), wide).relu()
            return applied(self.output, hidden, wide).transpose(1, 2).to(torch.promote_types(own, torch.float32))


def applied(layer: nn.Conv1d, maps: Float[Tensor, "N C T"], dtype: torch.dtype) -> Float[Tensor, "N D T"]:
    """Call a layer in a type that may not be its own."""
    parameters = {name: parameter.to(dtype) for name, parameter in layer.named_parameters()}
    return torch.func.functional_call(layer, parameters, (maps.to(dtype),))


class SimilarityGuidedSampling(TemporalSampler):
    """Groups similar maps of a clip along time and merges each group into one (SGS).

    Source: Fayyaz et al. 2021, Sec. 4. Deviations, each an option: `docs/paper.md`.

    Args:
        channels: channels C of the maps.
        num_bins: similarity bins B, the most maps a clip keeps; None: as many as maps come in. With several
            coordinates, one number for each, or one for all. In float32 a map's weight is known within 2e-7 x B: 2e-5
            with 128 bins, 2e-4 with 1,024, where a map next to an edge may fall on either side of it; with more, use a
            network in float64.
        kernel: "linear" sums with Eq. (6); "linear_mean" divides by the sum of weights, which keeps the scale of the
            features; "kronecker" averages as in Eq. (5); "keep", not in the paper, keeps the map of largest weight in
            each bin and drops the others.
        embedding_dim: dimension L of the similarity space.
        top_edge: "center" or "paper", see `functional.half_width`.
        order: output maps by "magnitude" as in the paper, or by the mean "time" of their maps.
        similarity: what bins are made of: the "magnitude" of the embedding, its L - 1 angles ("angular"; Table 1 of
            the paper: L = 3, num_bins=(4, 8)), or both ("spherical"; L = 3, num_bins=(2, 4, 4)).
        temporal_block: group within blocks of so many maps only; None: over the whole clip.
        edge_maps: so many maps at either end of a clip are touched by the zero padding of earlier layers; what they are
            compared by is held within the range of the other maps. 0, as in the paper, takes them as they are.
    """

    def __init__(
        self,
        channels: int,
        num_bins: NumBins = None,
        kernel: Kernel = "linear",
        embedding_dim: int = 8,
        top_edge: TopEdge = "center",
        order: Order = "magnitude",
        similarity: Similarity = "magnitude",
        temporal_block: int | None = None,
        edge_maps: int = 0,
    ) -> None:
        super().__init__(channels)
        self.kernel = one_of("kernel", kernel, get_args(Kernel))
        self.one_each = kernel == "keep"
        self.embedding_dim = at_least_one("embedding_dim", embedding_dim)
        self.top_edge = one_of("top_edge", top_edge, get_args(TopEdge))
        self.order = one_of("order", order, get_args(Order))
        self.coordinates = one_of("similarity", similarity, get_args(Similarity))
        if similarity != "magnitude" and embedding_dim < 2:
            raise InputError(f"similarity={similarity!r} needs embedding_dim of at least 2, got {embedding_dim}")
        self.num_bins = self.checked_bins(num_bins)
        self.temporal_block = None if temporal_block is None else at_least_one("temporal_block", temporal_block)
        self.edge_maps = not_negative("edge_maps", edge_maps)
        self.similarity = SimilarityNet(channels, embedding_dim)

    def checked_bins(self, num_bins: NumBins) -> int | tuple[int, ...] | None:
        """Return the numbers of bins when they fit the coordinates; else raise an InputError."""
        if num_bins is None or isinstance(num_bins, int):
            return num_bins if num_bins is None else at_least_one("num_bins", num_bins)
        if not isinstance(num_bins, Sequence):
            raise InputError(f"num_bins must be an integer of at least 1 (or several), got {num_bins!r}")
        bins = tuple(at_least_one("num_bins", bins) for bins in num_bins)
        if len(bins) != self.num_coordinates:
            fitting = len(bins) + (self.coordinates == "angular")
            remedy = f" or set embedding_dim={fitting}" if self.coordinates != "magnitude" else ""
            raise InputError(
                f"similarity={self.coordinates!r} with embedding_dim={self.embedding_dim} has {self.num_coordinates} "
                f"coordinates, got {len(bins)} numbers of bins {bins}; give one number for each{remedy}"
            )
        return bins

    @property
    def num_coordinates(self) -> int:
        """What bins are made of: K = 1, L - 1 or L numbers."""
        return {"magnitude": 1, "angular": self.embedding_dim - 1, "spherical": self.embedding_dim}[self.coordinates]

    def describe(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N T L"]:
        """Return the embedding of each map, Z."""
        return self.similarity(features)

    def sampling(self, description: Float[Tensor, "N T L"], lengths: Int[Tensor, " N"]) -> Sampling:
        """Group maps by their embeddings."""
        options = (self.kernel, self.top_edge, self.order, self.coordinates, self.temporal_block)
        return sample(description, lengths, self._bins_by_coordinate, *options, edge_maps=self.edge_maps)

    def possible_active_bins(self, frames: int) -> range:
        """Return the numbers of maps that a clip of so many may keep: 1 to B, in each block."""
        size = self.temporal_block or frames
        blocks = [min(size, frames - start) for start in range(0, frames, size)]
        bins = math.prod(self._bins_by_coordinate or [frames])
        return range(len(blocks), sum(min(bins, block) for block in blocks) + 1)

    @property
    def _bins_by_coordinate(self) -> Sequence[int] | None:
        return [self.num_bins] * self.num_coordinates if isinstance(self.num_bins, int) else self.num_bins

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `atfr.adapt_` that make this layer, but for its place."""
        settings = {
            "num_bins": self.num_bins,
            "kernel": self.kernel,
            "embedding_dim": self.embedding_dim,
            "top_edge": self.top_edge,
            "order": self.order,
        }
        further: dict[str, Any] = {"similarity": self.coordinates} if self.coordinates != "magnitude" else {}
        further |= {"temporal_block": self.temporal_block} if self.temporal_block else {}
        further |= {"edge_maps": self.edge_maps} if self.edge_maps else {}
        return settings | further

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        short = {"num_bins": "bins", "embedding_dim": "L"}
        settings = self.settings() | ({"num_bins": "T"} if self.num_bins is None else {})
        return ", ".join(f"{short.get(name, name)}={value}" for name, value in settings.items())
