"""nn.SyncBatchNorm on packed clips: processes with different numbers of maps normalise as one process with all."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from atfr import PackedClips
from tests.processes import run_processes
from tests.ragged.build import CHANNELS, make_clips

LENGTHS = ((3, 1), (5, 2, 4))  # of the clips of each process
MOMENTUM = 0.3


def norm_with_numbers() -> nn.BatchNorm3d:
    norm = nn.BatchNorm3d(CHANNELS, momentum=MOMENTUM)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0, 1.5]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -2.0, 3.0]))
    return norm


def clips_of(rank: int) -> list[Tensor]:
    """Clips whose channels differ in place and width, and from process to process."""
    scale = torch.tensor([1.0, 3.0, 0.5, 2.0]).view(-1, 1, 1, 1)
    return [(clip + 2 * rank) * scale + 5 for clip in make_clips(LENGTHS[rank], seed=rank)]


def loss_of(outputs: list[Tensor]) -> Tensor:
    slopes = [torch.linspace(-1, 2, out.numel()).to(out).view_as(out) for out in outputs]
    return torch.stack([(out**3 * slope).sum() for out, slope in zip(outputs, slopes, strict=True)]).sum()


def one_process_of_two(rank: int, folder: Path, device: str) -> None:
    if device == "cpu":
        kernels = torch.library.Library("aten", "IMPL")  # torch has them for accelerators only
        for kernel in (stats, gather_stats_with_counts, elemt, backward_reduce, backward_elemt):
            kernels.impl(f"batch_norm_{kernel.__name__}", kernel, "CPU")
    norm = nn.SyncBatchNorm.convert_sync_batchnorm(norm_with_numbers()).to(device)
    clips = [clip.to(device).requires_grad_() for clip in clips_of(rank)]
    with mock.patch("torch._C._get_privateuse1_backend_name", return_value="cpu"):  # let the module take the CPU
        packed = norm(PackedClips.pack(clips))
        assert isinstance(packed, PackedClips)
        assert packed.lengths == LENGTHS[rank]
        outputs = [out.detach().cpu() for out in packed.unpack()]
        loss_of(packed.unpack()).backward()
    found = {
        "outputs": outputs,
        "gradients": [clip.grad.cpu() for clip in clips],  # type: ignore[union-attr]
        "weight": norm.weight.grad.cpu(),
        "bias": norm.bias.grad.cpu(),
        "running_mean": norm.running_mean.cpu(),
        "running_var": norm.running_var.cpu(),
    }
    torch.save(found, folder / f"{rank}.pt")


def rows(x: Tensor) -> Tensor:
    """All values of each channel."""
    return x.transpose(0, 1).flatten(1)


def per_channel(x: Tensor, like: Tensor) -> Tensor:
    return x.view(1, -1, *[1] * (like.dim() - 2))


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return rows(x).mean(1), (rows(x).var(1, unbiased=False) + eps).rsqrt()


def gather_stats_with_counts(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    share = counts[:, None] / counts.sum()
    total_mean = (share * mean).sum(0)
    var = (share * (invstd**-2 - eps + (mean - total_mean) ** 2)).sum(0)
    running_mean.lerp_(total_mean, momentum)
    running_var.lerp_(var * counts.sum() / (counts.sum() - 1), momentum)
    return total_mean, (var + eps).rsqrt()


def elemt(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, eps: float) -> Tensor:
    return (x - per_channel(mean, x)) * per_channel(invstd * weight, x) + per_channel(bias, x)


def backward_reduce(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor, *_: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sum_dy = rows(grad).sum(1)
    sum_dy_xmu = (rows(grad) * (rows(x) - mean[:, None])).sum(1)
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()


def backward_elemt(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    count: Tensor,
) -> Tensor:
    from_mean = per_channel(sum_dy / count.sum(), x)
    from_var = (x - per_channel(mean, x)) * per_channel(sum_dy_xmu * invstd**2 / count.sum(), x)
    return (grad - from_mean - from_var) * per_channel(invstd * weight, x)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(
                    not torch.cuda.is_available(), reason="NOT TESTED: torch's CUDA kernels of SyncBatchNorm, no GPU"
                ),
            ],
        ),
    ],
)
def test_processes_with_different_numbers_of_maps_are_as_one_with_all(tmp_path: Path, device: str) -> None:
    run_processes(one_process_of_two, tmp_path, device)
    norm = norm_with_numbers()
    clips = [clip.requires_grad_() for rank in range(2) for clip in clips_of(rank)]
    outputs = list(norm(torch.cat(clips, dim=1)[None])[0].split([n for lengths in LENGTHS for n in lengths], dim=1))
    loss_of(outputs).backward()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    close = {"rtol": 1e-4, "atol": 1e-4}
    for got, want in zip([x for one in found for x in one["outputs"]], outputs, strict=True):
        torch.testing.assert_close(got, want, **close)
    for got, leaf in zip([x for one in found for x in one["gradients"]], clips, strict=True):
        torch.testing.assert_close(got, leaf.grad, **close)
    for name in ("weight", "bias"):  # data-parallel training adds these up
        torch.testing.assert_close(found[0][name] + found[1][name], getattr(norm, name).grad, rtol=1e-4, atol=1e-2)
    for one in found:
        torch.testing.assert_close(one["running_mean"], norm.running_mean, **close)
        torch.testing.assert_close(one["running_var"], norm.running_var, **close)
