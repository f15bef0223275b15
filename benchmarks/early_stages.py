"""Where the time of X3D-S goes, stage by stage and step by step, before `atfr.optimize_for_inference` and after.

    python benchmarks/early_stages.py [--quick] [--out result.json]

One clip of 13 x 160 x 160 in float32. "stages": each part of the network on the maps that come to it, as PyTorch runs
it and optimised, all in turns. "steps": ways to do one and the same thing, in turns, as a ratio of times; those on the
maps of res2 (54 channels at 80² or 40², 24 behind) are what the optimised network was made of.
"""

import resource
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.kernels.weighted_sums import twin
from atfr.measure import Variant, in_turns, script_options, write_result
from atfr.optimize.conv import FORMAT, FusedConv3d
from atfr.ragged.rows import mean_over_space
from atfr.samplers.functional import aggregate

SHAPE, QUICK = (3, 13, 160, 160), (3, 4, 32, 32)


def parts() -> dict[str, nn.Module]:
    """Return the network in parts."""
    torch.manual_seed(0)
    blocks = atfr.create_model("x3d_s").eval().blocks
    res2 = blocks[1].res_blocks
    return {
        "stem": blocks[0],
        "res2, block 1 (stride 2)": nn.Sequential(res2[0]),
        "res2, blocks 2 and 3": nn.Sequential(*res2[1:]),
        "res3": blocks[2],
        "res4": blocks[3],
        "res5": blocks[4],
        "head": blocks[5],
    }


def stages(shape: tuple[int, ...], **turns: Any) -> dict[str, Any]:
    """Time the parts."""
    variants: dict[str, Variant] = {}
    costs: dict[str, int] = {}
    maps = torch.randn(1, *shape)
    for name, part in parts().items():
        fast = atfr.optimize_for_inference(part)
        packed = maps.contiguous(memory_format=FORMAT)
        variants[f"eager, {name}"] = lambda part=part, maps=maps: part(maps)
        variants[f"optimized, {name}"] = lambda fast=fast, maps=packed: fast(maps)
        costs[name] = atfr.clip_cost(part, maps.shape[1:]).static
        maps = part(maps)
    timing = in_turns(variants, **turns)
    of_all = {way: [name for name in variants if name.startswith(way)] for way in ("eager", "optimized")}
    found = {
        name: {
            "gflops": costs[name] / 1e9,
            "faster": timing.speedup(f"optimized, {name}", over=f"eager, {name}").to_dict(),
            **{
                way: {
                    "median_ms": timing.ms(f"{way}, {name}").median,
                    "share": timing.ratio(
                        lambda s, w=way, n=name: s[f"{w}, {n}"] / sum(s[o] for o in of_all[w])
                    ).to_dict(),
                }
                for way in of_all
            },
        }
        for name in costs
    }
    return found | {"rounds": timing.rounds}


def page_faults(shape: tuple[int, ...]) -> dict[str, float]:
    """Return how many pages of memory a pass of the whole network is given anew, on average."""
    torch.manual_seed(0)
    network = atfr.create_model("x3d_s").eval()
    clips, found = torch.randn(1, *shape), {}
    for name, run in {"eager": network, "optimized": atfr.optimize_for_inference(network)}.items():
        for number in range(8):
            if number == 3:  # warm
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            run(clips)
        found[name] = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5
    return found


def maps_of(channels: int, frames: int, size: int) -> Tensor:
    """Return noise, channels last."""
    return torch.randn(1, channels, frames, size, size).contiguous(memory_format=FORMAT)


def fused(conv: nn.Conv3d, activation: Any = None) -> FusedConv3d:
    """Return a convolution as one operation of oneDNN."""
    module = FusedConv3d(conv.requires_grad_(False).eval().to(memory_format=FORMAT))
    module.activation = activation
    return module


def depthwise(channels: int, stride: int = 1) -> nn.Conv3d:
    """Return a 3 x 3 x 3 convolution of each channel alone."""
    return nn.Conv3d(channels, channels, 3, stride=(1, stride, stride), padding=1, groups=channels)


def in_three(conv: nn.Conv3d) -> Callable[[Tensor], Tensor]:
    """Return a 3 x 3 x 3 depthwise convolution as three over space, shifted in time and added up."""
    kernels = [conv.weight[:, :, tap] for tap in range(3)]

    def run(maps: Tensor) -> Tensor:
        frames = maps[0].transpose(0, 1)
        before, now, after = (F.conv2d(frames, kernel, None, 1, 1, 1, conv.groups) for kernel in kernels)
        now[1:] += before[:-1]
        now[:-1] += after[1:]
        return now.transpose(0, 1)[None]

    return run


def steps(frames: int, size: int) -> dict[str, dict[str, Variant]]:
    """Return ways to do one thing, by what it is; the first is what the others are held against."""
    large, small, narrow = maps_of(54, frames, size), maps_of(54, frames, size // 2), maps_of(24, frames, size // 2)
    pointwise = nn.Conv3d(24, 54, 1)
    over, wide, strided, wider = depthwise(54), depthwise(64), depthwise(54, 2), depthwise(64, 2)
    padded, large_padded = maps_of(64, frames, size // 2), maps_of(64, frames, size)
    weights, slots = torch.rand(1, frames), torch.randint(0, max(1, frames // 2), (1, frames))
    kernel = pointwise.weight.flatten(1)
    one, relu, plain, swish = fused(pointwise), fused(pointwise, "relu"), fused(over), fused(over, "silu")
    padding, strides, padding_strides = fused(wide), fused(strided), fused(wider)
    three = in_three(over)

    def rows(maps: Tensor) -> Tensor:
        return F.linear(maps.permute(0, 2, 3, 4, 1), kernel, pointwise.bias).permute(0, 4, 1, 2, 3)

    def onednn_swish(maps: Tensor) -> Tensor:
        window = (plain.padding, plain.stride, plain.dilation, plain.groups)
        layer = (plain._prepared(plain.weight, maps.shape, window), plain.bias, *window)
        return torch.ops.mkldnn._convolution_pointwise(maps, *layer, "swish", [], "")

    def merged_as_maps() -> Tensor:
        weighted = (narrow * weights[:, None, :, None, None]).transpose(1, 2).flatten(0, 1)
        return weighted.new_zeros(frames, *weighted.shape[1:]).index_add(0, slots[0], weighted)

    return {
        "1 x 1 x 1, 24 to 54 channels": {
            "PyTorch's conv3d": lambda: pointwise(narrow),
            "oneDNN's, prepared": lambda: one(narrow),
            "a matrix product": lambda: rows(narrow),
        },
        "the same with ReLU": {
            "a pass of its own": lambda: one(narrow).relu_(),
            "within": lambda: relu(narrow),
        },
        "3 x 3 x 3 of 54 channels with SiLU": {
            "a pass of its own": lambda: swish(small),
            "within (oneDNN's swish)": lambda: onednn_swish(small),
        },
        "3 x 3 x 3 of 54 channels": {
            "oneDNN's in 3D": lambda: plain(small),
            "three in 2D, shifted": lambda: three(small),
            "padded to 64 channels": lambda: padding(padded),
        },
        "3 x 3 x 3 of 54 channels, stride 2": {
            "oneDNN's in 3D": lambda: strides(large),
            "padded to 64 channels": lambda: padding_strides(large_padded),
            "as many multiply-adds without stride": lambda: plain(small),
        },
        "the mean of each map (SGS)": {
            "maps.mean((3, 4))": lambda: narrow.mean((3, 4)),
            "over rows of channels": lambda: mean_over_space(narrow),
        },
        "merging maps (SGS)": {
            "index_add of maps": merged_as_maps,
            "index_add of rows": lambda: twin(
                narrow.permute(0, 2, 3, 4, 1).flatten(2)[0], weights[0], slots[0], frames
            ),
            "row by row": lambda: aggregate(narrow, weights, slots, frames),
        },
    }


def measure(quick: bool) -> dict[str, Any]:
    """Time everything; return results."""
    shape = QUICK if quick else SHAPE
    turns: dict[str, Any] = {"rounds": 3, "at_least": 1, "warm_up": 1} if quick else {"rounds": 15, "budget_s": 5.0}
    ratios = {}
    with torch.inference_mode():
        of_stages = stages(shape, **turns)
        for step, ways in steps(shape[1], shape[2] // 2).items():
            timing = in_turns(ways, **turns)
            first = next(iter(ways))
            ratios[step] = {way: timing.ratio(lambda s, w=way, f=first: s[w] / s[f]).to_dict() for way in ways}
        faults = page_faults(shape)
    return {"stages": of_stages, "steps": ratios, "page_faults": faults}


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return Markdown for the page."""
    found = dict(report["results"]["stages"])
    found.pop("rounds")
    lines = [
        "| part | GFLOPs | eager, ms (share) | optimized, ms (share) | times as fast | GFLOPs a second, optimized |",
        "|---|---|---|---|---|---|",
    ]
    for name, part in found.items():
        eager, fast, times = part["eager"], part["optimized"], part["faster"]
        lines.append(
            f"| {name} | {part['gflops']:.3f} | {eager['median_ms']:.1f} ({eager['share']['median']:.0%}) "
            f"| {fast['median_ms']:.1f} ({fast['share']['median']:.0%}) "
            f"| {times['median']:.2f} ({times['least']:.2f} to {times['most']:.2f}) "
            f"| {1000 * part['gflops'] / fast['median_ms']:.0f} |"
        )
    faults = report["results"]["page_faults"]
    lines += ["", f"Page faults a pass: eager {faults['eager']:.0f}, optimized {faults['optimized']:.0f}."]
    lines += ["", "| step | way | time over the first's |", "|---|---|---|"]
    for step, ways in report["results"]["steps"].items():
        for way, ratio in ways.items():
            held = (
                "1"
                if way == next(iter(ways))
                else f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
            )
            lines.append(f"| {step} | {way} | {held} |")
    return {"early_stages": "\n".join(lines)}


def main() -> None:
    """Measure, print, and if asked write JSON."""
    options = script_options(__doc__).parse_args()
    results = measure(options.quick)
    inputs = {"network": "x3d_s", "clip_shape": QUICK if options.quick else SHAPE, "seed": 0}
    print(tables(write_result(options.out, results, inputs=inputs))["early_stages"])


if __name__ == "__main__":
    main()
