"""The main job, small: `atfr quickstart --data` on a few generated videos, through the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import atfr
from atfr.adapt.trace import site_names
from atfr.cli import quickstart as cli
from atfr.cli.main import main
from atfr.comparison import recipes
from atfr.comparison.making import new_base
from atfr.comparison.recipes import FROM_NOTHING, SAMPLES, recipe_for
from atfr.data import samples
from atfr.data.samples import manifest_of, read_manifest, render_samples
from atfr.evaluate.task import load_checkpoint
from atfr.models import efficientnet
from atfr.train.recipe import FROM_IMAGES
from atfr.viz import centred_clip

pytestmark = pytest.mark.usefixtures("flat_stages")
CLIP = replace(FROM_IMAGES.clip, size=48, resize=48, jitter=(48, 52))
RECIPE = replace(FROM_IMAGES, model="resnet3d_18", pretrained=False, clip=CLIP)


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "FROM_IMAGES", RECIPE)
        assert main(["quickstart", "--data", str(videos), "--out", str(out), "--epochs", "1"]) == 0
    return out


def test_writes_every_figure_with_its_conditions(run: Path) -> None:
    found = json.loads((run / "quickstart.json").read_text(encoding="utf-8"))
    assert found["conditions"]["train_videos"] == 12
    assert found["conditions"]["test_videos"] == 6
    assert list(found["networks"]) == ["static", "fewer_frames", "adaptive", "sgs"]
    static, fewer, adaptive, sgs = (network["test"] for network in found["networks"].values())
    assert static["active_bins"] == {}
    assert static["gflops_per_clip"]["std"] == 0
    for test, site, most in ((fewer, "input", 4), (adaptive, "input", 4), (sgs, "res2", 8)):
        kept = {int(active): count for active, count in test["active_bins"][site].items()}
        assert sum(kept.values()) == 6
        assert all(1 <= active <= most for active in kept)
        assert test["gflops_per_clip"]["mean"] < static["gflops_per_clip"]["mean"]
    assert (found["conditions"]["model"], found["conditions"]["base_epochs"]) == (RECIPE.model, 1)
    assert found["networks"]["static"]["speedup"] == 1
    assert all(network["speedup"] > 0 for network in found["networks"].values())


def test_the_differences_are_those_of_the_tests(run: Path) -> None:
    found = json.loads((run / "quickstart.json").read_text(encoding="utf-8"))
    top1 = {name: network["test"]["top1"] for name, network in found["networks"].items()}
    assert set(found["adaptive_over"]) == {"static", "fewer_frames", "sgs"}
    for name, difference in found["adaptive_over"].items():
        assert difference["mean"] == pytest.approx(top1["adaptive"] - top1[name])
        assert difference["low"] <= difference["mean"] <= difference["high"]
        assert 0 < difference["p"] <= 1


def test_where_frames_are_kept_is_held_against_the_truth(run: Path, videos: Path) -> None:
    """Counted here from the manifest and from what `predict` would see, not from what the quickstart says."""
    found = json.loads((run / "quickstart.json").read_text(encoding="utf-8"))["placement"]
    assert set(found) == {"fewer_frames", "adaptive"}
    model, task = load_checkpoint(run / "adaptive")
    inside = kept = 0
    for clip in read_manifest(videos):
        if clip.split == "test":
            one = centred_clip(videos / clip.path, task.spec)
            with atfr.record(model) as trace, torch.inference_mode():
                model(one.clips)
            times = [one.numbers[t] for t in (trace.sites["input"].assignment[0] >= 0).nonzero()[:, 0].tolist()]
            kept += len(times)
            inside += sum(clip.start_frame <= time <= clip.stop_frame for time in times)
    assert found["adaptive"]["inside"] == pytest.approx(inside / kept)


def test_generated_videos_come_whole_and_trimmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"clips_per_class_train": 1, "size": 48, "frames": 20}
    monkeypatch.setattr(samples, "render_samples", lambda root, **options: render_samples(root, **{**options, **small}))
    monkeypatch.setattr(cli, "TEST_VIDEOS", 1)
    splits = cli.generated(tmp_path)
    assert {name: len(videos) for name, videos in splits.items()} == {"train": 6, "test": 6, "trimmed": 6}
    assert len(manifest_of(splits["test"])) == 6
    assert min(clip.frames for clip in read_manifest(tmp_path / "trimmed")) < 20


def test_draws_a_picture(run: Path) -> None:
    with Image.open(run / "quickstart.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(2**24)) > 10


def test_leaves_checkpoints_that_predict(run: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"static": [], "fewer_frames": ["input"], "adaptive": ["input"], "sgs": ["res2"]}
    for name, sites in places.items():
        model, task = load_checkpoint(run / name)
        assert list(site_names(model)) == sites
        assert len(task.labels) == 6
    video = next((videos / "test" / "grow").glob("*.mp4"))
    assert main(["predict", str(video), "--checkpoint", str(run / "adaptive"), "--json"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)
    assert 1 <= prediction["active_bins"]["input"][0] <= 4


def test_runs_again_in_the_same_folder_and_prints_a_table_of_80_columns(
    run: Path, videos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other clips, of two frames in the base: nothing that is there is in its way."""
    clip = replace(FROM_NOTHING.clip, frames=8, size=32, resize=32, jitter=(32, 36))
    monkeypatch.setattr(recipes, "FROM_IMAGES", replace(FROM_NOTHING, clip=clip, base_frames=2))
    assert main(["quickstart", "--data", str(videos), "--out", str(run), "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert load_checkpoint(run / "adaptive")[1].spec.size == 32
    assert all(name in out for name in ("static", "fewer_frames", "adaptive", "sgs"))
    assert "of static's GFLOPs" in out
    assert "McNemar's exact test: p = " in out
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
    assert SAMPLES.epochs(480) == 20


def test_own_videos_start_from_images_where_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe_for(generated=True) is SAMPLES
    assert recipe_for(generated=False) is FROM_IMAGES
    base, images = new_base(FROM_IMAGES, 6, seed=0), atfr.create_model(FROM_IMAGES.model, 6, pretrained=True)
    assert torch.equal(base.blocks[0][0][0].weight, images.blocks[0][0][0].weight)
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "no_such_package")
    assert recipe_for(generated=False) is FROM_NOTHING
    assert recipe_for(generated=True) is SAMPLES
