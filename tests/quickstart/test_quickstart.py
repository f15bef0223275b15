"""The main job, small: `atfr quickstart --data` on a few generated videos, through the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from atfr.cli.main import main
from atfr.data.samples import render_samples
from atfr.evaluate.task import load_checkpoint
from atfr.models import efficientnet
from atfr.quickstart import compare
from atfr.quickstart.recipes import FROM_NOTHING, SAMPLES, recipe_for
from atfr.train.recipe import FROM_IMAGES


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos") / "six motions"
    return render_samples(root, clips_per_class_train=2, clips_per_class_test=1, size=48, frames=20)


@pytest.fixture(scope="module", autouse=True)
def few_clips_timed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "TIMED_BATCH", 4)
        patch.setattr(compare, "TIMED_BATCHES", 2)
        yield


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    assert main(["quickstart", "--data", str(videos), "--out", str(out), "--epochs", "1"]) == 0
    return out


def test_writes_every_figure_with_its_conditions(run: Path) -> None:
    found = json.loads((run / "quickstart.json").read_text(encoding="utf-8"))
    assert found["conditions"]["train_videos"] == 12
    assert found["conditions"]["test_videos"] == 6
    static, adaptive = found["networks"]["static"], found["networks"]["adaptive"]
    assert static["test"]["active_bins"] == {}
    assert static["test"]["gflops_per_clip"]["std"] == 0
    kept = {int(active): count for active, count in adaptive["test"]["active_bins"]["res2"].items()}
    assert sum(kept.values()) == 6
    assert all(1 <= active <= 8 for active in kept)
    assert (found["conditions"]["model"], found["conditions"]["base_epochs"]) == (FROM_IMAGES.model, 1)
    assert adaptive["test"]["gflops_per_clip"]["mean"] < static["test"]["gflops_per_clip"]["mean"]
    assert found["speedup"] > 0


def test_draws_a_picture(run: Path) -> None:
    with Image.open(run / "quickstart.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(2**24)) > 10


def test_leaves_two_checkpoints_that_predict(run: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, adapted in (("static", False), ("adaptive", True)):
        model, task = load_checkpoint(run / name)
        assert any("sgs" in key for key in model.state_dict()) is adapted
        assert len(task.labels) == 6
    video = next((videos / "test" / "grow").glob("*.mp4"))
    assert main(["predict", str(video), "--checkpoint", str(run / "adaptive"), "--json"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)
    assert 1 <= prediction["active_bins"]["res2"][0] <= 8


def test_runs_again_in_the_same_folder_and_prints_a_table_of_80_columns(
    run: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quickstart", "--data", str(videos), "--out", str(run), "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "static" in out
    assert "adaptive" in out
    table = [line for line in out.splitlines() if not line.startswith(("Written", "Try it", "See it"))]
    assert max(map(len, table)) <= 80


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_recipe_sees_as_many_clips_whatever_the_number_of_videos() -> None:
    for num_videos in (96, 240, 600):
        for recipe in (FROM_IMAGES, FROM_NOTHING):
            assert abs(recipe.epochs(num_videos) * num_videos - recipe.clips_seen) <= num_videos / 2
    assert FROM_IMAGES.epochs(10**6) == 1
    assert SAMPLES.epochs(480) == 8


def test_own_videos_start_from_images_where_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe_for(generated=True) is SAMPLES
    assert recipe_for(generated=False) is FROM_IMAGES
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "no_such_package")
    assert recipe_for(generated=False) is FROM_NOTHING
    assert recipe_for(generated=True) is SAMPLES
