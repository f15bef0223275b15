"""Bundles: one clip in OpenVINO and ONNX Runtime, without and with SGS, beside PyTorchVideo's network in eager PyTorch.

    python benchmarks/runtime.py [--quick] [--out result.json]

The early graph does all of its work, SGS in it; then the late graph gets as many of its maps as the table says,
however many the clip would keep, so that the saving is measured at one A. "of ideal" holds the speed-up against
t_static / (t_before + t_after x A / T), where t_before is the early graph without SGS and t_after the late one with all
T maps, compiled for them; SGS is the early graph's time beyond t_before, over that of the whole. Weights are random,
clips noise, which changes no time. All variants of one network take turns.

"specialized" is the late graph compiled for this number of maps (`load_bundle(..., specialize=True)`). "two at once"
are two clips by two threads of one thread each, against one after the other with all threads: what a batch would gain
from running clips beside each other.
"""

import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.export import export

import atfr
from atfr.measure import Ratio, Timing, Variant, in_turns, script_options, write_result
from atfr.runtime.bundle import ENGINES
from atfr.runtime.description import Runtime
from atfr.runtime.engines import Engine, OpenVINO
from atfr.runtime.graphs import EARLY, LATE, NETWORK, PER_SITE, graphs
from atfr.runtime.split import split


class Case(NamedTuple):
    """A network, its clips, and the maps that are kept, of each site's."""

    clip_shape: tuple[int, int, int, int]
    active_bins: int


CASES = {"x3d_s": Case((3, 13, 160, 160), 6), "resnet3d_18": Case((3, 16, 112, 112), 8)}
QUICK = {"x3d_s": Case((3, 8, 32, 32), 4)}
BEFORE, FIXED = "before", "fixed"
ADAPTIVE = ("adaptive", "specialized")


def runs(runtime: Runtime, name: str, case: Case, threads: int) -> dict[str, Variant]:
    """Return what is timed of a network in one runtime."""
    torch.manual_seed(0)
    static, model = (atfr.create_model(name).eval() for _ in range(2))
    atfr.adapt_(model, after="res2")
    clip = torch.randn(1, *case.clip_shape)
    with torch.no_grad():
        programs = graphs(model, case.clip_shape) | graphs(static, case.clip_shape)
        programs[BEFORE] = export(split(model, case.clip_shape).before.eval(), (clip,))
    engines: dict[str, Engine] = {}
    alone: dict[str, Engine] = {}
    with tempfile.TemporaryDirectory() as folder:
        for stem, program in programs.items():
            ENGINES[runtime].write(program, Path(folder) / stem)
            engines[stem] = ENGINES[runtime](Path(folder) / stem, threads, "float32")
            alone[stem] = ENGINES[runtime](Path(folder) / stem, 1, "float32")
        if runtime == "openvino":
            engines[FIXED] = OpenVINO(Path(folder) / LATE, threads, "float32", specialize=True)
    early, late, network, before = (engines[stem].request() for stem in (EARLY, LATE, NETWORK, BEFORE))
    fixed = engines.get(FIXED, engines[LATE]).request()
    given = clip.numpy()

    def adaptive(early: Callable, late: Callable) -> object:
        return late(*(maps[: case.active_bins] for maps in early(given)[:: len(PER_SITE)]))

    all_maps = [maps.copy() for maps in early(given)[:: len(PER_SITE)]]
    pairs = [(alone[EARLY].request(), alone[LATE].request()) for _ in range(2)]
    pool = ThreadPoolExecutor(2)
    return {
        "static": lambda: network(given),
        "adaptive": lambda: adaptive(early, late),
        "early": lambda: early(given),
        "before": lambda: before(given),
        "after": lambda: fixed(*all_maps),
        **({"specialized": lambda: adaptive(early, fixed)} if FIXED in engines else {}),
        "one by one": lambda: [adaptive(early, late) for _ in range(2)],
        "two at once": lambda: list(pool.map(lambda pair: adaptive(*pair), pairs)),
    }


def pytorchvideo(case: Case) -> Variant:
    """PyTorchVideo's X3D-S in eager PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.models.x3d import create_x3d

        network = create_x3d(input_clip_length=case.clip_shape[1], input_crop_size=case.clip_shape[2]).eval()
    clip = torch.randn(1, *case.clip_shape)

    def run() -> object:
        with torch.inference_mode():
            return network(clip)

    return run


def figures_of(timing: Timing, runtime: str, case: Case) -> dict[str, Any]:
    """Return what the times of one runtime say."""
    share = case.active_bins / case.clip_shape[1]

    def of(name: str) -> str:
        return f"{runtime} {name}"

    def ideal(s: Any) -> float:
        return s[of("before")] + s[of("after")] * share

    def of_one(name: str) -> dict[str, Ratio]:
        return {
            "speedup": timing.speedup(of(name), over=of("static")),
            "efficiency": timing.ratio(lambda s: ideal(s) / s[of(name)]),
            "sgs_share": timing.ratio(lambda s: (s[of("early")] - s[of("before")]) / s[of(name)]),
        }

    found: dict[str, Any] = {name: of_one(name) for name in ADAPTIVE if of(name) in timing.seconds}
    found["ideal"] = timing.ratio(lambda s: s[of("static")] / ideal(s))
    found["two at once"] = timing.speedup(of("two at once"), over=of("one by one"))
    if "pytorchvideo" in timing.seconds:
        for name in ("static", *ADAPTIVE):
            if of(name) in timing.seconds:
                found.setdefault(name, {})["over pytorchvideo"] = timing.speedup(of(name), over="pytorchvideo")
    return plain(found)


def plain(found: Any) -> Any:
    """Return figures as plain JSON values."""
    return {k: plain(v) for k, v in found.items()} if isinstance(found, dict) else found.to_dict()


def measure(quick: bool) -> dict[str, Any]:
    """Measure all networks in all runtimes."""
    results: dict[str, Any] = {}
    threads = torch.get_num_threads()
    turns: dict[str, Any] = {"rounds": 2, "at_least": 2, "warm_up": 1} if quick else {"budget_s": 25.0}
    for name, case in (QUICK if quick else CASES).items():
        variants: dict[str, Variant] = {"pytorchvideo": pytorchvideo(case)} if name == "x3d_s" else {}
        for runtime in ENGINES:
            variants |= {f"{runtime} {part}": run for part, run in runs(runtime, name, case, threads).items()}
        timing = in_turns(variants, **turns)
        results[name] = {runtime: figures_of(timing, runtime, case) for runtime in ENGINES}
        results[name]["median_ms"] = {variant: timing.ms(variant).median for variant in timing.seconds}
        results[name]["rounds"] = timing.rounds
    return results


def brief(ratio: dict[str, float], scale: float = 1.0) -> str:
    """Return a figure with its range."""
    return f"{scale * ratio['median']:.3g} ({scale * ratio['least']:.3g} to {scale * ratio['most']:.3g})"


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return the parts of the page."""
    rows = [
        "| network, one clip | runtime | A | speed-up | ideal | of ideal | SGS (%) | over PyTorchVideo (static) "
        "| two at once |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, networks in report["results"].items():
        (_, frames, size, _), kept = report["inputs"]["cases"][name]
        for runtime in ENGINES:
            found = networks[runtime]
            for variant in ADAPTIVE:
                if (one := found.get(variant)) is None:
                    continue
                over = ""
                if "over pytorchvideo" in one:
                    static = found["static"]["over pytorchvideo"]["median"]
                    over = f"{brief(one['over pytorchvideo'])} ({static:.3g})"
                label = runtime + (", specialized" if variant == "specialized" else "")
                rows.append(
                    f"| `{name}` {frames} x {size}² | {label} | {kept} of {frames} | {brief(one['speedup'])} | "
                    f"{found['ideal']['median']:.2f} | {brief(one['efficiency'])} | {brief(one['sgs_share'], 100)} | "
                    f"{over} | {brief(found['two at once']) if variant == 'adaptive' else ''} |"
                )
    return {"runtime": "\n".join(rows)}


def main() -> None:
    """Measure, write the result file, print the table."""
    options = script_options(__doc__).parse_args()
    cases = QUICK if options.quick else CASES
    report = write_result(options.out, measure(options.quick), inputs={"cases": {k: list(v) for k, v in cases.items()}})
    print(tables(report)["runtime"])


if __name__ == "__main__":
    main()
