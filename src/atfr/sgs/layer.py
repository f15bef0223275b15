"""The SGS layer: a similarity network, the equations, and one call from N x C x T x H x W to packed clips."""

import difflib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.errors import InputError, UnsupportedOperationError
from atfr.ragged import PackedClips
from atfr.sgs import functional
from atfr.sgs.functional import Kernel, Order, TopEdge
from atfr.sgs.sampling import Sampling, sample

Choice = TypeVar("Choice", bound=str)
Observer = Callable[["SimilarityGuidedSampling", Sampling], None]
observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())
"""Called with every sampling made in this context; `atfr.record` puts itself here, for its own thread only."""


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Return a context without autocast, on devices that know it (meta does not)."""
    known = torch.amp.autocast_mode.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if known else nullcontext()


class SimilarityNet(nn.Module):
    """The mapping f_s of each feature map into the similarity space.

    Global average pooling over height and width, then two 1D convolutions of kernel size 1 with C and L channels.
    Source: Fayyaz et al. 2021, Sec. 4.1. Deviates: the paper names no activation between the two convolutions, without
    which they are one linear map; here it is a ReLU. Runs in float32 under autocast.
    """

    def __init__(self, channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(channels, channels, 1)
        self.output = nn.Conv1d(channels, embedding_dim, 1)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N T L"]:
        """Return the embedding of each map."""
        wide = features.dtype if features.dtype == torch.float64 else torch.float32
        with full_precision(features.device.type):
            pooled = features.mean((3, 4), dtype=wide).to(self.hidden.weight.dtype)
            return self.output(self.hidden(pooled).relu()).transpose(1, 2)


class SimilarityGuidedSampling(nn.Module):
    """Groups similar maps of a clip along time and merges each group into one (SGS).

    Source: Fayyaz et al. 2021, Sec. 4. Deviations, each an option: `docs/design.md`.

    Args:
        channels: channels C of the maps.
        num_bins: similarity bins B, the most maps a clip keeps; None: as many as maps come in.
        kernel: "linear" sums with Eq. (6); "linear_mean" divides by the sum of weights, which keeps the scale of the
            features; "kronecker" averages as in Eq. (5).
        embedding_dim: dimension L of the similarity space.
        top_edge: "center" or "paper", see `functional.half_width`.
        order: output maps by "magnitude" as in the paper, or by the mean "time" of their maps.
    """

    def __init__(
        self,
        channels: int,
        num_bins: int | None = None,
        kernel: Kernel = "linear",
        embedding_dim: int = 8,
        top_edge: TopEdge = "center",
        order: Order = "magnitude",
    ) -> None:
        super().__init__()
        self.channels = at_least_one("channels", channels)
        self.num_bins = num_bins if num_bins is None else at_least_one("num_bins", num_bins)
        self.kernel = one_of("kernel", kernel, get_args(Kernel))
        self.embedding_dim = at_least_one("embedding_dim", embedding_dim)
        self.top_edge = one_of("top_edge", top_edge, get_args(TopEdge))
        self.order = one_of("order", order, get_args(Order))
        self.similarity = SimilarityNet(channels, embedding_dim)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> PackedClips:
        """Return the merged maps of each clip, A of T, packed end to end.

        Raises:
            InputError: the features are not N x C x T x H x W with this layer's channels, or are packed already.
            UnsupportedOperationError: inside torch.jit.trace.
        """
        self._check(features)
        if torch.jit.is_tracing():
            raise UnsupportedOperationError(
                "torch.jit.trace would fix the number of active bins that this input happens to have for all others"
            )
        num_bins = self.num_bins or features.shape[2]
        sampling = sample(self.similarity(features), num_bins, self.kernel, self.top_edge, self.order)
        for observe in observers.get():
            observe(self, sampling)
        merged = functional.aggregate(features, sampling.weights, sampling.slots, sampling.layout.total)
        return PackedClips(merged, sampling.layout)

    def _check(self, features: Tensor) -> None:
        if isinstance(features, PackedClips):
            raise InputError(
                "SGS got packed clips: the network has an SGS before this one, or the module it stands behind runs "
                "more than once in a pass; put in one only, behind a module that runs once"
            )
        shape = tuple(features.shape)
        if len(shape) != 5 or shape[1] != self.channels or min(shape) < 1 or not features.is_floating_point():
            raise InputError(
                f"SGS expects float features N x C x T x H x W with C = {self.channels} and at least one of each, "
                f"got {features.dtype} of shape {shape}; a single clip needs a batch axis: features.unsqueeze(0)"
            )

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        bins = "T" if self.num_bins is None else self.num_bins
        return (
            f"bins={bins}, kernel={self.kernel}, L={self.embedding_dim}, top_edge={self.top_edge}, order={self.order}"
        )


def one_of(name: str, value: Choice, choices: Sequence[str]) -> Choice:
    """Return the value when it is among the choices; else raise an InputError that suggests the nearest."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}{hint}")
    return value


def at_least_one(name: str, value: int) -> int:
    """Return the value when it is an integer of at least 1; else raise an InputError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {value!r}")
    return value
