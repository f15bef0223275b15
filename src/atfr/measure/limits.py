"""The limits of the machine, to hold other rates against: matrix products, and copying."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from atfr.measure.turns import Ratio, Timing, in_turns

PRODUCT = {"cpu": 1536, "cuda": 8192}
"""Rows and columns of the matrices, by the kind of device."""

COPIED = {"cpu": 2**27, "cuda": 2**29}
"""Bytes that are copied: more than caches hold."""


@dataclass(frozen=True)
class Limits:
    """What a device reached in the same run."""

    float32_gflops: Ratio  # of a product of two square matrices, in multiply-adds / 1e9 a second (as all GFLOPs here)
    bfloat16_gflops: Ratio  # the same in bfloat16
    copy_gbs: Ratio  # 1e9 bytes read and written a second, in copying more than the caches hold

    def to_dict(self) -> dict[str, Any]:
        """Turn the limits into plain JSON values."""
        return asdict(self)


def machine_limits(device: torch.device | str = "cpu", *, budget_s: float = 5.0) -> Limits:
    """Measure the limits of a device, the three in turns, in at least 7 rounds."""
    device = torch.device(device)
    side, copied = PRODUCT[device.type], COPIED[device.type]
    wide = torch.rand(side, side, device=device)
    narrow = wide.bfloat16()
    source = torch.rand(copied // 4, device=device)
    target = torch.empty_like(source)
    with torch.inference_mode():
        timing: Timing = in_turns(
            {
                "float32": lambda: wide @ wide,
                "bfloat16": lambda: narrow @ narrow,
                "copy": lambda: target.copy_(source),
            },
            budget_s=budget_s,
            device=device,
        )
    return Limits(
        timing.ratio(lambda s: side**3 / s["float32"] / 1e9),
        timing.ratio(lambda s: side**3 / s["bfloat16"] / 1e9),
        timing.ratio(lambda s: 2 * copied / s["copy"] / 1e9),
    )
