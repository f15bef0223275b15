"""What no list, file or option should hold: deep and huge JSON, numbers out of any range, labels that are none."""

import copy
import csv
import functools
import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import atfr
from atfr.cli.main import COMMANDS, main
from atfr.cli.parser import UsageError, make_parser, parse
from atfr.evaluate.task import Task, save_checkpoint
from tests.cli.test_main import error_of
from tests.evaluate.build import NAMES, SPEC, network, write_folder

pytestmark = pytest.mark.usefixtures("flat_stages")
DEEP = "[" * 100_000
HUGE = "{}" + 2**24 * " "


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    write_folder(root / "data", 2, train=1, test=1)
    model, task = network(classes=2), Task(NAMES[:2], SPEC)
    save_checkpoint(model, task, root / "run")
    atfr.export_bundle(model, task, root / "bundle", "torch")
    (root / "labels").mkdir()
    return root


# File, what is called, and how it is told.
JSON_FILES = {
    "config": ("run/config.json", "predict data/test/a/0.mp4 --checkpoint run", "is not readable as JSON"),
    "task": ("run/task.json", "predict data/test/a/0.mp4 --checkpoint run", "cannot be read"),
    "bundle": ("bundle/bundle.json", "predict data/test/a/0.mp4 --bundle bundle", "is damaged"),
    "result": ("run/test/result.json", "report run", "cannot be read as JSON"),
    "labels": ("labels/labels.json", "data check ssv2 labels", "is no JSON"),
    "log": ("old.jsonl", "predict data/test/a/0.mp4 --checkpoint run --out old.jsonl", "is no prediction"),
}


@pytest.mark.parametrize("kind", JSON_FILES)
def test_json_of_any_depth_or_size_is_one_line(
    kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, line, told = JSON_FILES[kind]
    root = Path(shutil.copytree(place, tmp_path / "root"))
    monkeypatch.chdir(root)
    (root / name).parent.mkdir(exist_ok=True)
    (root / "labels" / "train.json").write_text("[]")
    (root / name).write_text(DEEP + "\n")
    assert main(line.split()) == 2
    error = error_of(capsys)
    assert told in error
    assert "too many lists or objects inside each other" in error
    if kind not in ("log", "result", "labels"):  # which may be large
        (root / name).write_text(HUGE)
        assert main(line.split()) == 2
        assert "expected at most 17 MB" in error_of(capsys)


@pytest.mark.parametrize("where", ["option", "file"])
def test_options_of_any_depth_are_one_line(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep.yaml").write_text(f"active_bins: {DEEP}")
    given = ["--config", "deep.yaml"] if where == "file" else ["--active_bins", DEEP]
    assert main(["cost", "x3d_xs", *given]) == 2
    assert len(error_of(capsys)) < 2000


ROWS: dict[str, tuple[list[list[str]], str]] = {
    "all -1": ([["{}", "-1"]] * 2, "label -1 is out of range"),
    "all --1": ([["{}", "--1"]] * 2, "has one class only"),
    "of 5000 digits": ([["{}", 5000 * "9"]] * 2, "has one class only"),
    "a huge field": ([["{}", 200_000 * "a"]] * 2, "field larger than field limit"),
    "a long path": ([[5000 * "a", "a"]], "name too long"),
    "NUL": ([["a\0", "a"]], ""),
}


@pytest.mark.parametrize("kind", ROWS)
def test_lists_of_odd_rows_are_one_line(
    kind: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, told = ROWS[kind]
    videos = sorted((place / "data").rglob("*.mp4"))
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["path", "label"], *([path.format(videos[i]), label] for i, (path, label) in enumerate(rows))]
        )
    assert main(["data", "check", "own", str(tmp_path / "list.csv"), "-o", str(tmp_path / "found.csv")]) == 2
    error = error_of(capsys)
    assert told.lower() in error.lower()
    assert len(error) < 2000


# Numbers ------------------------------------------------------------------------------------------------------------

QUICK = "--model resnet3d_18 --clip.frames 4 --clip.size 32"
LINES = {
    "train": f"--data data --out out {QUICK}",
    "calibrate": "run data/test/a/0.mp4 --share 0.99",
    "test": "--checkpoint run --data data --views 1x1 --crops random",
    "predict": "data/test/a/0.mp4 --checkpoint run",
    "explain": "data/test/a/0.mp4 --checkpoint run",
    "demo": "--checkpoint run",
    "export": "run out --runtime torch",
    "cost": "resnet3d_18 --frames 4 --size 32",
    "bench": "resnet3d_18 --frames 4 --size 32 --batches 1 --rounds 1",
    "data check": "own data",
    "data resize": "data out",
    "convert": "run/model.safetensors out",
}


class BegunError(Exception):
    """The work has begun: what was given was taken."""


def numeric(name: str) -> list[str]:
    """The options of a command that take a number."""
    command = COMMANDS[name]
    parser = make_parser(name, getattr(importlib.import_module(command.module), command.function), with_trainer=False)
    takes = {
        action.option_strings[-1].rstrip("+"): str(getattr(action, "_typehint", action.type))
        for action in parser._actions
        if action.option_strings
    }
    return [option for option, kind in takes.items() if re.search(r"\b(int|float)\b", kind)]


def begin(*_: Any, **__: Any) -> None:
    raise BegunError


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("value", [".nan", pytest.param("-.inf", marks=pytest.mark.soak), "99999999999999999999"])
def test_what_is_no_finite_number_is_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atfr.cli.parser.make_parser", functools.cache(make_parser))
    command = COMMANDS[name]
    function = getattr(importlib.import_module(command.module), command.function)
    for option in numeric(name):
        with pytest.raises(UsageError, match=f"^{option}[: ]"):
            parse(name, function, [*LINES[name].split(), f"{option}={value}"])


@pytest.mark.parametrize("name", LINES)
def test_numbers_below_zero_are_taken_or_refused_in_one_line(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    made, task = network(classes=2), Task(NAMES[:2], SPEC)
    monkeypatch.setattr("atfr.cli.common.load", lambda *_: (copy.deepcopy(made), task))
    for work in (
        "lightning.pytorch.Trainer.fit",
        "atfr.web.serve.serve",
        "atfr.measure.saving.measure",
        "atfr.evaluate.forward.Forward.warm_up",
        "atfr.evaluate.predict.predictions",
        "atfr.viz.explain",
        "atfr.runtime.export.write_files",
        "atfr.data.resize.resize_videos",
        "atfr.data.check.check_videos",
        "atfr.cli.calibrate.asdict",
    ):
        monkeypatch.setattr(work, begin)
    out = str(tmp_path / "out")
    for option in numeric(name):
        try:
            code = main([*name.split(), *LINES[name].replace("out", out).split(), f"{option}=-1"])
        except BegunError:
            code = 0
        assert code == 0 or capsys.readouterr().err.count("atfr: error: ") == 1, option


@pytest.mark.parametrize("line", ["cost x3d_xs --frames 100000", "predict v.mp4 --checkpoint run --num_workers 100000"])
def test_numbers_that_would_stop_the_machine_are_refused(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main(line.split()) == 2
    assert re.search(r"must be a number from \d to \d+, got 100000", error_of(capsys))


def test_memory_that_is_too_small_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("atfr.evaluate.forward.optimize_for_inference", lambda _: torch.empty(2**60))
    assert main("predict data/test/a/0.mp4 --checkpoint run".split()) == 2
    assert "the memory is too small for this; give fewer or smaller clips" in error_of(capsys)
