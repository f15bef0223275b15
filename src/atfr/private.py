"""What is used of torch that torch does not promise to keep, each probed at import, with what is done without it.

Nothing here raises: where a part is missing or answers otherwise, convolutions run in PyTorch's own operations, and
every module counts as one with hooks, which nothing exchanges.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules

OF_CALLS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of a module does more than its forward, by a hook of its own or one on all modules."""
    of_all = any(getattr(modules, f"_global{name}", True) for name in OF_CALLS)
    return not HOOKS_ARE_SEEN or of_all or hooked(module)


def hooked(module: nn.Module) -> bool:
    """Whether a module has hooks of its own."""
    return any(getattr(module, name, True) for name in OF_CALLS)


def hooks_of(module: nn.Module) -> list[Any]:
    """Return the hooks of a module's own."""
    return [hook for name in OF_CALLS for hook in getattr(module, name, {}).values()]


def sees_hooks() -> bool:
    """Whether torch keeps the hooks of a module where they are looked for."""
    for register in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        module = nn.Identity()
        if hooked(module):
            return False
        getattr(module, f"register_{register}")(print)
        if not hooked(module):
            return False
    return True


def is_followed(*tensors: Any) -> bool:
    """Whether something records what becomes of these tensors: autograd, forward-mode AD or a functorch transform.

    What is no tensor does not count.
    """
    if (
        torch.compiler.is_compiling()
        or FORWARD_LEVEL is None
        or FUNCTORCH is None
        or getattr(forward_ad, FORWARD_LEVEL) >= 0
    ):
        return True
    grad = torch.is_grad_enabled()
    for tensor in tensors:  # in a loop, as each convolution asks
        if isinstance(tensor, Tensor) and (FUNCTORCH(tensor) or (grad and tensor.requires_grad)):
            return True
    return False


def is_recorded() -> bool:
    """Whether a graph of the operations that run now is being recorded (`MAKE_FX`)."""
    return PROXY_MODE is not None and not torch.compiler.is_compiling() and PROXY_MODE() is not None


def one_fake_mode() -> AbstractContextManager[Any]:
    """Give `MAKE_FX` one fake mode for all operations: it makes one for each, which is half of its time."""
    return nullcontext() if FAKE_MODE is None else TRACING(CONTEXT(FAKE_MODE(allow_fallback_kernels=True)))


def mkldnn(dtype: torch.dtype) -> Any:
    """Return oneDNN's operations of torch.compile, or None where they are not as they are used here.

    A processor may lack those of a type: bfloat16 where it has neither AVX-512 nor AVX-NE-CONVERT.
    """
    try:
        ops = torch.ops.mkldnn
        maps, ones = torch.ones(1, 1, 1, 1, 1, dtype=dtype), (1, 1, 1)
        kernel = ops._reorder_convolution_weight(maps, (0, 0, 0), ones, ones, 1, [1, 1, 1, 1, 1])
        layer = (kernel, None, (0, 0, 0), ones, ones, 1)
        one = ops._convolution_pointwise(maps, *layer, "relu", [], "")
        two = ops._convolution_pointwise.binary(maps, maps, *layer, "add", 1.0, "relu", [], "")
        ops._get_mkldnn_serialized_md(kernel).tolist()
        return ops if (one.item(), two.item()) == (1, 2) else None
    except Exception:  # whatever a version or a build of torch lacks
        return None


try:
    from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
except ImportError:
    MAKE_FX: Any = None
    PROXY_MODE: Any = None
else:
    MAKE_FX, PROXY_MODE = make_fx, get_proxy_mode
try:
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
except ImportError:
    FAKE_MODE: Any = None
else:
    FAKE_MODE, TRACING, CONTEXT = FakeTensorMode, tracing, TracingContext
HOOKS_ARE_SEEN = sees_hooks()
FORWARD_LEVEL = "_current_level" if isinstance(getattr(forward_ad, "_current_level", None), int) else None
FUNCTORCH: Any = getattr(getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", None)
MKLDNN = mkldnn(torch.float32)
MKLDNN_TYPES = frozenset(dtype for dtype in (torch.float32, torch.bfloat16) if mkldnn(dtype) is not None)
SET_GRAD: Any = getattr(torch._C, "_set_grad_enabled", None)
