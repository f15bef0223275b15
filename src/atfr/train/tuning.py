"""What `Tuning` means for a network: which weights stay, which move slowly, which modules keep their mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from atfr.errors import InputError
from atfr.models import VideoModel
from atfr.samplers.sampler import TemporalSampler
from atfr.train.recipe import Tuning
from atfr.weights.load import last_linear


@contextmanager
def frozen(model: VideoModel, tuning: Tuning) -> Iterator[None]:
    """Exempt the frozen stages' weights from training, but for those of SGS; they are as before afterwards.

    Raises:
        InputError: there is no such stage, or nothing would be left to train.
    """
    samplers = {id(p) for sampler in samplers_of(model) for p in sampler.parameters()}
    stages = frozen_stages(model, tuning)
    kept = [p for stage in stages for p in stage.parameters() if p.requires_grad and id(p) not in samplers]
    try:
        for parameter in kept:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in kept:
            parameter.requires_grad_(True)


def frozen_stages(model: VideoModel, tuning: Tuning) -> list[nn.Module]:
    """Return the stages that keep their weights."""
    if tuning.freeze is None:
        return []
    names = list(model.stage_paths)
    if tuning.freeze not in names:
        raise InputError(f"Tuning.freeze must be a stage, one of {', '.join(names)}, got {tuning.freeze!r}")
    return model.modules_up_to(tuning.freeze)


def set_modes(model: VideoModel, tuning: Tuning) -> None:
    """Put a network into training mode, except what must not change: frozen stages, fixed batch norms."""
    model.train()
    for stage in frozen_stages(model, tuning):
        stage.eval()
    for sampler in samplers_of(model):
        sampler.train()
    if tuning.norm == "fixed":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def parameter_groups(
    model: VideoModel, tuning: Tuning, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Split what is trained by learning rate, and by decay: matrices and kernels have it, vectors have not."""
    head = last_linear(model)
    new = {id(p) for module in samplers_of(model) for p in module.parameters()}
    new |= {id(p) for p in model.get_submodule(head).parameters()} if head else set()
    groups = []
    for rate, wanted in ((1.0, True), (tuning.earlier_rate, False)):
        trained = [p for p in model.parameters() if p.requires_grad and (id(p) in new) is wanted]
        for decay, parameters in (
            (weight_decay, [p for p in trained if p.ndim > 1]),
            (0.0, [p for p in trained if p.ndim <= 1]),
        ):
            groups.append({"params": parameters, "lr": learning_rate * rate, "weight_decay": decay})
    return [group for group in groups if group["params"]]


def samplers_of(model: nn.Module) -> list[TemporalSampler]:
    """Return the layers that `adapt_` put in."""
    return [module for module in model.modules() if isinstance(module, TemporalSampler)]
