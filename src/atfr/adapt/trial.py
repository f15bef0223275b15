"""A trial of an adapted network on clips of different lengths, before it computes anything: on the meta device."""

from typing import Any

import torch
from torch import nn

from atfr.adapt.places import trial_inputs
from atfr.errors import AdaptError, UnsupportedNetworkError
from atfr.meta import on_meta, put_stand_ins

KEEP = (1, 10**9)
"""Maps that the clips of the trial keep: one of them a single map, the others all."""


def try_packed(model: nn.Module, example: Any) -> bool:
    """Run an adapted network on packed clips without numbers; return whether a trial input passed.

    An input that the network does not take without SGS either tells nothing: the next one is tried.

    Raises:
        UnsupportedNetworkError: the network cannot work behind its layers; names the module and the operation.
        AdaptError: a layer stands behind a module that runs more than once in a pass.
    """
    try:
        network = on_meta(model)
    except Exception:  # a network that cannot be copied cannot be tried
        return False
    stand_ins = put_stand_ins(network)
    for trial in trial_inputs(model, example, clips=len(KEEP)):
        for stand_in in stand_ins.values():
            stand_in.keep, stand_in.passes = KEEP, 0
        failed = failure(network, trial)
        if twice := [site for site, stand_in in stand_ins.items() if stand_in.passes > 1]:
            raise AdaptError(f"{twice[0]!r} runs more than once in a pass; put SGS behind a module that runs once")
        if failed is None:
            return True
        for stand_in in stand_ins.values():
            stand_in.keep = None
        if failure(network, trial) is None:
            place, error = failed
            raise UnsupportedNetworkError(
                f"{type(model).__name__} cannot work behind SGS at {', '.join(stand_ins)}, where a clip may keep a "
                f"single map: {place}: {str(error).strip().splitlines()[0]}"
            ) from error
    return False


def failure(network: nn.Module, trial: Any) -> tuple[str, Exception] | None:
    """Run a network; return what it raised, with the innermost module that was running, or None."""
    running: list[str] = []
    handles = []
    for path, module in network.named_modules():
        name = f"module {path!r} ({type(module).__name__})" if path else "the network's own forward"
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        with torch.no_grad():
            network(trial)
    except Exception as error:
        return running[-1] if running else "the network", error
    finally:
        for handle in handles:
            handle.remove()
    return None
