"""What a time depends on: hardware, threads, versions, and the commit it was measured at."""

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from atfr.checks import version_of
from atfr.data.pool import cpu_cores
from atfr.evaluate.test import cpu_name

PACKAGES = ("torchvision", "numpy", "av", "lightning", "openvino", "onnxruntime", "pytorchvideo")

CODE = ("src", "benchmarks", "pyproject.toml")
"""What a measurement depends on in a checkout; result files, which are written into it one after the other, are not."""


def conditions(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what a measurement depends on beyond its input, as plain JSON values."""
    import atfr

    versions = {"atfr": atfr.__version__, "python": platform.python_version(), "torch": torch.__version__}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": hardware(torch.device(device)),
        "threads": torch.get_num_threads(),
        "versions": versions | {name: found for name in PACKAGES if (found := version_of(name))},
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """Return what a device is, and the processor beside it."""
    found: dict[str, Any] = {
        "device": str(device),
        "cpu": cpu_name(),
        "cores": cpu_cores(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        found |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32": torch.backends.cudnn.allow_tf32,
        }
    return found


def commit() -> dict[str, Any] | None:
    """Return the commit of the checkout that atfr runs from, and whether its code differs; None where there is none."""
    package = Path(__file__).resolve().parents[1]
    top = git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() / "src" / "atfr" != package:
        return None  # an installed package, perhaps inside the checkout of something else
    changed = git(Path(top), "status", "--porcelain", "--", *CODE)
    return {"id": git(package, "rev-parse", "HEAD"), "dirty": bool(changed)}


def git(folder: Path, *arguments: str) -> str | None:
    """Return what git says, or None where it cannot."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
