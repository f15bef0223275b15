"""bf16 beside float32: the time, and what changes in logits and in A on real clips. It is never a default.

    python benchmarks/bf16.py [--data FOLDER] [--quick] [--out result.json]

    autocast   the network in eager PyTorch under torch.autocast; the similarity network stays in float32
    optimized  `atfr.optimize_for_inference(network).to(torch.bfloat16)`

X3D-S with random weights, and i3d_efficientnet_lite0 with ImageNet weights where they are installed, with SGS after
res2 of four bins a map (as few videos are trained), its biases 0, so that untrained it keeps several maps. The centred
clip of each video; the data is ../shared/data/ut_interaction by default, and generated videos where there is none.
Times are of a batch of 8 clips, whose A is forced to what it is in float32.
"""

import copy
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import atfr
from atfr.adapt.trace import site_names
from atfr.data.samples import render_samples
from atfr.measure import Variant, in_turns, script_options, write_result
from atfr.measure.forcing import forced
from atfr.models import VideoModel
from atfr.models.efficientnet import weights_installed
from atfr.video.file import VideoFile
from atfr.video.spec import ClipSpec
from atfr.video.transforms import test_clips

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "ut_interaction"
VIDEO_ENDINGS = (".avi", ".mp4", ".mkv", ".webm")
CLIPS, BATCH = 48, 8
Forward = Callable[[Tensor], Tensor]


def read(data: Path, spec: ClipSpec, count: int) -> Tensor:
    """Return the centred clips of videos at equal distances in the list."""
    paths = sorted(path for path in data.rglob("*") if path.suffix in VIDEO_ENDINGS)
    chosen = paths[:: max(1, len(paths) // count)][:count]
    return torch.cat([test_clips(VideoFile(path, shorter_side=spec.decode_side), spec) for path in chosen])


def adapted(name: str) -> VideoModel:
    """Return a network with an SGS that keeps several maps."""
    torch.manual_seed(0)
    start: dict[str, Any] = {"pretrained": True} if name == "i3d_efficientnet_lite0" else {}
    model = atfr.create_model(name, **start).eval()
    atfr.adapt_(model, after="res2", kernel="linear_mean", num_bins=4 * model.clip_shape[1])
    for layer in site_names(model).values():
        for convolution in (layer.similarity.hidden, layer.similarity.output):
            convolution.bias.detach().zero_()
    return model


def forwards(model: nn.Module) -> dict[str, tuple[nn.Module, Forward]]:
    """Return the network, and how it takes float32 clips, by name."""
    fast = atfr.optimize_for_inference(model)
    narrow = copy.deepcopy(fast).to(torch.bfloat16)

    def autocast(clips: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(clips)

    return {
        "eager float32": (model, model),
        "eager autocast": (model, autocast),
        "optimized float32": (fast, fast),
        "optimized bfloat16": (narrow, lambda clips: narrow(clips.bfloat16())),
    }


@torch.inference_mode()
def changes(ways: dict[str, tuple[nn.Module, Forward]], clips: Tensor) -> dict[str, Any]:
    """Compare logits and active bins with those of eager float32."""
    logits, kept = {}, {}
    for name, (model, forward) in ways.items():
        with atfr.record(model) as trace:
            logits[name] = torch.cat([forward(batch).float() for batch in clips.split(BATCH)])
        kept[name] = trace.active_bins
    exact, exact_kept = logits.pop("eager float32"), kept.pop("eager float32")
    found: dict[str, Any] = {"clips": len(clips), "mean_active_bins": exact_kept.float().mean().item()}
    for name, own in logits.items():
        off = (own - exact).abs().amax(1) / exact.abs().amax(1)
        found[name] = {
            "logits_off_median": off.median().item(),
            "logits_off_most": off.max().item(),
            "same_class": (own.argmax(1) == exact.argmax(1)).float().mean().item(),
            "same_active_bins": (kept[name] == exact_kept).float().mean().item(),
            "mean_active_bins": kept[name].float().mean().item(),
        }
    return found


@torch.inference_mode()
def times(ways: dict[str, tuple[nn.Module, Forward]], clips: Tensor, rounds: int) -> dict[str, Any]:
    """Time all on one batch, with the A that its clips have in float32."""
    model, _ = ways["eager float32"]
    with atfr.record(model) as trace:
        model(clips)
    kept = {site: of_site.lengths for site, of_site in trace.sites.items()}
    with ExitStack() as stack:
        for network in {id(network): network for network, _ in ways.values()}.values():
            stack.enter_context(forced(network, kept))
        variants: dict[str, Variant] = {name: lambda f=forward: f(clips) for name, (_, forward) in ways.items()}
        timing = in_turns(variants, rounds=rounds, at_least=rounds)
    pairs = {"eager autocast": "eager float32", "optimized bfloat16": "optimized float32"}
    speedups = {name: timing.speedup(name, over=over).to_dict() for name, over in pairs.items()}
    return {"active_bins": kept, "speedup": speedups, **timing.to_dict()}


def measure(data: Path, quick: bool) -> dict[str, Any]:
    """Measure each network on its own size of clips."""
    results: dict[str, Any] = {}
    for name in ("x3d_s", *(["i3d_efficientnet_lite0"] if weights_installed() else [])):
        model = adapted(name)
        _, frames, size, _ = model.clip_shape
        frames, size = (4, 64) if quick else (frames, size)
        spec = ClipSpec(frames, stride=2, size=size, resize=size, jitter=(size, size), mean=model.mean, std=model.std)
        clips = read(data, spec, 2 if quick else CLIPS)
        ways = forwards(model)
        results[name] = {
            "clip_shape": list(clips.shape[1:]),
            "changes": changes(ways, clips),
            "times": times(ways, clips[:BATCH], 1 if quick else 7),
        }
        for way, one in results[name]["times"]["speedup"].items():
            print(f"{name}, {way}: {one['median']:.2f} x as fast as in float32, {results[name]['changes'][way]}")
    return results


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return the part of the page."""
    rows = [
        "| network | in bf16 | as fast | logits off, median (most) | same class | same A | mean A (in float32) |"
        "\n|---|---|---|---|---:|---:|---:|",
    ]
    for name, found in report["results"].items():
        for way, speed in found["times"]["speedup"].items():
            one = found["changes"][way]
            rows.append(
                f"| `{name}` | {way} | x{speed['median']:.2f} ({speed['least']:.2f} to {speed['most']:.2f}) | "
                f"{100 * one['logits_off_median']:.1f} % ({100 * one['logits_off_most']:.1f} %) | "
                f"{100 * one['same_class']:.0f} % | {100 * one['same_active_bins']:.0f} % | "
                f"{one['mean_active_bins']:.2f} ({found['changes']['mean_active_bins']:.2f}) |"
            )
    inputs, clips = report["inputs"], next(iter(report["results"].values()))["changes"]["clips"]
    rows += ["", f"{clips} clips of {inputs['videos']}. Logits are off relative to the clip's largest in float32."]
    return {"bf16": "\n".join(rows)}


def main() -> None:
    parser = script_options(__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="a folder of videos")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        real = options.data.is_dir()
        count = 1 if options.quick else 8
        data = options.data if real else render_samples(folder, clips_per_class_train=count, clips_per_class_test=1)
        results = measure(data, options.quick)
    inputs = {"videos": options.data.name if real else "generated videos", "after": "res2", "quick": options.quick}
    write_result(options.out, results, inputs=inputs)


if __name__ == "__main__":
    main()
