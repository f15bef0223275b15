"""The activations that one operation can do together with a convolution, and how torch.fx writes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

Activation = Literal["relu", "silu", "relu6"]


@dataclass(frozen=True)
class Form:
    """One activation.

    Attributes:
        in_place: It, written over its input.
        onednn: Its name in oneDNN's operations, and its numbers; None where a pass of its own is faster.
        spellings: The modules, functions and methods that are it.
    """

    in_place: Callable[[Tensor], Tensor]
    onednn: tuple[str, list[float]] | None
    spellings: frozenset[Any]


def silu_(maps: Tensor) -> Tensor:
    """SiLU, in place."""
    return F.silu(maps, inplace=True)


def relu6_(maps: Tensor) -> Tensor:
    """ReLU6, in place."""
    return F.hardtanh(maps, 0.0, 6.0, inplace=True)


RELUS = frozenset({nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_"})
ACTIVATIONS: dict[Activation, Form] = {
    "relu": Form(torch.relu_, ("relu", []), RELUS),
    "silu": Form(silu_, None, frozenset({nn.SiLU, F.silu})),
    "relu6": Form(relu6_, ("hardtanh", [0.0, 6.0]), frozenset({nn.ReLU6, F.relu6})),
}


def activation_of(node: fx.Node, called: Any) -> Activation | None:
    """Return which activation a node is, if it is one; what it calls tells."""
    alone = node.op.startswith("call") and len(node.args) == 1
    return next((name for name, form in ACTIVATIONS.items() if alone and called in form.spellings), None)
