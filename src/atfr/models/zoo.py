"""The list of atfr's networks, and the two ways to one: by its name, and from a checkpoint."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from atfr.errors import InputError
from atfr.models.base import Uninitialised, VideoModel, load, unknown_name
from atfr.models.efficientnet import InflatedEfficientNet
from atfr.models.i3d import I3D
from atfr.models.inception import InceptionI3D
from atfr.models.r2plus1d import R2Plus1D18, R2Plus1D50
from atfr.models.resnet3d import ResNet3D
from atfr.models.slowfast import SlowFast
from atfr.models.x3d import X3D
from atfr.weights.published import PUBLISHED, start_

MODELS: Mapping[str, type[VideoModel]] = MappingProxyType(
    {
        name: network
        for network in (ResNet3D, X3D, R2Plus1D18, R2Plus1D50, I3D, InceptionI3D, SlowFast, InflatedEfficientNet)
        for name in network.variants
    }
)
"""The class of each model name."""


def list_models() -> list[str]:
    """The names that `create_model` knows."""
    return list(MODELS)


def create_model(name: str, num_classes: int = 400, **arguments: Any) -> VideoModel:
    """A new network in training mode, with random weights unless ``pretrained``; its natural input is its `clip_shape`.

    Args:
        name: One of `list_models`.
        num_classes: Classes K of the logits.
        arguments: What else the network's class takes. All take ``dropout``: probability with which a pooled feature is
            dropped in training (when not given 0 in 3DResNet and R(2+1)D-18, 0.2 in EfficientNet, 0.5 in the others).
            R(2+1)D takes ``temporal_strides``, those of res2 to res5. ``pretrained`` starts EfficientNet with weights
            of ImageNet, and those that `atfr weights` knows with weights of Kinetics-400.

    Raises:
        InputError: Unknown name (close ones are suggested) or argument, or a value out of range.
        CheckpointError: ``pretrained``, and the weights are not on this machine.

    Examples:
        >>> create_model("x3d_s", num_classes=10).clip_shape
        (3, 13, 160, 160)
    """
    if name not in MODELS:
        raise InputError(f"unknown {unknown_name('model', name, MODELS)}")
    known = list(inspect.signature(MODELS[name].__init__).parameters)[2:]  # after self and name
    starts = "pretrained" not in known and arguments.pop("pretrained", False)
    if starts and name not in PUBLISHED:
        having = ", ".join(["i3d_efficientnet_lite0", *PUBLISHED])
        raise InputError(
            f"pretrained: only {having} come with weights, {name} does not; leave it out, and load a file of weights "
            "by atfr.load_weights(model, FILE), or atfr train --init FILE"
        )
    if unknown := [argument for argument in arguments if argument not in known]:
        raise InputError(f"{unknown_name('argument', unknown[0], known)} for {name}")
    model = MODELS[name](name, num_classes=num_classes, **arguments)
    if starts:
        start_(model, name)
    return model


def outline(name: str, num_classes: int = 400, **arguments: Any) -> VideoModel:
    """A network without numbers, on the meta device: for its names, shapes and costs."""
    with torch.device("meta"), Uninitialised():
        return create_model(name, num_classes, **arguments)


def from_pretrained(source: str | Path, **hub_options: Any) -> VideoModel:
    """The network of a checkpoint, of whatever class, with its SGS layer if it had one, in evaluation mode on the CPU.

    Args:
        source: A folder that ``save_pretrained`` or ``atfr train`` wrote, or a string ``owner/name`` for a model on the
            Hugging Face Hub. A `Path` is always a folder.
        hub_options: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ... for a model on the Hub.

    Raises:
        CheckpointError: Files are missing or damaged, or do not fit together.
    """
    return load(MODELS, source, **hub_options)
