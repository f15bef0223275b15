"""Training with the depthwise convolutions of atfr.depthwise against PyTorch's own, on a CPU.

    python benchmarks/depthwise.py

One training step (forward and backward, batch norm in training mode) of X3D-S, static and with SGS after res2, and of
the inflated EfficientNet-Lite0. Both ways run interleaved in one process; medians of 5 rounds after a warm-up,
ratios with their range.
"""

import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch

import atfr
from atfr import depthwise

ROUNDS = 5
CASES = {
    "x3d_s": (4, 3, 13, 160, 160),
    "i3d_efficientnet_lite0": (8, 3, 8, 112, 112),
}


def step(name: str, adaptive: bool) -> Callable[[], None]:
    """Return a training step on random clips."""
    torch.manual_seed(0)
    model = atfr.create_model(name, num_classes=10).train()
    if adaptive:
        atfr.adapt_(model, after="res2")
    clips = torch.randn(CASES[name])

    def run() -> None:
        model(clips).square().sum().backward()

    return run


def compare(run: Callable[[], None]) -> list[float]:
    """Return the ratio of PyTorch's time to ours in each round."""
    ratios = []
    for round_number in range(ROUNDS + 1):
        seconds = []
        for ours in (False, True):
            with patch.object(depthwise, "gains", depthwise.gains if ours else lambda *_: False):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
        if round_number:  # the first is the warm-up
            ratios.append(seconds[0] / seconds[1])
    return ratios


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for name, shape in CASES.items():
        for adaptive in (False, True):
            ratios = compare(step(name, adaptive))
            kind = "adaptive" if adaptive else "static"
            middle = statistics.median(ratios)
            print(f"{name} {shape} {kind}: {middle:.2f} x as fast ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
