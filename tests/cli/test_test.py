"""`atfr test` on generated videos: what it prints and writes."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from atfr.cli import common
from atfr.cli.main import main
from atfr.video.spec import ViewSpec
from tests.cli.quick import check_width
from tests.cli.test_main import error_of
from tests.evaluate.build import write_folder

pytestmark = pytest.mark.usefixtures("flat_stages")


def test_test_prints_and_writes(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(data, tmp_path / "broken"))
    (broken / "test" / "a" / "bad.mp4").write_bytes(b"no video")
    out = tmp_path / "results" / "one"
    options = ["--checkpoint", str(checkpoint), "--data", str(broken), "--views", "2x3", "--out", str(out)]
    assert main(["test", *options]) == 0
    printed, err = capsys.readouterr()
    check_width(printed.replace(str(out), "OUT"))  # a path is not cut
    assert "4 of the test split tested, 1 left out" in printed
    assert "Active bins" in printed
    assert err.startswith("atfr: warning: left out: ")
    assert "bad.mp4" in err
    interval = {0: "0.0 to 49.0", 1: "4.6 to 69.9", 2: "15.0 to 85.0", 3: "30.1 to 95.4", 4: "51.0 to 100.0"}
    correct = sum(
        row["correct"] in ("True", "1", "true") for row in csv.DictReader((out / "videos.csv").read_text().splitlines())
    )
    assert f"{interval[correct]} % (Wilson)" in printed
    assert "4 videos decide little" in err
    result = json.loads((out / "result.json").read_text())
    rows = list(csv.DictReader((out / "videos.csv").read_text().splitlines()))
    assert len(rows) == result["num_videos"] == 4
    assert sorted(path.name for path in out.iterdir()) == ["classes.csv", "result.json", "skipped.csv", "videos.csv"]


def test_fewer_bins_cost_less(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--checkpoint", str(checkpoint), "--data", str(data), "--views", "1x1", "--json"]
    assert main(["test", *options]) == 0
    full = json.loads(capsys.readouterr().out)
    assert main(["test", *options, "--num_bins", "1", "--precision", "bfloat16"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["active_bins"] == {"res2": {"1": 4}}
    assert (full["timing"]["dtype"], one["timing"]["dtype"]) == ("float32", "bfloat16")
    assert one["gflops_per_clip"]["mean"] < full["gflops_per_clip"]["mean"]


def test_the_clip_may_differ_from_that_of_the_training(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(checkpoint), "--data", str(data), "--views", "2x3", "--crops", "random", "--json"]
    assert main(["test", *options, "--clip.frames", "6", "--clip.stride", "1", "--clip.size", "48"]) == 0
    result = json.loads(capsys.readouterr().out)
    seen = {"frames": 6, "stride": 1, "size": 48, "resize": 48}
    assert result["views"] == {"clips": 2, "crops": 3, "places": "random", "seed": 0, **seen}
    assert all(len(video["active_bins"]["res2"]) == 6 for video in result["videos"])
    assert result["timing"]["clip_shape"] == [3, 6, 48, 48]
    assert main(["test", *options, "--clip.resize", "16"]) == 2
    assert "resize must be at least size" in error_of(capsys)
    assert [common.parse_views(name) for name in ("alpha", "beta")] == [ViewSpec(10, 1), ViewSpec(10, 3)]
    forms = "alpha (10x1) or beta (10x3)"
    for views, told in (("gamma", forms), (f"{'9' * 5000}x1", forms), (f"{10**8}x1", "from 1 to 16384")):
        assert main(["test", *options, "--views", views]) == 2
        assert told in error_of(capsys)


def test_classes_that_were_not_trained(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_folder(tmp_path / "other", classes=3, train=1, test=1)
    assert main(["test", "--checkpoint", str(checkpoint), "--data", str(other)]) == 2
    assert "class 'c' that is not among the 2 expected ones" in error_of(capsys)
