"""Training steps without and with SGS: time, where it goes, and memory; and with PyTorch's own convolutions.

    python benchmarks/training.py [--quick] [--out result.json] [--data FOLDER] [--networks NAME ...]

A step is forward, backward and an SGD step with momentum, batch norm in training mode; its learning rate is 0, so that
every step does the same work and A stays. A is what a new SGS after res2 finds in real clips, by default of
../shared/data/ut_interaction, one clip of every so many videos; without videos, in noise.

    static    the network                     before    the same step of what stands before SGS alone
    adaptive  with SGS after res2

These take turns; so do steps of the static network on two clips, with ours and with PyTorch's convolutions. ideal =
static / (before + (static - before) x sum(A) / (N T)). Saved memory is what autograd keeps for the backward pass, each
storage once, parameters aside; peaks are those of a fresh process that does two steps, less what it held before them.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.data.dataset import ClipDataset
from atfr.data.records import read_folder
from atfr.kernels import conv3d as convolution
from atfr.kernels.allocator import freed_memory_kept
from atfr.measure import in_turns, peak_memory, script_options, write_result
from atfr.video.spec import ClipSpec

UT_INTERACTION = Path(__file__).resolve().parents[2] / "shared" / "data" / "ut_interaction"
CASES = {
    "x3d_s": ClipSpec(frames=13, stride=6, size=160, resize=182, jitter=(182, 228)),
    "resnet3d_18": ClipSpec(frames=32, stride=2, size=112),
}
QUICK = {name: ClipSpec(frames=8, size=32) for name in CASES}
CLIPS, QUICK_CLIPS, FEW = 4, 2, 2


class StopError(Exception):
    """Ends a forward pass behind the stages before SGS."""


class Step:
    """A training step of a network on a batch of clips."""

    def __init__(self, name: str, clips: Tensor, adaptive: bool) -> None:
        torch.manual_seed(0)
        self.model = atfr.create_model(name).train()
        res2: Any = self.model.stage_paths["res2"]
        self.res2 = self.model.get_submodule(res2)
        if adaptive:
            atfr.adapt_(self.model, after="res2")
        self.clips, self.labels = clips, torch.arange(len(clips))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.0, momentum=0.9, weight_decay=1e-4)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def loss(self) -> Tensor:
        return F.cross_entropy(self.model(self.clips), self.labels)


class Before(Step):
    """The step of the stages before SGS alone."""

    def loss(self) -> Tensor:
        found: list[Tensor] = []

        def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found.append(output)
            raise StopError

        handle = self.res2.register_forward_hook(stop)
        with contextlib.suppress(StopError):
            self.model(self.clips)
        handle.remove()
        return found[0].sum()


def with_torchs_convolutions(step: Callable[[], None]) -> Callable[[], None]:
    """Return the step without what `atfr.kernels.conv3d` does."""

    def run() -> None:
        with patch.object(convolution, "trains_here", lambda _: False):
            step()

    return run


@contextlib.contextmanager
def saved(storages: dict[int, int]) -> Iterator[None]:
    """Note the bytes of each storage that autograd keeps in this context."""

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


def saved_bytes(step: Step) -> dict[str, int]:
    """Return the bytes that a step keeps for its backward pass, and those that SGS alone keeps."""
    parameters = {p.untyped_storage().data_ptr() for p in step.model.parameters()}
    of_sgs: dict[int, int] = {}
    others: dict[int, int] = {}
    layer = getattr(step.res2, "sgs", None)
    with contextlib.ExitStack() as context:
        if layer is not None:
            forward = layer.forward

            def watched(features: Tensor) -> Tensor:
                with saved(of_sgs):  # the innermost note counts; what others keep too is not its own
                    return forward(features)

            context.enter_context(patch.object(layer, "forward", watched))
        context.enter_context(saved(others))
        loss = step.loss()  # which holds the storages, so that no address is used twice
    kept = {address: size for address, size in (others | of_sgs).items() if address not in parameters}
    del loss
    return {
        "saved_bytes": sum(kept.values()),
        "saved_by_sgs_bytes": sum(size for address, size in kept.items() if address not in others),
    }


def peak_of_a_process(name: str, kind: str, data: Path, quick: bool) -> int:
    """Return the peak memory of a fresh process, in bytes."""
    command = [sys.executable, __file__, "--peak", name, kind, "--data", str(data), *(["--quick"] if quick else [])]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def batch(name: str, data: Path, quick: bool) -> Tensor:
    """Return the clips that a network is trained on."""
    return real_clips(data, (QUICK if quick else CASES)[name], QUICK_CLIPS if quick else CLIPS)


def real_clips(folder: Path, spec: ClipSpec, count: int) -> Tensor:
    """Return clips of so many videos, spread over the folder; noise where there is none."""
    if not folder.is_dir():
        return torch.randn(count, 3, spec.frames, spec.size, spec.size, generator=torch.Generator().manual_seed(0))
    videos = ClipDataset(read_folder(folder)["train"], spec, train=True)
    return torch.stack([videos[number * len(videos) // count][0] for number in range(count)])


def measure_network(name: str, data: Path, quick: bool) -> dict[str, Any]:
    """Measure one network."""
    clips = batch(name, data, quick)
    static, adaptive, before = Step(name, clips, False), Step(name, clips, True), Before(name, clips, False)
    with atfr.record(adaptive.model) as trace:
        adaptive.loss()
    active = trace.active_bins.tolist()
    share = sum(active) / (len(clips) * clips.shape[2])
    few = Step(name, clips[:FEW], False)
    turns: dict[str, Any] = {"rounds": 7, "at_least": 2 if quick else 7, "budget_s": 0, "warm_up": 1}
    with freed_memory_kept():  # as `atfr train` does
        timing = in_turns({"static": static, "adaptive": adaptive, "before": before}, **turns)
        convolutions = in_turns({"ours": few, "torch": with_torchs_convolutions(few)}, **turns)
    ideal = timing.ratio(lambda s: s["static"] / (s["before"] + (s["static"] - s["before"]) * share))
    efficiency = timing.ratio(lambda s: (s["before"] + (s["static"] - s["before"]) * share) / s["adaptive"])
    kinds = {"static": static, "adaptive": adaptive}
    memory = {
        kind: saved_bytes(step) | {"peak_bytes": peak_of_a_process(name, kind, data, quick)}
        for kind, step in kinds.items()
    }
    return {
        "clips": list(clips.shape),
        "active_bins": active,
        "timing": timing.to_dict(),
        "speedup": timing.speedup("adaptive", over="static").to_dict(),
        "ideal": ideal.to_dict(),
        "efficiency": efficiency.to_dict(),
        "over_torch": convolutions.speedup("ours", over="torch").to_dict(),
        "memory": memory,
    }


def measure(networks: Sequence[str], quick: bool, data: Path) -> dict[str, Any]:
    """Measure networks, and return what is written."""
    results = {name: measure_network(name, data, quick) for name in networks}
    clips = f"{QUICK_CLIPS if quick else CLIPS} videos of {data.name}" if data.is_dir() else "noise"
    return {"results": results, "inputs": {"clips": clips, "after": "res2", "seed": 0, "dtype": "float32"}}


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the page."""
    rows = [
        "| network | A of T | speed-up | ideal | efficiency | own convolutions | saved memory | SGS's share | peak |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in report["results"].items():
        active, frames = found["active_bins"], found["clips"][2]
        figures = [ranged(found[key]) for key in ("speedup", "ideal", "efficiency", "over_torch")]
        static, adaptive = found["memory"]["static"], found["memory"]["adaptive"]
        shares = [
            f"{static['saved_bytes'] / 2**20:.0f} / {adaptive['saved_bytes'] / 2**20:.0f} MiB, "
            f"{static['saved_bytes'] / adaptive['saved_bytes']:.2f} x",
            f"{100 * adaptive['saved_by_sgs_bytes'] / adaptive['saved_bytes']:.2f} %",
            f"{static['peak_bytes'] / adaptive['peak_bytes']:.2f} x",
        ]
        rows.append(" | ".join([f"| {name}", f"{', '.join(map(str, active))} of {frames}", *figures, *shares]) + " |")
    return {"training": "\n".join(rows)}


def ranged(ratio: dict[str, float]) -> str:
    """Return a ratio as the pages write it."""
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = script_options(__doc__)
    parser.add_argument("--data", type=Path, default=UT_INTERACTION, help="a folder of classes of videos")
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES), help="all by default")
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "KIND"), help="print the peak memory of this process")
    options = parser.parse_args()
    if options.peak:
        name, kind = options.peak
        step = Step(name, batch(name, options.data, options.quick), kind == "adaptive")

        def two_steps() -> None:
            step()
            step()

        print(peak_memory(two_steps))
        return
    found = measure(options.networks, options.quick, options.data)
    report = write_result(options.out, found["results"], inputs=found["inputs"])
    print(*tables(report).values(), sep="\n\n")


if __name__ == "__main__":
    main()
