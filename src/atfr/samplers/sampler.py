"""TemporalSampler: a layer that gives each clip its own number of maps; SGS is one, the controls are others."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from atfr.checks import at_least_one
from atfr.errors import InputError, UnsupportedOperationError
from atfr.kernels.conv3d import channels_last
from atfr.ragged import PackedClips
from atfr.ragged.rows import mean_over_space
from atfr.samplers.functional import aggregate, picked
from atfr.samplers.sampling import Sampling

Observer = Callable[["TemporalSampler", Sampling], None]
observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())
"""Called with every sampling made in this context; `atfr.record` puts itself here, for its own thread only."""


class TemporalSampler(nn.Module, ABC):
    """Merges the maps of each clip into fewer: a subclass says which map goes where, with which weight.

    Args:
        channels: channels C of the maps.
    """

    one_each: bool = False
    """Whether each output map is one of the maps that came in, so that nothing is added up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = at_least_one("channels", channels)

    @abstractmethod
    def describe(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N T L"]:
        """Return what the sampler needs to know of each map, from that map alone."""

    @abstractmethod
    def sampling(self, description: Float[Tensor, "N T L"], lengths: Int[Tensor, " N"]) -> Sampling:
        """Say what becomes of the maps of each clip; what lies behind a clip's length must not count."""

    @abstractmethod
    def possible_active_bins(self, frames: int) -> range:
        """Return the numbers of maps that a clip of so many may keep."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the arguments of `atfr.adapt_` that make this layer, but for its place."""

    def forward(self, features: Float[Tensor, "N C T H W"] | PackedClips) -> PackedClips:
        """Return the merged maps of each clip, A of T, packed end to end.

        Raises:
            InputError: the features are not N x C x T x H x W, or packed clips, with this layer's channels.
            UnsupportedOperationError: inside torch.jit.trace.
        """
        check_features(features, self.channels)
        if torch.jit.is_tracing():
            raise UnsupportedOperationError(
                "torch.jit.trace would fix the number of active bins that this input happens to have for all others"
            )
        if isinstance(features, PackedClips):
            return self._merge_packed(features)
        sampling = self.observed(self.sampling_of(features))
        return merged(features, sampling.weights, sampling.slots, sampling)

    def sampling_of(self, features: Float[Tensor, "N C T H W"]) -> Sampling:
        """Say what becomes of the maps of clips of one length."""
        lengths = torch.full((len(features),), features.shape[2], device=features.device)
        return self.sampling(self.describe(features), lengths)

    def _merge_packed(self, clips: PackedClips) -> PackedClips:
        """Merge clips that differ in length already."""
        maps, layout = clips.plain(), clips.clip_layout
        places = layout.clip_index(maps.device), layout.time_index(maps.device)
        found = self.describe(maps)[0]
        description = found.new_zeros(len(layout), max(layout.lengths), found.shape[1]).index_put(places, found)
        sampling = self.observed(self.sampling(description, layout.device_lengths(maps.device)))
        return merged(maps, sampling.weights[places][None], sampling.slots[places][None], sampling)

    def observed(self, sampling: Sampling) -> Sampling:
        """Show a sampling to those who watch, and return it."""
        for observe in observers.get():
            observe(self, sampling)
        return sampling


def merged(
    features: Float[Tensor, "N C T H W"], weights: Float[Tensor, "N T"], slots: Int[Tensor, "N T"], sampling: Sampling
) -> PackedClips:
    """Return the output maps of a sampling: packed, but inside torch.export a single clip's as a plain tensor.

    Args:
        weights, slots: those of the sampling, along the features' own time axis.
    """
    layout = sampling.layout
    if not torch.compiler.is_exporting():
        maps = merged_into(layout.total, features, weights, slots, one_each=sampling.one_each)
        return PackedClips(channels_last(maps), layout)
    if len(layout) != 1:
        raise UnsupportedOperationError(
            f"torch.export of an adapted network takes one clip, got {len(layout)}: each clip has its own length; "
            "export with a batch of one"
        )
    active_bins = layout.lengths[0]  # a symbol: the exported network finds it for each clip
    torch._check(active_bins >= 1)
    torch._check(active_bins <= features.shape[2])
    return aggregate(features, weights, slots, active_bins)  # type: ignore[return-value]


def merged_into(
    total: int, features: Float[Tensor, "N C T H W"], weights: Tensor, slots: Tensor, *, one_each: bool
) -> Float[Tensor, "1 C S H W"]:
    """Return so many output maps, end to end; what lies behind those of the sampling is nothing that counts."""
    return (picked if one_each else aggregate)(features, weights, slots, total)


def check_features(features: Tensor, channels: int) -> None:
    """Raise an InputError where features are no batch of maps with so many channels."""
    expected = f"a sampler expects float features N x C x T x H x W with C = {channels} and at least one of each"
    if not isinstance(features, Tensor):
        raise InputError(f"{expected}, got {type(features).__name__}")
    shape = tuple((features.plain() if isinstance(features, PackedClips) else features).shape)  # no batch's, in a trial
    if len(shape) != 5 or shape[1] != channels or min(shape) < 1 or not features.is_floating_point():
        remedy = "; a single clip needs a batch axis: features.unsqueeze(0)" if len(shape) == 4 else ""
        remedy = remedy or ("" if features.is_floating_point() else "; scale and normalise frames first")
        raise InputError(f"{expected}, got {features.dtype} of shape {shape}{remedy}")


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Return a context without autocast, on devices that know it (meta does not)."""
    known = torch.amp.autocast_mode.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if known else nullcontext()


def pooled(features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T"]:
    """Return the mean of each map over height and width, in float32 at least."""
    return mean_over_space(features, features.dtype if features.dtype == torch.float64 else torch.float32)
