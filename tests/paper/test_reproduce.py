"""`atfr reproduce`: a row from end to end, what it is held against, and commands that `atfr train` takes."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import atfr
from atfr.cli import test as testing
from atfr.cli.main import main
from atfr.cli.parser import make_parser
from atfr.cli.train import train
from atfr.comparison import estimate, making
from atfr.comparison.making import Ground
from atfr.comparison.verdict import wide_enough
from atfr.errors import InputError
from atfr.evaluate.runs import paired_difference, read_result
from atfr.paper import cases, commands, here
from atfr.paper.cases import SLACK, case_of, fewer_frames, reference_of
from atfr.paper.commands import PACE, Commands
from atfr.paper.compare import on_paper
from atfr.paper.figures import LINES, RESNET3D_18, X3D_S, Network, sgs
from atfr.paper.reproduce import difference, training_batch, training_step
from atfr.paper.tables import TABLES, find
from atfr.weights.published import PUBLISHED
from tests.evaluate.made_up import made_up
from tests.models.narrow import flat

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module", autouse=True)
def few_videos() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TINY_TRAIN": 1, "TINY_TEST": 1, "TINY_FRAMES": 24, "TINY_SIZE": 32}.items():
            patch.setattr(here, name, value)
        patch.setattr(here, "TINY", tiny := replace(here.TINY, recipe=replace(here.TINY.recipe, batch_size=6)))
        patch.setitem(here.SCALES, "tiny", tiny)
        for module in (making, estimate):
            patch.setattr(module, "TIMED_BATCH", 2)
            patch.setattr(module, "TIMED_BATCHES", 1)
        yield


@contextmanager
def few_layers() -> Iterator[None]:
    """A stage is one convolution, also where costs are kept by the network's name."""
    kept = (cases.gflops_on, cases.at_input, commands.static_gflops)
    with flat():
        for each in kept:
            each.cache_clear()
        yield
    for each in kept:
        each.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a row of Table A.4 leaves, of a network of few layers: trained with 32 bins, tested with 4."""
    out = tmp_path_factory.mktemp("reproduce")
    with few_layers():
        assert main(["reproduce", "A.4", "--rows", "[B=4]", "--epochs", "1", "--out", str(out)]) == 0
    return out


@pytest.fixture
def out(made: Path) -> Iterator[Path]:
    """The same, where that network is known."""
    with few_layers():
        yield made


def test_a_row_is_ours_beside_the_papers_and_fewer_frames(out: Path) -> None:
    report = json.loads((out / "tiny" / "table_a4.json").read_text())
    (row,) = report["rows"]
    assert row["paper"] == {"gflops": 3.5, "top1": 51.1, "top5": 75.1}
    assert row["paper_over"] == pytest.approx(51.1 - 69.6)
    folder = out / "tiny" / "resnet3d_18" / "seed0"
    ours, full = (read_result(folder / "sgs_res2" / test) for test in ("test_num_bins_4", "test"))
    assert max(ours.active_bins["res2"]) <= 4
    assert row["ours"]["top1"] == pytest.approx(100 * ours.top1)
    assert row["ours"]["gflops"] == pytest.approx(ours.gflops_per_clip.mean)
    assert row["ours"]["right"] == ["".join(str(int(video.correct)) for video in ours.videos)]
    assert row["over"]["mean"] == pytest.approx(ours.top1 - full.top1)
    assert row["fewer_frames"]["gflops"] <= SLACK * row["ours"]["gflops"]
    (control,) = folder.glob("uniform_input_active_bins_*")  # trained with as many frames as cost what 32 bins do
    assert read_result(control).gflops_per_clip.mean <= SLACK * full.gflops_per_clip.mean
    assert report["conditions"]["hardware"]["cpu"]
    with (out / "tiny" / "table_a4.csv").open(newline="") as file:
        (cells,) = csv.DictReader(file)
    assert float(cells["ours top1"]) == pytest.approx(row["ours"]["top1"])


def test_what_is_there_is_not_made_again(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Ground, "make", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(Ground, "tested", lambda *_: pytest.fail("tested again"))
    assert main(["reproduce", "table a.4", "--rows", "[B=4]", "--epochs", "1", "--out", str(out)]) == 0
    printed, told = capsys.readouterr()
    assert "all networks are there" in told
    assert max(map(len, printed.partition("Written:")[0].splitlines())) <= 80
    assert "3.5 / " in printed
    assert "-18.5" in printed
    assert main(["reproduce", "A.4", "--rows", "[B=4]", "--epochs", "2", "--out", str(out)]) == 2
    assert "epochs was 1 and is 2" in capsys.readouterr().err


def test_a_training_step_takes_as_many_clips_as_it_is_told(out: Path) -> None:
    checkpoint = out / "tiny" / "resnet3d_18" / "seed0" / "sgs_res2"
    device, seen = torch.device("cpu"), []
    step = training_step(checkpoint, test := read_result(checkpoint), device)
    with torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: seen.append(len(args[0])) if isinstance(module, atfr.models.VideoModel) else None
    ):
        step(7)  # of six videos
    assert seen == [7]
    assert training_batch(checkpoint, test, device) is None


@pytest.mark.soak
@pytest.mark.parametrize("name", ["1", "4", "6", "10", "A.2", "A.6", "Fig. 3", "Fig. 4", "Fig. A.5"])
def test_a_sample_of_the_tables(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.getbasetemp() / "sample"
    assert main(["reproduce", name, "--epochs", "1", "--out", str(out), "--seeds", "[0,1]"]) == 0
    report = json.loads((out / "tiny" / f"{find(name).file}.json").read_text())
    assert all(len(row["ours"]["right"]) == 2 for row in report["rows"])
    assert (out / "tiny" / f"{find(name).file}.png").is_file() == name.startswith("Fig")


def test_fewer_frames_are_the_most_that_cost_no_more() -> None:
    network = sgs(Network("resnet3d_18", 32, 32))
    cost = atfr.clip_cost(on_paper(network), network.clip_shape)
    for kept in (1, network.frames // 3, network.frames):
        gflops = cost.adaptive[kept] / 1e9
        frames = dict(fewer_frames(network, gflops).options)["active_bins"]
        costs = [atfr.clip_cost(on_paper(network.static), (3, n, 32, 32)).static / 1e9 for n in (frames, frames + 1)]
        assert costs[0] <= SLACK * gflops * 1.001 or frames == 1
        assert costs[1] > SLACK * gflops * 0.999 or frames == network.frames - 1


def test_differences_are_those_of_a_pair_and_of_seeds_together() -> None:
    ours, theirs = (
        [made_up(seed=seed, accuracy=accuracy) for seed in seeds] for accuracy, seeds in ((0.6, (0, 1)), (0.8, (2, 3)))
    )
    pair = difference((ours[0],), (theirs[0],))
    assert pair is not None
    alone = wide_enough(paired_difference(ours[0], theirs[0]))
    assert (pair.mean, pair.gained, pair.lost, pair.p) == (alone.mean, alone.gained, alone.lost, alone.p)
    assert (pair.low, pair.high) == (pytest.approx(alone.low, abs=0.02), pytest.approx(alone.high, abs=0.02))
    both = difference(tuple(ours), tuple(theirs))
    assert both is not None
    assert both.mean == pytest.approx(np.mean([one.top1 - other.top1 for one, other in zip(ours, theirs, strict=True)]))
    assert both.low < both.mean < both.high
    assert both.videos == 120
    same = difference((ours[0], ours[0]), (theirs[0], theirs[0]))  # a seed that says nothing new
    assert same is not None
    assert (same.low, same.high) == (pytest.approx(pair.low, abs=0.03), pytest.approx(pair.high, abs=0.03))
    assert difference(tuple(ours), ()) is None


def test_what_a_line_is_held_against() -> None:
    found = {(line.table, line.name): reference_of(find(line.table), line) for line in LINES if line.network}
    assert found["1", "3DResNet-18+ATFR, angular"].trained == sgs(RESNET3D_18)
    assert found["6", "X3D-S+ATFR, res3"].trained == X3D_S
    bins = found["A.4", "3DResNet-18+ATFR, B=8 test only"]
    assert bins.trained == bins.tested == sgs(RESNET3D_18)
    longer = found["4", "R(2+1)D+ATFR, frames=64 stride=1"]
    assert (longer.trained.frames, longer.tested.frames, longer.stride, longer.tested.after) == (32, 64, 0.5, None)


def test_names_are_spelled_in_several_ways() -> None:
    assert [find(name).name for name in ("6", "table 6", "fig.3", "Figure A.5", "a.5")] == [
        "6",
        "6",
        "Fig. 3",
        "Fig. A.5",
        "A.5",
    ]
    with pytest.raises(InputError, match=r"no table or figure 'A.7'; there are 1, 2, 3"):
        find("A.7")
    assert len({table.file for table in TABLES}) == len(TABLES) == 18


def test_every_command_of_the_papers_scale_is_one(tmp_path: Path) -> None:
    maker = Commands(tmp_path / "data", tmp_path, CONFIGS)
    parsers: dict[str, Any] = {
        "train": make_parser("atfr train", train, False),
        "test": make_parser("atfr test", testing.test),
    }
    told: dict[str, None] = {}
    for table in TABLES:
        for line in table.lines:
            case = case_of(line)
            if case is None:
                continue
            control = replace(case.trained.static, after="input", options=(("sampler", "uniform"), ("active_bins", 7)))
            all_of = (case, reference_of(table, line), replace(case, trained=control, tested=control))
            for one in filter(None, (*all_of, maker.published(case))):
                for split in maker.of(one):
                    told |= dict.fromkeys(map(shlex.join, [*maker.training(split, 0), maker.testing(split, 0)]))
    trained = {}
    for command in told:
        _, name, *arguments = shlex.split(command)
        if name in parsers:
            values = parsers[name].parse_args(arguments)
            trained |= {str(values.out): values} if name == "train" else {}
            assert name == "train" or str(values.checkpoint) in {*trained, *PUBLISHED}
    assert [command for command in told if " weights " in command and "ssv2" not in command] == [
        f"atfr weights {name}" for name in ("slowfast_4x16_r50", "x3d_s", "slowfast_8x8_r50")
    ]
    values = trained[str(tmp_path / "ssv2" / "slowfast_8x8_r50" / "seed0" / "static")]
    assert (values.after, values.temporal_block, values.pretrained, values.epochs) == ("none", None, True, 22)
    values = trained[str(tmp_path / "mini_kinetics200" / "r2plus1d_18" / "seed0" / "sgs_res2")]
    assert (values.model, values.clip.size, values.clip.jitter) == ("r2plus1d_18", 112, (128, 160))
    assert values.model_arguments == {"temporal_strides": [2, 2, 2, 2]}


def test_a_dry_run_says_what_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["reproduce", "2", "--rows", "[linear]", "--scale", "paper", "--dry_run", "--json"]
    assert main([*line, "--configs", str(CONFIGS), "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [command.split()[1] for command in found["commands"]] == ["train", "test"] * 2  # and fewer frames
    clips = 196 * 144_132  # of the configuration, and of the paper
    assert found["train_gpu_hours"] == pytest.approx(2 * 3 * clips * 14.0e9 / PACE / 3600, rel=0.02)
    assert found["videos_gb"] == 80
    assert main([*line, "--configs", str(tmp_path)]) == 2
    assert "--configs is the folder configs of atfr's sources" in capsys.readouterr().err


def test_the_papers_scale_runs_its_commands_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        """Stand in for training and testing."""
        ran.append(command)
        if len(ran) == 3:  # the training of the second network fails
            return subprocess.CompletedProcess(command, 2)
        if "test" in command:
            sites = None if "static" in " ".join(command) else {"res2": 13}
            made_up(sites=sites or {}, seed=len(ran)).save(Path(command[command.index("--out") + 1]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(commands, "subprocess", SimpleNamespace(run=run))
    (tmp_path / "data").mkdir()
    line = ["reproduce", "A.2", "--scale", "paper", "--data", str(tmp_path / "data")]
    line += ["--configs", str(CONFIGS), "--out", str(tmp_path / "out")]
    assert main(line) == 2
    assert "ended with 2; the same command goes on: atfr train --config" in capsys.readouterr().err
    assert main(line) == 0
    assert [command[3] for command in ran] == ["train", "test", "train", "train", "test", "train", "test"]
    static, adaptive = json.loads((tmp_path / "out" / "paper" / "table_a2.json").read_text())["rows"]
    assert (static["fewer_frames"], static["ours"]["train_hours"]) == (None, None)
    assert adaptive["paper"]["inference_fps"] == 4295
    assert adaptive["ours"]["inference_fps"] == pytest.approx(1000 * 13 / made_up().ms_per_clip)
    assert len(adaptive["ours"]["right"][0]) == 60


@pytest.mark.parametrize("to_be_had", [True, False])
def test_published_weights_are_tested_beside_the_papers_figures(
    to_be_had: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        """Stand in for training, testing, and getting weights."""
        ran.append(command[2:])
        if "test" in command:
            made_up(seed=len(ran)).save(Path(command[command.index("--out") + 1]))
        return subprocess.CompletedProcess(command, 1 if "weights" in command and not to_be_had else 0)

    monkeypatch.setattr(commands, "subprocess", SimpleNamespace(run=run))
    (tmp_path / "data").mkdir()
    line = ["reproduce", "8", "--rows", '["X3D-S, alpha"]', "--scale", "paper", "--data", str(tmp_path / "data")]
    assert main([*line, "--configs", str(CONFIGS), "--out", str(tmp_path / "out")]) == 0
    assert ran[2] == ["atfr", "weights", "x3d_s"]
    (row,) = json.loads((tmp_path / "out" / "paper" / "table_8.json").read_text())["rows"]
    with (tmp_path / "out" / "paper" / "table_8.csv").open(newline="") as file:
        (cells,) = csv.DictReader(file)
    if not to_be_had:
        assert (len(ran), row["published"], "published top1" in cells) == (3, None, False)
        return
    assert ran[3][:4] == ["atfr", "test", "--checkpoint", "x3d_s"]
    assert ran[3][ran[3].index("--views") + 1] == "alpha"
    found = read_result(tmp_path / "out" / "paper" / "kinetics400" / "x3d_s" / "published" / "test_at_160")
    assert row["published"]["top1"] == pytest.approx(100 * found.top1)
    assert float(cells["published top1"]) == pytest.approx(100 * found.top1)
    assert f"– / {100 * found.top1:.1f}" in capsys.readouterr().out.partition("published weights")[2].splitlines()[0]


@pytest.mark.soak
def test_a_folder_of_ones_own(out: Path) -> None:
    videos = ["--data", str(out / "tiny" / "videos" / "whole"), "--epochs", "1", "--out", str(out)]
    assert main(["reproduce", "6", "--scale", "small", "--rows", "[first,no sgs]", *videos]) == 0
    report = json.loads((out / "small" / "table_6.json").read_text())
    assert report["rows"][0]["trained"]["clip_shape"] == [3, 32, 112, 112]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["6", "--data", "videos"], "--scale tiny generates its videos"),
        (["6", "--scale", "small"], "--scale small takes --data"),
        (["6", "--dry_run"], "--dry_run is for --scale paper"),
        (["6", "--seeds", "[]"], "--seeds are different numbers from 0 on, as [0,1,2], got []"),
        (["6", "--seeds", "[0,-1]"], "--seeds are different numbers from 0 on, as [0,1,2], got [0, -1]"),
        (["list", "--rows", "[a]"], "list makes no networks; leave out --rows"),
        (["gflops", "--scale", "small"], "gflops makes no networks; leave out --scale"),
        (["6", "--scale", "paper"], "a folder that holds a folder for each data set, got None"),
        (["6", "--rows", "[res9]"], "table 6 has X3D-S, no SGS; X3D-S+ATFR, first conv"),
    ],
)
def test_errors(arguments: list[str], error: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *arguments, "--out", str(out)]) == 2
    assert error in capsys.readouterr().err


def test_list_names_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "list"]) == 0
    printed = capsys.readouterr().out
    assert [line.split("  ")[0] for line in printed.splitlines()[2:] if line[0] != " "] == [one.name for one in TABLES]
