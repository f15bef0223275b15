"""What a time depends on: hardware, its limits, threads, versions, and the commit it was measured at."""

import datetime
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from atfr.checks import has_bfloat16, version_of
from atfr.data.pool import cpu_cores
from atfr.evaluate.test import cpu_name
from atfr.measure.turns import Ratio, Variant, in_turns

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


PRODUCT = {"cpu": 1536, "cuda": 8192}
"""Rows and columns of the matrices, by the kind of device."""

COPIED = {"cpu": 2**27, "cuda": 2**29}
"""Bytes that are copied: more than caches hold."""


@dataclass(frozen=True)
class Limits:
    """What a device reached in the same run."""

    float32_gflops: Ratio  # of a product of two square matrices, in multiply-adds / 1e9 a second (as all GFLOPs here)
    bfloat16_gflops: Ratio | None  # the same in bfloat16; None where the device does not compute in it
    copy_gbs: Ratio  # 1e9 bytes read and written a second, in copying more than the caches hold

    def to_dict(self) -> dict[str, Any]:
        """Turn the limits into plain JSON values."""
        return asdict(self)


def in_the_same_run(limits: dict[str, Any]) -> str:
    """Return the limits of a file of results as a sentence."""
    narrow = limits["bfloat16_gflops"]
    of_narrow = f"{narrow['median']:.0f} in bfloat16" if narrow else "none in bfloat16, which it lacks"
    return (
        f"In the same run matrix products reached {limits['float32_gflops']['median']:.0f} GFLOP/s in float32 and "
        f"{of_narrow}, and {limits['copy_gbs']['median']:.0f} GB/s were copied."
    )


def machine_limits(device: torch.device | str = "cpu", *, budget_s: float = 5.0) -> Limits:
    """Measure the limits of a device, in turns, in at least 7 rounds."""
    device = torch.device(device)
    side, copied = PRODUCT[device.type], COPIED[device.type]
    wide = torch.rand(side, side, device=device)
    source = torch.rand(copied // 4, device=device)
    target = torch.empty_like(source)
    variants: dict[str, Variant] = {"float32": lambda: wide @ wide, "copy": lambda: target.copy_(source)}
    if has_bfloat16(device):
        narrow = wide.bfloat16()
        variants["bfloat16"] = lambda: narrow @ narrow
    with torch.inference_mode():
        timing = in_turns(variants, budget_s=budget_s, device=device)
    return Limits(
        timing.ratio(lambda s: side**3 / s["float32"] / 1e9),
        timing.ratio(lambda s: side**3 / s["bfloat16"] / 1e9) if "bfloat16" in variants else None,
        timing.ratio(lambda s: 2 * copied / s["copy"] / 1e9),
    )
