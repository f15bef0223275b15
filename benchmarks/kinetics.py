"""The published i3d_inception on real videos: its answers, faster ways to run it, and what fewer frames or maps cost.

    atfr weights i3d_inception
    python benchmarks/kinetics.py VIDEO_OR_FOLDER ... [--named FOLDER] [--out docs/studies/kinetics.json]

One clip a video, the centred one of 64 frames, as `atfr predict` takes it. "Agree" is how many videos have eager
PyTorch's most probable class, "sure" the same among those in which its probability is above a half, TV the total
variation between the softmax scores, averaged over videos (half the sum of absolute differences). Nothing is trained.
Times are of one clip, all variants in turns; "of eager" is a round's own ratio. --named prints the answers to the
videos of one folder. GFLOPs are multiply-adds / 1e9.
"""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import atfr
from atfr.data.walk import videos_below
from atfr.evaluate.task import Task, load_checkpoint
from atfr.measure import in_turns, script_options, write_result
from atfr.models import VideoModel
from atfr.video.file import VideoFile
from atfr.video.transforms import test_clips

EAGER = "eager"
PLACES = {"input": (42, 16), "res2": (16, 8)}  # of 64 frames, and of the 32 maps behind MaxPool3d_3a_3x3
Run = Callable[[Tensor], Tensor]


def runtimes(model: VideoModel, task: Task, folder: Path) -> dict[str, Run]:
    """The same network, faster."""
    exported = folder / "bundle"
    atfr.export_bundle(model, task, exported, "openvino")
    fast = atfr.optimize_for_inference(model)
    half = atfr.optimize_for_inference(copy.deepcopy(model).to(torch.bfloat16))
    openvino, openvino_half = (atfr.load_bundle(exported, precision=kind) for kind in ("float32", "bfloat16"))
    return {
        EAGER: model,
        "optimized": fast,
        "optimized, bfloat16": lambda clip: half(clip.to(torch.bfloat16)).float(),
        "OpenVINO": lambda clip: torch.as_tensor(openvino(clip).logits),
        "OpenVINO, bfloat16": lambda clip: torch.as_tensor(openvino_half(clip).logits),
    }


def samplers(model: VideoModel) -> dict[str, torch.nn.Module]:
    """The network with fewer frames or maps, optimized."""
    made = {}
    for place, kept in PLACES.items():
        for number in kept:
            for sampler, limit in (("uniform", "active_bins"), ("change", "num_bins")):
                options: dict[str, Any] = {"sampler": sampler, limit: number}
                adapted = copy.deepcopy(model)
                atfr.adapt_(adapted, after=place, **options)
                made[f"{number} {'frames' if place == 'input' else 'maps behind res2'}, {sampler}"] = (
                    atfr.optimize_for_inference(adapted)
                )
    return made


@torch.inference_mode()
def main() -> None:
    parser = script_options(__doc__)
    parser.add_argument("videos", type=Path, nargs="+", help="video files, or folders of them")
    parser.add_argument("--named", type=Path, help="the folder whose videos are listed with their answers")
    parser.add_argument("--every", type=int, default=1, help="take every so many of the other videos")
    options = parser.parse_args()
    files = [file for path in options.videos for file in (videos_below(path) if path.is_dir() else [path])]
    named = set(videos_below(options.named)) if options.named else set()
    others = [file for file in files if file not in named][:: options.every]
    files = sorted(named) + others
    files = files[:2] if options.quick else files
    model, task = load_checkpoint("i3d_inception")
    with tempfile.TemporaryDirectory() as folder:
        same, fewer = runtimes(model, task, Path(folder)), samplers(model)
        costs = {name: atfr.clip_cost(network, task.clip_shape) for name, network in fewer.items()}
        static = next(iter(costs.values())).static / 1e9
        scores: dict[str, list[Tensor]] = {name: [] for name in (*same, *fewer)}
        spent: dict[str, list[float]] = {name: [] for name in fewer}
        for file in files:
            clip = test_clips(VideoFile(file, shorter_side=task.spec.decode_side), task.spec)
            for name, run in same.items():
                scores[name].append(run(clip).double().softmax(1)[0])
            for name, network in fewer.items():
                with atfr.record(network) as trace:
                    scores[name].append(network(clip).double().softmax(1)[0])
                spent[name] += [float(cost) / 1e9 for cost in costs[name].of(trace)]
            label, probability = task.labels[int(scores[EAGER][-1].argmax())], float(scores[EAGER][-1].max())
            print(f"| `{file.name}` | {label} | {100 * probability:.1f} % |" if file in named else ".", flush=True)
        variants = {name: lambda run=run: run(clip) for name, run in {**same, **fewer}.items()}
        timing = in_turns(
            variants, rounds=1 if options.quick else 7, at_least=1 if options.quick else 3, budget_s=60, warm_up=1
        )
    rows = {}
    for name, those in scores.items():
        rows[name] = compared(torch.stack(those), torch.stack(scores[EAGER])) | {
            "gflops": sum(spent[name]) / len(files) if name in spent else static,
            "speedup": timing.speedup(name, over=EAGER).to_dict(),
        }
        print(name, rows[name], flush=True)
    inputs = {"videos": [file.name for file in files], "clip_shape": list(task.clip_shape)}
    write_result(options.out, {"rows": rows, "timing": timing.to_dict()}, inputs=inputs)
    print(markdown(rows))


def compared(scores: Tensor, expected: Tensor) -> dict[str, Any]:
    """How far the answers V x K are those of eager PyTorch."""
    same = scores.argmax(1) == expected.argmax(1)
    sure = expected.amax(1) > 0.5
    return {
        "agree": int(same.sum()),
        "videos": len(same),
        "agree_sure": int(same[sure].sum()),
        "sure": int(sure.sum()),
        "tv": float((scores - expected).abs().sum(1).mean() / 2),
    }


def markdown(rows: dict[str, Any]) -> str:
    """The table of docs/kinetics.md."""
    lines = ["| network | GFLOPs | agree | sure | TV | speed, of eager |", "|---|---:|---:|---:|---:|---:|"]
    for name, row in rows.items():
        speed = "{median:.2f} ({least:.2f} to {most:.2f})".format(**row["speedup"])
        agree, sure = f"{row['agree']} of {row['videos']}", f"{row['agree_sure']} of {row['sure']}"
        lines.append(f"| {name} | {row['gflops']:.1f} | {agree} | {sure} | {row['tv']:.3f} | {speed} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
