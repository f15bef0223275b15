"""How fast the stages behind SGS run on packed clips, against the ideal and against padding to the longest clip.

    python benchmarks/packed.py [--train] [--out result.json]

A ragged batch of 8 clips goes through the stages after res2 of X3D-S (13 x 160 x 160) and 3DResNet-18 (32 x 112 x 112).
ideal = dense time x sum(A) / (N T). `sgs_share` is the time of the SGS layer over that of the whole adaptive network,
on the same batch. All variants run interleaved in one process; medians of 7 rounds after a warm-up.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import atfr

ROUNDS = 7
# X3D-S: the lengths of 8 clips out of 13 maps; 3DResNet-18: out of 32.
CASES = {
    "x3d_s": ((3, 13, 160, 160), (9, 9, 3, 7, 10, 9, 7, 10)),
    "resnet3d_18": ((3, 32, 112, 112), (22, 20, 7, 16, 25, 21, 17, 24)),
}


def stages_after_res2(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the forward pass of what lies behind res2."""
    later = [model.get_submodule(model.stage_paths[stage]) for stage in ("res3", "res4", "res5")]
    return nn.Sequential(*later, model.blocks[5] if hasattr(model, "blocks") else model.head)


def maps_after_res2(model: nn.Module, clips: Tensor) -> Tensor:
    """Return real maps of the stages up to res2."""
    caught: list[Tensor] = []
    handle = model.get_submodule(model.stage_paths["res2"]).register_forward_hook(lambda *args: caught.append(args[2]))
    model(clips)
    handle.remove()
    return caught[0]


def timed(variants: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of each variant in each round, the variants taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(ROUNDS + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if round_number:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def sgs_share(name: str) -> float:
    """Return the time of the SGS layer over that of the whole adaptive network, in inference."""
    shape, lengths = CASES[name]
    torch.manual_seed(0)
    model = atfr.create_model(name).eval()
    clips = torch.randn(len(lengths), *shape)
    with torch.inference_mode():
        maps = maps_after_res2(model, clips)
        atfr.adapt_(model, after="res2")
        layer = model.get_submodule(model.stage_paths["res2"]).sgs
        seconds = timed({"sgs": lambda: layer(maps), "network": lambda: model(clips)})
    return statistics.median(seconds["sgs"]) / statistics.median(seconds["network"])


def measure(name: str, train: bool) -> dict[str, Any]:
    """Return medians and ratios for one network."""
    shape, lengths = CASES[name]
    torch.manual_seed(0)
    model = atfr.create_model(name).train(train)
    with torch.no_grad():
        dense = maps_after_res2(model, torch.randn(len(lengths), *shape))
    ragged = [clip[:, :length] for clip, length in zip(dense, lengths, strict=True)]
    packed = atfr.PackedClips.pack(ragged)
    padded = torch.stack([nn.functional.pad(c, (0, 0, 0, 0, 0, max(lengths) - c.shape[1])) for c in ragged])
    forward = stages_after_res2(model)

    def run(maps: Tensor) -> None:
        if train:
            forward(maps.detach().requires_grad_()).square().mean().backward()
        else:
            with torch.inference_mode():
                forward(maps)

    seconds = timed({"dense": lambda: run(dense), "padded": lambda: run(padded), "packed": lambda: run(packed)})
    median = {variant: statistics.median(values) for variant, values in seconds.items()}
    share = sum(lengths) / (len(lengths) * shape[1])
    over_ideal = [p / (d * share) for p, d in zip(seconds["packed"], seconds["dense"], strict=True)]
    return {
        "model": name,
        "mode": "forward and backward" if train else "inference",
        "clips": len(lengths),
        "clip_shape": shape,
        "lengths": lengths,
        "dense_ms": round(median["dense"] * 1e3, 1),
        "padded_ms": round(median["padded"] * 1e3, 1),
        "packed_ms": round(median["packed"] * 1e3, 1),
        "packed_over_ideal": round(statistics.median(over_ideal), 3),
        "packed_over_ideal_range": [round(min(over_ideal), 3), round(max(over_ideal), 3)],
        **({} if train else {"sgs_share": round(sgs_share(name), 4)}),
        "speedup_over_padded": round(median["padded"] / median["packed"], 3),
    }


def main() -> None:
    """Measure, print and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="measure forward and backward passes too")
    parser.add_argument("--out", help="write the result as JSON to this file")
    args = parser.parse_args()
    modes = (False, True) if args.train else (False,)
    conditions = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "rounds": ROUNDS,
    }
    result = {"conditions": conditions, "results": [measure(n, train) for train in modes for n in CASES]}
    print(json.dumps(result, indent=2))
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()
