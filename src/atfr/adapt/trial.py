"""A trial of an adapted network on clips of different lengths, before it computes anything: on the meta device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from atfr.adapt.places import trial_inputs
from atfr.errors import AdaptError, UnsupportedNetworkError
from atfr.meta import StandIn, on_meta, put_stand_ins
from atfr.ragged.sizes import watched

KEEP = (1, 10**9)
"""Maps that the clips of the trial keep: one of them a single map, the others all."""


def try_packed(model: nn.Module, example: Any) -> str | None:
    """Run an adapted network on packed clips without numbers; return why that tells nothing, or None where it passed.

    An input that the network does not take without SGS either tells nothing: the next one is tried.

    Raises:
        UnsupportedNetworkError: the network cannot work behind its layers; names the module and the operation.
        AdaptError: a layer stands behind a module that runs more than once in a pass.
    """
    try:
        network = on_meta(model)
    except Exception as error:
        return f"it cannot be copied ({reason(error)})"
    stand_ins = put_stand_ins(network)
    unknown: str | None = ""
    for trial in trial_inputs(model, example, clips=len(KEEP)):
        unknown = attempt(network, stand_ins, trial)
        if unknown is None:
            if is_foreign(model):
                attempt(network.train(), stand_ins, trial)
            break
    return unknown


def attempt(network: nn.Module, stand_ins: Mapping[str, StandIn], trial: Any) -> str | None:
    """Run a network on packed clips; return None where that works, or what fails without SGS too.

    Raises:
        UnsupportedNetworkError, AdaptError: see `try_packed`.
    """
    for stand_in in stand_ins.values():
        stand_in.keep, stand_in.passes = KEEP, 0
    failed = failure(network, trial)
    if twice := [site for site, stand_in in stand_ins.items() if stand_in.passes > 1]:
        raise AdaptError(f"{twice[0]!r} runs more than once in a pass; put SGS behind a module that runs once")
    if failed is None:
        return None
    for stand_in in stand_ins.values():
        stand_in.keep = None
    if static := failure(network, trial):
        return f"{static[0]}: {reason(static[1])}"
    place, error = failed
    raise UnsupportedNetworkError(
        f"{type(network).__name__} cannot work{' in training' if network.training else ''} behind SGS at "
        f"{', '.join(stand_ins)}, where a clip may keep a single map: {place}: {reason(error)}"
    ) from error


def is_foreign(model: nn.Module) -> bool:
    """Whether a network has modules whose forward may do in training what it does not do in evaluation."""
    return any(type(module).__module__.partition(".")[0] not in ("torch", "atfr") for module in model.modules())


def reason(error: Exception) -> str:
    """Return the first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def failure(network: nn.Module, trial: Any) -> tuple[str, Exception] | None:
    """Run a network; return what it raised, with the innermost module that was running, or None."""
    running: list[str] = []
    handles = []
    for path, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # which takes no such hooks
            continue
        name = f"module {path!r} ({type(module).__name__})" if path else "the network's own forward"
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    trial = torch.utils._pytree.tree_map(lambda leaf: leaf, trial)  # PyTorchVideo's SlowFast overwrites its list
    try:
        with torch.no_grad(), torch.device("meta"), watched():  # what a forward makes is without numbers too
            network(trial)
    except Exception as error:
        return running[-1] if running else "the network", error
    finally:
        for handle in handles:
            handle.remove()
    return None
