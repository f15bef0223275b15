"""`atfr bench`: how much of what SGS saves in multiply-adds it saves in time, on this machine."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atfr.checks import at_least_one, device_of
from atfr.cli import common
from atfr.errors import InputError
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.measure import Ratio
    from atfr.measure.saving import Pair, Saving
    from atfr.models import VideoModel

AFTER = "res2"
Runtime = Literal["eager", "optimized", "openvino", "onnx"]


def bench(
    model: str | None = None,
    *,
    checkpoint: Path | None = None,
    after: str | None = None,
    active_bins: int | list[int] | None = None,
    runtime: Runtime = "eager",
    batches: int | list[int] | None = None,
    num_bins: int | None = None,
    frames: int | None = None,
    size: int | None = None,
    device: str = "auto",
    rounds: int = 7,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Measure the speed of a network with SGS beside the same network without, in turns, on noise.

    Each clip keeps a chosen number of maps, A: what the similarity network finds is replaced, everything else of SGS
    is done. The ideal speed-up is that if all behind SGS took A / T of its time and SGS none; "speed-up / ideal" is
    what of it was reached, the efficiency of the saving; "speed-up / FLOPs ratio" is 0.80 for the paper's X3D-S on
    Kinetics-400.

    Args:
        model: A name, as x3d_s; its weights are random, which changes no time.
        checkpoint: Instead of MODEL, a checkpoint folder, or a name of `atfr weights`.
        after: The stage that SGS is put behind where there is none; by default res2.
        active_bins: A, the maps that a clip keeps; in batches the clips differ around it. Several, as [3,6,9], are
            taken in turns by the clips of a batch. By default half of the maps.
        runtime: PyTorch as it is, or `atfr.optimize_for_inference`, or the graphs that `atfr export` makes for OpenVINO
            or ONNX Runtime, which run clips one by one, on the CPU.
        batches: Clips in a forward pass, one number or several; by default [1,8,32], in a graph [1].
        num_bins: Similarity bins, the most maps a clip keeps; by default as many as come in, or the checkpoint's.
        frames: Frames T of the clip; by default those the network was designed for. A checkpoint has its own.
        size: Height and width of the clip in px; by default those the network was designed for. A checkpoint has its
            own.
        rounds: How often each network is timed, at least.
        out: Write the result as JSON to this file, with every round's times, the conditions and the machine's limits;
            an older result that is there is replaced.
    """
    if (model is None) == (checkpoint is None):
        raise InputError("expected MODEL, a name as x3d_s, or --checkpoint, a folder; one of the two")
    graphs = runtime in ("openvino", "onnx")
    if batches is None:
        batches = [1] if graphs else [1, 8, 32]
    batches = [batches] if isinstance(batches, int) else batches
    if not batches or min(batches) < 1:
        raise InputError(f"--batches are numbers of clips of at least 1, got {batches}")
    if graphs and batches != [1]:
        raise InputError(f"--runtime {runtime} runs clips one by one; leave out --batches, got {batches}")
    if active_bins == []:
        raise InputError("--active_bins is a number of maps, or several as [3,6,9], got []")
    at_least_one("--rounds", rounds)
    with common.busy("starting"):
        if out is not None and (problem := trouble(out)):
            raise InputError(f"--out is the JSON file to write, '{out}' {problem}")
        from atfr.adapt.trace import site_names
        from atfr.measure import machine_limits, write_result
        from atfr.measure.saving import maps_that_come

        network, shape = load(model, checkpoint, after, num_bins, "cpu" if graphs else device)
        if checkpoint is not None:
            common.refuse(bench, {"frames": frames, "size": size}, "the checkpoint has its own")
        shape = common.clip_shape(shape, frames, size)
        site, maps = max(maps_that_come(network, shape).items(), key=lambda item: item[1])
        most = site_names(network)[site].possible_active_bins(maps)[-1]
        kept = {clips: kept_by(active_bins, clips, maps, most) for clips in batches}
        where = next(network.parameters()).device
    with common.progress("timing") as progress:
        savings = time_batches(network, shape, kept, runtime, rounds, progress)
    with common.busy("measuring the machine"):
        limits = machine_limits(where)
        report = write_result(
            out,
            {f"batch of {clips}": saving.to_dict() for clips, saving in savings.items()},
            inputs={
                "model": network.config["model"],
                "checkpoint": checkpoint and str(checkpoint),
                "clip_shape": list(shape),
                "clips": "noise",
                "runtime": runtime,
            },
            limits=limits,
            device=where,
        )
    if json:
        common.print_json(report)
    else:
        print_savings(report, savings)


def trouble(out: Path) -> str | None:
    """Return why no result can be written to a path, or should not be."""
    from atfr.measure.result import is_result

    if out.is_dir():
        return "is a folder"
    if not out.parent.is_dir():
        return f"would lie in '{out.parent}', which is no folder"
    if out.is_file() and out.stat().st_size and not is_result(out):
        return "is there and is no result of `atfr bench`; give another name"
    try:
        if out.is_file() or not out.exists():  # no pipe and no device
            tempfile.TemporaryFile(dir=out.resolve().parent).close()
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return None


def kept_by(active_bins: int | list[int] | None, clips: int, maps: int, most: int) -> tuple[int, ...]:
    """Return A of each clip of a batch, `most` of the maps at the most: those given in turns, or some around a mean."""
    from atfr.measure.forcing import ragged

    if not isinstance(active_bins, list):
        mean = min(-(-maps // 2), most) if active_bins is None else active_bins
        return ragged(mean, clips, most if mean <= most else maps)
    return tuple(active_bins[clip % len(active_bins)] for clip in range(clips))


def time_batches(
    network: "VideoModel",
    shape: tuple[int, ...],
    batches: Mapping[int, tuple[int, ...]],
    runtime: Runtime,
    rounds: int,
    progress: Callable[[int, int], None],
) -> "dict[int, Saving]":
    """Time a network with SGS and without, batch after batch, by the number of clips; `batches` has their A."""
    import torch

    import atfr
    from atfr.measure.eager import eager, without_sgs
    from atfr.measure.graphs import in_runtime
    from atfr.measure.saving import measure, work_of

    where = next(network.parameters()).device
    ready = atfr.optimize_for_inference if runtime == "optimized" else (lambda model: model)
    static, adaptive = ready(without_sgs(network)), ready(network)
    savings: dict[int, Saving] = {}
    for place, (clips, kept) in enumerate(batches.items()):

        def report(done: int, total: int, place: int = place) -> None:
            progress(place * total + done, len(batches) * total)

        work = work_of(network, shape, kept)
        noise = torch.randn(clips, *shape, device=where)
        pair: AbstractContextManager[Pair]
        if runtime in ("openvino", "onnx"):
            pair = in_runtime(network, noise, work, runtime)
        else:
            pair = eager(adaptive, noise, work, static)
        with pair as both:
            turns: dict[str, Any] = {"rounds": rounds, "at_least": rounds, "device": where, "progress": report}
            savings[clips] = measure({runtime: both}, **turns)[0][runtime]
    return savings


def load(
    model: str | None, checkpoint: Path | None, after: str | None, num_bins: int | None, device: str
) -> "tuple[VideoModel, tuple[int, ...]]":
    """Return the network with its SGS on its device, and its clip shape."""
    import atfr
    from atfr.adapt import adaptation
    from atfr.adapt.trace import site_names
    from atfr.measure.forcing import AS_IT_IS

    if checkpoint is not None:
        network, task = common.load(checkpoint, device)
        if not (sites := site_names(network)):
            if placed := adaptation(network):
                raise InputError(f"the checkpoint has {placed['sampler']}, which keeps all maps; {AS_IT_IS}")
            atfr.adapt_(network, after or AFTER, num_bins=num_bins)
        elif after is not None:
            raise InputError(f"the checkpoint has SGS after {', '.join(sites)}; leave out --after")
        elif num_bins is not None:
            atfr.set_num_bins_(network, num_bins)
        return network, task.clip_shape
    assert model is not None
    network = atfr.create_model(model)
    atfr.adapt_(network, after or AFTER, num_bins=num_bins)
    return network.to(device_of("--device", device)), network.clip_shape


def print_savings(report: dict[str, Any], savings: "dict[int, Saving]") -> None:
    """Print a row a batch, and the conditions."""
    from atfr.measure.machine import in_the_same_run

    first = next(iter(savings.values()))
    site, *others = first.work.maps
    rows: list[list[object]] = [
        [
            f"maps kept of {maps}{f' at {at}' * bool(others)}, mean",
            *(f"{sum(s.work.active_bins[at]) / n:.3g}" for n, s in savings.items()),
        ]
        for at, maps in first.work.maps.items()
    ]
    rows += [
        ["ms a clip, static", *(f"{s.timing.ms('static').median / n:.4g}" for n, s in savings.items())],
        ["ms a clip, with SGS", *(f"{s.timing.ms('adaptive').median / n:.4g}" for n, s in savings.items())],
        ["speed-up", *(brief(s.speedup) for s in savings.values())],
        ["ideal speed-up", *(brief(s.ideal) for s in savings.values())],
        ["speed-up / ideal", *(brief(s.efficiency) for s in savings.values())],
        ["FLOPs ratio", *(f"{s.work.flops_ratio:.2f}" for s in savings.values())],
        ["speed-up / FLOPs ratio", *(brief(s.over_flops) for s in savings.values())],
        ["SGS, of the time with it", *(common.percent(s.sgs_share.median) for s in savings.values())],
        ["GFLOP/s, static", *(f"{s.static_gflops.median:.3g}" for s in savings.values())],
        ["GFLOP/s, with SGS", *(f"{s.adaptive_gflops.median:.3g}" for s in savings.values())],
    ]
    inputs, found = report["inputs"], report["conditions"]
    hardware = found["hardware"]
    note = (
        f"Medians of {counted(first.timing.rounds, 'round')}, both in turns (and ranges); a speed-up is made of a "
        f"round's own times. GFLOP/s are multiply-adds / 1e9 a second. {in_the_same_run(report['limits'])} "
        f"{hardware.get('gpu', hardware['cpu'])}, "
        f"{counted(found['threads'], 'thread')}, torch {found['versions']['torch']}."
    )
    if others:
        note += f" The ideal goes by the share kept at {site}; behind the other pathway the same share is rounded up."
    shape, after = " x ".join(map(str, inputs["clip_shape"])), site.partition(".")[0]
    title = f"{inputs['model']}, clips of {shape}, SGS after {after}, {inputs['runtime']}"
    common.print_table(title, ["", *(counted(n, "clip") for n in savings)], rows, note)


def brief(ratio: "Ratio") -> str:
    """Return a median and its range, short."""
    return f"{ratio.median:.2f} ({ratio.least:.2f}-{ratio.most:.2f})"
