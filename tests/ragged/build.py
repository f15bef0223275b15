"""Packed clips beside the plain loop over clips."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

import atfr
from atfr.errors import UnsupportedOperationError

LENGTHS = (3, 1, 5, 2)
CHANNELS = 4


def make_clips(lengths=LENGTHS, channels=CHANNELS, size=(5, 6), seed=0, dtype=torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(channels, n, *size, generator=generator, dtype=torch.float64).to(dtype) for n in lengths]


def gradients(outputs: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of one fixed random linear function of the outputs."""
    generator = torch.Generator().manual_seed(99)
    loss = torch.zeros((), dtype=outputs[0].dtype)
    for output in outputs:
        loss = loss + (output * torch.randn(output.shape, generator=generator, dtype=output.dtype)).sum()
    return list(torch.autograd.grad(loss, leaves, allow_unused=True))


def results(value: atfr.PackedClips | Tensor, packed_type: type = atfr.PackedClips) -> list[Tensor]:
    """A result as one tensor per clip: C T H W of a packed one, the row of a dense one."""
    return value.unpack() if isinstance(value, packed_type) else list(value)


def same_as_loop(
    operation: Callable[[Tensor], Tensor],
    *,
    lengths=LENGTHS,
    channels=CHANNELS,
    size=(5, 6),
    dtype=torch.float32,
    per_clip: Callable[[Tensor, int], Tensor] | None = None,
    parameters: tuple[Tensor, ...] = (),
    tolerance: float = 1e-5,
    packed_result: bool = True,
) -> None:
    """``operation`` of the packed clips equals it on every clip alone (1 C T H W), with all gradients."""
    clips = make_clips(lengths, channels, size, dtype=dtype)
    left, right = ([c.clone().requires_grad_() for c in clips] for _ in range(2))
    value = operation(atfr.PackedClips.pack(left))
    assert isinstance(value, atfr.PackedClips) == packed_result
    assert len(value.lengths if packed_result else value) == len(lengths)
    got = results(value)
    loop = per_clip or (lambda clip, i: operation(clip))
    want = [loop(clip[None], i)[0] for i, clip in enumerate(right)]
    if packed_result:
        assert value.lengths == tuple(w.shape[1] for w in want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        assert type(a) is Tensor
    leaves = list(zip(gradients(got, [*left, *parameters]), gradients(want, [*right, *parameters]), strict=True))
    for a, b in leaves:
        torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=10 * tolerance)


def right_or_refused(operation: Callable[[Tensor], Tensor], **options: object) -> None:
    """An operation atfr need not support: the right answer or a refusal, nothing else."""
    with contextlib.suppress(UnsupportedOperationError):
        same_as_loop(operation, **options)
