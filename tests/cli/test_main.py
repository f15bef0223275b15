"""The command line before any network is involved: help, versions, mistyped names, wrong options, real processes."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch

import atfr
from atfr.cli import common
from atfr.cli import main as module
from atfr.cli.main import COMMANDS, main
from atfr.errors import DataError

ATFR = [sys.executable, "-m", "atfr.cli.main"]


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; nothing may be on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("atfr: error: ")
    assert err.count("\n") == 1
    return err


def test_a_line_is_written_at_once(monkeypatch) -> None:
    """Or lines of two threads mix: an error and what a thread warns of where the disk is full."""
    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=written.append))
    common.warn("a\nb")
    common.note("c")
    module.fail("d")
    assert written == ["atfr: warning: a b\n", "atfr: c\n", "atfr: error: d\n"]


def test_help_lists_every_command_and_waits_for_no_library() -> None:
    command = [sys.executable, "-X", "importtime", *ATFR[1:], "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "atfr.cli.plain" in imported
    assert not imported & {"torch", "numpy", "rich", "jsonargparse"}
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert all(line.startswith("import time:") for line in done.stderr.splitlines())


def test_help_of_a_command_needs_no_torch() -> None:
    names = ["train", "test", "predict", "explain", "report", "demo", "cost", "convert"]
    code = f"""import sys
from atfr.cli.main import main
for name in {names!r}:
    assert main([name, "--help"]) == 0
    assert not {{"torch", "lightning", "av"}} & set(sys.modules), name"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^usage: atfr (\w+)", done.stdout, re.MULTILINE) == names


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_nobody_elses(closed: str) -> None:
    """The next file would get its number, and with it what libraries print."""
    code = """import os, sys
from atfr.cli.main import main
code = main([sys.argv[1]])
opened = os.open(os.devnull, os.O_RDONLY)
sys.exit(100 + code if opened > 2 else 1)"""
    for line, expected in (("--help", 100), ("nope", 102)):
        command = f"exec {shlex.join([sys.executable, '-c', code, line])} {closed}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stderr
        assert "Traceback" not in done.stderr
        assert "error" not in done.stdout


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    command = f"rmdir {shlex.quote(str(tmp_path))}; exec {shlex.join(ATFR)} cost x3d_s"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("atfr: error: the folder that this was started in is gone; change to")


def test_a_table_whose_reader_has_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        with pytest.raises(BrokenPipeError):
            common.print_table("rows", ["one"], [["x"]])
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)


def test_trainer_options_have_a_help_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--trainer.help"]) == 0
    out = capsys.readouterr().out
    assert "--trainer.precision" in out
    assert "--trainer.gradient_clip_val" in out


def test_version_tells_what_atfr_stands_on_without_importing_it() -> None:
    code = """import sys
from atfr.cli.main import main
assert main(["--version"]) == 0
assert not {"torch", "torchvision", "lightning", "openvino", "onnxruntime", "numpy"} & set(sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    names = ["atfr", "python", "torch", "torchvision", "lightning", "av", "openvino", "onnxruntime", "gradio"]
    assert [*found] == names
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["atfr"] == atfr.__version__
    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    assert found["av"].startswith(f"{av.__version__} (FFmpeg {av.ffmpeg_version_info}: libavcodec {libavcodec}, ")


def test_version_where_something_is_missing_or_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name in ("openvino", "onnxruntime"):
            raise PackageNotFoundError(name)
        return {"onnxruntime-gpu": "1.2.3"}.get(name, "9")

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["--version"]) == 0
    found = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (found["openvino"], found["onnxruntime"]) == ("not installed", "1.2.3")
    assert found["av"].startswith("9 (does not load: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["xyz"], "there are quickstart, compare, train, calibrate, test, predict, bulk, bulk verify"),
        (["predict", "--checkpoint", "x"], "required: videos"),
        (["predict", "v.mp4", "--checkpoint", "x", "--bundle", "y"], "give one network: --checkpoint FOLDER"),
        (["predict", "v.mp4", "--checkpiont", "x"], "did you mean --checkpoint?"),
        (["train", "--data", "d", "--out", "o", "--epochs", "many"], "--epochs: Expected a int. Got value: many"),
        (["train", "--data", "d", "--out", "o", "--num_bins", "x"], "--num_bins: Expected int or list[int] or null"),
        (["train", "--data", "d", "--out", "o", "--kernel", "linea"], "one of 'linear', 'linear_mean', 'kronecker'"),
        (["train", "--data", "d", "--out", "o", "--trainer.precison", "16"], "did you mean --trainer.precision"),
        (
            ["train", "--data", "d", "--out", "o", "--model", "x3d_xs", "--trainer.logger", "WandbLogger"],
            "pip install -U 'wandb",
        ),
        (["train", "--data", "d", "--out", "o", "--trainer.callbacks+", "EarlyStopping"], "monitor"),
        (["train", "--data", "d", "--out", "o", "--tuning.norm", "frozen"], "one of 'train', 'fixed'"),
        (["cost", "x3d_s", "--config", "no/such.yaml"], "no/such.yaml"),
        (["predict", "v.mp4", "--checkpoint", "x", "--views", "2x2"], "--views is CLIPSxCROPS"),
    ],
    ids=lambda value: " ".join(value[:6]) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    assert message in error_of(capsys)


def test_errors_of_all_kinds_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> None:
        def run(args: list[str]) -> int:
            raise error

        monkeypatch.setattr(module, "run", run)

    raising(DataError("two\n  lines"))
    assert main(["x"]) == 2
    assert error_of(capsys) == "atfr: error: two lines\n"
    raising(PermissionError(13, "Permission denied", "/a/file"))
    assert main(["x"]) == 2
    assert "/a/file" in error_of(capsys)
    raising(KeyboardInterrupt())
    assert main(["x"]) == 130
    raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):  # a fault of ours keeps its traceback
        main(["x"])


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"{' '.join(ATFR)} cost --help | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
