"""Sizes that give themselves away: in a trial, nothing may be calculated from how many maps a packed batch holds.

``x.shape[2]`` of packed clips counts the maps of all clips together, and ``x.shape[0]`` is 1. A forward that calculates
with them, ``x / x.shape[2]`` say, makes a clip's result depend on its batch mates, and no operation could notice: a
number does not know where it comes from. So while a network is tried (`watched`), these sizes are `Size`s, which know.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from atfr.errors import UnsupportedOperationError

watching: ContextVar[bool] = ContextVar("watching", default=False)

PER_BATCH = {0, 2}  # of N x C x T x H x W, the axes along which a packed batch is not as long as one of its clips
AS_PACKED = ((0,), (1,), (2,), (3,), (4,))
ASKING = (Tensor.shape.__get__, Tensor.size, Tensor.numel, Tensor.nelement, Tensor.__len__)  # type: ignore[attr-defined]
TAKING = ("avg_pool3d", "max_pool3d", "view", "reshape")
"""What may be given such sizes: pools clamp their window to each clip, views are checked against the clips' form."""


class Size(int):
    """A size that may be handed on, and compared with another `Size`, but not calculated with."""

    def __eq__(self, other: object) -> bool:
        if watching.get() and not isinstance(other, Size):
            refuse()
        return int.__eq__(self, other)

    __hash__ = int.__hash__

    def __mul__(self, other: Any) -> Any:  # the size of merged axes, t * h * w, is one too
        return Size(int.__mul__(self, other)) if isinstance(other, int) else refuse()

    __rmul__ = __mul__


def refuse(*_: Any) -> NoReturn:
    """Say what is wrong with a calculation."""
    raise UnsupportedOperationError(
        "calculating with x.shape[0], x.shape[2], len(x) or x.numel() of packed clips: they hold all clips of a batch "
        "end to end, so that the result would depend on a clip's batch mates. Take x.mean((2, 3, 4)) instead of a sum "
        "over x.shape[2], -1 or the pooled tensor's shape instead of x.shape[0], or run this part clip by clip with "
        "atfr.ragged.each_clip"
    )


for _name in """add radd sub rsub truediv rtruediv floordiv rfloordiv mod rmod pow rpow neg lt le gt ge int float bool
    round trunc floor ceil""".split():
    setattr(Size, f"__{_name}__", refuse)


def holds_size(value: Any) -> bool:
    """Whether an argument is a `Size`, or a list of arguments holds one: asked at every operation of a trial."""
    if isinstance(value, tuple | list):
        return any(map(holds_size, value))
    return any(map(holds_size, value.values())) if isinstance(value, dict) else isinstance(value, Size)


class _Watch(TorchFunctionMode):
    """Refuses `Size`s as arguments of operations, also of those on ordinary tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if holds_size(args) or (kwargs and holds_size(kwargs)):
            on_clips = bool(args) and isinstance(args[0], Tensor) and type(args[0]) is not Tensor
            if not on_clips or func.__name__ not in TAKING:
                refuse()
        return func(*args, **(kwargs or {}))


@contextmanager
def watched() -> Iterator[None]:
    """Give away what is calculated from sizes of packed clips, in this context."""
    token = watching.set(True)
    try:
        with _Watch():
            yield
    finally:
        watching.reset(token)


def run(handler: Callable[..., Any], func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on packed clips; in a trial, with an eye on sizes."""
    if not watching.get():
        return handler(func, *args, **kwargs)
    token = watching.set(False)  # our own operations may ask
    try:
        plain_args, plain_kwargs = args, kwargs
        if holds_size(args) or holds_size(kwargs):
            plain_args, plain_kwargs = torch.utils._pytree.tree_map_only(Size, plain, (args, kwargs))
        result = handler(func, *plain_args, **plain_kwargs)
    finally:
        watching.reset(token)
    return guarded(func, args, kwargs, result) if func in ASKING else result


def plain(size: Size) -> int:
    """Return the number itself."""
    return int.__add__(size, 0)


def guarded(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    """Return the sizes asked for, those of the whole batch as `Size`s."""
    if func == Tensor.__len__:
        refuse()
    form = getattr(args[0], "form", AS_PACKED)
    if isinstance(result, torch.Size):
        return tuple(Size(n) if PER_BATCH & set(axes) else n for n, axes in zip(result, form, strict=True))
    if func == Tensor.size:
        axis = kwargs["dim"] if "dim" in kwargs else args[1]
        return Size(result) if PER_BATCH & set(form[axis]) else result
    return Size(result)
