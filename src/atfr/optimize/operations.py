"""The operations that are rewritten, in all the ways in which torch.fx writes them: the one table of this room."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.private import is_followed
from atfr.ragged import PackedClips

ADDITIONS: frozenset[Any] = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})
PRODUCTS: frozenset[Any] = frozenset({operator.mul, operator.imul, torch.mul, "mul", "mul_"})
SIGMOIDS: frozenset[Any] = frozenset({torch.sigmoid, F.sigmoid, nn.Sigmoid, "sigmoid"})
MEANS: frozenset[Any] = frozenset({torch.mean, "mean"})
OVER: frozenset[Any] = frozenset({operator.iadd, operator.imul, torch.relu_, "add_", "mul_", "relu_"})
"""Those that write over their first argument, and return it."""

Activation = Literal["relu", "silu", "relu6"]


@dataclass(frozen=True)
class Form:
    """One activation.

    Attributes:
        over: It, written over maps that nothing else reads; beside them where autograd keeps them.
        onednn: Its name in oneDNN's operations, which turn NaN into a number; None where a pass of its own is faster.
        spellings: The modules, functions and methods that are it.
    """

    over: Callable[[Tensor], Tensor]
    onednn: tuple[str, list[float]] | None
    spellings: frozenset[Any]


def relu_(maps: Tensor) -> Tensor:
    """ReLU of maps that nothing else reads."""
    return F.relu(maps, inplace=not is_followed(maps))


def silu_(maps: Tensor) -> Tensor:
    """SiLU of maps that nothing else reads."""
    return F.silu(maps, inplace=not is_followed(maps))


def relu6_(maps: Tensor) -> Tensor:
    """ReLU6 of maps that nothing else reads."""
    return F.relu6(maps, inplace=not is_followed(maps))


def scaled(maps: Tensor, rows: Any) -> Tensor:
    """Return maps that nothing else reads times rows, written over the maps where the shapes allow it."""
    covers = isinstance(rows, Tensor) and not isinstance(rows, PackedClips) and rows.dtype == maps.dtype
    if not covers or is_followed(maps, rows):
        return maps * rows
    if isinstance(maps, PackedClips):
        covers = rows.shape[1:] == (maps.shape[1], 1, 1, 1)
    else:
        covers = rows.dim() == maps.dim() and all(r in (1, m) for r, m in zip(rows.shape, maps.shape, strict=True))
    return maps.mul_(rows) if covers else maps * rows


def in_own_format(maps: Any) -> Any:
    """Return maps in the memory format in which PyTorch's operations give them."""
    return maps.contiguous() if isinstance(maps, Tensor) else maps


RELUS: frozenset[Any] = frozenset({nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_"})
ACTIVATIONS: dict[Activation, Form] = {
    "relu": Form(relu_, ("relu", []), RELUS),
    "silu": Form(silu_, None, frozenset({nn.SiLU, F.silu})),
    "relu6": Form(relu6_, ("hardtanh", [0.0, 6.0]), frozenset({nn.ReLU6, F.relu6})),
}
OURS: frozenset[Any] = frozenset({scaled, *(form.over for form in ACTIVATIONS.values())})
ACTIVATED: frozenset[Any] = OURS.union(*(form.spellings for form in ACTIVATIONS.values())) - {scaled}
POINTWISE: frozenset[Any] = ACTIVATED | ADDITIONS | PRODUCTS | SIGMOIDS | OURS
