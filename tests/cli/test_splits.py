"""UCF101 from its download to the mean over its splits, through main() and on generated videos in the real layout."""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import av
import pytest

from atfr.cli import common
from atfr.cli.common import DataSetName
from atfr.cli.main import main
from atfr.cli.splits import summary
from atfr.data.check import look
from atfr.data.dataset import ClipDataset
from atfr.data.index import VideoIndex
from atfr.data.records import VideoList
from atfr.data.sets import DATA_SETS, UCF101
from atfr.evaluate.runs import read_result
from atfr.evaluate.task import Task, load_checkpoint, save_checkpoint
from atfr.train.loaders import ClipLoaders
from tests.cli.quick import QUICK, check_width
from tests.cli.test_main import error_of
from tests.data.layouts import kinetics, ucf101
from tests.evaluate.build import SPEC, network, write_level

pytestmark = pytest.mark.usefixtures("flat_stages")
CLASSES = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UCF101 with videos in place of its empty files: a class is a grey level."""
    root = ucf101(tmp_path_factory.mktemp("ucf101 [1]"))
    for path in sorted((root / "UCF-101").rglob("*.avi")):
        write_level(path, CLASSES.index(path.parent.name), frames=6)
    return root


def train(data: Path, out: Path, split: int, *options: str) -> int:
    where = ["--data", str(data), "--dataset", "ucf101", "--split", str(split), "--out", str(out)]
    return main(["train", *where, *QUICK, "--epochs", "1", *options])


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three trainings leave, the first a real one."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(data, folder / "split1", 1) == 0
    for split in (2, 3):
        save_checkpoint(network(classes=3), Task(CLASSES, SPEC), folder / f"split{split}")
    return folder


def command(runs: Path, data: Path, *options: str) -> list[str]:
    return ["test", "--checkpoint", str(runs), "--data", str(data), "--dataset", "ucf101", "--views", "1x1", *options]


def test_the_options_name_every_data_set() -> None:
    assert set(get_args(DataSetName)) == set(DATA_SETS)


def test_the_mean_over_the_splits(runs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    assert main(command(runs, data, "--split", "all", "--out", str(out), "--json")) == 0
    figures = json.loads(capsys.readouterr().out)
    assert json.loads((out / "result.json").read_text()) == figures
    singles = []
    for split in (1, 2, 3):
        assert main(command(runs / f"split{split}", data, "--split", str(split), "--json")) == 0
        singles.append(json.loads(capsys.readouterr().out))
        written = json.loads((out / f"split{split}" / "result.json").read_text())
        assert [video["path"] for video in written["videos"]] == [video["path"] for video in singles[-1]["videos"]]
        assert figures["splits"][str(split)]["top1"] == singles[-1]["top1"]
        assert figures["splits"][str(split)]["num_videos"] == 3
    for name in ("top1", "mean_class_accuracy"):
        values = [single[name] for single in singles]
        assert figures["mean"][name] == pytest.approx(sum(values) / 3)
        assert figures["std"][name] == pytest.approx(statistics.stdev(values))
    assert figures["mean"]["top5"] is None  # three classes
    tested = [{Path(video["path"]).name for video in single["videos"]} for single in singles]
    assert tested[0] == tested[2]
    assert not tested[0] & tested[1]


def test_means_and_deviations_by_hand() -> None:
    def result(top1: float, top5: float | None) -> SimpleNamespace:
        spread = SimpleNamespace(mean=10 * top1)
        return SimpleNamespace(
            top1=top1, top5=top5, mean_class_accuracy=1 - top1, gflops_per_clip=spread, videos=[0] * 9, skipped=[0]
        )

    figures = summary({1: result(0.5, 0.75), 2: result(0.75, 0.75), 3: result(1.0, 0.75)})
    assert figures["mean"] == {"top1": 0.75, "top5": 0.75, "mean_class_accuracy": 0.25, "gflops_per_clip": 7.5}
    assert figures["std"] == {"top1": 0.25, "top5": 0, "mean_class_accuracy": 0.25, "gflops_per_clip": 2.5}
    assert (figures["splits"][2]["top1"], figures["splits"][2]["num_videos"]) == (0.75, 9)


def test_the_table_of_all_splits(runs: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(runs, data, "--split", "all")) == 0
    printed = capsys.readouterr().out
    check_width(printed)
    assert [line.split()[0] for line in printed.splitlines()[2:6]] == ["split", "split", "split", "mean"]
    assert "standard deviation over the splits" in printed
    for split in (1, 2, 3):  # each run has its own result, for `atfr report`
        assert read_result(runs / f"split{split}").num_classes == 3


def test_a_network_is_not_tested_on_what_it_was_trained_on(
    runs: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(runs / "split1", data, "--split", "2")) == 2
    assert "was trained on split 1 of ucf101" in error_of(capsys)
    assert train(data, runs / "split1", 2, "--resume") == 2
    assert "was begun on {'dataset': 'ucf101', 'split': 1}" in error_of(capsys)
    load_checkpoint(runs / "split1")  # and the run is still there


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "4"], "UCF101 has the splits 1, 2, 3; name one, got 4"),
        ([], "none was given"),
        (["--split", "one"], "--split"),
        (["--split", "1", "--test_fold", "1"], "--test_fold is for a CSV file"),
        (["--split", "1", "--dataset", "ucf11"], "'ucf101'"),
        (
            ["--split", "all", "--dataset", "ssv2"],
            "--split all is for a --dataset with several splits (ucf101, hmdb51)",
        ),
    ],
)
def test_wrong_splits(
    runs: Path, data: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(command(runs / "split1", data, *options)) == 2
    assert message in error_of(capsys)


def test_a_run_is_missing(runs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "split1").symlink_to(runs / "split1")
    assert main(command(tmp_path, data, "--split", "all")) == 2
    assert f"train it with --split 2 --out {tmp_path / 'split2'}" in error_of(capsys)
    assert main(["test", "--checkpoint", str(tmp_path), "--data", str(data), "--split", "all"]) == 2
    assert "--split all is for a --dataset" in error_of(capsys)
    assert main(["test", "--checkpoint", str(runs / "split1"), "--data", str(data), "--split", "1"]) == 2
    assert "--split is for a --dataset" in error_of(capsys)


def test_runs_that_differ_are_not_averaged(
    runs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in (1, 2):
        (tmp_path / f"split{split}").symlink_to(runs / f"split{split}")
    clip = replace(SPEC, stride=1)
    save_checkpoint(network(classes=3, adapted=False), Task(CLASSES, clip), tmp_path / "split3")
    assert main(command(tmp_path, data, "--split", "all")) == 2
    err = error_of(capsys)
    assert "sgs.after is 'res2' in split1 and None in split3" in err
    assert "clip.stride is 2 in split1 and 1 in split3; train them with the same arguments" in err
    assert "split2" not in err


def test_missing_videos_are_counted_and_the_rest_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = kinetics(tmp_path / "k400")
    (root / "train" / "_dbcJuKJQNs.webm").rename(root / "train" / "_dbcJuKJQNs.mkv")
    for path in [*root.rglob("*.mp4"), *root.rglob("*.mkv")]:
        write_level(path, 1, frames=6)
    out = tmp_path / "out"
    options = ["--data", str(root), "--dataset", "kinetics400", "--out", str(out), *QUICK, "--epochs", "1"]
    assert main(["train", *options, "--json"]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"1 of 4 train videos are not in '{root}' and left out; `atfr data check kinetics400" in err
    assert load_checkpoint(out)[1].labels == ("abseiling", "baking cookies", "zumba")
    assert json.loads((out / "data.json").read_text()) == {"dataset": "kinetics400", "split": None}
    test = [
        "test",
        "--checkpoint",
        str(out),
        "--data",
        str(root),
        "--dataset",
        "kinetics400",
        "--views",
        "1x1",
        "--json",
    ]
    assert main(test) == 0
    assert capsys.readouterr().err == ""  # of the test split nothing is missing
    (root / "val" / "val_zumba_0_000123_000133.mp4").unlink()
    assert main(test) == 0
    printed, err = capsys.readouterr()
    assert json.loads(printed)["num_videos"] == 1
    assert f"warning: 1 of 2 test videos are not in '{root}'" in err


def test_a_training_start_opens_no_video(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first clip is drawn names are read, and files asked for their size; none is opened."""
    video_list: VideoList = UCF101.read(data, 1).video_lists()["train"]
    with VideoIndex(data) as index:
        index.add(video_list.records[1].path, look(video_list.records[1].path))
    opened: list[object] = []
    monkeypatch.setattr(av, "open", lambda *args, **options: opened.append(args))
    splits = common.read_data(data, dataset="ucf101", split=1)
    (lengths,) = common.known_lengths(data, splits["train"])
    assert lengths == [0, 6, 0]
    dataset = ClipDataset(splits["train"], SPEC, train=True, num_frames=lengths)
    ClipLoaders(dataset, None, batch_size=1, num_workers=0, seed=0).train_dataloader()
    assert opened == []
    with pytest.raises(TypeError):  # this stand-in is what would have been opened
        dataset[0]
    assert opened
    index.path.unlink()
