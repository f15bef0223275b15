"""What can stand behind a stage: SGS, a control or temporal attention, by its name and its own options."""

import inspect
from typing import Any, Literal, get_args

from torch import nn

from atfr.checks import one_of
from atfr.errors import InputError
from atfr.samplers import Average, Random, SimilarityGuidedSampling, TemporalDoubleAttention, Uniform
from atfr.samplers.sampler import TemporalSampler

Sampler = Literal["sgs", "uniform", "average", "random", "attention"]
LAYERS = (TemporalSampler, TemporalDoubleAttention)
"""The classes of layers that `adapt_` puts in."""


def make_layer(sampler: Sampler, channels: int, active_bins: float | None, sgs: dict[str, Any]) -> nn.Module:
    """Make the layer for maps of so many channels.

    Args:
        active_bins: the mean number of maps that a control keeps; None for the others.
        sgs: the options of SGS; the others have none of them.

    Raises:
        InputError: an unknown sampler, or an option that it does not have.
    """
    one_of("sampler", sampler, get_args(Sampler))
    controls = {control.sampler: control for control in (Uniform, Average, Random)}
    if sampler not in controls and active_bins is not None:
        raise InputError(
            f"active_bins is for sampler='uniform', 'average' and 'random', got {active_bins} with sampler={sampler!r}"
            + (": SGS finds the number itself, num_bins is the most it keeps" if sampler == "sgs" else "")
        )
    if sampler == "sgs":
        return SimilarityGuidedSampling(channels, **sgs)
    defaults = inspect.signature(SimilarityGuidedSampling).parameters
    if foreign := [f"{name}={value!r}" for name, value in sgs.items() if value != defaults[name].default]:
        raise InputError(f"sampler={sampler!r} has no {', '.join(foreign)}: options of sampler='sgs'; leave them out")
    if sampler == "attention":
        return TemporalDoubleAttention(channels)
    if active_bins is None:
        raise InputError(
            f"sampler={sampler!r} needs active_bins=, the mean number of maps a clip keeps: that of the network it is "
            "compared with, trace.active_bins.float().mean().item()"
        )
    return controls[sampler](channels, active_bins)
