"""The scales that run in this process: tiny on generated videos, small on a folder of one's own.

All networks of a family go on from one base, at one learning rate, as those of a comparison do.

out/NETWORK/seedN/base, SAMPLER    checkpoint folders (`atfr.comparison.making`), with test/ and tests of other clips
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from atfr import measure
from atfr.adapt import set_num_bins_
from atfr.adapt.trace import site_names
from atfr.checks import device_of
from atfr.comparison.estimate import pace_of
from atfr.comparison.making import Ground, Progress, Row, Watch
from atfr.comparison.plans import Plan
from atfr.comparison.quickstart import TUNE_LEARNING_RATE
from atfr.comparison.recipes import FROM_NOTHING, SAMPLES
from atfr.comparison.run import ARGUMENTS, check_arguments, minutes
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList
from atfr.data.samples import whole_and_trimmed
from atfr.evaluate.result import RESULT, TestResult
from atfr.evaluate.runs import read_result
from atfr.evaluate.task import TASK, load_checkpoint
from atfr.files import write_json
from atfr.models import create_model
from atfr.paper.cases import EXPECTED, Case
from atfr.paper.figures import Network
from atfr.train.recipe import Recipe
from atfr.words import counted

STRIDE = 2
"""Of training clips, as in the paper."""

TINY_TRAIN, TINY_TEST, TINY_FRAMES, TINY_SIZE = 40, 50, 72, 40
"""Generated videos: of a class to train and to test with, their frames, and their side in px."""

STAND_INS = {
    "resnet3d_50": Network("resnet3d_18", 32, 32),
    "slowfast_8x8_r50": Network("slowfast_8x8_r18", 32, 32),
    "slowfast_4x16_r50": Network("slowfast_8x8_r18", 32, 32),
    "slowfast_8x8_r101_nl": Network("slowfast_8x8_r18", 32, 32),
    "slowfast_16x8_r101_nl": Network("slowfast_8x8_r18", 32, 32),
    "r2plus1d_18": Network("r2plus1d_50", 32, 32, (1, 2, 2, 2)),
    "x3d_m": Network("x3d_s", 32, 32),
    "x3d_xl": Network("x3d_s", 32, 32),
}
"""The smallest of a family stands for the others; R(2+1)D-50 costs less than R(2+1)D-18."""


@dataclass(frozen=True)
class Scale:
    """How large all is."""

    name: str
    recipe: Recipe  # clips and training; its network is not used
    stand_ins: Mapping[str, Network]  # networks that stand for others, by the others' names
    about: str  # what it ran on, in words


TINY = Scale(
    "tiny",
    replace(SAMPLES, clip=replace(SAMPLES.clip, stride=STRIDE), clips_seen=20 * 6 * TINY_TRAIN),
    STAND_INS,
    "generated videos of six motions",
)
SMALL = Scale(
    "small",
    replace(
        FROM_NOTHING,
        base_frames=8,
        clip=replace(FROM_NOTHING.clip, frames=32, stride=STRIDE, size=112, resize=128, jitter=(128, 160)),
    ),
    {},
    "videos of one's own",
)


SCALES = {scale.name: scale for scale in (TINY, SMALL)}


def tiny_videos(root: Path, progress: Progress) -> dict[str, VideoList]:
    """Render the videos of the tiny scale, or take those that are there; return the splits."""
    shape: dict[str, Any] = {"frames": TINY_FRAMES, "size": TINY_SIZE, "progress": progress}
    return whole_and_trimmed(root, clips_per_class_train=TINY_TRAIN, clips_per_class_test=TINY_TEST, **shape)


@dataclass
class Here:
    """Makes and tests networks in this process; what is there already is read."""

    scale: Scale
    # the lists "train" and "test", and "trimmed" where there are such videos, from which bases learn
    splits: Mapping[str, VideoList]
    out: Path
    epochs: int | None = None
    device: str = "auto"
    say: Any = lambda _: None
    watch: Watch = lambda _: nullcontext(lambda *_: None)
    grounds: dict[tuple[str, int], Ground] = field(default_factory=dict)
    held: tuple[Any, ClipDataset] | None = None

    @property
    def first(self) -> VideoList:
        """The videos that bases learn from."""
        return self.splits.get("trimmed", self.splits["train"])

    @property
    def base_epochs(self) -> int:
        """Passes of a base over its videos."""
        return self.epochs or self.scale.recipe.epochs(len(self.first))

    def of(self, case: Case) -> tuple[Case]:
        """Return a case of the paper at this scale."""
        clip, paper = self.scale.recipe.clip, case.trained.frames

        def small(network: Network) -> Network:
            own = self.scale.stand_ins.get(network.name, network)
            frames = clip.frames * network.frames // paper
            return replace(network, name=own.name, strides=own.strides, frames=frames, size=clip.size)

        return (replace(case, trained=small(case.trained), tested=small(case.tested), data=self.scale.name),)

    def published(self, _: Case) -> None:
        """Return nothing: published weights are tested on the paper's data sets alone."""

    def clips(self, ground: Ground) -> ClipDataset:
        """Return what networks learn from; only the last family's decoded videos are held."""
        key = (ground.spec, ground.seed)
        if self.held is None or self.held[0] != key:
            self.held = key, ClipDataset(self.splits["train"], ground.spec, train=True, seed=ground.seed + 1)
        return self.held[1]

    def ground(self, network: Network, seed: int) -> Ground:
        """Return what all networks of a family and a seed have in common."""
        if (network.name, seed) not in self.grounds:
            recipe, out = self.scale.recipe, self.out / network.name / f"seed{seed}"
            torch.manual_seed(seed)
            base = create_model(network.name, num_classes=len(self.splits["train"].labels), **network.arguments)
            spec = replace(recipe.clip, mean=base.mean, std=base.std)
            arguments = {"network": base.config, "clip": spec.to_dict(), "epochs": self.base_epochs, "seed": seed}
            arguments |= {"recipe": asdict(recipe), "labels": list(self.splits["test"].labels)}
            arguments |= {f"{name} videos": videos.fingerprint for name, videos in self.splits.items()}
            check_arguments(out, arguments)
            write_json(out / ARGUMENTS, arguments, indent=1)
            if (out / "base" / TASK).is_file():
                base = load_checkpoint(out / "base")[0]
            tune_epochs = math.ceil(recipe.tune_share * self.base_epochs)
            device = device_of("device", self.device)
            ground = Ground(base, self.splits, spec, recipe, tune_epochs, seed, out, device, self.say, self.watch)
            self.grounds[network.name, seed] = ground
        return self.grounds[network.name, seed]

    def folder(self, case: Case, seed: int) -> Path:
        """Return the checkpoint folder of what is trained."""
        return self.ground(case.trained, seed).out / case.trained.sampled

    def made(self, network: Network, seed: int) -> Row:
        """Return a network's row, trained from the base and tested if it was not."""
        ground = self.ground(network, seed)
        if row := ground.made(plan_of(network)):
            return row
        if not (ground.out / "base" / TASK).is_file():
            ground.train_base_(self.first, self.base_epochs)
        self.say(f"training {network.name}, {network.sampled}, seed {seed}: {counted(ground.epochs, 'epoch')}")
        torch.manual_seed(seed)
        return ground.make(plan_of(network), TUNE_LEARNING_RATE, self.clips(ground))[1]

    def test(self, case: Case, seed: int) -> TestResult:
        """Return the test of a case, made if it was not."""
        row = self.made(case.trained, seed)
        if case == case.as_trained:
            return row.test
        ground, checkpoint = self.ground(case.trained, seed), self.folder(case, seed)
        if (checkpoint / case.test / RESULT).is_file():
            return read_result(checkpoint / case.test)
        model, _ = load_checkpoint(checkpoint)
        options = dict(case.tested.options)
        if case.trained.adaptive and options.get("num_bins"):
            set_num_bins_(model, options["num_bins"])
        for layer in site_names(model).values() if "active_bins" in options else ():
            layer.active_bins = options["active_bins"]
        spec = replace(ground.spec, frames=case.tested.frames, stride=round(case.stride * STRIDE))
        found = replace(ground, spec=spec).tested(model, self.splits["test"], f"{case.trained.sampled}, {case.test}")
        found.save(checkpoint / case.test)
        return found

    def times(self, cases: Sequence[Case], seed: int) -> list[tuple[float | None, float]]:
        """Return the seconds of each one's training, and the ms of a clip's forward pass, taken in turns."""
        rows = {case.trained.sampled: self.made(case.trained, seed) for case in cases}
        ground = self.ground(cases[0].trained, seed)
        networks = {name: load_checkpoint(ground.out / name)[0] for name in rows}
        timed, _ = ground.with_times(rows, networks)
        return [(row.tune_s, row.ms_per_clip) for row in timed.values()]

    def conditions(self) -> dict[str, Any]:
        """Return what figures depend on."""
        train, test = (len(self.splits[name]) for name in ("train", "test"))
        clip, epochs = self.scale.recipe.clip, math.ceil(self.scale.recipe.tune_share * self.base_epochs)
        about = (
            f"{self.scale.about}: {train} to train and {test} to test, clips of {clip.frames} x {clip.size}²; "
            f"a base of {counted(self.base_epochs, 'epoch')} for each family, then {epochs} for each network"
        )
        found = measure.conditions(device_of("device", self.device))
        return {"about": about, "recipe": asdict(self.scale.recipe), **found}

    def left(self, cases: Iterable[Case], seeds: Sequence[int]) -> str:
        """Return how long all takes that is not there, each network with SGS beside one on fewer frames."""
        total, families = 0.0, dict[str, set[Network]]()
        for case in cases:
            families.setdefault(case.trained.name, set()).add(case.trained)
        videos, tests = len(self.splits["train"]), len(self.splits["test"])
        for networks in families.values():
            for seed in seeds:
                ground = self.ground(next(iter(networks)), seed)
                left = [network for network in networks if not ground.made(plan_of(network))]
                if not left:
                    continue
                pace = pace_of(ground)
                if not (ground.out / "base" / TASK).is_file():
                    frames = self.scale.recipe.base_frames / ground.spec.frames
                    total += self.base_epochs * len(self.first) * pace.train_s * frames
                for network in left:
                    plan = replace(plan_of(network), share=EXPECTED if network.after else 1.0)
                    total += (2 if network.adaptive else 1) * pace.network_s(plan, ground.epochs, videos, tests)
        return f"about {minutes(total)} here for what is not there yet" if total else ""


def plan_of(network: Network) -> Plan:
    """Return how a comparison makes a network of a base."""
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in network.options}
    return Plan(network.sampled, network.sampled, {"after": network.after, **options} if network.after else None)
