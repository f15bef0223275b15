"""Whether our kernels in Triton run on some maps."""

import functools
from importlib.util import find_spec

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
TYPES = {torch.float32, torch.bfloat16, torch.float16}


def runs_triton(maps: Tensor) -> bool:
    """Whether maps lie on a GPU that Triton compiles for, in a type of networks; not for graphs that are exported."""
    if maps.device.type != "cuda" or not HAS_TRITON or torch.compiler.is_exporting():
        return False
    if not maps.numel() or maps.dtype not in TYPES:
        return False
    return torch.compiler.is_compiling() or compiles_for(maps.device)  # torch.compile needs it itself


@functools.cache
def compiles_for(device: torch.device) -> bool:
    """Whether Triton compiles for a GPU."""
    return torch.cuda.get_device_capability(device) >= (7, 0)
