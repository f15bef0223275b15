"""The Triton kernels of `weighted_sums`, as operations of PyTorch's, which graphs hold; imported only where Triton is.

A program takes a block of one row.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from atfr.kernels.weighted_sums import twin

BLOCK = 1024
"""Numbers of a row that one program takes."""


@triton.jit
def add_up(rows, weight, order, ends, output, width, BLOCK: tl.constexpr):
    """Add up the rows of a slot: those that `order` lists from the end of the slot before up to its own."""
    slot = tl.program_id(0)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = place < width
    first = tl.load(ends + slot - 1, mask=slot > 0, other=0)
    last = tl.load(ends + slot)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(first, last):
        row = tl.load(order + i)
        seen = tl.load(rows + row * width + place, mask=there, other=0.0)
        total += tl.load(weight + row) * seen.to(tl.float32)
    tl.store(output + slot.to(tl.int64) * width + place, total.to(output.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["num_slots"])
def spread(
    gradient, rows, weight, slots, of_rows, of_weight, width, num_slots, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Give a row its weight times the gradient of its slot, and its weight their product, a part for each block."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = place < width
    slot = tl.load(slots + row)
    used = there & (slot < num_slots)
    given = tl.load(gradient + slot * width + place, mask=used, other=0.0).to(tl.float32)
    seen = tl.load(rows + row * width + place, mask=used, other=0.0).to(tl.float32)
    tl.store(of_weight + row * tl.num_programs(1) + tl.program_id(1), tl.sum(given * seen, 0))
    if ROWS:
        spread_out = tl.load(weight + row) * given
        tl.store(of_rows + row * width + place, spread_out.to(of_rows.dtype.element_ty), mask=there)


@torch.library.custom_op("atfr::weighted_sums", mutates_args=())
def weighted_sums(rows: Tensor, weight: Tensor, slots: Tensor, num_slots: int) -> Tensor:
    """Launch the kernel; as an operation of PyTorch's, which graphs hold. Rows of slot `num_slots` are left out."""
    sorted_slots, order = slots.sort(stable=True)
    ends = torch.searchsorted(sorted_slots, torch.arange(num_slots, device=slots.device), right=True)
    output = rows.new_empty(num_slots, rows.shape[1])
    grid = (num_slots, -(-rows.shape[1] // BLOCK))
    with torch.cuda.device_of(rows):
        add_up[grid](rows.contiguous(), weight.contiguous(), order, ends, output, rows.shape[1], BLOCK)
    return output


@weighted_sums.register_fake
def _(rows: Tensor, weight: Tensor, slots: Tensor, num_slots: int) -> Tensor:
    return rows.new_empty(num_slots, rows.shape[1])


@torch.library.custom_op("atfr::weighted_sums_gradients", mutates_args=())
def gradients(
    gradient: Tensor, rows: Tensor, weight: Tensor, slots: Tensor, of_rows_too: bool
) -> tuple[Tensor, Tensor]:
    """Launch the kernel of both gradients; that of the rows is empty where it is not asked for."""
    of_rows = torch.empty_like(rows, memory_format=torch.contiguous_format) if of_rows_too else rows.new_empty(0)
    parts = -(-rows.shape[1] // BLOCK)
    of_weight = weight.new_empty(len(rows), parts)
    given = (gradient.contiguous(), rows.contiguous(), weight.contiguous(), slots.contiguous())
    with torch.cuda.device_of(rows):
        spread[(len(rows), parts)](*given, of_rows, of_weight, rows.shape[1], len(gradient), of_rows_too, BLOCK)
    return of_rows, of_weight.sum(1)


@gradients.register_fake
def _(gradient: Tensor, rows: Tensor, weight: Tensor, slots: Tensor, of_rows_too: bool) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape if of_rows_too else 0), weight.new_empty(len(rows))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *kept, _ = inputs
    ctx.save_for_backward(*kept)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    rows, weight, slots = ctx.saved_tensors
    if torch.is_grad_enabled():  # second gradients are asked for: those of plain PyTorch
        output = twin(rows, weight.to(rows.dtype), slots, len(gradient) + 1)[:-1]
        wanted = [x for x, asked in zip((rows, weight), ctx.needs_input_grad, strict=False) if asked]
        found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
        return *(next(found) if asked else None for asked in ctx.needs_input_grad[:2]), None, None
    of_rows, of_weight = gradients(gradient, rows, weight, slots, ctx.needs_input_grad[0])
    return of_rows if ctx.needs_input_grad[0] else None, of_weight, None, None


weighted_sums.register_autograd(_backward, setup_context=_keep)
