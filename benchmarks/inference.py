"""Inference: networks without and with SGS in several runtimes, beside PyTorchVideo's, in batches of 1, 8 and 32.

    python benchmarks/inference.py [--quick] [--out result.json] [--networks NAME ...]

    pytorchvideo  its network in eager PyTorch, where it has the same one
    eager         ours in eager PyTorch
    optimized     `atfr.optimize_for_inference`

Weights are random and clips are noise, which changes no time; about half of the maps are kept, and the clips of a batch
differ in A. A is forced behind the similarity network (`atfr.measure.forcing.forced`), all other work of SGS is done.
Everything on one network and batch takes turns; batches of 32 run optimised only.
The graphs of OpenVINO and ONNX Runtime: benchmarks/runtime.py.
"""

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import atfr
from atfr.measure import Variant, script_options, write_result
from atfr.measure.eager import eager
from atfr.measure.forcing import ragged
from atfr.measure.saving import measure, work_of


class Case(NamedTuple):
    """A network and its clips."""

    clip_shape: tuple[int, int, int, int]
    active_bins: int


CASES = {
    "x3d_s": Case((3, 13, 160, 160), 6),
    "resnet3d_18": Case((3, 16, 112, 112), 8),
    "resnet3d_50": Case((3, 16, 112, 112), 8),
    "r2plus1d_50": Case((3, 8, 112, 112), 4),
    "slowfast_4x16_r50": Case((3, 32, 112, 112), 16),
}
QUICK = {name: Case((3, 8, 32, 32), 4) for name in ("x3d_s", "resnet3d_18", "slowfast_4x16_r50")}
BATCHES, QUICK_BATCHES = (1, 8, 32), (1, 2)
LARGE = 32
"""Clips from which a batch runs optimised only: the others would take minutes."""


def x3d(clip_shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """PyTorchVideo's X3D-S."""
    from pytorchvideo.models.x3d import create_x3d

    return create_x3d(input_clip_length=clip_shape[1], input_crop_size=clip_shape[2], head_activation=None).eval()


def r2plus1d(clip_shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """PyTorchVideo's R(2+1)D-50; its head pools windows of a clip size it is told."""
    from pytorchvideo.models.r2plus1d import create_r2plus1d

    _, frames, size, _ = clip_shape
    pooled = (-(-frames // 8), -(-size // 32), -(-size // 32))
    return create_r2plus1d(model_num_class=400, head_pool_kernel_size=pooled, head_activation=None).eval()


def slowfast(clip_shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """PyTorchVideo's SlowFast 4x16, given the slow frames as its transform would."""
    from pytorchvideo.models.slowfast import create_slowfast

    _, frames, size, _ = clip_shape
    side = -(-size // 32)
    network: nn.Module = create_slowfast(
        slowfast_fusion_conv_kernel_size=(5, 1, 1),
        slowfast_fusion_conv_stride=(8, 1, 1),
        head_pool_kernel_sizes=((frames // 8, side, side), (frames, side, side)),
    ).eval()
    return lambda clips: network([clips[:, :, ::8], clips])


PYTORCHVIDEO = {"x3d_s": x3d, "r2plus1d_50": r2plus1d, "slowfast_4x16_r50": slowfast}


def measure_network(name: str, case: Case, batches: tuple[int, ...], **turns: Any) -> dict[str, Any]:
    """Time a network in all runtimes, batch after batch."""
    torch.manual_seed(0)
    static = atfr.create_model(name).eval()
    adaptive = atfr.create_model(name).eval()
    atfr.adapt_(adaptive, after="res2")
    networks = {
        "eager": (static, adaptive),
        "optimized": (atfr.optimize_for_inference(static), atfr.optimize_for_inference(adaptive)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorchVideo imports torch.jit's deprecated names
        theirs = PYTORCHVIDEO[name](case.clip_shape) if name in PYTORCHVIDEO else None
    results = {}
    for clips in batches:
        work = work_of(adaptive, case.clip_shape, ragged(case.active_bins, clips, case.clip_shape[1]))
        batch = torch.randn(clips, *case.clip_shape)
        others: dict[str, Variant] = {}
        if theirs is not None and clips < LARGE:
            others["pytorchvideo"] = lambda batch=batch: theirs(batch)
        with ExitStack() as stack:
            pairs = {
                runtime: stack.enter_context(eager(own, batch, work, without))
                for runtime, (without, own) in networks.items()
                if clips < LARGE or runtime == "optimized"
            }
            savings, timing = measure(pairs, others, warm_up=1, **turns)
        found: dict[str, Any] = {runtime: saving.to_dict() for runtime, saving in savings.items()}
        if others:
            found["over pytorchvideo"] = {
                f"{runtime} {kind}": timing.speedup(f"{runtime} {kind}", over="pytorchvideo").to_dict()
                for runtime in pairs
                for kind in ("static", "adaptive")
            }
            found["pytorchvideo"] = {"median_ms": timing.ms("pytorchvideo").median}
        for runtime, saving in savings.items():
            print(f"{name}, {clips} clips, {runtime}: {saving.speedup} x, of ideal {saving.efficiency}", flush=True)
        results[str(clips)] = found
    return results


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return the parts of the page."""
    rows, over = [], []
    for name, batches in report["results"].items():
        frames, size = report["inputs"]["cases"][name][0][1:3]
        for clips, found in batches.items():
            for runtime, one in found.items():
                if "efficiency" not in one:
                    continue
                rows.append(
                    f"| `{name}` {frames} x {size}² | {clips} | {runtime} | {one['flops_ratio']:.2f} | "
                    f"{brief(one['speedup'])} | {one['ideal']['median']:.2f} | {brief(one['efficiency'])} | "
                    f"{one['over_flops']['median']:.2f} | {100 * one['sgs_share']['median']:.1f} % | "
                    f"{one['static_gflops']['median']:.0f}, {one['adaptive_gflops']['median']:.0f} | "
                    f"{1000 * int(clips) / one['median_ms']['adaptive']:.3g} |"
                )
            if against := found.get("over pytorchvideo"):
                theirs = int(clips) * 1000 / found["pytorchvideo"]["median_ms"]
                for runtime in [runtime for runtime, one in found.items() if "efficiency" in one]:
                    cells = [brief(against[f"{runtime} {kind}"]) for kind in ("static", "adaptive")]
                    over.append(
                        f"| `{name}` {frames} x {size}² | {clips} | {theirs:.3g} | {runtime} | {' | '.join(cells)} |"
                    )
    return {
        "inference": "\n".join([SAVING, *rows, "", PICTURE]),
        "inference over pytorchvideo": "\n".join([AGAINST, *over]),
    }


SAVING = (
    "| network, clip | clips | runtime | GFLOPs ratio | speed-up | ideal | of ideal | of GFLOPs ratio | SGS | "
    "GFLOP/s static, with SGS | clips/s with SGS |\n|---|---:|---|---:|---|---:|---|---:|---:|---:|---:|"
)
PICTURE = "![Speed-up with SGS, its ideal and the GFLOPs ratio, by network and batch](images/inference.svg)"
AGAINST = "| network, clip | clips | PyTorchVideo, clips/s | ours in | static | with SGS |\n|---|---:|---:|---|---|---|"


def brief(ratio: dict[str, float]) -> str:
    """Return a median and its range, short."""
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def figures(report: dict[str, Any], folder: Path) -> None:
    """Draw the speed-up of each network in the optimised runtime beside the ideal and the FLOPs ratio."""
    from matplotlib.figure import Figure

    from atfr.viz.figures import COLOURS

    figure = Figure(figsize=(10, 3), layout="constrained")
    batches = list(dict.fromkeys(clips for found in report["results"].values() for clips in found))
    for axes, clips in zip(figure.subplots(1, len(batches), sharey=True), batches, strict=True):
        found = {name: one[clips]["optimized"] for name, one in report["results"].items() if clips in one}
        for place, one in enumerate(found.values()):
            ratio = one["speedup"]
            off = [[ratio["median"] - ratio["least"]], [ratio["most"] - ratio["median"]]]
            axes.bar(place, ratio["median"], yerr=off, color=COLOURS["adaptive"], capsize=3)
            axes.plot([place - 0.4, place + 0.4], [one["ideal"]["median"]] * 2, color="black", label="ideal")
            axes.plot([place - 0.4, place + 0.4], [one["flops_ratio"]] * 2, color="black", ls=":", label="GFLOPs ratio")
        axes.axhline(1, color=COLOURS["static"], linewidth=1)
        axes.set_xticks(range(len(found)), [name.replace("_", "\n", 1) for name in found], fontsize=7)
        axes.set_title(f"times as fast with SGS, {clips} clip{'s' * (clips != '1')}", fontsize=9)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[:2], labels[:2], frameon=False, fontsize=8)
    figure.savefig(folder / "inference.svg", metadata={"Date": None})


def main() -> None:
    parser = script_options(__doc__)
    parser.add_argument("--networks", nargs="+", choices=list(CASES), help="all by default")
    options = parser.parse_args()
    cases = QUICK if options.quick else CASES
    cases = {name: case for name, case in cases.items() if name in (options.networks or cases)}
    batches = QUICK_BATCHES if options.quick else BATCHES
    turns = {"rounds": 1, "at_least": 1} if options.quick else {"budget_s": 10.0}
    results = {name: measure_network(name, case, batches, **turns) for name, case in cases.items()}
    write_result(
        options.out, results, inputs={"cases": cases, "after": "res2", "clips": "noise", "quick": options.quick}
    )


if __name__ == "__main__":
    main()
