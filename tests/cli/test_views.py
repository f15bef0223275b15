"""Views that stop, from finding out when to predictions in tables, files, tests and bundles."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from atfr.adapt import adapt_, restore_
from atfr.cli.main import main
from atfr.evaluate.settling import views_needed
from atfr.evaluate.stopping import lead, view_order
from atfr.evaluate.task import Task, load_checkpoint, save_checkpoint, save_task
from atfr.files import sha256_of
from atfr.video.file import VideoFile
from atfr.video.spec import ViewSpec
from atfr.video.transforms import test_clips as views_of
from tests.cli.test_main import error_of
from tests.evaluate.build import NAMES, SPEC, network, write_folder, write_level

pytestmark = pytest.mark.usefixtures("flat_stages")
MOST = "4x3"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), classes=2, train=1, test=6)


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that tells these videos, but is not sure of every view: its classifier lies between their features."""
    folder, model = tmp_path_factory.mktemp("checkpoint"), network(classes=2)
    *_, classifier = (module for module in model.modules() if isinstance(module, nn.Linear))
    seen: list[Tensor] = []
    with torch.no_grad(), classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1))):
        for label in NAMES[:2]:
            model(torch.cat([views(path) for path in sorted((data / "test" / label).rglob("*.mp4"))]))
        first, second = (one.mean(0) for one in seen)
        towards = (second - first) / (second - first).square().sum()
        classifier.weight.copy_(torch.stack([-towards, towards]))
        classifier.bias.copy_(torch.stack([towards, -towards]) @ (first + second) / 2)
    save_checkpoint(model, Task(NAMES[:2], SPEC), folder)
    return folder


def views(path: Path) -> Tensor:
    return views_of(VideoFile(path, shorter_side=SPEC.decode_side), SPEC, 4, 3)


@pytest.fixture(scope="module")
def paths(data: Path) -> list[Path]:
    return sorted((data / "test").rglob("*.mp4"))


@pytest.fixture(scope="module")
def calibrated(checkpoint: Path, data: Path, paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(checkpoint, tmp_path_factory.mktemp("calibrated") / "run"))
    assert main(["calibrate", str(folder), "--data", str(data), "--views", MOST, "--loss", "10"]) == 0
    model, task = load_checkpoint(folder)
    with torch.inference_mode():
        leads = lead(torch.stack([model(views(path)).double().softmax(1) for path in paths])[:, list(view_order(4, 3))])
    known = ViewSpec(4, 3, float(leads[:, :4].amax(1).quantile(0.45)))  # a lead that some have early and some late
    save_task(replace(task, views=known), folder)
    return folder


@pytest.fixture(scope="module")
def counts(calibrated: Path, paths: list[Path]) -> list[int]:
    """The views that each video takes."""
    found = needed(calibrated, paths)
    assert len(set(found)) > 2
    return found


def needed(checkpoint: Path, paths: list[Path]) -> list[int]:
    """The views that each video takes, all of them run by themselves."""
    model, task = load_checkpoint(checkpoint)
    assert task.views is not None
    assert task.views.settled is not None
    order = list(view_order(4, 3))
    with torch.inference_mode():
        scores = [model(views(path)).double().softmax(1)[order] for path in paths]
    return views_needed(lead(torch.stack(scores)), task.views.settled).tolist()


def test_what_is_found_out_is_kept_beside_weights_that_stay(
    checkpoint: Path, data: Path, paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(checkpoint, tmp_path / "run"))
    before = {file.name: sha256_of(file) for file in run.iterdir()}
    command = ["calibrate", str(run), "--data", str(data), "--views", MOST, "--loss", "10", "--json"]
    assert main(command) == 0
    printed, err = capsys.readouterr()
    assert "12 videos of the test split" in err
    found = json.loads(printed)
    assert {name for name, content in before.items() if sha256_of(run / name) != content} == {"task.json"}
    task = load_checkpoint(run)[1]
    assert task.views is not None
    assert (task.views.num_clips, task.views.num_crops, task.views.settled) == (4, 3, found["settled"])
    assert (found["videos"], found["labelled"], found["all_views"]) == (12, True, 12)
    assert found["all_right"] - found["right"] <= 0.1
    assert fmean(needed(run, paths)) == pytest.approx(found["views"])
    assert found["views"] < 12
    assert main(["calibrate", str(run), str(data / "train"), "--views", MOST, "--json"]) == 0  # without labels
    unlabelled = json.loads(capsys.readouterr().out)
    assert (unlabelled["labelled"], unlabelled["all_right"], unlabelled["videos"]) == (False, 1.0, 2)


def test_the_validation_split_is_taken_and_the_test_split_left_alone(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(shutil.copytree(checkpoint, tmp_path / "run"))
    split = Path(shutil.copytree(data, tmp_path / "data"))
    for name in NAMES[:2]:
        for number in range(2):
            (split / "val" / name).mkdir(parents=True, exist_ok=True)
            (split / "test" / name / f"{number}.mp4").rename(split / "val" / name / f"{number}.mp4")
    assert main(["calibrate", run, "--data", str(split), "--views", MOST, "--json"]) == 0
    printed, err = capsys.readouterr()
    assert "4 videos of the val split" in err
    assert json.loads(printed)["videos"] == 4


def test_what_no_longer_holds_is_not_kept(
    calibrated: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    video = str(next((data / "test").rglob("*.mp4")))
    sampler = Path(shutil.copytree(calibrated, tmp_path / "sampler"))
    model, task = load_checkpoint(sampler)
    restore_(model)
    adapt_(model, after="input", sampler="change", num_bins=2)
    save_checkpoint(model, task, sampler)
    assert main(["calibrate", str(sampler), video]) == 0
    assert "found with another sampler" in capsys.readouterr().err
    never = Path(shutil.copytree(calibrated, tmp_path / "never"))
    monkeypatch.setattr("atfr.evaluate.settling.least_lead", lambda *_: None)
    assert main(["calibrate", str(never), video, "--views", MOST]) == 0
    assert "nothing is kept" in " ".join(capsys.readouterr().err.split())
    for run in (sampler, never):
        assert load_checkpoint(run)[1].views is None


def test_predict_stops_and_says_so(
    calibrated: Path, paths: list[Path], counts: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", *map(str, paths), "--checkpoint", str(calibrated), "--views", "auto"]
    out = tmp_path / "out.jsonl"
    assert main([*command, "--batch_size", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["views"] for one in found] == counts
    assert [one["path"] for one in found] == list(map(str, paths))
    assert main(command) == 0
    assert f"Views: {sum(counts)} of {12 * len(paths)}" in " ".join(capsys.readouterr().out.split())
    for more, there in ((["--num_workers", "1", "--json"], 0), ([], len(paths))):
        assert main([*command, "--out", str(out), *more]) == 0
        assert (f"has {there} videos" in capsys.readouterr().err) == bool(there)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [(line["path"], line["views"]) for line in lines] == [(one["path"], one["views"]) for one in found]
    for other in (MOST, "1x1"):
        assert main([*command[:-1], other, "--out", str(out)]) == 2
        assert "give a new file" in error_of(capsys)
    assert main(["predict", str(paths[0]), *command[-4:-1], MOST, "--out", str(tmp_path / "all")]) == 0
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "all")]) == 2
    assert "has predictions of" in error_of(capsys)


def test_a_test_counts_the_views_that_were_computed(
    calibrated: Path, data: Path, paths: list[Path], counts: list[int], tmp_path: Path,
    drawn_at_once: Callable[[], None], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["test", "--checkpoint", str(calibrated), "--data", str(data), "--views", "auto"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [video["path"] for video in result["videos"]] == list(map(str, paths))
    for video, count in zip(result["videos"], counts, strict=True):
        assert len(video["view_gflops"]) == len(video["motion"]) == count
        assert [len(kept) for kept in video["active_bins"].values()] == [count]
    assert result["views_per_video"] == fmean(counts)
    assert result["views"]["settled"] == load_checkpoint(calibrated)[1].views.settled  # type: ignore[union-attr]
    assert f"until settled {fmean(counts):.3g} of them in the mean" in " ".join(printed.replace("│", " ").split())
    assert main([*command[:-1], MOST, "--out", str(tmp_path / "all")]) == 0
    every = json.loads((tmp_path / "all" / "result.json").read_text())
    capsys.readouterr()
    page = tmp_path / "page.html"
    drawn_at_once()
    assert main(["report", str(tmp_path / "out"), str(tmp_path / "all"), "-o", str(page)]) == 0
    printed, err = capsys.readouterr()
    assert "not comparable" not in printed + err
    assert "of a video" in " ".join(printed.split())
    shown = page.read_text()
    assert f"{fmean(counts):.3g} of 12" in shown
    assert "until a class leads by" in shown
    for told in (result, every):
        gflops = fmean(video["gflops"] for video in told["videos"])
        assert f"{gflops:.4g}" in printed


def test_a_bundle_stops_where_its_network_does(
    calibrated: Path, paths: list[Path], counts: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(tmp_path / "bundle")
    assert main(["export", str(calibrated), bundle, "--runtime", "torch"]) == 0
    capsys.readouterr()
    assert main(["predict", *map(str, paths), "--bundle", bundle, "--views", "auto", "--json"]) == 0
    assert [one["views"] for one in json.loads(capsys.readouterr().out)] == counts


def test_a_video_that_does_not_decode_is_passed_over(
    calibrated: Path, paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    videos = [str(paths[0]), str(bad), *map(str, paths[1:3])]
    assert main(["predict", *videos, "--checkpoint", str(calibrated), "--views", "auto", "--json"]) == 2
    printed, err = capsys.readouterr()
    assert [one["path"] for one in json.loads(printed)] == list(map(str, paths[:3]))
    assert "bad.mp4" in err
    run = Path(shutil.copytree(calibrated, tmp_path / "run"))
    assert main(["calibrate", str(run), *videos, "--views", MOST, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 3


def test_one_line_for_what_cannot_be(
    checkpoint: Path, calibrated: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, video = str(checkpoint), str(write_level(tmp_path / "a.mp4", 1))
    for command, message in (
        (["predict", video, "--checkpoint", run, "--views", "auto"], "atfr calibrate CHECKPOINT --data DATA"),
        (["test", "--checkpoint", run, "--data", str(data), "--views", "auto"], "when the views of"),
        (["calibrate", run], "give videos"),
        (["calibrate", run, video, "--data", str(data), "--views", MOST], "give videos"),
        (["calibrate", run, "--data", str(data)], "labels are for --views"),
        (["calibrate", run, video, "--views", "auto"], "the most views of a video"),
        (["calibrate", run, video, "--views", "1x1"], "a single view cannot stop earlier"),
        (["calibrate", run, video, "--views", MOST, "--share", "0.5"], "--views is about views"),
        (["calibrate", run, video, "--views", MOST, "--loss", "101"], "--loss"),
        (["calibrate", run, video, "--views", MOST, "--most", "5"], "leave out --most"),
        (["calibrate", run, video, "--loss", "5", "--num_workers", "2"], "leave out --loss, --num_workers"),
        (["calibrate", "i3d_inception", video, "--views", MOST], "expected a folder"),
    ):
        assert main(command) == 2, command
        assert message in error_of(capsys), command
    known, test = str(calibrated), ["test", "--data", str(data), "--views", "auto", "--checkpoint"]
    for command, option in (
        (["predict", video, "--checkpoint", known, "--views", "auto", "--num_bins", "2"], "--num_bins"),
        ([*test, known, "--num_bins", "2"], "--num_bins"),
        ([*test, known, "--crops", "random", "--clip.frames", "2"], "--clip, --crops"),
        ([*test, known, "--crops", "random"], "--crops"),
    ):
        assert main(command) == 2, command
        assert f"leave out {option}" in error_of(capsys), command
    assert "views" not in json.loads((checkpoint / "task.json").read_text())
    broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    task = json.loads((broken / "task.json").read_text())
    for views in ({"num_clips": 0}, {"num_clips": 2, "settled": -1}, {"most": 3}, [1], {"num_crops": 2}, {}):
        (broken / "task.json").write_text(json.dumps(task | {"views": views}))
        assert main(["predict", video, "--checkpoint", str(broken)]) == 2
        assert "task.json" in error_of(capsys)
