"""`atfr predict` on generated videos: tables, JSON, files that go on, and what cannot be read."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from atfr.cli.main import main
from atfr.cli.predict import print_predictions
from atfr.evaluate.forward import Forward
from atfr.evaluate.predict import Prediction
from tests.cli.quick import check_width
from tests.cli.test_main import error_of
from tests.evaluate.build import write_level

pytestmark = pytest.mark.usefixtures("flat_stages")


def copy(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder / "copy"))


def test_predict_prints_what_the_json_says(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    video = str(next(data.rglob("*.mp4")))
    assert main(["predict", video, "--checkpoint", str(checkpoint), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert main(["predict", video, "--checkpoint", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    check_width(printed)
    assert "\x1b" not in printed
    for entry in report["top"]:
        assert f"{100 * entry['probability']:.1f} %" in printed
    assert f"{report['gflops']:.4g} spent, {report['static_gflops']:.4g} without the sampler" in printed
    assert "ü" in printed


@pytest.mark.parametrize(("active_bins", "beside"), [({}, ""), ({"res2": (2,)}, ", 3 without the sampler")])
def test_a_static_network_has_no_cost_without_the_sampler(
    active_bins: dict[str, tuple[int, ...]], beside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = torch.tensor([0.25, 0.75], dtype=torch.float64)
    prediction = Prediction(Path("a.mp4"), ("a", "b"), scores, active_bins, (2.0,), 3.0, 1.0)
    print_predictions([prediction], 1)
    assert f"GFLOPs (multiply-adds) of all views: 2 spent{beside}.\n" in capsys.readouterr().out
    assert f"<p>2 GFLOPs{beside}</p>" in prediction._repr_html_().replace("<br/>maps kept at res2: 2", "")


def test_predict_goes_on_after_a_bad_file(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    cut = write_level(tmp_path / "cut.mp4", 1, frames=30)
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * 0.6)])
    videos = [str(bad), str(tmp_path / "none.mp4"), str(cut), str(next(data.rglob("*.mp4")))]
    assert main(["predict", *videos, "--checkpoint", str(checkpoint), "--json"]) == 2
    printed, err = capsys.readouterr()
    assert [report["path"] for report in json.loads(printed)] == videos[2:]
    lines = err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["error", "error", "warning"]
    for line, name in zip(lines, ("bad.mp4", "none.mp4", "cut.mp4"), strict=True):
        assert name in line


def test_predictions_in_a_file_go_on_after_ctrl_c(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is stopped has written what is done; the next run predicts what is left, and nothing twice."""
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    out, videos = tmp_path / "out.jsonl", sorted(data.rglob("*.mp4"))
    command = ["predict", str(data), str(bad), "--checkpoint", str(checkpoint), "--batch_size", "1", "--out", str(out)]
    run = Forward.__call__

    def interrupted(*given: Any) -> Any:
        if out.exists() and out.read_text().count("\n") > 3:
            signal.raise_signal(signal.SIGINT)
        return run(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Forward, "__call__", interrupted)
        assert main(command) == 130
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"videos are in '{out}', go on with the same line")
    before = out.read_text()
    assert 4 <= before.count("\n") < len(videos)
    assert main([*command, "--json"]) == 2
    assert out.read_text().startswith(before)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(line["path"] for line in found if line["error"] is None) == list(map(str, videos))
    assert {line["path"] for line in found if line["error"]} == {str(bad)}


def test_predictions_in_a_file_are_those_that_are_printed(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    command = ["predict", str(data / "test"), "--checkpoint", str(checkpoint)]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main([*command, "--json", "--out", str(out)]) == 0
    counts = json.loads(capsys.readouterr().out)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{name: line[name] for name in printed[0]} for line in found] == printed
    assert (counts["predicted"], counts["failed"], counts["were_there"]) == (len(printed), 0, 0)
    assert counts["gflops"] == pytest.approx(sum(one["gflops"] for one in printed))
    assert main([*command, "--out", str(out)]) == 0
    told, err = capsys.readouterr()
    assert f"has {len(printed)} videos; 0 are left" in err
    check_width(told.replace(str(out), ""))
    assert main([*command, "--views", "2x1", "--out", str(out)]) == 2
    assert "give a new file" in error_of(capsys)
    assert main([*command, "--precision", "bfloat16", "--out", str(out)]) == 2
    assert "not of {'precision': 'bfloat16'}" in error_of(capsys)
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert str(tmp_path) in error_of(capsys)
    assert main([*command, "--out", str(tmp_path / "new" / "out.jsonl")]) == 0
    assert (tmp_path / "new" / "out.jsonl").read_text() == out.read_text()


def test_bfloat16_is_another_answer_of_the_same_network(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / f"{precision}.jsonl"
        command = ["predict", str(data / "test"), "--checkpoint", str(checkpoint), "--out", str(out)]
        assert main([*command, "--precision", precision]) == 0
        found[precision] = [json.loads(line) for line in out.read_text().splitlines()]
    capsys.readouterr()
    assert main([*command, "--precision", "float32"]) == 2
    assert "has predictions of {'precision': 'bfloat16'}, not of {'precision': None}" in error_of(capsys)
    for exact, rounded in zip(found["float32"], found["bfloat16"], strict=True):
        assert "precision" not in exact  # as in files of earlier versions
        assert rounded["precision"] == "bfloat16"
        exact_scores, scores = ({one["label"]: one["probability"] for one in row["top"]} for row in (exact, rounded))
        assert scores != exact_scores
        assert scores == pytest.approx(exact_scores, abs=0.03)


def test_bad_checkpoints_are_one_line(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = str(next(data.rglob("*.mp4")))

    def error_with(folder: Path) -> str:
        assert main(["predict", video, "--checkpoint", str(folder)]) == 2
        return error_of(capsys)

    assert "no such folder" in error_with(tmp_path / "nothing")
    assert "config.json is missing" in error_with(tmp_path)
    for name in ("config.json", "model.safetensors"):
        folder = copy(checkpoint, tmp_path / f"without {name}")
        (folder / name).unlink()
        assert name in error_with(folder)
    folder = copy(checkpoint, tmp_path / "pickle")
    torch.save({"weights": os.system}, folder / "model.safetensors")
    assert "no safetensors file" in error_with(folder)
    folder = copy(checkpoint, tmp_path / "shape")
    config = json.loads((folder / "config.json").read_text())
    config["arguments"]["num_classes"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    assert "head.fc.weight is float [2, 1024] instead of float [5, 1024]" in error_with(folder)


def test_unusable_device(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = str(next(data.rglob("*.mp4")))
    assert main(["predict", video, "--checkpoint", str(checkpoint), "--device", "toaster"]) == 2
    assert "--device 'toaster' cannot be used" in error_of(capsys)
