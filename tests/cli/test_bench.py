"""`atfr bench` as users run it: the table, the JSON, the file, and what cannot be measured."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch

import atfr
from atfr.cli.bench import print_savings, trouble
from atfr.cli.main import main
from atfr.evaluate.task import Task, save_checkpoint
from atfr.measure import Timing, machine, write_result
from atfr.measure.saving import Saving, Work
from tests.evaluate.build import NAMES, SPEC, network

pytestmark = pytest.mark.usefixtures("few_layers")

SMALL = ["resnet3d_18", "--frames", "4", "--size", "32", "--rounds", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PRODUCT", {"cpu": 128})
    monkeypatch.setattr(machine, "COPIED", {"cpu": 2**16})


def test_table_file_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    assert main(["bench", *SMALL, "--active_bins", "2", "--batches", "[1,3]", "--out", str(out)]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, printed.splitlines())) <= 80
    for part in (
        "resnet3d_18, clips of 3 x 4 x 32 x 32, SGS after res2, eager",
        "1 clip ",
        "3 clips",
        "speed-up / ideal",
    ):
        assert part in printed
    report = json.loads(out.read_text())
    assert report["conditions"]["threads"] == torch.get_num_threads()
    alone, batch = report["results"]["batch of 1"], report["results"]["batch of 3"]
    assert alone["active_bins"] == {"res2": [2]}
    assert batch["active_bins"] == {"res2": [2, 4, 1]}
    assert alone["rounds"] == len(alone["ms"]["static"]) == 2
    speedups = [a / b for a, b in zip(batch["ms"]["static"], batch["ms"]["adaptive"], strict=True)]
    assert batch["speedup"]["most"] == pytest.approx(max(speedups))
    assert alone["flops_ratio"] > 1


def test_a_checkpoint_and_clips_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(network(classes=2), Task(NAMES[:2], SPEC), tmp_path / "run")
    options = ["--active_bins", "[1,3]", "--batches", "3", "--rounds", "1", "--json", "--device", "cpu"]
    assert main(["bench", "--checkpoint", str(tmp_path / "run"), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["results"]["batch of 3"]["active_bins"] == {"res2": [1, 3, 1]}
    assert report["inputs"]["clip_shape"] == [3, 4, 32, 32]
    assert main(["bench", "--checkpoint", str(tmp_path / "run"), "--size", "64"]) == 2
    assert "the checkpoint has its own; leave out --size" in capsys.readouterr().err
    assert main(["bench", "--checkpoint", str(tmp_path / "run"), "--after", "res3"]) == 2
    assert "has SGS after res2; leave out --after" in capsys.readouterr().err


def test_a_checkpoint_without_a_sampler_gets_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(network(classes=2, adapted=False), Task(NAMES[:2], SPEC), tmp_path / "run")
    options = ["--after", "res3", "--num_bins", "3", "--batches", "1", "--rounds", "1", "--json", "--device", "cpu"]
    assert main(["bench", "--checkpoint", str(tmp_path / "run"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["results"]["batch of 1"]["active_bins"] == {"res3": [2]}


def test_a_sampler_whose_maps_cannot_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network(classes=2, adapted=False)
    atfr.adapt_(model, after="input", sampler="change")
    save_checkpoint(model, Task(NAMES[:2], SPEC), tmp_path / "run")
    assert main(["bench", "--checkpoint", str(tmp_path / "run"), "--batches", "1", "--device", "cpu"]) == 2
    assert "`atfr test` times a network as it is" in capsys.readouterr().err


def test_attention_keeps_all_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network(classes=2, adapted=False)
    atfr.adapt_(model, after="res2", sampler="attention")
    save_checkpoint(model, Task(NAMES[:2], SPEC), tmp_path / "run")
    assert main(["bench", "--checkpoint", str(tmp_path / "run"), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert "the checkpoint has attention, which keeps all maps; `atfr test` times a network as it is" in err


def test_clips_keep_no_more_maps_than_there_are_bins(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--num_bins", "2", "--batches", "[1,4]", "--json"]
    assert main(["bench", *options]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert results["batch of 1"]["active_bins"] == {"res2": [2]}
    assert results["batch of 4"]["active_bins"] == {"res2": [2, 2, 1, 2]}
    assert main(["bench", *options, "--active_bins", "3"]) == 2
    assert "a clip can keep 1 to 2 maps of 4 at 'res2', asked for 3" in capsys.readouterr().err


def test_what_cannot_be_written_or_is_no_result_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "result.json"
    mine.write_text('{"results": {}}')
    assert trouble(mine) == "is there and is no result of `atfr bench`; give another name"
    assert trouble(tmp_path) == "is a folder"
    assert trouble(tmp_path / "no" / "bench.json") == f"would lie in '{tmp_path / 'no'}', which is no folder"
    write_result(mine, {}, inputs={})
    (tmp_path / "empty").touch()
    for fine in (mine, tmp_path / "empty", tmp_path / "new.json", Path("/dev/null")):
        assert trouble(fine) is None

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert trouble(mine) == "cannot be written: Read-only file system"


def test_nothing_is_timed_for_a_result_that_cannot_be_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "no_such_network", "--out", "/"]) == 2
    assert "--out is the JSON file to write, '/' is a folder" in capsys.readouterr().err


def test_slowfast_says_whose_maps_the_ideal_goes_by(capsys: pytest.CaptureFixture[str]) -> None:
    """With 3 of 8 fast maps, 1 of 2 slow ones stay: more than the share that the ideal supposes."""
    work = Work({"res2.fast": (3,), "res2.slow": (1,)}, {"res2.fast": 8, "res2.slow": 2}, 4, 2)
    parts = dict.fromkeys(("static", "adaptive", "before", "after", "sgs"), (1.0,))
    saving = Saving(Timing(parts), work)
    inputs = {"model": "slowfast_8x8_r18", "clip_shape": [3, 8, 32, 32], "runtime": "eager"}
    report = write_result(None, {}, inputs=inputs)
    print_savings(report, {1: saving})
    printed = " ".join(capsys.readouterr().out.split())
    assert "maps kept of 8 at res2.fast, mean 3 maps kept of 2 at res2.slow, mean 1 " in printed
    assert "The ideal goes by the share kept at res2.fast" in printed


def test_half_of_the_maps_that_come_to_the_sampler_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--frames", "8", "--size", "32", "--batches", "1", "--rounds", "1", "--json", "--device", "cpu"]
    assert main(["bench", "i3d_inception", *options]) == 0  # 4 maps come to res2
    assert json.loads(capsys.readouterr().out)["results"]["batch of 1"]["active_bins"] == {"res2": [2]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected MODEL, a name as x3d_s, or --checkpoint"),
        (["x3d_xs", "--checkpoint", "run"], "one of the two"),
        ([*SMALL, "--batches", "[0]"], "--batches are numbers of clips of at least 1, got [0]"),
        ([*SMALL, "--runtime", "openvino", "--batches", "[1,8]"], "one by one; leave out --batches, got [1, 8]"),
        ([*SMALL, "--active_bins", "9"], "a clip of 4 maps can keep 1 to 4 of them, asked for 9"),
        ([*SMALL, "--active_bins", "[]"], "--active_bins is a number of maps"),
        ([*SMALL, "--rounds", "0"], "--rounds must be an integer of at least 1, got 0"),
        ([*SMALL, "--after", "res9"], "res9"),
    ],
)
def test_what_cannot_be_measured(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    assert main(["bench", *arguments, "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("atfr: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not out.exists()
