"""The paper's scale: every network by `atfr train` with a file of configs/, every test by `atfr test`.

out/DATA/[splitN/]NETWORK/seedN/SAMPLER    checkpoint folders, with their tests
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import yaml

from atfr import measure
from atfr.data.sets import DATA_SETS
from atfr.errors import AtfrError, InputError
from atfr.evaluate.result import RESULT, TestResult
from atfr.evaluate.runs import read_result
from atfr.paper.cases import EXPECTED, Case, case_of, evenly_spaced, gflops_on, reference_of
from atfr.paper.compare import count, on_paper
from atfr.paper.figures import FIGURES, Network
from atfr.paper.tables import Table
from atfr.weights.published import PUBLISHED


class Size(NamedTuple):
    """How large a data set is: videos to train and to test with, classes aside; GB with the shorter side at 320 px."""

    train: int
    test: int
    gb: float


SIZES = {
    "mini_kinetics200": Size(144_132, 9_182, 80),
    "kinetics400": Size(240_000, 20_000, 140),
    "kinetics600": Size(390_000, 30_000, 230),
    "ssv2": Size(169_000, 25_000, 20),
    "ucf101": Size(9_500, 3_800, 7),
    "hmdb51": Size(3_570, 1_530, 2),
}
"""Videos: of the paper (Sec. 5, appendix F), of Kinetics-600 and HMDB51 their own; GB are rough."""

SPLITS = {"ucf101": (1, 2, 3), "hmdb51": (1, 2, 3)}
NEAREST = {
    "r2plus1d_18": "r2plus1d_50",
    "slowfast_8x8_r18": "slowfast_8x8_r50",
    "slowfast_8x8_r101_nl": "slowfast_4x16_r50",
    "slowfast_16x8_r101_nl": "slowfast_4x16_r50",
}
"""The configuration of networks that have none of their own."""

PACE = 3 * 300 * SIZES["kinetics400"].train * 1.963e9 / (131 * 3600)
"""Multiply-adds a second: X3D-S in 131 h (Table A.2), 300 epochs, forward and backward as three times forward."""

CROP = 224
"""Height and width of training clips, but of networks that are made for less."""

STATES = 5
"""Copies of the weights in a training's folder: the network, and two states of weights and momentum."""


@dataclass(frozen=True)
class Commands:
    """Makes and tests networks by commands; what is there already is read."""

    data: Path  # a folder that holds a folder for each data set
    out: Path
    configs: Path
    device: ClassVar = "auto"

    def of(self, case: Case) -> tuple[Case, ...]:
        """Return a case for each split."""
        return tuple(replace(case, split=split) for split in SPLITS.get(case.data, (None,)))

    def published(self, case: Case) -> Case | None:
        """Return the same test with published weights; None where there are none of such a network and data set."""
        there = case.tested.name in PUBLISHED and case.data == "kinetics400" and not case.tested.after
        return replace(case, published=True) if there and case == case.as_trained else None

    def folder(self, case: Case, seed: int) -> Path:
        """Return where a network is trained."""
        if case.published:
            return self.out / case.data / case.trained.name / "published"
        split = [] if case.split is None else [f"split{case.split}"]
        return self.out.joinpath(case.data, *split, case.trained.name, f"seed{seed}", case.trained.sampled)

    def result(self, case: Case, seed: int) -> Path:
        """Return where its test is."""
        return self.folder(case, seed) / f"{case.test}_at_{case.tested.size}"

    def config(self, case: Case) -> Path:
        """Return the file of a training.

        Raises:
            InputError: it is not there.
        """
        path = self.configs / case.data / f"{NEAREST.get(case.trained.name, case.trained.name)}.yaml"
        if not path.is_file():
            raise InputError(f"'{path}' is not there; --configs is the folder configs of atfr's sources")
        return path

    def where(self, case: Case) -> list[str]:
        """Return the options that say which videos."""
        split = [] if case.split is None else ["--split", str(case.split)]
        return ["--dataset", case.data, "--data", str(self.data / case.data), *split]

    def training(self, case: Case, seed: int) -> Iterator[list[str]]:
        """Yield the commands that train a network, that from which it goes on first."""
        network, start = case.trained, list[str]()
        if case.published:
            yield ["atfr", "weights", network.name]
            return
        if case.data == "ssv2":
            yield ["atfr", "weights", network.name]
            start = ["--pretrained"]
        elif case.split is not None:
            first = replace(case, data="kinetics400", split=None)
            yield from self.training(first, seed)
            start = ["--init", str(self.folder(first, seed))]
        config = self.config(case)
        told = ["atfr", "train", "--config", str(config)]
        if network.name != config.stem:
            told += ["--model", network.name, "--clip.frames", str(network.frames)]
            told += ["--model_arguments", json.dumps(network.arguments)] if network.arguments else []
            if network.size < CROP:
                least, most = (network.size * tenths // 7 for tenths in (8, 10))
                told += ["--clip.size", str(network.size), "--clip.resize", str(least)]
                told += ["--clip.jitter", f"[{least}, {most}]"]
        own = {name: "null" for name in ("temporal_block",) if name in values_of(config)}  # of SGS alone
        for name, value in {"after": network.after or "none", **own, **dict(network.options)}.items():
            told += [f"--{name}", json.dumps(value) if isinstance(value, tuple) else str(value)]
        yield [*told, *start, *self.where(case), "--out", str(self.folder(case, seed)), "--seed", str(seed), "--resume"]

    def testing(self, case: Case, seed: int) -> list[str]:
        """Return the command of a test."""
        checkpoint = case.trained.name if case.published else str(self.folder(case, seed))
        told = ["atfr", "test", "--checkpoint", checkpoint, *self.where(case)]
        told += ["--views", views(case), "--clip.size", str(case.tested.size)]
        told += ["--crops", "random"] if views(case) == "10x3" else []
        if case != case.as_trained:
            told += ["--clip.frames", str(case.tested.frames), "--clip.stride", f"{2 * case.stride:g}"]
            bins = dict(case.tested.options).get("num_bins")
            told += ["--num_bins", str(bins)] if bins else []
        return [*told, "--out", str(self.result(case, seed))]

    def test(self, case: Case, seed: int) -> TestResult:
        """Return the test of a case, by its commands if it is not there.

        Raises:
            AtfrError: a command fails.
        """
        if not (self.result(case, seed) / RESULT).is_file():
            for command in [*self.training(case, seed), self.testing(case, seed)]:
                code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
                if code:
                    raise AtfrError(f"ended with {code}; the same command goes on: {shlex.join(command)}")
        return read_result(self.result(case, seed))

    def left(self, cases: Sequence[Case], seeds: Sequence[int]) -> str:
        """Return how many networks are not there."""
        missing = sum(not (self.result(case, seed) / RESULT).is_file() for case in cases for seed in seeds)
        told = (
            f"networks to train: {missing}, and one on fewer frames beside each with SGS; --dry_run says what it takes"
        )
        return told if missing else ""

    def times(self, cases: Sequence[Case], seed: int) -> list[tuple[float | None, float]]:
        """Return nothing of the trainings, and the ms of a clip's forward pass."""
        return [(None, self.test(case, seed).ms_per_clip) for case in cases]

    def conditions(self) -> dict[str, Any]:
        """Return what figures depend on."""
        return {"about": "the paper's protocols, by the files of configs/", **measure.conditions()}


def views(case: Case) -> str:
    """Return the views of a test: the paper's, those of X3D's own paper, and one of Something-Something."""
    if case.data == "ssv2":
        return "1x1"
    larger = {"x3d_m": 256, "x3d_xl": 356}.get(case.tested.name) == case.tested.size
    return ("beta" if larger else "alpha") if case.tested.name.startswith("x3d") else "10x3"


@cache
def values_of(config: Path) -> dict[str, Any]:
    """Return what a file of configs/ says."""
    return yaml.safe_load(config.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Step:
    """A case that is not there yet: its commands, their data sets, hours on a GPU, and GB of its networks."""

    commands: tuple[str, ...]
    data: frozenset[str]
    train_h: float
    test_h: float
    gb: float


def planned(tables: Sequence[Table], rows: Sequence[str] | None, maker: Commands) -> list[Case]:
    """Return all cases of tables, fewer frames at the costs that the paper says."""
    cases: dict[Case, None] = {}
    for table in tables:
        for one in table.chosen(rows):
            case = case_of(one)
            found = [case, reference_of(table, one)]
            if case and case.tested.adaptive:
                found.append(evenly_spaced(case, paper_gflops(case.as_trained), paper_gflops(case)))
            if case and "top1" in one.paper:
                found.append(maker.published(case))
            cases |= dict.fromkeys(split for each in found if each for split in maker.of(each))
    return list(cases)


@cache
def static_gflops(network: Network) -> float:
    """Return the multiply-adds / 1e9 of a clip with all maps."""
    return count(network.static).static / 1e9


def paper_gflops(case: Case) -> float:
    """Return the paper's GFLOPs of a case; where it gives none, the usual share; of fewer frames what they cost."""
    if case.tested.sampler == "uniform":
        return gflops_on(case.tested.static, dict(case.tested.options)["active_bins"])
    usual = static_gflops(case.tested) * (EXPECTED if case.tested.after else 1)
    same = (one.paper["gflops"] for one in FIGURES if (found := case_of(one)) and found.tested == case.tested)
    return next(same, usual)


def steps(cases: Sequence[Case], maker: Commands, seeds: Sequence[int]) -> Iterator[Step]:
    """Yield what is to be done, each training once; each network is built on the meta device."""
    said: set[str] = set()
    for case in cases:
        model = on_paper(case.trained, DATA_SETS[case.data].NUM_CLASSES)
        share = paper_gflops(case) / static_gflops(case.tested)
        size = SIZES[case.data]
        for seed in seeds:
            if (maker.result(case, seed) / RESULT).is_file():
                continue
            commands = [shlex.join(one) for one in [*maker.training(case, seed), maker.testing(case, seed)]]
            new = tuple(one for one in commands if one not in said)
            said |= set(new)
            trained = [values_of(Path(shlex.split(one)[3])) for one in new if one.startswith("atfr train")]
            train_h = 0.0
            for values in trained:
                clip = replace(case.trained, size=min(values["clip"]["size"], case.trained.size))
                clips = values["epochs"] * SIZES[values["dataset"]].train
                train_h += 3 * clips * share * static_gflops(clip) * 1e9 / PACE / 3600
            clips = {"10x3": 30, "beta": 30, "alpha": 10, "1x1": 1}[views(case)]
            test_h = size.test * clips * share * static_gflops(case.tested) * 1e9 / PACE / 3600
            weights = 4 * sum(parameter.numel() for parameter in model.parameters()) / 1e9
            data = frozenset([case.data, *(values["dataset"] for values in trained)])
            yield Step(new, data, train_h, test_h, STATES * weights * len(trained))
