"""`atfr cost` with several sites, samplers and checkpoints, and the options of SGS that `atfr train` shares with it."""

import json
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len

import atfr
from atfr.cli.main import main
from atfr.evaluate.task import load_checkpoint
from tests.cli.quick import check_width
from tests.cli.test_main import error_of
from tests.evaluate.build import write_folder

pytestmark = pytest.mark.usefixtures("flat_stages")
CLIP = ["--clip.frames", "8", "--clip.size", "32", "--clip.resize", "32", "--clip.jitter", "[32,36]"]
SMALL = ["resnet3d_18", "--frames", "4", "--size", "32"]
QUICK = ["--model", "resnet3d_18", *CLIP, "--clip.flip", "false", "--batch_size", "4"]
QUICK += ["--num_workers", "0", "--warmup_epochs", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), classes=2, train=2, test=1)


@pytest.fixture(scope="module")
def static() -> tuple[int, float]:
    """Parameters and GFLOPs of the small network as it is."""
    with torch.device("meta"):
        model = atfr.create_model(SMALL[0])
    return sum(p.numel() for p in model.parameters()), atfr.clip_cost(model, (3, 4, 32, 32)).static / 1e9


def report_of(capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    assert main(["cost", *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_slowfast_by_the_share_of_both_pathways(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["slowfast_8x8_r18", "--size", "64", "--frames", "16"]
    report = report_of(capsys, *options)
    assert report["after"] == ["res2.fast", "res2.slow"]
    assert report["maps"] == {"res2.slow": 4, "res2.fast": 16}
    assert report["adaptive_gflops"] == {}
    with torch.device("meta"):
        model = atfr.create_model("slowfast_8x8_r18")
    assert report["parameters"] == sum(p.numel() for p in model.parameters())
    atfr.adapt_(model, after="res2")
    assert report["sgs_parameters"] == sum(p.numel() for p in model.parameters()) - report["parameters"]
    cost = atfr.clip_cost(model, (3, 16, 64, 64))
    assert report["static_gflops"] == cost.static / 1e9
    assert report["gflops_by_share"] == [
        {
            "share": slow / 4,
            "active_bins": {"res2.slow": slow, "res2.fast": 4 * slow},
            "gflops": cost.adaptive[4 * slow, slow] / 1e9,
        }
        for slow in (1, 2, 3, 4)
    ]
    assert main(["cost", *options]) == 0
    out = capsys.readouterr().out
    assert max(cell_len(line) for line in out.splitlines()) <= 80
    rows = [line.split() for line in out.splitlines()]
    assert ["res2.fast", "res2.slow", "GFLOPs", "of", "static"] in rows
    for row in report["gflops_by_share"]:
        share_of_static = f"{100 * row['gflops'] / report['static_gflops']:.1f}"
        assert [*map(str, row["active_bins"].values()), f"{row['gflops']:.4g}", share_of_static, "%"] in rows


def test_one_site_has_the_same_figures_by_active_bins_and_by_share(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, *SMALL, "--num_bins", "3")
    by_share = {str(row["active_bins"]["res2"]): row["gflops"] for row in report["gflops_by_share"]}
    assert by_share == report["adaptive_gflops"]
    assert [row["share"] for row in report["gflops_by_share"]] == [0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("options", "after", "kept"),
    [
        (["--after", "[res2,res4]"], ["res2", "res4"], [(1, 1), (2, 2), (3, 3), (4, 4)]),
        (["--sampler", "uniform", "--active_bins", "2.5"], "res2", [(2,), (3,)]),
        (["--after", "[res2,res3]", "--sampler", "average", "--active_bins", "[3,2]"], ["res2", "res3"], [(3, 2)]),
        (["--similarity", "angular", "--embedding_dim", "3", "--num_bins", "[1,3]"], "res2", [(1,), (2,), (3,)]),
        (["--temporal_block", "2"], "res2", [(2,), (3,), (4,)]),
        (["--sampler", "attention"], "res2", []),
        (["--after", "none"], None, []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and str(value[:1]).startswith("['--") else "",
)
def test_options_of_sgs(
    options: list[str],
    after: object,
    kept: list[tuple[int, ...]],
    static: tuple[int, float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = report_of(capsys, *SMALL, *options)
    assert report["after"] == after
    assert [tuple(row["active_bins"].values()) for row in report["gflops_by_share"]] == kept
    parameters, gflops = static
    assert report["parameters"] == parameters
    if "attention" in options:
        assert report["sampler"] == "attention"
        assert report["static_gflops"] > gflops
        assert report["sgs_parameters"] > 0
    else:
        assert report["static_gflops"] == gflops


def test_more_active_bins_than_maps_come_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", *SMALL, "--sampler", "uniform", "--active_bins", "99"]) == 0
    assert capsys.readouterr().err == "atfr: warning: --active_bins 99: 4 maps come to res2, and all are kept\n"
    pathways = ["slowfast_8x8_r18", "--frames", "8", "--size", "32", "--sampler", "uniform", "--active_bins", "[2,1]"]
    assert main(["cost", *pathways]) == 0
    assert "same share" not in capsys.readouterr().out  # two of eight is another share than one of two
    assert main(["cost", *SMALL, "--sampler", "uniform"]) == 2
    assert "sampler 'uniform' needs active_bins (--active_bins on the command line)" in error_of(capsys)


def test_a_network_with_attention_is_not_called_static(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, *SMALL, "--sampler", "attention")
    assert main(["cost", *SMALL, "--sampler", "attention"]) == 0
    printed = capsys.readouterr().out
    assert ["all", f"{report['static_gflops']:.4g}"] in [line.split() for line in printed.splitlines()]
    assert "100.0 %" not in printed


def test_lists_in_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--after", "[res2,res4]", "--num_bins", "2", "--temporal_block", "[4,2]"]
    expected = report_of(capsys, *options)
    assert main(["cost", *options, "--print_config"]) == 0
    config = tmp_path / "cost.yaml"
    config.write_text(capsys.readouterr().out)
    assert report_of(capsys, "resnet3d_18", "--config", str(config)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{checkpoint}", "--after", "res3"], "is counted as it is; leave out --after"),
        (["{checkpoint}", "--after", "none", "--num_classes", "3"], "leave out --after, --num_classes"),
        (["{checkpoint}", "--sampler", "uniform", "--active_bins", "2"], "leave out --sampler, --active_bins"),
        (["{checkpoint}", "--similarity", "angular"], "leave out --similarity"),
        (["{checkpoint}", "--num_bins", "[2,2]"], "has 1 coordinates"),
        (["x3d_xs", "--after", "none", "--num_bins", "2"], "--after none leaves the sampler out; leave out --num_bins"),
        (["x3d_xs", "--after", "[res2,res2]"], "twice"),
        (["x3d_xs", "--sampler", "uniform"], "needs active_bins"),
        (["x3d_xs", "--num_classes", "0"], "num_classes must be"),
        (["--frames", "8"], "expected MODEL"),
    ],
)
def test_what_does_not_fit_is_one_line(
    options: list[str], message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cost", *(option.format(checkpoint=checkpoint) for option in options)]) == 2
    assert message in error_of(capsys)


def test_a_checkpoint_takes_bins_and_a_clip_shape(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, str(checkpoint), "--num_bins", "3", "--frames", "6")
    assert report["clip_shape"] == [3, 6, 32, 32]
    assert list(report["adaptive_gflops"]) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (
            ["--after", "[res2,res4]", "--similarity", "spherical", "--embedding_dim", "3", "--num_bins", "[2,2,2]"],
            {"coordinates": "spherical", "num_bins": (2, 2, 2)},
        ),
        (["--temporal_block", "4"], {"temporal_block": 4, "coordinates": "magnitude"}),
        (["--sampler", "random", "--active_bins", "2.5"], {"sampler": "random", "active_bins": 2.5}),
    ],
    ids=["several", "block", "random"],
)
def test_train_puts_in_what_it_is_told(
    options: list[str], settings: dict, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "--data", str(data), "--out", str(out), *QUICK, "--epochs", "1", *options, "--json"]) == 0
    model, _ = load_checkpoint(out)
    layers = [model.res2.sgs, model.res4.sgs] if "--after" in options else [model.res2.sgs]
    for layer in layers:
        assert {name: getattr(layer, name) for name in settings} == settings
    assert "sgs" not in dict(model.res3.named_children())
    assert capsys.readouterr().err == ""


def test_slowfast_from_training_to_prediction(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = ["--data", str(data), "--out", str(out), *QUICK, "--epochs", "1", "--model", "slowfast_8x8_r18"]
    assert main(["train", *options, "--temporal_block", "[4,2]", "--json"]) == 0
    capsys.readouterr()
    model, _ = load_checkpoint(out)
    fast, slow = (model.get_submodule(path).sgs for path in model.stage_paths["res2"])
    assert (fast.temporal_block, slow.temporal_block) == (4, 2)
    assert main(["test", "--checkpoint", str(out), "--data", str(data), "--views", "1x1", "--json"]) == 0
    tested = json.loads(capsys.readouterr().out)["videos"]
    costs = {row["gflops"] for row in report_of(capsys, str(out))["gflops_by_share"]}
    videos = [video["path"] for video in tested]
    assert main(["predict", *videos, "--checkpoint", str(out), "--views", "1x1", "--json"]) == 0
    for video, prediction in zip(tested, json.loads(capsys.readouterr().out), strict=True):
        assert prediction["active_bins"] == video["active_bins"]
        assert min(costs) <= prediction["gflops"] <= max(costs)
        assert all(1 <= bins <= 8 for bins in prediction["active_bins"]["res2.fast"])
        assert all(1 <= bins <= 2 for bins in prediction["active_bins"]["res2.slow"])


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
