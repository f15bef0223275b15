"""Training with the depthwise convolutions of atfr.depthwise against PyTorch's own, on a CPU.

    python benchmarks/depthwise.py [--quick] [--out result.json]

One training step (forward and backward, batch norm in training mode) of X3D-S, static and with SGS after res2, and of
the inflated EfficientNet-Lite0. All four take turns.
"""

from typing import Any
from unittest.mock import patch

import torch

import atfr
from atfr import depthwise
from atfr.measure import Variant, in_turns, script_options, write_result

CASES = {
    "x3d_s": (4, 3, 13, 160, 160),
    "i3d_efficientnet_lite0": (8, 3, 8, 112, 112),
}
QUICK = dict.fromkeys(CASES, (2, 3, 5, 64, 64))


def step(name: str, shape: tuple[int, ...], adaptive: bool, ours: bool) -> Variant:
    """Return a training step on random clips, with our gradients or with PyTorch's."""
    torch.manual_seed(0)
    model = atfr.create_model(name, num_classes=10).train()
    if adaptive:
        atfr.adapt_(model, after="res2")
    clips = torch.randn(shape)

    def run() -> None:
        with patch.object(depthwise, "gains", depthwise.gains if ours else lambda *_: False):
            model(clips).square().sum().backward()

    return run


def measure(quick: bool) -> dict[str, Any]:
    """Return how many times as fast a step with our gradients is."""
    results = {}
    for name, shape in (QUICK if quick else CASES).items():
        kinds = [(kind, whose) for kind in ("static", "adaptive") for whose in ("ours", "torch")]
        steps = {
            " ".join(one): step(name, shape, adaptive=one[0] == "adaptive", ours=one[1] == "ours") for one in kinds
        }
        timing = in_turns(steps, rounds=7, at_least=1 if quick else 7)
        ratios = {kind: timing.speedup(f"{kind} ours", over=f"{kind} torch") for kind in ("static", "adaptive")}
        for kind, ratio in ratios.items():
            print(f"{name} {shape} {kind}: {ratio} x as fast")
        results[name] = {"speedup": {kind: ratio.to_dict() for kind, ratio in ratios.items()}} | timing.to_dict()
    return results


def main() -> None:
    options = script_options(__doc__).parse_args()
    write_result(options.out, measure(options.quick), inputs={"shapes": QUICK if options.quick else CASES})


if __name__ == "__main__":
    main()
