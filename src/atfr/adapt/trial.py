"""A trial of an adapted network on clips of different lengths: on the meta device, and by numbers."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from atfr.adapt.meta import Shapes, StandIn, on_meta, put_stand_ins
from atfr.adapt.passes import failure
from atfr.adapt.places import trial_inputs
from atfr.adapt.together import CLIPS, BatchCheck, keeps, networks_with_clips, together_and_alone
from atfr.errors import AdaptError, UnsupportedNetworkError
from atfr.ragged.sizes import watched
from atfr.words import first_line

BY_ITSELF = 10
"""A network that rounds more than others, or draws random numbers, may move so many times what it moves by itself."""

Run = Callable[[Mapping[str, StandIn]], BatchCheck | None]


def try_packed(model: nn.Module, example: Any) -> str | None:
    """Run copies of an adapted network on packed clips; return why that tells nothing, or None where it passed.

    First without numbers, on clips of the size that the network is made for. Then, where it has forwards or hooks that
    are neither torch's nor ours, by numbers: small clips together and alone. An input that the network does not take
    without samplers either tells nothing: the next one is tried.

    Raises:
        UnsupportedNetworkError: the network cannot work behind its layers; names the module and the operation.
        AdaptError: a layer stands behind a module that runs more than once in a pass.
    """
    try:
        network = on_meta(model)
    except Exception as error:
        return f"it cannot be copied ({first_line(error)})"
    stand_ins, foreign = put_stand_ins(network), is_foreign(model)
    unknown: str | None = ""
    form = example
    for form in trial_inputs(model, example, clips=CLIPS):
        run = partial(without_numbers, network, form)
        unknown = attempt(network, stand_ins, run)
        if unknown is None:
            if foreign:
                attempt(network.train(), stand_ins, run)
            break
    if not stand_ins or (unknown is None and not foreign):
        return unknown
    for network, stand_ins, inputs in networks_with_clips(model, form if example is None else example):
        unknown_by_numbers = attempt(network, stand_ins, partial(together_and_alone, network, inputs))
        if unknown_by_numbers is None:
            if unknown is not None:  # nor has training been tried
                attempt(network.train(), stand_ins, partial(without_comparing, network, inputs))
            return None
    return unknown_by_numbers


def without_numbers(network: nn.Module, form: Any, stand_ins: Mapping[str, StandIn]) -> None:
    """Run a network on the meta device, where what a forward makes is without numbers too."""
    form = torch.utils._pytree.tree_map(lambda leaf: leaf, form)  # PyTorchVideo's SlowFast overwrites its list
    with torch.no_grad(), torch.device("meta"), Shapes(), watched():
        network(form)


def without_comparing(network: nn.Module, inputs: Any, stand_ins: Mapping[str, StandIn]) -> None:
    """Run a network on clips together."""
    with watched():
        network(inputs)


def attempt(network: nn.Module, stand_ins: Mapping[str, StandIn], run: Run) -> str | None:
    """Run a network on packed clips; return None where that works, or what fails without samplers too.

    Raises:
        UnsupportedNetworkError, AdaptError: see `try_packed`.
    """
    for site, stand_in in enumerate(stand_ins.values()):
        stand_in.keep, stand_in.passes = keeps(site), 0
    found: list[BatchCheck | None] = []
    failed = failure(network, lambda: found.append(run(stand_ins)))
    if twice := [site for site, stand_in in stand_ins.items() if stand_in.passes > 1]:
        raise AdaptError(f"{twice[0]!r} runs more than once in a pass; put the sampler behind a module that runs once")
    if failed is None and (found[0] is None or found[0].apart):
        return None
    for stand_in in stand_ins.values():
        stand_in.keep = None
    if static := failure(network, lambda: found.append(run({}))):
        return f"{static[0]}: {first_line(static[1])}"
    training = " in training" if network.training else ""
    behind = f"{type(network).__name__} cannot work{training} behind the sampler at {', '.join(stand_ins)}"
    if failed is not None:
        place, error = failed
        raise UnsupportedNetworkError(
            f"{behind}, where a clip may keep a single map: {place}: {first_line(error)}"
        ) from error
    moved, anyway = found[0], found[1]
    assert moved is not None
    assert anyway is not None
    if moved.most <= BY_ITSELF * anyway.most:
        if not anyway.apart:
            name = type(network).__name__
            warnings.warn(f"clips in {name} are not apart without a sampler either: {anyway}", stacklevel=4)
        return None
    raise UnsupportedNetworkError(
        f"{behind}: {moved}. Something there calculates with the maps of all clips of the batch, as with x.shape[2]: "
        "take x.mean((2, 3, 4)), or run this part clip by clip with atfr.ragged.each_clip"
    )


def is_foreign(model: nn.Module) -> bool:
    """Whether a network has forwards or hooks of its own, that are neither torch's nor this library's."""
    functions: list[Any] = [vars(module).get("forward", torch.relu) for module in model.modules()]
    for module in model.modules():
        functions += [type(module), *module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    homes = {(getattr(function, "__module__", None) or type(function).__module__) for function in functions}
    return any(home.partition(".")[0] not in ("torch", "atfr") or home == "torch.fx.graph_module" for home in homes)
