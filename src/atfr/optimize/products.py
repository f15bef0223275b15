"""Sums and products as torch.fx writes them, and the product that writes over its maps."""

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.ragged import PackedClips

ADDITIONS: frozenset[Any] = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})
PRODUCTS: frozenset[Any] = frozenset({operator.mul, operator.imul, torch.mul, "mul", "mul_"})
SIGMOIDS: frozenset[Any] = frozenset({torch.sigmoid, F.sigmoid, nn.Sigmoid, "sigmoid"})


def scaled(maps: Tensor, rows: Any) -> Tensor:
    """Return maps times rows, written over the maps where the shapes allow it."""
    covers = isinstance(rows, Tensor) and not isinstance(rows, PackedClips) and rows.dtype == maps.dtype
    if isinstance(maps, PackedClips):
        return maps.mul_(rows) if covers and rows.shape[1:] == (maps.shape[1], 1, 1, 1) else maps * rows
    covers = (
        covers and rows.dim() == maps.dim() and all(r in (1, m) for r, m in zip(rows.shape, maps.shape, strict=True))
    )
    return maps.mul_(rows) if covers else maps * rows
