"""Cost against work: time by active bins, frames, batch and resolution, and the memory that it takes.

    python benchmarks/scale.py [--quick] [--out result.json]

X3D-S with SGS after res2, and the same without, optimised for inference (`atfr.optimize_for_inference`), on noise; half
of the maps are kept but where A is what varies. All cases of a sweep take turns. "fit" is the straight line through
the medians by least squares: its slope, intercept and R².

    active_bins  A from 1 to T, one clip of 32 x 112²: the time of the stages behind SGS
    frames       T from 8 to 128, one clip of T x 112²
    batch        1 to 64 clips of 8 x 112²
    size         one clip of 13 frames, 112 to 320 pixels high and wide
    memory       bytes held at most during a pass (resident memory), and after many batches of ever new A
"""

import copy
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import atfr
from atfr.measure import peak_memory, script_options, write_result
from atfr.measure.eager import eager
from atfr.measure.forcing import ragged
from atfr.measure.memory import resident
from atfr.measure.saving import Saving, measure, work_of

Case = tuple[int, int, int, tuple[int, ...]]
"""Clips, frames, size in pixels, A of each clip."""

SWEEPS: dict[str, dict[int, Case]] = {
    "active_bins": {kept: (1, 32, 112, (kept,)) for kept in (1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32)},
    "frames": {frames: (1, frames, 112, (frames // 2,)) for frames in (8, 16, 32, 64, 128)},
    "batch": {clips: (clips, 8, 112, ragged(4, clips, 8)) for clips in (1, 2, 4, 8, 16, 32, 64)},
    "size": {size: (1, 13, size, (6,)) for size in (112, 160, 192, 224, 256, 320)},
}
QUICK: dict[str, dict[int, Case]] = {
    "active_bins": {kept: (1, 4, 32, (kept,)) for kept in (1, 2, 4)},
    "frames": {frames: (1, frames, 32, (frames // 2,)) for frames in (2, 4, 8)},
    "batch": {clips: (clips, 4, 32, ragged(2, clips, 4)) for clips in (1, 2, 3)},
    "size": {size: (1, 4, size, (2,)) for size in (32, 48, 64)},
}
LINES = {"active_bins": "after sgs", "frames": "adaptive", "batch": "adaptive"}
"""What should be a straight line, by sweep; in the size it is a square."""

PICTURE = "![Time by active bins, frames, clips of a batch, and size](images/scale.svg)"
NEW_BATCHES, SETTLED = 200, 50


class Networks:
    """X3D-S without SGS and with it, optimised; made once."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        network = atfr.create_model("x3d_s").eval()
        self.static = atfr.optimize_for_inference(network)
        self.adapted = network
        atfr.adapt_(self.adapted, after="res2")
        self.adaptive = atfr.optimize_for_inference(self.adapted)


def sweep(networks: Networks, cases: Mapping[int, Case], rounds: int) -> dict[int, Saving]:
    """Time all cases, in turns."""
    with ExitStack() as stack:
        pairs = {}
        for x, (clips, frames, size, kept) in cases.items():
            shape = (3, frames, size, size)
            work = work_of(networks.adapted, shape, kept)
            adaptive, static = copy.deepcopy(networks.adaptive), copy.deepcopy(networks.static)  # each with its A
            pairs[str(x)] = stack.enter_context(eager(adaptive, torch.randn(clips, *shape), work, static))
        savings, _ = measure(pairs, rounds=rounds, at_least=rounds, warm_up=1)
    return {int(x): saving for x, saving in savings.items()}


def fit(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Return the straight line by least squares, with the share of the variance that it explains."""
    slope, intercept = np.polyfit(x, y, 1)
    off = np.asarray(y) - (slope * np.asarray(x) + intercept)
    r2 = 1 - float((off**2).sum() / ((np.asarray(y) - np.mean(y)) ** 2).sum())
    return {"slope": float(slope), "intercept": float(intercept), "r2": r2}


def memory(networks: Networks, cases: Mapping[int, Case]) -> dict[str, dict[int, int]]:
    """Return the most bytes that a pass held, by case, without SGS and with it."""
    found: dict[str, dict[int, int]] = {"static": {}, "adaptive": {}}
    for x, (clips, frames, size, kept) in cases.items():
        shape = (3, frames, size, size)
        with eager(
            networks.adaptive, torch.randn(clips, *shape), work_of(networks.adapted, shape, kept), networks.static
        ) as pair:
            for name, run in pair.variants.items():
                run()
                found[name][x] = peak_memory(run)
    return found


def ever_new_batches(network: nn.Module, clip_shape: Sequence[int], batches: int, settled: int) -> dict[str, int]:
    """Return the memory after some batches and after many more, none with the lengths of one before (SGS's own A)."""
    draw = random.Random(0)
    held = {}
    with torch.inference_mode():
        for number in range(1, batches + 1):
            clips = torch.randn(draw.randint(1, 4), *clip_shape)
            clips[:, :, draw.randint(1, clip_shape[1]) :] *= draw.random() * 4
            network(clips)
            if number in (settled, batches):
                held[str(number)] = resident("VmRSS")
    return held


def measured(quick: bool) -> dict[str, Any]:
    """Measure everything."""
    networks = Networks()
    cases = QUICK if quick else SWEEPS
    results: dict[str, Any] = {}
    for name, by_x in cases.items():
        savings = sweep(networks, by_x, 2 if quick else 7)
        results[name] = {"cases": {str(x): saving.to_dict() for x, saving in savings.items()}}
        if name in LINES:
            ms = [saving.timing.ms(LINES[name]).median for saving in savings.values()]
            results[name]["fit"] = fit(list(by_x), ms)
            line = results[name]["fit"]
            print(f"{name}: {line['slope']:.3g} ms each + {line['intercept']:.3g} ms, R² {line['r2']:.4f}")
    results["memory"] = {name: memory(networks, cases[name]) for name in ("frames", "batch", "size")}
    new = (4, 2) if quick else (NEW_BATCHES, SETTLED)
    results["ever_new_batches"] = ever_new_batches(
        networks.adaptive, (3, 4, 32, 32) if quick else (3, 13, 112, 112), *new
    )
    return results


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return the parts of the page."""
    results = report["results"]
    text = {}
    rows = []
    what = {
        "active_bins": ("behind SGS, by A (one clip of 32 x 112²)", "a map"),
        "frames": ("with SGS, by T (A = T / 2, T x 112²)", "a frame"),
        "batch": ("with SGS, by clips of a batch (8 x 112²)", "a clip"),
    }
    for name, (of_what, each) in what.items():
        line = results[name]["fit"]
        rows.append(f"| {of_what} | {line['slope']:.3g} ms {each} | {line['intercept']:.2g} ms | {line['r2']:.4f} |")
    text["scale"] = "\n".join(["| time | slope | intercept | R² |", "|---|---:|---:|---:|", *rows, "", PICTURE])
    rows = []
    for name, cases in results["memory"].items():
        for x, static in cases["static"].items():
            saving = results[name]["cases"][x]
            rows.append(
                f"| {name} {x} | {saving['median_ms']['static']:.3g} | {saving['median_ms']['adaptive']:.3g} | "
                f"{saving['efficiency']['median']:.2f} | {int(static) / 2**20:.0f} | "
                f"{int(cases['adaptive'][x]) / 2**20:.0f} |"
            )
    head = "| case | static ms | with SGS ms | of the ideal | static MB | with SGS MB |"
    text["scale cases"] = "\n".join([head, "|---|---:|---:|---:|---:|---:|", *rows])
    (first, before), (last, after) = results["ever_new_batches"].items()
    text["scale memory"] = (
        f"Memory of the process after {first} batches of ever new clips and A: {before / 2**20:.0f} MB; after {last}: "
        f"{after / 2**20:.0f} MB."
    )
    return text


def figures(report: dict[str, Any], folder: Path) -> None:
    """Draw time against work."""
    from matplotlib.figure import Figure

    from atfr.viz.figures import COLOURS

    results = report["results"]
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    titles = {"active_bins": "A", "frames": "frames T", "batch": "clips", "size": "height and width (px)"}
    for axes, (name, label) in zip(figure.subplots(1, 4), titles.items(), strict=True):
        cases = results[name]["cases"]
        x = [int(one) for one in cases]
        series = (
            {"static": "after", "adaptive": "after sgs"}
            if name == "active_bins"
            else {"static": "static", "adaptive": "adaptive"}
        )
        for whose, part in series.items():
            axes.plot(
                x, [one["median_ms"][part] for one in cases.values()], "o-", ms=3, color=COLOURS[whose], label=whose
            )
        axes.set(xlabel=label, title="ms behind SGS" if name == "active_bins" else "ms", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(folder / "scale.svg", metadata={"Date": None})


def main() -> None:
    options = script_options(__doc__).parse_args()
    results = measured(options.quick)
    inputs = {
        "model": "x3d_s",
        "after": "res2",
        "clips": "noise",
        "runtime": "optimize_for_inference",
        "quick": options.quick,
    }
    write_result(options.out, results, inputs=inputs)


if __name__ == "__main__":
    main()
