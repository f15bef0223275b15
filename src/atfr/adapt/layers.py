"""What can stand at a place of a network: a sampler or temporal attention, by its name and its own options."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from atfr import samplers
from atfr.checks import one_of
from atfr.errors import InputError

Sampler = Literal["sgs", "change", "uniform", "average", "random", "attention"]
CLASSES: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "sgs": samplers.SimilarityGuidedSampling,
        "change": samplers.ChangeGuidedSampling,
        "uniform": samplers.Uniform,
        "average": samplers.Average,
        "random": samplers.Random,
        "attention": samplers.TemporalDoubleAttention,
    }
)
LAYERS = (samplers.TemporalSampler, samplers.TemporalDoubleAttention)
"""The classes of layers that `adapt_` puts in."""


def options_of(sampler: Sampler) -> set[str]:
    """Return the names of a sampler's own options."""
    return set(inspect.signature(CLASSES[one_of("sampler", sampler, tuple(CLASSES))]).parameters) - {"channels"}


def make_layer(sampler: Sampler, channels: int, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> nn.Module:
    """Make the layer for maps of so many channels.

    Args:
        options: what was given for any sampler.
        defaults: what stands for "not given".

    Raises:
        InputError: an unknown sampler, an option that it does not have, or one that it needs.
    """
    own = options_of(sampler)
    given = {name: value for name, value in options.items() if name not in own and value != defaults[name]}
    if "active_bins" in given:
        raise InputError(
            f"active_bins is for sampler='uniform', 'average' and 'random', got {given['active_bins']} with "
            f"sampler={sampler!r}"
            + (f": {sampler} finds the number itself, num_bins is the most it keeps" if "num_bins" in own else "")
        )
    if given:
        named = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise InputError(f"sampler={sampler!r} has no {named}; its options are {', '.join(sorted(own)) or 'none'}")
    if "active_bins" in own and options["active_bins"] is None:
        raise InputError(
            f"sampler {sampler!r} needs active_bins (--active_bins on the command line), the mean number of maps a "
            "clip keeps: that of the network it is compared with"
        )
    return CLASSES[sampler](channels, **{name: value for name, value in options.items() if name in own})
