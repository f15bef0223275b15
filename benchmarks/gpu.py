"""What SGS saves on a GPU: forward passes and training steps against the ideal, kernels against the card's limits.

    python benchmarks/gpu.py --out docs/benchmarks/gpu.json [--minutes 9] [--videos FOLDER] [--device cuda] [--quick]

Rows are measured in the order of ROWS and written down one by one; the same command goes on where it was stopped. What
is compared takes turns in one process. A row that fails says so, and the others go on.

    forward   static and with SGS after res2 (A forced, half of the maps in the mean, ragged), eager and optimized, in
              bfloat16; beside them static networks under torch.compile, PyTorchVideo's too where it is installed
    compiled  the same ragged batch under torch.compile (`atfr.compile`), without and with CUDA graphs, optimized too;
              static and adaptive in turns, against the ideal from the static network's parts of the row before
    depthwise each depthwise convolution of X3D-S, forward and with gradients: ours; PyTorch's, in both memory formats;
              floor: each number read once and written once, at the rate of a copy on this card
    merge     the sums by which SGS merges maps behind res2 of X3D-S: ours, PyTorch's; floor: as for depthwise ones
    dense     the other convolutions: PyTorch's in both formats; 1x1x1 as a matrix product; one map high as 2D
    kernels   which kernels an optimized pass runs, the share of SGS, and how long the device idles
    training  a step under bfloat16 autocast, eager and compiled: time, peak memory, and the largest batch that fits
    files     from video files to answers, and the network's share of that time
"""

import copy
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.adapt.trace import site_names
from atfr.data.walk import videos_below
from atfr.evaluate.predict import predict
from atfr.evaluate.task import Task
from atfr.files import write_whole
from atfr.kernels import ragged_depthwise
from atfr.kernels.conv3d import is_depthwise, maps_of
from atfr.kernels.gpu import runs_triton
from atfr.kernels.weighted_sums import twin, weighted_sums
from atfr.measure import Variant, in_turns, machine_limits, peak_memory, script_options
from atfr.measure.eager import eager, without_sgs
from atfr.measure.forcing import forced, ragged
from atfr.measure.machine import conditions
from atfr.measure.memory import largest_batch
from atfr.measure.saving import maps_that_come, measure, work_of
from atfr.models import VideoModel
from atfr.video.spec import ClipSpec

LAST = torch.channels_last_3d
FORWARD = {  # name: clip, batches
    "x3d_s": ((3, 13, 160, 160), (64, 8)),
    "resnet3d_50": ((3, 16, 112, 112), (8, 64)),
    "r2plus1d_50": ((3, 8, 112, 112), (8, 64)),
    "slowfast_8x8_r50": ((3, 32, 224, 224), (8,)),
    "i3d_50": ((3, 8, 224, 224), (8,)),
}
QUICK = {"x3d_s": ((3, 5, 32, 32), (3,)), "slowfast_8x8_r50": ((3, 32, 32, 32), (2,))}


Convolution = Callable[[Tensor, Tensor], Tensor]
"""Of maps and a kernel."""


@dataclass
class Bench:
    """What is measured on, and for how long."""

    device: torch.device
    quick: bool
    videos: Path | None

    @property
    def networks(self) -> dict[str, Any]:
        return QUICK if self.quick else FORWARD

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32  # some pools lack it on CPUs

    @property
    def eager(self) -> dict[str, Any]:
        """Options of torch.compile that compile nothing, where this only tries whether it runs."""
        return {"backend": "eager"}

    @property
    def turns(self) -> dict[str, Any]:
        rounds = 2 if self.quick else 30
        return {"rounds": rounds, "at_least": min(rounds, 7), "budget_s": 8.0, "warm_up": 3, "device": self.device}

    def made(self, name: str) -> VideoModel:
        torch.manual_seed(0)
        model = atfr.create_model(name)
        atfr.adapt_(model, after="res2")
        return model.eval().to(self.device)

    def noise(self, clips: int, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(clips, *shape, device=self.device).to(dtype or self.dtype).contiguous(memory_format=LAST)


def kept(model: nn.Module, shape: tuple[int, ...], clips: int) -> tuple[int, ...]:
    """Return A of each clip of a ragged batch, half of the maps in the mean."""
    maps = max(maps_that_come(model, shape).values())
    return ragged(-(-maps // 2), clips, maps)


def forward(bench: Bench, name: str, clips: int) -> dict[str, Any]:
    """Time static and adaptive forward passes, and what people would run instead."""
    shape = bench.networks[name][0]
    model = bench.made(name)
    work = work_of(model, shape, kept(model, shape, clips))
    model = model.to(bench.dtype)
    noise = bench.noise(clips, shape)
    others: dict[str, Variant] = {}
    static = without_sgs(model).to(memory_format=LAST)
    compiled = torch.compile(copy.deepcopy(static))
    others["static, compiled"] = lambda: compiled(noise)
    if name == "x3d_s" and (theirs := pytorchvideo(shape)) is not None:
        theirs = theirs.eval().to(bench.device, bench.dtype)
        their_compiled = torch.compile(copy.deepcopy(theirs))
        others |= {"pytorchvideo": lambda: theirs(noise), "pytorchvideo, compiled": lambda: their_compiled(noise)}
    with ExitStack() as stack:
        pairs = {"eager": stack.enter_context(eager(model, noise, work, static))}
        fast = atfr.optimize_for_inference(static), atfr.optimize_for_inference(model)
        pairs["optimized"] = stack.enter_context(eager(fast[1], noise, work, fast[0]))
        savings, timing = measure(pairs, others, **bench.turns)
    return {
        "savings": {runtime: saving.to_dict() for runtime, saving in savings.items()},
        "ms": {variant: timing.ms(variant).to_dict() for variant in timing.seconds},
        "frames_per_s": {v: clips * shape[1] / timing.ms(v).median * 1000 for v in timing.seconds},
    }


def compiled(bench: Bench, name: str, clips: int) -> dict[str, Any]:
    """Time compiled networks, static and adaptive."""
    shape = bench.networks[name][0]
    model = bench.made(name)
    work = work_of(model, shape, kept(model, shape, clips))
    model = model.to(bench.dtype)
    static = without_sgs(model).to(memory_format=LAST)
    noise, found = bench.noise(clips, shape), {}
    how = {"": {}, ", CUDA graphs": {"mode": "reduce-overhead"}} if bench.device.type == "cuda" else {"": bench.eager}
    with torch.inference_mode(), forced(model, work.active_bins):
        fast = atfr.optimize_for_inference(static), atfr.optimize_for_inference(model)
        variants: dict[str, Variant] = {"static": lambda: static(noise), "adaptive": lambda: model(noise)}
        for words, options in how.items():
            for kind, one, other in (("", static, model), ("optimized ", *fast)):
                runs = torch.compile(copy.deepcopy(one), dynamic=False, **options), atfr.compile(other, **options)
                for what, run in zip(("static", "adaptive"), runs, strict=True):
                    variants[f"{kind}{what}, compiled{words}"] = lambda run=run: run(noise)
        timing = in_turns(variants, **bench.turns)
    for what in variants:
        found[what] = timing.ms(what).to_dict()
    speedups = {
        what: timing.speedup(what, over=what.replace("adaptive", "static")).to_dict()
        for what in variants
        if "adaptive" in what
    }
    return {"share_of_maps": work.share, "flops_ratio": work.flops_ratio, "ms": found, "speedups": speedups}


def pytorchvideo(shape: tuple[int, ...]) -> nn.Module | None:
    """Return PyTorchVideo's X3D-S, where it is installed."""
    try:
        from pytorchvideo.models.x3d import create_x3d
    except ImportError:
        return None
    return create_x3d(input_clip_length=shape[1], input_crop_size=shape[2], head_activation=None)


def layers(bench: Bench, clips: int) -> Iterator[tuple[str, nn.Conv3d, Tensor]]:
    """Give the convolutions of X3D-S with what comes to them, each kind once."""
    shape, model = bench.networks["x3d_s"][0], bench.made("x3d_s").to(bench.dtype)
    seen: dict[str, tuple[nn.Conv3d, Tensor]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv3d)
        maps = inputs[0].plain() if isinstance(inputs[0], atfr.PackedClips) else inputs[0]
        sizes = "x".join(map(str, module.weight.shape))
        seen.setdefault(f"{sizes}, stride {module.stride}, maps {tuple(maps.shape)}", (module, maps.clone()))

    handles = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, nn.Conv3d)]
    with torch.no_grad():
        model(bench.noise(clips, shape))
    for handle in handles:
        handle.remove()
    yield from ((name, module, maps) for name, (module, maps) in seen.items())


def depthwise(bench: Bench) -> dict[str, Any]:
    """Time the depthwise convolutions of X3D-S."""
    copied = machine_limits(bench.device, budget_s=1).copy_gbs.median * 1e9
    found = {}
    for name, conv, maps in layers(bench, 3 if bench.quick else 64):
        layer = (conv.stride, conv.padding, conv.dilation, conv.groups)
        if not is_depthwise(conv.weight, conv.groups):
            continue
        clips, weight = maps.contiguous(memory_format=LAST), conv.weight.detach()
        fits = ragged_depthwise.takes(clips, weight, *layer)
        variants: dict[str, Convolution] = {
            "channels last": lambda x, w, layer=layer: F.conv3d(x, w, None, *layer),
            "contiguous": lambda x, w, layer=layer: F.conv3d(x.contiguous(), w, None, *layer),
        }
        if fits:
            variants["ours"] = lambda x, w, s=conv.stride, p=conv.padding: ragged_depthwise.depthwise_clips(
                x, w, None, None, s, p
            )
        output = variants["channels last"](clips, weight)
        floor_s = (clips.numel() + output.numel()) * clips.element_size() / copied
        timing = in_turns({**passes(variants, clips, weight)}, **bench.turns)
        found[name] = {"floor_ms": 1000 * floor_s} | {one: timing.ms(one).to_dict() for one in timing.seconds}
    return found


def merge(bench: Bench) -> dict[str, Any]:
    """Time the sums by which SGS merges maps, where clips keep half of them in the mean."""
    shape, clips, seen = bench.networks["x3d_s"][0], 3 if bench.quick else 64, []
    model = bench.made("x3d_s").to(bench.dtype)
    (sampler,) = site_names(model).values()
    handle = sampler.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(bench.noise(clips, shape))
    handle.remove()
    maps = seen[0].permute(0, 2, 3, 4, 1).flatten(2)  # N T, then H W C
    counts = kept(model, shape, clips)
    ends = list(itertools.accumulate(counts))
    slots = [
        [end - a + t * a // maps.shape[1] for t in range(maps.shape[1])] for a, end in zip(counts, ends, strict=True)
    ]
    slot, rows = torch.tensor(slots, device=bench.device).flatten(), maps.flatten(0, 1).contiguous()
    variants: dict[str, Convolution] = {"pytorch": lambda rows, w: twin(rows, w.to(rows.dtype), slot, ends[-1])}
    if runs_triton(rows):
        variants["ours"] = lambda rows, w: weighted_sums(rows, w, slot, ends[-1])
    copied = machine_limits(bench.device, budget_s=1).copy_gbs.median * 1e9
    timing = in_turns(passes(variants, rows, torch.rand(len(rows), device=bench.device)), **bench.turns)
    floor_s = (len(rows) + ends[-1]) * rows[0].numel() * rows.element_size() / copied
    return {"floor_ms": 1000 * floor_s} | {one: timing.ms(one).to_dict() for one in timing.seconds}


def dense(bench: Bench) -> dict[str, Any]:
    """Time the other convolutions of X3D-S."""
    found = {}
    for name, conv, maps in layers(bench, 3 if bench.quick else 64):
        if is_depthwise(conv.weight, conv.groups):
            continue
        layer = (conv.stride, conv.padding, conv.dilation, conv.groups)
        clips, weight = maps.contiguous(memory_format=LAST), conv.weight.detach()
        variants: dict[str, Convolution] = {
            "channels last": lambda x, w, layer=layer: F.conv3d(x, w, None, *layer),
            "contiguous": lambda x, w, layer=layer: F.conv3d(x.contiguous(), w, None, *layer),
        }
        if weight.shape[2:] == (1, 1, 1) == conv.stride:
            variants["product"] = lambda x, w: F.linear(x.movedim(1, -1), w.flatten(1)).movedim(-1, 1)
        if (weight.shape[2], conv.stride[0], conv.padding[0]) == (1, 1, 0):
            window = (conv.stride[1:], conv.padding[1:], conv.dilation[1:], conv.groups)
            variants["2D"] = lambda x, w, window=window: F.conv2d(maps_of(x), w[:, :, 0], None, *window)
        timing = in_turns(passes(variants, clips, weight), **bench.turns)
        found[name] = {one: timing.ms(one).to_dict() for one in timing.seconds}
    return found


def passes(
    variants: dict[str, Callable[[Tensor, Tensor], Tensor]], clips: Tensor, weight: Tensor
) -> dict[str, Variant]:
    """Return the variants to time: forward alone, and with both gradients."""
    leaves = clips.detach().requires_grad_(), weight.detach().requires_grad_()

    def backward(run: Convolution) -> None:
        output = run(*leaves)
        torch.autograd.grad(output, leaves, output)

    return {
        **{name: lambda run=run: run(clips, weight) for name, run in variants.items()},
        **{f"{name}, with gradients": lambda run=run: backward(run) for name, run in variants.items()},
    }


def kernels(bench: Bench) -> dict[str, Any]:
    """Profile an optimized adaptive pass of X3D-S."""
    shape, (clips, *_) = bench.networks["x3d_s"]
    model = bench.made("x3d_s")
    work = work_of(model, shape, kept(model, shape, clips))
    fast, noise = atfr.optimize_for_inference(model.to(bench.dtype)), bench.noise(clips, shape)
    on_gpu = bench.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.inference_mode(), forced(fast, work.active_bins):
        for _ in range(3):
            fast(noise)
        if on_gpu:
            torch.cuda.synchronize()
        with torch.profiler.profile(activities=activities) as profile:
            start_s = time.perf_counter()
            for _ in range(5):
                fast(noise)
            if on_gpu:
                torch.cuda.synchronize()
            wall_s = time.perf_counter() - start_s
    figure = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -getattr(event, figure))
    busy_s = sum(getattr(event, figure) for event in events) / 1e6
    return {
        "passes": 5,
        "wall_ms": 1000 * wall_s,
        "idle_share": 1 - busy_s / wall_s,
        "launches": sum(event.count for event in events),
        "kernels": [[event.key[:120], event.count, getattr(event, figure) / 1000] for event in events[:25]],
    }


def training(bench: Bench) -> dict[str, Any]:
    """Time training steps of X3D-S, and find the largest batch."""
    shape, (clips, *_) = bench.networks["x3d_s"]
    adaptive = bench.made("x3d_s").train()
    work = work_of(adaptive, shape, kept(adaptive, shape, clips))
    static = without_sgs(adaptive).train()

    def step(model: Any, count: int) -> Variant:
        noise, labels = (
            bench.noise(count, shape, torch.float32),
            torch.zeros(count, dtype=torch.long, device=bench.device),
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)

        def run() -> None:
            optimizer.zero_grad()
            with torch.autocast(bench.device.type, torch.bfloat16):
                loss = F.cross_entropy(model(noise).float(), labels)
            loss.backward()
            optimizer.step()

        return run

    options = {} if bench.device.type == "cuda" else bench.eager
    with forced(adaptive, work.active_bins):
        variants = {"static": step(static, clips), "adaptive": step(adaptive, clips)}
        variants["static, compiled"] = step(torch.compile(static, dynamic=False, **options), clips)
        variants["adaptive, compiled"] = step(atfr.compile(adaptive, **options), clips)
        timing = in_turns(variants, **bench.turns)
        memory = {name: peak_memory(run, device=bench.device) for name, run in variants.items()}
    found = {"share_of_maps": work.share, "flops_ratio": work.flops_ratio, "peak_bytes": memory}
    found |= {"ms": {name: timing.ms(name).to_dict() for name in variants}}
    found["speedup"] = timing.speedup("adaptive", over="static").to_dict()
    found["speedup, compiled"] = timing.speedup("adaptive, compiled", over="static, compiled").to_dict()
    if bench.device.type == "cuda":
        del variants
        found["largest_batch"] = {
            name: largest(model, step, shape) for name, model in (("static", static), ("adaptive", adaptive))
        }
    return found


def largest(model: nn.Module, step: Callable[[Any, int], Variant], shape: tuple[int, ...]) -> int:
    """Return the largest multiple of 32 clips that a step takes."""

    def run(count: int) -> None:
        with ExitStack() as stack:
            if sites := site_names(model):
                stack.enter_context(forced(model, dict.fromkeys(sites, kept(model, shape, count))))
            step(model, count)()

    return largest_batch(run, multiple=32)


def files(bench: Bench) -> dict[str, Any]:
    """Predict videos, without and with SGS."""
    paths = videos_below(bench.videos) if bench.videos else []
    if not paths:
        return {"not_run": "give --videos FOLDER"}
    shape = bench.networks["x3d_s"][0]
    spec = ClipSpec(
        frames=shape[1], stride=6, size=shape[2], resize=round(shape[2] * 1.14), jitter=(shape[2], shape[2])
    )
    adaptive = bench.made("x3d_s")
    static = copy.deepcopy(adaptive)
    atfr.restore_(static)
    task, found = Task(tuple(map(str, range(400))), spec), {}
    for name, model in (("static", static), ("adaptive", adaptive)):
        start_s = time.perf_counter()
        predictions = list(
            predict(
                model, paths, task, num_clips=10, num_crops=3, batch_size=60, num_workers=min(8, os.cpu_count() or 1)
            )
        )
        whole_s = time.perf_counter() - start_s
        network_s = sum(one.ms_per_clip for one in predictions) * 30 / 1000
        found[name] = {"videos": len(paths), "seconds": whole_s, "network_share": network_s / whole_s}
    return found


def rows(bench: Bench) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what there is to measure, in order."""
    first, *others = [(name, clips) for name, (_, batches) in bench.networks.items() for clips in batches]
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "limits": lambda: machine_limits(bench.device).to_dict(),
        f"forward {first[0]} x {first[1]}": lambda: forward(bench, *first),
        f"compiled {first[0]} x {first[1]}": lambda: compiled(bench, *first),
        "depthwise": lambda: depthwise(bench),
        "kernels": lambda: kernels(bench),
        "merge": lambda: merge(bench),
        "training": lambda: training(bench),
        "dense": lambda: dense(bench),
    }
    found |= {f"forward {name} x {clips}": lambda n=name, c=clips: forward(bench, n, c) for name, clips in others}
    two_samplers = next((name, clips) for name, clips in others if name.startswith("slowfast"))
    found[f"compiled {two_samplers[0]} x {two_samplers[1]}"] = lambda: compiled(bench, *two_samplers)
    return found | {"files": lambda: files(bench)}


def main() -> None:
    """Measure what is not there yet, and write it down."""
    parser = script_options(__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no row after so many")
    parser.add_argument("--videos", type=Path, help="a folder of video files")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    bench = Bench(torch.device(options.device), options.quick, options.videos)
    report: dict[str, Any] = {"conditions": conditions(bench.device), "rows": {}}
    if options.out and options.out.is_file():
        report["rows"] = json.loads(options.out.read_text(encoding="utf-8"))["rows"]
    start_s = time.perf_counter()
    for name, row in rows(bench).items():
        if "error" not in report["rows"].get(name, {"error": ""}):
            continue
        if time.perf_counter() - start_s > 60 * options.minutes:
            print(f"not begun, for want of time: {name}", flush=True)
            continue
        try:
            report["rows"][name] = row()
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            report["rows"][name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(name, json.dumps(report["rows"][name])[:1500], flush=True)
        if options.out:
            write_whole(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
