"""From video files to answers, 10 clips x 3 crops of each video: atfr against a plain PyTorchVideo pipeline.

    python benchmarks/end_to_end.py [--data FOLDER] [--videos 12] [--chunk 3] [--out result.json] [--quick]

The data is ../shared/data/ut_interaction by default; its videos are taken at equal distances in the list. All variants
run in one process, in turns over chunks of videos, each a call; each ratio is one of the same chunk. X3D-S, 13 frames,
every sixth, shorter side 182 px, crops of 160 px, random weights: the same in all variants, so that the static
network's scores can be compared with PyTorchVideo's (they differ by the frames taken, counted there by time, and by
resizing).

- pytorchvideo: `EncodedVideo` (PyAV), for each clip `get_clip` and PyTorchVideo's own transforms (subsample, normalise,
  scale, crop three times), its X3D-S in eager PyTorch, the three crops of a clip together. Its `transforms` import a
  module that torchvision has renamed since; the script puts the renamed module at the old name, and nothing else.
- static, SGS, change: what `atfr predict` does (`atfr.evaluate.predict`): each file is decoded once, in a thread beside
  the network, which `optimize_for_inference` has prepared. SGS stands after res2, with biases of 0, so that untrained
  it keeps several maps; change-guided sampling at the input, with as many bins as half of the frames.
- the same in bfloat16: `atfr predict --precision bfloat16`.
- the same in OpenVINO: the networks exported, as `atfr predict --bundle` runs them; where OpenVINO is installed.

Then the parts of ours are timed without overlap, video by video, in turns. Of ideal: network time against that of the
static network in the same runtime, whose part behind the sampler would take the share of the maps that are kept.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import atfr
from atfr.evaluate.forward import Runner, prepared
from atfr.evaluate.predict import Prediction, Views, predictions
from atfr.evaluate.task import Task
from atfr.kernels.allocator import freed_memory_kept
from atfr.measure import Ratio, Timing, in_turns, script_options, write_result
from atfr.models import VideoModel
from atfr.runtime.bundle import BundleRunner
from atfr.runtime.export import export_bundle
from atfr.video.file import VideoFile
from atfr.video.spec import ClipSpec, ViewSpec
from atfr.video.transforms import test_views

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "ut_interaction"
SPEC = ClipSpec(frames=13, stride=6, size=160, resize=182, jitter=(182, 228))
NUM_CLIPS, NUM_CROPS, BATCH = 10, 3, 8
STATIC, SGS, CHANGE = "static", "SGS behind res2", "change at the input"
CLASSES = 400
TASK = Task(tuple(map(str, range(CLASSES))), SPEC)
VIDEO_ENDINGS = (".avi", ".mp4", ".mkv", ".webm", ".mov")

Pipeline = Callable[[Sequence[Path]], Tensor]
"""From files to the scores of each, N x K."""


def pytorchvideo_pipeline(network: nn.Module, clock: "Clock") -> Pipeline:
    """Return PyTorchVideo's way, as its tutorials have it."""
    import torchvision.transforms._functional_tensor as renamed

    sys.modules.setdefault("torchvision.transforms.functional_tensor", renamed)
    from pytorchvideo.data.encoded_video import EncodedVideo
    from pytorchvideo.transforms import Normalize, ShortSideScale, UniformTemporalSubsample
    from pytorchvideo.transforms.functional import uniform_crop
    from torchvision.transforms import Compose, Lambda

    transform = Compose(
        [
            UniformTemporalSubsample(SPEC.frames),
            Lambda(lambda video: video / 255),
            Normalize(SPEC.mean, SPEC.std),
            ShortSideScale(SPEC.resize),
        ]
    )

    @torch.inference_mode()
    def run(paths: Sequence[Path]) -> Tensor:
        scores = []
        for path in paths:
            with clock("decode"):
                video = EncodedVideo.from_path(str(path), decode_audio=False)
                fps = video._container.streams.video[0].average_rate
            length_s = Fraction(SPEC.frames * SPEC.stride) / fps
            last_s = max(Fraction(0), Fraction(video.duration) - length_s)
            views = []
            for number in range(NUM_CLIPS):
                start_s = last_s * number / (NUM_CLIPS - 1)
                with clock("decode"):
                    clip = video.get_clip(start_s, start_s + length_s)["video"]
                with clock("transform"):
                    scaled = transform(clip)
                    crops = torch.stack([uniform_crop(scaled, SPEC.size, place) for place in range(NUM_CROPS)])
                with clock("network"):
                    views.append(network(crops).softmax(1))
            video.close()
            scores.append(torch.cat(views).double().mean(0))
        return torch.stack(scores)

    return run


class Atfr:
    """The way of `atfr predict`, with a network whose costs are counted already; keeps what it predicted."""

    def __init__(self, forward: Runner) -> None:
        self.forward = forward
        self.predicted: dict[Path, Prediction] = {}

    def __call__(self, paths: Sequence[Path]) -> Tensor:
        views = Views(paths, SPEC, ViewSpec(NUM_CLIPS, NUM_CROPS))
        found = list(predictions(self.forward, views, TASK.labels, BATCH, 0, None))
        self.predicted |= {one.path: one for one in found}
        return torch.stack([one.scores for one in found])

    def active_bins(self, path: Path) -> float:
        """Return the mean number of maps kept of a video's views; all, where there is no sampler."""
        kept = [count for views in self.predicted[path].active_bins.values() for count in views]
        return sum(kept) / len(kept) if kept else SPEC.frames

    def one_after_the_other(self, path: Path, clock: "Clock") -> None:
        """Do the same without overlap, for the shares of the parts."""
        with clock("decode"):
            video = VideoFile(path, shorter_side=SPEC.decode_side)
            len(video)
        with clock("transform"):
            views = iter(test_views(video, SPEC, NUM_CLIPS, NUM_CROPS))
        for start in range(0, NUM_CLIPS * NUM_CROPS, BATCH):
            size = min(BATCH, NUM_CLIPS * NUM_CROPS - start)
            with clock("transform"):
                clips = torch.stack([next(views) for _ in range(size)])
            with clock("network"):
                self.forward(clips)


class Clock:
    """Adds up the seconds spent in parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time what is inside."""
        start_s = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start_s


def networks() -> dict[str, Any]:
    """Return PyTorchVideo's network, ours, and ours with each sampler, of the same weights."""
    from pytorchvideo.models.x3d import create_x3d

    torch.manual_seed(0)
    peer = create_x3d(
        input_clip_length=SPEC.frames, input_crop_size=SPEC.size, model_num_class=CLASSES, head_activation=None
    ).eval()
    found: dict[str, Any] = {"pytorchvideo": peer}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(peer.state_dict(), Path(folder) / "x3d_s.pth")
        for name in (STATIC, SGS, CHANGE):
            found[name] = atfr.create_model("x3d_s", num_classes=CLASSES).eval()
            atfr.load_weights(found[name], Path(folder) / "x3d_s.pth")
    atfr.adapt_(found[CHANGE], after="input", sampler="change", num_bins=(SPEC.frames + 1) // 2)
    atfr.adapt_(found[SGS], after="res2")
    for name, parameter in found[SGS].named_parameters():
        if "similarity" in name and name.endswith("bias"):
            nn.init.zeros_(parameter)
    return found


def exported(network: VideoModel) -> Runner:
    """Return a network as OpenVINO runs it."""
    with tempfile.TemporaryDirectory() as folder:
        return BundleRunner(export_bundle(network, TASK, Path(folder) / "bundle", "openvino"))


def videos_of(folder: Path, count: int) -> list[Path]:
    """Return so many videos of a folder and below, at equal distances in their list."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_ENDINGS)
    if len(found) < count:
        raise SystemExit(f"expected {count} videos in '{folder}', found {len(found)}; give a folder by --data")
    return [found[number * len(found) // count] for number in range(count)]


@torch.inference_mode()
def warm_up(peer: nn.Module, ours: Iterable["Atfr"]) -> None:
    """Run each network on the batches it will get, so that what first passes set up is in no time."""
    peer(torch.rand(NUM_CROPS, 3, SPEC.frames, SPEC.size, SPEC.size))
    for pipeline in ours:
        for size in {BATCH, NUM_CLIPS * NUM_CROPS % BATCH}:
            pipeline.forward(torch.rand(size, *TASK.clip_shape))


def turns_over(
    pipelines: Mapping[str, Pipeline], videos: Sequence[Path], chunk: int
) -> tuple[Timing, dict[str, Tensor]]:
    """Run all pipelines in turns over chunks of videos; return their times, and the scores of each video."""
    chunks = [videos[start : start + chunk] for start in range(0, len(videos), chunk)]
    scores: dict[str, list[Tensor]] = {name: [] for name in pipelines}
    done = dict.fromkeys(pipelines, 0)

    def turn(name: str) -> None:
        start_s = time.perf_counter()
        scores[name].append(pipelines[name](chunks[done[name]]))
        done[name] += 1
        print(f"{done[name]} {name}: {time.perf_counter() - start_s:.2f} s", file=sys.stderr, flush=True)

    def variant(name: str) -> Callable[[], None]:
        return lambda: turn(name)

    timing = in_turns({name: variant(name) for name in pipelines}, rounds=len(chunks), at_least=len(chunks), warm_up=0)
    return timing, {name: torch.cat(values) for name, values in scores.items()}


@dataclass(frozen=True)
class Parts:
    """Seconds of each part of a pipeline for each video, and the maps that it keeps of a clip."""

    seconds: dict[str, list[float]]
    kept: list[float]

    def mean(self) -> dict[str, float]:
        """Return the mean seconds of a video, by part."""
        return {part: sum(seconds) / len(seconds) for part, seconds in self.seconds.items()}

    def of_ideal(self, static: "Parts", before: list[float]) -> Ratio:
        """Return how near the network comes to what the static one would take with so many maps behind the sampler."""
        rows = zip(self.seconds["network"], static.seconds["network"], before, self.kept, strict=True)
        return Ratio.of([(early + (all_s - early) * kept / SPEC.frames) / own_s for own_s, all_s, early, kept in rows])


def parts_of(ours: Mapping[str, Atfr], videos: Sequence[Path]) -> tuple[dict[str, Parts], list[float]]:
    """Time the parts of our pipelines, and the static network up to the place of SGS in the same passes."""
    found = {name: Parts({"decode": [], "transform": [], "network": []}, []) for name in ours}
    before: list[float] = []
    static: Any = ours[STATIC].forward
    stage = static.model.get_submodule(static.model.stage_paths["res2"])
    marks: list[float] = []
    hooks = [
        static.model.register_forward_pre_hook(lambda *_: marks.append(-time.perf_counter())),
        stage.register_forward_hook(lambda *_: marks.append(time.perf_counter())),
    ]
    with freed_memory_kept():
        for path in videos:
            marks.clear()
            for name, pipeline in ours.items():
                clock = Clock()
                pipeline.one_after_the_other(path, clock)
                for part, seconds in clock.seconds.items():
                    found[name].seconds[part].append(seconds)
                found[name].kept.append(pipeline.active_bins(path))
            before.append(sum(marks))
    for hook in hooks:
        hook.remove()
    return found, before


def measure(quick: bool, data: Path = DATA, count: int = 12, chunk: int = 3, out: Path | None = None) -> dict[str, Any]:
    """Measure, and return what was written."""
    count, chunk = (2, 1) if quick else (count, chunk)
    videos = videos_of(data, count)
    frames = {path: len(VideoFile(path)) for path in videos}
    made = networks()
    peer = made.pop("pytorchvideo")
    shape = TASK.clip_shape
    ours = {name: Atfr(prepared(network, shape)) for name, network in made.items()}
    ours |= {f"{name}, bfloat16": Atfr(prepared(network, shape, "bfloat16")) for name, network in made.items()}
    if find_spec("openvino"):
        ours |= {f"{name}, OpenVINO": Atfr(exported(network)) for name, network in made.items()}
    clock = Clock()
    pipelines: dict[str, Pipeline] = {"pytorchvideo": pytorchvideo_pipeline(peer, clock), **ours}
    warm_up(peer, ours.values())
    timing, scores = turns_over(pipelines, videos, chunk)
    parts, before = parts_of(ours, videos)
    at_input = {name: parts[name].of_ideal(parts[static_of(name)], [0.0] * count) for name in ours if CHANGE in name}
    of_ideal = {SGS: parts[SGS].of_ideal(parts[STATIC], before), **at_input}
    results = {
        "speedup": {name: timing.speedup(name, over="pytorchvideo").to_dict() for name in ours},
        "over_static": {name: timing.speedup(name, over=static_of(name)).to_dict() for name in ours},
        "network_of_ideal": {name: ratio.to_dict() for name, ratio in of_ideal.items()},
        "videos_per_s": {name: timing.ratio(lambda s, n=name: chunk / s[n]).to_dict() for name in pipelines},
        "frames_per_s": {name: sum(frames.values()) / sum(timing.seconds[name]) for name in pipelines},
        "seconds_a_video_one_after_the_other": {
            "pytorchvideo": {part: seconds / count for part, seconds in clock.seconds.items()},
            **{name: one.mean() for name, one in parts.items()},
        },
        "maps_kept": {name: sum(one.kept) / count for name, one in parts.items()},
        "scores_differ_at_most": {
            "static from pytorchvideo": float((scores[STATIC] - scores["pytorchvideo"]).abs().max()),
            "largest score": float(scores["pytorchvideo"].max()),
        },
        "timing": timing.to_dict(),
    }
    inputs = {
        "network": "x3d_s",
        "videos": count,
        "chunk": chunk,
        "frames_of_all_videos": sum(frames.values()),
        "views": f"{NUM_CLIPS}x{NUM_CROPS}",
        "clip": SPEC.to_dict(),
        "batch": BATCH,
        "seed": 0,
    }
    return write_result(out, results, inputs=inputs)


def static_of(name: str) -> str:
    """Return the pipeline of the static network in the same runtime."""
    return STATIC + name[name.index(",") :] if "," in name else STATIC


def times(ratio: dict[str, float]) -> str:
    """Return a ratio as the page writes it."""
    return f"x{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return the table of the page."""
    results = report["results"]
    names = ("decode", "transform", "network")
    titles = ("pipeline", "maps kept", "videos/s", "over PyTorchVideo", "over static", "network, of ideal", *names)
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * (len(titles) - 1)]
    for name, rate in results["videos_per_s"].items():
        over = [times(results[key][name]) if name in results[key] else "" for key in ("speedup", "over_static")]
        ideal = results["network_of_ideal"].get(name)
        kept = results["maps_kept"].get(name, SPEC.frames)
        parts = results["seconds_a_video_one_after_the_other"][name]
        cells = [name, f"{kept:.1f}", f"{rate['median']:.3f}", *over, f"{ideal['median']:.2f}" if ideal else ""]
        lines.append(f"| {' | '.join([*cells, *(f'{parts[part]:.2f} s' for part in names)])} |")
    return {"end_to_end": "\n".join(lines)}


def main() -> None:
    parser = script_options(__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="a folder of videos")
    parser.add_argument("--videos", type=int, default=12, help="how many of them")
    parser.add_argument("--chunk", type=int, default=3, help="videos in a turn")
    options = parser.parse_args()
    report = measure(options.quick, options.data, options.videos, options.chunk, options.out)
    print(tables(report)["end_to_end"])


if __name__ == "__main__":
    main()
