"""atfr report: from real tests; files whole or none, errors in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import atfr
from atfr.cli.main import main
from atfr.cli.report import print_report
from atfr.evaluate.task import Task, save_checkpoint
from atfr.viz import Report
from tests.cli.quick import check_width
from tests.cli.test_main import error_of
from tests.evaluate.build import NAMES, SPEC, network, write_folder
from tests.evaluate.made_up import made_up
from tests.viz.test_page import check_stands_alone

pytestmark = pytest.mark.usefixtures("flat_stages")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks without and with SGS, with a control, and SlowFast, tested with what `atfr test` does by default."""
    root = tmp_path_factory.mktemp("runs [x] ü")
    data = write_folder(root / "data", classes=2, train=1, test=3)
    slowfast = atfr.create_model("slowfast_8x8_r18", num_classes=2)
    atfr.adapt_(slowfast, after="res2", kernel="linear_mean")
    uniform = network(classes=2, adapted=False)
    atfr.adapt_(uniform, after="res2", sampler="uniform", active_bins=2.5)
    networks = {
        "static": network(classes=2, adapted=False),
        "adaptive": network(classes=2),
        "uniform": uniform,
        "slowfast": slowfast.eval(),
    }
    for name, model in networks.items():
        save_checkpoint(model, Task(NAMES[:2], SPEC), root / name)
        if name != "slowfast":
            assert main(["test", "--checkpoint", str(root / name), "--data", str(data), "--views", "2x1"]) == 0
    options = ["--views", "1x1", "--clip.frames", "8", "--clip.stride", "1", "--out", str(root / "slowfast tested")]
    assert main(["test", "--checkpoint", str(root / "slowfast"), "--data", str(data), *options]) == 0
    return root


def test_a_report_of_a_run(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(runs / "adaptive")]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    check_width(printed)
    assert "Written: report.html, and beside it report.json and report.csv" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.html", "report.json"]
    check_stands_alone((tmp_path / "report.html").read_text(encoding="utf-8"))
    result = json.loads((runs / "adaptive" / "test" / "result.json").read_text())
    told = json.loads((tmp_path / "report.json").read_text())["runs"]["adaptive"]
    assert told["top1"] == result["top1"]
    assert told["active_bins"] == result["active_bins"]
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == [video["path"] for video in result["videos"]]
    for row, video in zip(rows, result["videos"], strict=True):
        assert [float(value) for value in row["motion"].split()] == video["motion"]
        assert min(video["motion"]) > 0.01  # these videos flicker
        maps, kept, dropped = (video[name]["res2"] for name in ("maps", "active_bins", "dropped"))
        assert all(a + d <= m == 4 for a, d, m in zip(kept, dropped, maps, strict=True))


def test_runs_side_by_side(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(runs / name) for name in ("static", "adaptive", "uniform", "slowfast tested")]
    out = tmp_path / "all.html"
    assert main(["report", *given, "-o", str(out)]) == 0
    printed, err = capsys.readouterr()
    check_width(printed.partition("Written:")[0])
    assert err.count("\n") == 1
    assert "warning: slowfast tested is not comparable with static: other clips (clips 2 and 1, frames 4 and 8" in err
    text = out.read_text(encoding="utf-8")
    check_stands_alone(text)
    assert all(told in text for told in ("uniform behind res2", "sgs behind res2", "nothing (static)"))
    assert "slowfast tested, res2.slow" in text
    values = json.loads((tmp_path / "all.json").read_text())
    assert list(values["top1_difference"]) == ["adaptive", "uniform"]
    assert "Top-1 above static, on the same videos" in printed
    p = values["top1_difference"]["uniform"]["p"]
    assert any(line.startswith("uniform ") and line.split()[-1] == f"{p:.2g}" for line in printed.splitlines())
    assert values["runs"]["static"]["network"]["sgs"] is None
    assert values["runs"]["uniform"]["network"]["sgs"]["active_bins"] == 2.5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{runs}/none"], "'{runs}/none' does not exist"),
        (["{runs}/slowfast"], "was not tested; test it: atfr test --checkpoint {runs}/slowfast --data"),
        (["{runs}"], "do you mean {runs}/adaptive {runs}/slowfast tested {runs}/static {runs}/uniform?"),
        (["{runs}/static", "{runs}/static/test/result.json"], "is given twice"),
        (["{runs}/static", "-o", "{tmp}"], "--out is the page to write"),
        (["{runs}/static", "-o", "{tmp}/report.json"], "got '{tmp}/report.json'"),
        (["{runs}/static", "-o", "{tmp}/none/report.html"], "got '{tmp}/none/report.html'"),
        (["{runs}/static/config.json"], "no result of a test, or not a complete one: it has no 'videos'"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    arguments: list[str], told: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(runs=runs, tmp=tmp_path) for argument in arguments]
    out = [] if "-o" in given else ["-o", str(tmp_path / "report.html")]
    assert main(["report", *given, *out]) == 2
    assert told.format(runs=runs, tmp=tmp_path) in error_of(capsys)
    assert not list(tmp_path.iterdir())


def test_the_table_tells_videos_and_views(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = made_up(videos=1, views=2)
    stopped = replace(stopped, views={**stopped.views, "clips": 10, "settled": 3.0})
    print_report(Report({"all": made_up(videos=60, views=3), "stopped": stopped}), [Path("r.html"), Path("r.csv")])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["run", "videos", "views"] in [row[:3] for row in rows]
    assert ["all", "60", "3x1"] in [row[:3] for row in rows]
    assert ["stopped", "1", "2", "of", "10x1"] in [row[:5] for row in rows]


def test_a_report_writes_over_nothing_but_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn_at_once: Callable[[], None]
) -> None:
    """Its figures go beside the page, under the same name, which may be that of a test's result."""
    drawn_at_once()
    made_up(videos=6).save(tmp_path / "run")
    result = (tmp_path / "run" / "result.json").read_bytes()
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "run" / "result.html")]) == 2
    assert "would be written over result.json" in error_of(capsys)
    assert (tmp_path / "run" / "result.json").read_bytes() == result
    for more in ([], ["--json"]):  # but over an older one
        assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "report.html"), *more]) == 0
        printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads((tmp_path / "report.json").read_text())


def test_a_report_that_cannot_be_written_leaves_what_was_there(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    drawn_at_once: Callable[[], None],
) -> None:
    drawn_at_once()
    made_up(videos=6).save(tmp_path / "run")
    out = tmp_path / "report.html"
    out.write_text("an older page")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert main(["report", str(tmp_path / "run"), "-o", str(out)]) == 2
    assert "No space left on device" in error_of(capsys)
    assert out.read_text() == "an older page"
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "run"]


def test_a_test_whose_result_cannot_be_kept_says_so_and_prints_it(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(network(classes=2), Task(NAMES[:2], SPEC), tmp_path)
    (tmp_path / "test").write_text("a file where the folder would be")
    options = ["--checkpoint", str(tmp_path), "--data", str(runs / "data"), "--views", "1x1"]
    assert main(["test", *options, "--json"]) == 0
    printed, err = capsys.readouterr()
    assert json.loads(printed)["num_videos"] == 6
    assert err.count("\n") == 1
    assert "the results are not kept" in err
    assert "give --out FOLDER" in err
