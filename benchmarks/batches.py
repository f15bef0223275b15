"""Ways to run a batch of clips of different lengths on a CPU, and what freed memory that is kept is worth.

    python benchmarks/batches.py [--quick] [--out result.json]

Networks optimised for inference, 8 clips, `sampler="change"` at the input; clips of noise stand still after a while, so
that they keep different numbers of frames, half of them in the mean. All ways take turns; each is what comes out for
the same clips, held against the static network on all frames:

    fewer frames        the static network on as many frames in all, the same number of each clip: no way to get there
    packed              the adapted network on all clips together
    one by one          the adapted network on each clip
    gathered            the adapted network on the clips of each length together

Then the static network and the packed one without and with `atfr.freed_memory_kept`, a few passes each in turns.
"""

import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import atfr
from atfr.kernels.allocator import freed_memory_kept
from atfr.measure import Ratio, in_turns, script_options, write_result

CASES = {"x3d_s": (13, 160)}
QUICK = {"x3d_xs": (4, 32)}
CLIPS, ROUNDS, PASSES = 8, 7, 3
SHARES = (0.46, 0.54, 0.38, 0.62, 0.46, 0.54, 0.31, 0.69)
WAYS = ("fewer frames", "packed", "one by one", "gathered")


def clips_that_stop(frames: int, size: int) -> Tensor:
    """Return clips that stand still after some share of their frames, N x 3 x T x H x W."""
    clips = torch.randn(CLIPS, 3, frames, size, size)
    for clip, share in zip(clips, SHARES, strict=True):
        moving = max(1, round(share * frames))
        clip[:, moving:] = clip[:, moving - 1 : moving]
    return clips


def passes(network: nn.Module, batches: list[Tensor]) -> Callable[[], None]:
    """Return what runs a network on some batches."""

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                network(batch)

    return run


def time_and_pages(run: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds of a pass (median of a few, after one) and the pages that the kernel gave in it."""
    run()
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    for _ in range(PASSES):
        start_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - start_s)
    return median(times), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / PASSES


def kept_memory(run: Callable[[], None], rounds: int) -> dict[str, Any]:
    """Return what it is worth that freed memory is kept, and the page faults of a pass without and with it."""
    ratios, pages = [], []
    for _ in range(rounds):
        found = []
        for context in (nullcontext(), freed_memory_kept()):
            with context:
                found.append(time_and_pages(run))
        (usual_s, usual), (kept_s, kept) = found
        ratios.append(usual_s / kept_s)
        pages.append((usual, kept))
    return {
        "speedup": Ratio.of(ratios).to_dict(),
        "page_faults": [median(column) for column in zip(*pages, strict=True)],
    }


def case(name: str, frames: int, size: int, rounds: int) -> dict[str, Any]:
    """Return the ratios of a network."""
    torch.manual_seed(0)
    model = atfr.create_model(name).eval()
    static = atfr.optimize_for_inference(model)
    atfr.adapt_(model, after="input", sampler="change")
    adapted = atfr.optimize_for_inference(model)
    clips = clips_that_stop(frames, size)
    with torch.inference_mode(), atfr.record(adapted) as trace:
        adapted(clips)
    lengths = trace.sites["input"].lengths
    fewer = clips[:, :, : round(sum(lengths) / CLIPS)].contiguous()
    gathered = [clips[[n for n, own in enumerate(lengths) if own == length]] for length in sorted(set(lengths))]
    variants = {
        "static": passes(static, [clips]),
        "fewer frames": passes(static, [fewer]),
        "packed": passes(adapted, [clips]),
        "one by one": passes(adapted, list(clips.split(1))),
        "gathered": passes(adapted, gathered),
    }
    with freed_memory_kept():
        timing = in_turns(variants, at_least=rounds, budget_s=0)
    return {
        "clips": list(clips.shape),
        "active_bins": list(lengths),
        "speedup": {way: timing.speedup(way, over="static").to_dict() for way in WAYS},
        "kept_memory": {way: kept_memory(variants[way], 2 + rounds // 3) for way in ("static", "packed")},
        **timing.to_dict(),
    }


def measure(quick: bool, out: Any = None) -> dict[str, Any]:
    """Measure, and return what was written."""
    cases = QUICK if quick else CASES
    results = {name: case(name, *shape, 2 if quick else ROUNDS) for name, shape in cases.items()}
    return write_result(out, results, inputs={"cases": cases, "seed": 0})


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the page."""
    ways = ["| network, 8 clips | frames kept | " + " | ".join(WAYS) + " |", "|---|" + "---:|" * (len(WAYS) + 1)]
    memory = [
        "| network, 8 clips | page faults a pass | with freed memory kept | times as fast |",
        "|---|---:|---:|---:|",
    ]
    for name, found in report["results"].items():
        _, _, frames, size, _ = found["clips"]
        title = f"`{name}` {frames} x {size}²"
        share = sum(found["active_bins"]) / (CLIPS * frames)
        ways.append(f"| {title} | {share:.0%} | {' | '.join(times(found['speedup'][way]) for way in WAYS)} |")
        for way, kept in found["kept_memory"].items():
            before, after = (f"{faults:,.0f}" for faults in kept["page_faults"])
            memory.append(f"| {title}, {way} | {before} | {after} | {times(kept['speedup'])} |")
    return {"batches": "\n".join(ways), "batches memory": "\n".join(memory)}


def times(ratio: dict[str, float]) -> str:
    """Return a ratio as the page writes it."""
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def main() -> None:
    """Measure, print and, if asked, write."""
    options = script_options(__doc__).parse_args()
    print(*tables(measure(options.quick, options.out)).values(), sep="\n\n")


if __name__ == "__main__":
    main()
