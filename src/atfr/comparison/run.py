"""compare: what a sampler is worth on some videos, beside all frames and beside fewer, evenly spaced.

out/arguments.json   what the comparison was begun with; it goes on with the same
out/rates.json       the learning rates that were tried
out/base, out/NAME   checkpoint folders (`atfr.comparison.making`)
out/compare.json     every figure, with its conditions
out/compare.png      the same as a picture
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from atfr.adapt import restore_
from atfr.adapt.trace import site_names
from atfr.checks import device_of
from atfr.comparison.estimate import Pace, Work, pace_of
from atfr.comparison.frontier import draw
from atfr.comparison.making import Ground, Row, Watch, new_base
from atfr.comparison.plans import KINDS, LEAST, ONE_VIEW, STATIC, UNTIL_SETTLED, Plan, fewer_views, plans_for
from atfr.comparison.rates import RATES, Rates, read_rates
from atfr.comparison.recipes import as_it_is, whole_videos
from atfr.comparison.verdict import Findings, Verdict
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList
from atfr.errors import CheckpointError, InputError
from atfr.evaluate.task import TASK, Task, check_classes, load_checkpoint
from atfr.files import finite, whole, write_json
from atfr.models import VideoModel
from atfr.train.recipe import Recipe
from atfr.video.spec import ClipSpec, ViewSpec
from atfr.weights.checkpoint import differences
from atfr.words import counted

MARGIN = 0.02
ARGUMENTS = "arguments.json"


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        findings: the rows, and what they say of each other.
        verdict: what to take.
        dropped: networks for which there was no time.
        conditions: what the figures depend on: videos, clips, training, machine and versions.
    """

    findings: Findings
    verdict: Verdict
    dropped: tuple[str, ...]
    conditions: dict[str, Any]

    @property
    def rows(self) -> Mapping[str, Row]:
        """Each network's line, by its name."""
        return self.findings.rows

    def to_dict(self) -> dict[str, Any]:
        """Turn the comparison into plain JSON values."""
        found, networks = self.findings, {}
        for name, row in self.rows.items():
            plan, control = found.plans[name], found.over_control(name)
            about = {"kind": plan.kind, "kept": plan.kept, "of": plan.of, "words": plan.words}
            about |= {"gflops": found.gflops(name), "ms": row.ms, "views": row.test.views_per_video}
            about["gflops_share"] = found.gflops(name) / found.gflops(STATIC)
            test = {key: value for key, value in row.test.to_dict().items() if key not in ("videos", "classes")}
            over = {"over_static": asdict(found.over_static(name)), "over_control": control and asdict(control)}
            networks[name] = (
                about | {"time_share": row.time_share, "loss": row.test.loss} | over | row.to_dict() | {"test": test}
            )
        return {
            "conditions": self.conditions,
            "take": self.verdict.take,
            "sentence": self.verdict.sentence,
            "margin": found.margin,
            "frontier": {figure: found.frontier(figure) for figure in ("gflops", "time")},
            "dropped": list(self.dropped),
            "networks": networks,
        }


def compare(
    splits: Mapping[str, VideoList],
    out: Path,
    *,
    recipe: Recipe | None = None,
    checkpoint: tuple[VideoModel, Task] | None = None,
    clip: Callable[[ClipSpec], ClipSpec] = lambda clip: clip,
    views: ViewSpec = ONE_VIEW,
    after: str = "res2",
    frames_kept: Sequence[int] | None = None,
    epochs: int | None = None,
    margin: float = MARGIN,
    budget_min: float | None = None,
    seed: int = 0,
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
    watch: Watch = lambda _: nullcontext(lambda *_: None),
) -> Comparison:
    """Compare a static network, fewer frames, and samplers at several costs on the same videos, and say what to take.

    All networks go on from one base. With a checkpoint, the base is its network without samplers, and nothing is
    trained. Otherwise the base is trained, then each network for as long, on the same clips in the same order, at the
    learning rate of its kind that did best on training videos held out. A comparison that was interrupted goes on.

    Args:
        splits: the lists "train" and "test" (and "val"), from `read_folder` or `read_csv`; with a checkpoint, "test"
            alone is enough, with its labels.
        out: the folder for checkpoints, JSON and picture.
        recipe: how networks are trained; by default that for few videos, on clips of whole videos.
        checkpoint: what `load_checkpoint` gives.
        clip: makes the clip that the networks read of the recipe's, or the checkpoint's.
        views: the clips and crops of each tested video, with a checkpoint; where they say when they may stop
            (`settled`), that is compared too, with as many views of every video beside it.
        after: the stage that maps are taken behind; "none": only frames are.
        frames_kept: numbers of frames that are kept; by default an eighth, a quarter and a half. Behind the stage it is
            the same share of the maps.
        epochs: of the base; by default the recipe's, for so many videos.
        margin: the share of the videos that may be lost: within it a network is level with static.
        budget_min: minutes that all may take: networks are left out, as the time left is estimated.
        seed: of weights, clips and order.
        device: cpu, cuda, ...; auto takes a GPU where there is one.
        say: told what begins, a line each.
        watch: shows how far a test or the timing is, as `cli.common.progress` does.

    Raises:
        InputError: an argument is out of range, or the time is too short for any comparison.
        CheckpointError: the folder holds a comparison with other arguments.
    """
    begun_s = time.perf_counter()
    if (epochs is not None and epochs < 1) or (budget_min is not None and budget_min <= 0):
        raise InputError(f"epochs must be 1 or more and minutes above 0, got {epochs=}, {budget_min=}")
    check_views(views, checkpoint)
    base, recipe, spec, base_epochs = start(splits, recipe, checkpoint, clip, epochs, seed)
    task = Task(splits["test"].labels, spec)
    check_classes(base, task)
    plans = plans_for(base, task.clip_shape, frames_kept, after, recipe, views)
    tune_epochs = math.ceil(recipe.tune_share * base_epochs)
    arguments = {"after": after, "epochs": [base_epochs, tune_epochs], "recipe": asdict(recipe), "seed": seed}
    arguments |= {"network": base.config, "labels": list(task.labels), "clip": spec.to_dict()}
    arguments |= {f"{name} videos": videos.fingerprint for name, videos in splits.items()}
    arguments |= {"checkpoint": None if checkpoint is None else digest(base)}
    if views != ONE_VIEW:
        settled = "" if views.settled is None else f", settled at {views.settled:.4g}"
        arguments["--views"] = f"{views.num_clips}x{views.num_crops}{settled}"
    check_arguments(out, arguments)
    there = bool(base_epochs) and (out / "base" / TASK).is_file()
    if there:
        base = load_checkpoint(out / "base")[0]
    on = device_of("device", device)
    ground = Ground(base.cpu(), splits, spec, recipe, tune_epochs, seed, out, on, say, watch, views)
    run = Run(ground, plans, 0 if there else base_epochs, begun_s, budget_min)
    run.begin()
    write_json(out / ARGUMENTS, arguments, indent=1)
    run.make_all()
    return run.found(margin, base_epochs)


def check_views(views: ViewSpec, checkpoint: tuple[VideoModel, Task] | None) -> None:
    """Refuse views that do not belong to the networks of a comparison."""
    if views != ONE_VIEW and checkpoint is None:
        raise InputError("networks trained here read one clip of all of a video; several views are for a checkpoint")
    if views.settled is not None and checkpoint is not None and site_names(checkpoint[0]):
        raise InputError("when views may stop was found with the sampler that is taken out here; give clips x crops")


def start(
    splits: Mapping[str, VideoList],
    recipe: Recipe | None,
    checkpoint: tuple[VideoModel, Task] | None,
    clip: Callable[[ClipSpec], ClipSpec],
    epochs: int | None,
    seed: int,
) -> tuple[VideoModel, Recipe, ClipSpec, int]:
    """Return the base as it begins, how it is trained, the clips it reads, and the epochs of its training."""
    if checkpoint is None:
        recipe = recipe or whole_videos()
        base = new_base(recipe, len(splits["train"].labels), seed)
        spec = clip(replace(recipe.clip, mean=base.mean, std=base.std))
        return base, recipe, spec, epochs or recipe.epochs(len(splits["train"]))
    base, task = checkpoint
    if site_names(base):
        restore_(base)
    return base, recipe or as_it_is(), clip(task.spec), 0


def check_arguments(out: Path, arguments: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a comparison which was begun with other arguments, or something else.

    Raises:
        CheckpointError: it does; the message names what differs.
    """
    path = out / ARGUMENTS
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise CheckpointError(f"'{out}' is not empty and holds no comparison to go on with; choose another --out")
        return
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"'{path}' is damaged ({error}); choose another --out") from error
    ours = json.loads(json.dumps(arguments))  # tuples become lists
    changes = [f"{name} was {before!r} and is {now!r}" for name, now, before in differences(ours, begun)]
    if changes:
        raise CheckpointError(
            f"'{out}' holds a comparison with other arguments: {'; '.join(changes)}; go on with those that it began "
            "with, or choose another --out"
        )


def digest(model: VideoModel) -> str:
    """Return what tells a network's weights from others."""
    found = hashlib.sha256()
    for value in model.state_dict().values():
        found.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


@dataclass
class Run:
    """A comparison as it goes on."""

    ground: Ground
    plans: list[Plan]  # the networks that there are to be; fewer, where time is short
    base_epochs: int  # that are left
    begun_s: float  # when it began, by `time.perf_counter`
    budget_min: float | None
    dropped: list[str] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    spent_s: float = 0.0
    expected_s: float = 0.0

    def __post_init__(self) -> None:
        self.rates: Rates | None = read_rates(self.ground) if self.ground.epochs else None
        self.rows = {plan.name: row for plan in self.plans if (row := self.ground.made(plan))}
        self.hold_against_views()
        self.pace: Pace = pace_of(self.ground)

    def make_all(self) -> None:
        """Make all networks that are not there yet, those first without which the comparison says least."""
        ground = self.ground
        if self.base_epochs:
            with self.timed():
                ground.train_base_(ground.splits["train"], self.base_epochs)
                self.base_epochs = 0
        clips = (
            ClipDataset(ground.splits["train"], ground.spec, train=True, seed=ground.seed + 1) if self.rates else None
        )
        while todo := self.left():
            plan = todo[0]
            place = f"{len(self.rows) + 1} of {len(self.plans)}"
            ground.say(f"{place}: {plan.name}, {plan.words}; about {minutes(self.work().seconds(self.plans))} left")
            with self.timed():
                torch.manual_seed(ground.seed)
                rate = self.rates.of(plan) if self.rates else None
                torch.manual_seed(ground.seed)
                _, self.rows[plan.name] = ground.make(plan, rate, clips)
                self.hold_against_views()

    def hold_against_views(self) -> None:
        """Plan as many views of every video as those that stop had in the mean, once that is known."""
        if stopped := self.rows.get(UNTIL_SETTLED):
            plan = fewer_views(stopped.test.views_per_video, self.ground.views, self.ground.spec.frames)
            if plan.kept < self.ground.views.total and all(plan.name != one.name for one in self.plans):
                self.plans.append(plan)
                if row := self.ground.made(plan):
                    self.rows[plan.name] = row

    def begin(self) -> None:
        """Say what there is to do, and how long it takes about.

        Raises:
            InputError: there is no time for static, fewer frames and change.
        """
        least_s = self.work().seconds(self.plans[:LEAST])
        if self.budget_min is not None and least_s > self.left_s():
            raise InputError(
                f"{', '.join(plan.name for plan in self.plans[:LEAST])} alone take about {minutes(least_s)}: give "
                f"--budget {math.ceil((least_s + 60) / 60)} or more" + (", or fewer --epochs" if self.rates else "")
            )
        self.left()
        there = f", {len(self.rows)} of them are there already" if self.rows else ""
        about = minutes(self.work().seconds(self.plans))
        self.ground.say(f"{counted(len(self.plans), 'network')}{there}; this takes about {about} here")

    def left(self) -> list[Plan]:
        """Return the networks to make, but for those that there is no time for."""
        fitting = self.work().fitting(self.plans, None if self.budget_min is None else self.left_s())
        out_of_time = [plan.name for plan in self.plans if plan not in fitting]
        if out_of_time:
            self.ground.say(
                f"left out, for which there is no time in {self.budget_min:g} min: {', '.join(out_of_time)}"
            )
        self.plans, self.dropped = fitting, [*self.dropped, *out_of_time]
        return [plan for plan in self.plans if plan.name not in self.rows]

    def left_s(self) -> float:
        """Return the seconds of the budget that are left."""
        return 60 * (self.budget_min or math.inf) - (time.perf_counter() - self.begun_s)

    def work(self) -> Work:
        """Return what is left to do."""
        tuned = self.rates.chosen() if self.rates else frozenset()
        return Work(self.ground, self.pace, self.base_epochs, tuned, frozenset(self.rows))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Learn from what is done meanwhile how long the rest takes."""
        before_s, start_s = self.work().seconds(self.plans), time.perf_counter()
        yield
        self.expected_s += (before_s - self.work().seconds(self.plans)) / self.pace.scale
        self.spent_s += time.perf_counter() - start_s
        self.pace.scale = self.spent_s / max(self.expected_s, 1e-9)

    def found(self, margin: float, base_epochs: int) -> Comparison:
        """Time the networks, and write down what was found."""
        ground, in_order = self.ground, sorted(self.plans, key=lambda plan: (KINDS.index(plan.kind), plan.kept))
        plans = {plan.name: plan for plan in in_order}
        networks = {name: load_checkpoint(ground.out / name)[0] for name, plan in plans.items() if plan.views is None}
        rows, timed_batch = ground.with_times({name: self.rows[name] for name in plans}, networks)
        findings = Findings(plans, rows, margin)
        conditions = ground.conditions(timed_batch) | {"base_epochs": base_epochs, "rates": list(RATES)}
        comparison = Comparison(findings, findings.verdict(), tuple(self.dropped), conditions)
        values = finite(comparison.to_dict())
        write_json(ground.out / "compare.json", values)
        with whole(ground.out / "compare.png") as scratch:
            draw(values, scratch)
        return comparison


def minutes(seconds: float) -> str:
    """Return a time as it is said."""
    return f"{max(1, round(seconds / 60))} min"
