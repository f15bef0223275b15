"""Weighted sums of rows, a number of them in each slot: how maps are merged. On GPUs in one kernel (Triton).

PyTorch's `index_add` wants the weighted rows in memory and adds them up there, in the rows' own type and in whatever
order threads come: bfloat16 is rounded after each map, and results differ from run to run. The kernel reads each row
once, adds up in float32 in the order of rows, so that a clip's result depends on nothing else in its batch, and writes
each sum once. Its gradients come from one kernel more, which reads rows and gradients once.

M rows of D numbers (maps of all clips), S slots (output maps).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atfr.kernels.gpu import runs_triton
from atfr.private import is_recorded

WIDE = 2**13
"""Numbers of a row from which adding rows up one by one is faster on a CPU."""


def weighted_sums(
    rows_MD: Float[Tensor, "M D"],
    weight_M: Float[Tensor, " M"],
    slot_M: Int[Tensor, " M"],
    num_slots: int | torch.SymInt,
) -> Float[Tensor, "S D"]:
    """Return in each slot the sum of its rows times their weights, in the rows' type; 0 where there are none."""
    if runs_triton(rows_MD):
        from atfr.kernels.triton_sums import weighted_sums as operation

        return operation(rows_MD, weight_M.float(), slot_M, num_slots)
    weight_M = weight_M.to(rows_MD.dtype)
    plain = twin if torch.compiler.is_compiling() or is_recorded() else _WeightedSums.apply
    return plain(rows_MD, weight_M, slot_M, num_slots)


def twin(rows_MD: Tensor, weight_M: Tensor, slot_M: Tensor, num_slots: int | torch.SymInt) -> Tensor:
    """`weighted_sums` in plain PyTorch; as maps, index_add takes eight times as long."""
    weighted_MD = rows_MD * weight_M[:, None]
    return weighted_MD.new_zeros(num_slots, weighted_MD.shape[1]).index_add(0, slot_M, weighted_MD)


def row_by_row(rows_MD: Tensor, weight_M: Tensor, slot_M: Tensor, num_slots: int) -> Tensor:
    """`twin` for wide rows on a CPU: weighted rows are never in memory."""
    sums_SD = rows_MD.new_zeros(num_slots, rows_MD.shape[1])
    sums = sums_SD.unbind()
    for row, weight, slot in zip(rows_MD.unbind(), weight_M.tolist(), slot_M.tolist(), strict=True):
        sums[slot].add_(row, alpha=weight)
    return sums_SD


class _WeightedSums(torch.autograd.Function):
    """The sums, without keeping the weighted rows for the backward pass, as index_add does."""

    @staticmethod
    def forward(ctx: Any, rows_MD: Tensor, weight_M: Tensor, slot_M: Tensor, num_slots: int) -> Tensor:
        ctx.save_for_backward(rows_MD, weight_M, slot_M)
        add_up = row_by_row if rows_MD.device.type == "cpu" and rows_MD.shape[1] >= WIDE else twin
        return add_up(rows_MD, weight_M, slot_M, num_slots)

    @staticmethod
    def backward(ctx: Any, gradient_SD: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows_MD, weight_M, slot_M = ctx.saved_tensors
        gradient_MD = gradient_SD.index_select(0, slot_M)
        return gradient_MD * weight_M[:, None], torch.einsum("md,md->m", gradient_MD, rows_MD), None, None
