"""What is shown where: bars on a terminal alone, plain text and pure JSON in pipes, tables of 80 columns, colours."""

import importlib
import inspect
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from atfr.cli import common
from atfr.cli.common import print_table
from atfr.cli.main import COMMANDS, main
from atfr.evaluate.task import Task, save_checkpoint
from tests.cli.terminals import COLOURS, Seen, in_pipes, in_terminal
from tests.data.test_resize import one_by_one
from tests.evaluate.build import NAMES, SPEC, network, write_folder, write_level

pytestmark = pytest.mark.usefixtures("flat_stages")
SERVES = {"demo"}
"""Commands that print no result."""
TRAIN = ["--model", "resnet3d_18", "--clip.frames", "4", "--clip.size", "32", "--batch_size", "4", "--num_workers", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("a folder with a rather long name for its videos"), 2, train=4, test=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(network(classes=2), Task(NAMES[:2], SPEC), folder)
    return folder


@pytest.fixture(scope="module")
def predicted(data: Path, checkpoint: Path) -> Seen:
    return in_terminal(["predict", data, "--checkpoint", checkpoint, "--views", "10x3"], stdout_too=True)


@pytest.fixture(scope="module")
def narrow(checkpoint: Path) -> Seen:
    return in_terminal(["cost", checkpoint], columns=60, stdout_too=True, env={"NO_COLOR": "1"})


@pytest.fixture(scope="module")
def dumb(checkpoint: Path) -> Seen:
    return in_terminal(["cost", checkpoint], columns=200, stdout_too=True, env={"TERM": "dumb"})


def test_a_bar_tells_the_rate_and_the_time_left_and_goes_away(predicted: Seen) -> None:
    assert predicted.code == 0
    bars = [picture for picture in predicted.pictures if picture.startswith("predicting")]
    assert any("0/16" in bar for bar in bars), "it begins with nothing done and knows of how many"
    assert any(re.search(r" \d+ % \d+/16 (\d+\.\d/s|\d+\.\d s each) \d:\d\d:\d\d left$", bar) for bar in bars), bars
    assert max(map(cell_len, bars)) <= 80
    end = predicted.terminal[predicted.terminal.rindex("predicting") :]
    assert "\x1b[2K" in end.partition("Predictions")[0], "the bar's line is cleared before the table"
    assert "\x1b[?25h" in end, "the cursor is there again"


def test_tables_fit_the_terminal_and_80_columns(predicted: Seen, narrow: Seen, dumb: Seen) -> None:
    for columns, seen in ((80, predicted), (60, narrow), (80, dumb)):
        assert seen.code == 0
        assert max(map(cell_len, seen.pictures)) <= columns
    assert predicted.pictures[-2].startswith("GFLOPs (multiply-adds) of all views")


def test_colours_and_none(predicted: Seen, narrow: Seen, dumb: Seen) -> None:
    assert COLOURS.search(predicted.terminal)
    assert "counting multiply-adds" in narrow.terminal
    assert not COLOURS.search(narrow.terminal)
    assert "\x1b" not in dumb.terminal
    assert dumb.pictures[0].startswith("resnet3d_18, one clip")


def test_pipes_get_no_bar_and_nothing_that_moves_even_where_colour_is_forced(data: Path, checkpoint: Path) -> None:
    forced = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
    code, printed, err = in_pipes(["predict", data, "--checkpoint", checkpoint], forced)
    assert (code, err) == (0, "")
    assert "predicting" not in printed
    plain = re.sub(r"\x1b\[[\d;]*m", "", printed)
    assert plain != printed
    assert not {"\r", "\x1b"} & set(plain)
    assert max(map(cell_len, plain.splitlines())) <= 80


def test_json_is_alone_on_stdout_whatever_else_is_printed(data: Path, tmp_path: Path) -> None:
    """A summary of the network, which Lightning prints on stdout, and its bar: all of it is on stderr."""
    options = ["--data", data, "--out", tmp_path / "out", *TRAIN, "--epochs", "2"]
    options += ["--trainer.enable_model_summary", "true"]
    seen = in_terminal(["train", *options, "--json"])
    assert seen.code == 0
    assert [row["epoch"] for row in json.loads(seen.stdout)["history"]] == [0, 1]
    assert "Trainable params" in seen.terminal
    bars = [picture for picture in seen.pictures if picture.startswith("Epoch ")]
    assert any(re.search(r"2/2 \d:\d\d:\d\d • \d:\d\d:\d\d \d+\.\d+it/s", bar) for bar in bars), bars
    assert any("loss: " in bar and "val: " in bar for bar in bars), bars
    assert max(map(cell_len, bars)) <= 80


def test_checking_videos_shows_a_bar_and_prints_json(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atfr.data.check.each_in_processes", one_by_one)
    seen = in_terminal(
        ["data", "check", "own", data, "--out", tmp_path / "problems.csv", "--num_workers", "1", "--json"]
    )
    assert json.loads(seen.stdout)["found"] == 16
    assert any(picture.startswith("checking") and "16/16" in picture for picture in seen.pictures)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - SERVES))
def test_every_command_that_prints_results_has_json(name: str) -> None:
    command = COMMANDS[name]
    function = getattr(importlib.import_module(command.module), command.function)
    assert inspect.signature(function).parameters["json"].default is False


def test_json_has_no_numbers_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    common.print_json({"loss": [math.nan, 1.5], "of": ({"it": -math.inf},)})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "loss": [None, 1.5],
        "of": [{"it": None}],
    }


def test_stdout_is_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    def fail_after_noise() -> None:
        with common.only_json():
            print("noise")
            common.print_json(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_noise()
    print("after")
    assert capsys.readouterr() == ("1\nafter\n", "noise\n")


def test_a_log_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 10.0, 40.0, 45.0, 100.0])
    monkeypatch.setattr(common, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with common.progress("checking") as progress:
        for done in (1, 20, 21, 50):
            progress(done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "atfr: checking: 20 of 100 (20 %), 2.0 s each, 0:02:40 left",
        "atfr: checking: 50 of 100 (50 %), 2.0 s each, 0:01:40 left",
    ]


def test_the_next_of_several_parts_has_a_rate_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo renders two sets: of the second it said 46.8 s a video."""
    now = 0.0
    monkeypatch.setattr(common.time, "monotonic", lambda: now)
    say = common.now_and_then("rendering")
    for done in range(0, 101):
        now = float(done)
        say(done, 100)
    for done in range(1, 51):
        now = 100 + 2.0 * done
        say(done, 50)
    assert capsys.readouterr().err.splitlines()[-1] == "atfr: rendering: 46 of 50 (92 %), 2.0 s each, 0:00:08 left"


@pytest.mark.parametrize("line", ["predict DATA --checkpoint RUN", "test --checkpoint RUN --data DATA --views 1x1",
    "train --data DATA --out OUT --epochs 2", "data resize DATA OUT --side 16 --num_workers 1",
    "bench resnet3d_18 --frames 4 --size 32 --batches [1,2] --rounds 1"])  # fmt: skip
def test_what_takes_long_says_in_a_log_how_far_it_is(
    line: str, data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(common, "LOG_EVERY_S", 0)
    monkeypatch.setattr("atfr.data.resize.each_in_processes", one_by_one)
    places = {"DATA": data, "RUN": checkpoint, "OUT": tmp_path / "out"}
    words = [str(places.get(word, word)) for word in line.split()]
    assert main([*words, *(TRAIN if words[0] == "train" else [])]) == 0
    told = re.findall(r"^atfr: \w+ing: (\d+) of (\d+) \((\d+) %\), \S+( s each)?, \d:\d\d:\d\d left$",
                      capsys.readouterr().err, re.MULTILINE)  # fmt: skip
    assert len(told) > 2
    assert all(int(percent) == round(100 * int(done) / int(total)) for done, total, percent, _ in told)


def test_rates_below_one_a_second_are_times() -> None:
    class Job:
        speed = 0.05

    assert str(common._Rate().render(Job())) == "20.0 s each"
    Job.speed = 3
    assert str(common._Rate().render(Job())) == "3.0/s"


def test_doctor_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from atfr.cli import doctor

    monkeypatch.setattr(doctor, "trials", lambda: iter([("runtime", "one", False, lambda: "fine")]))
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"]["system"]


def test_names_do_nothing_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of videos and classes are chosen by others: no escape sequence, bell or mark of direction gets out raw."""
    evil = "a\x1b[31m\x07\u202eb\x9b2J"
    model = network(classes=2)
    save_checkpoint(model, Task((evil, "fine"), SPEC), tmp_path / "run")
    (tmp_path / "videos").mkdir()
    write_level(tmp_path / "v.mp4", 3).rename(tmp_path / "videos" / f"{evil}.mp4")
    (tmp_path / "videos" / f"{evil}2.mp4").write_bytes(b"no video")
    (tmp_path / "videos" / f"{evil}.txt").touch()
    assert main(["predict", "--checkpoint", str(tmp_path / "run"), str(tmp_path / "videos")]) == 2
    for said in capsys.readouterr():
        assert r"a\x1b[31m\x07\u202eb\x9b2J" in "".join(said.split())
        assert not set("\x1b\x07\u202e\x9b") & set(said)


def test_a_terminal_too_narrow_for_a_table_shows_a_line_a_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table("Title", ["video", "probability", "bins"], [["a.mp4", "50.0 %", ""], ["b.mp4", "49.0 %", 4]])
    blocks = "Title\nvideo a.mp4\nprobability 50.0 %\n\nvideo b.mp4\nprobability 49.0 %\nbins 4\n\n"
    assert capsys.readouterr().out == blocks
    print_table("", ["", "bins"], [["mean of all", 4]])
    assert "mean of all     4\n" in capsys.readouterr().out


def test_a_width_of_nothing_is_one_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    print_table("Title", ["video", "bins"], [["a.mp4", 4]])
    assert capsys.readouterr().out == "Title\nvideo  bins\na.mp4     4\n"
