"""`atfr convert`: a file of weights becomes a checkpoint folder, or one line on stderr and nothing on the disk."""

import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import atfr
from atfr.cli.main import main
from atfr.evaluate.predict import predict
from atfr.evaluate.task import Task
from atfr.files import locked
from atfr.models import zoo
from atfr.video.spec import ClipSpec
from atfr.weights import checkpoint
from tests.cli.test_main import error_of
from tests.evaluate.build import write_level
from tests.models import pyslowfast

RESNET = ["--model", "resnet3d_18"]
"""Where a network need not be found among all."""


@pytest.fixture(scope="module", autouse=True)
def _outlined_once() -> Iterator[None]:
    """A network is found among all, which are looked at and left as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "outline", functools.cache(zoo.outline))
        yield


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a network that no other has the shapes of."""
    path = tmp_path_factory.mktemp("files") / "ResNet [18].pth"
    torch.save({"model_state": atfr.create_model("resnet3d_18", num_classes=3).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def x3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of PySlowFast's X3D-S, which has the shapes of XS and M."""
    path = tmp_path_factory.mktemp("files") / "x3d.pyth"
    torch.save({"model_state": pyslowfast.X3D(6).state_dict(), "cfg": "MODEL:\n  ARCH: x3d\n"}, path)
    return path


def test_the_network_and_its_classes_are_found(
    resnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["convert", str(resnet), str(out)]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    assert "ResNet [18].pth, of PyTorchVideo" in printed
    assert "resnet3d_18, 3 classes" in printed
    assert max(map(len, printed.splitlines())) <= 80 + len(str(out))
    model = atfr.from_pretrained(out)
    assert model.config["model"] == "resnet3d_18"
    state = torch.load(resnet)["model_state"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_what_fits_several_networks_asks_for_the_name(
    x3d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(x3d), str(tmp_path / "out")]) == 2
    assert "fits x3d_xs, x3d_s, x3d_m, which differ in no shape; choose one with --model" in error_of(capsys)
    assert not (tmp_path / "out").exists()
    assert main(["convert", str(x3d), str(tmp_path / "out"), "--model", "x3d_m", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["num_classes"], report["source"]) == ("x3d_m", 6, "PySlowFast")
    assert report["folded"] == ["blocks.1.res_blocks.0.branch1_norm"]
    assert atfr.from_pretrained(tmp_path / "out").config["arguments"]["num_classes"] == 6


def test_the_configuration_in_a_file_of_pyslowfast_decides(
    x3d: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(x3d)
    torch.save({**content, "cfg": "DATA:\n  MEAN:\n  - 0.45\n  NUM_FRAMES: 13\n"}, tmp_path / "x3d_s.pyth")
    assert main(["convert", str(tmp_path / "x3d_s.pyth"), str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "x3d_s"
    torch.save({**content, "cfg": "DATA:\n  NUM_FRAMES: 99\n"}, tmp_path / "odd.pyth")
    assert main(["convert", str(tmp_path / "odd.pyth"), str(tmp_path / "odd")]) == 2
    assert "fits x3d_xs, x3d_s, x3d_m" in error_of(capsys)


def test_another_number_of_classes_gives_a_new_classifier(
    resnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(resnet), str(tmp_path / "out"), *RESNET, "--num_classes", "9"]) == 0
    assert "head.fc.weight, head.fc.bias" in capsys.readouterr().out
    assert atfr.from_pretrained(tmp_path / "out").config["arguments"]["num_classes"] == 9


def test_what_fits_of_a_file_with_other_things_is_taken_and_then_predicts(
    resnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Lightning file of somebody's module: a network under net., and a loss with weights."""
    state = torch.load(resnet)["model_state"]
    content = {f"net.{name}": tensor for name, tensor in state.items()} | {"loss.weight": torch.ones(3)}
    file, out = tmp_path / "last.ckpt", tmp_path / "out"
    torch.save({"pytorch-lightning_version": "2.5", "state_dict": content}, file)
    assert main(["convert", str(file), str(out), "--model", "resnet3d_18"]) == 2
    assert "1 unexpected: loss.weight" in error_of(capsys)
    assert main(["convert", str(file), str(out), "--prefix", "net"]) == 0
    assert "resnet3d_18, 3 classes" in capsys.readouterr().out
    loose = ["--model", "resnet3d_18", "--strict", "false", "--num_classes", "3", "--json"]
    assert main(["convert", str(file), str(tmp_path / "loose"), *loose]) == 0
    assert json.loads(capsys.readouterr().out)["unexpected"] == ["loss.weight"]

    video = write_level(tmp_path / "video.mp4", 3, frames=40)
    assert main(["predict", str(video), "--checkpoint", str(out), "--json"]) == 0
    printed, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "has no task.json: classes are told by number (class 0 to class 2)" in err
    assert "resnet3d_18 is made for, 32 x 224 x 224" in err
    (answer,) = json.loads(printed)
    model = atfr.from_pretrained(out)
    task = Task(
        ("class 0", "class 1", "class 2"), ClipSpec(32, 2, 224, 256, (256, 320), mean=model.mean, std=model.std)
    )
    expected = next(predict(model, [video], task)).top()
    assert [row["label"] for row in answer["top"]] == [label for label, _ in expected]
    assert [row["probability"] for row in answer["top"]] == pytest.approx([share for _, share in expected])


def write_unknown(folder: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, folder / "other.pt")


def write_run(folder: Path) -> None:
    """As `atfr train` leaves it; its sampler may have no weights, and would be left out without a word."""
    for name in ("last.ckpt", "config.json", "model.safetensors"):
        (folder / name).touch()


REFUSALS: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "missing": (lambda f: None, ["no.pt", "out"], "there is no 'no.pt'"),
    "text": (lambda f: (f / "a.pt").write_text("hello"), ["a.pt", "out"], "'a.pt' is no file of weights"),
    "unknown": (write_unknown, ["other.pt", "out"], "fits no network of atfr: it holds 1 tensor, as layer.weight"),
    "misfit": (write_unknown, ["other.pt", "out", "--model", "x3d_s"], "does not fit x3d_s: "),
    "name": (write_unknown, ["other.pt", "out", "--model", "x3d"], "unknown model 'x3d' (did you mean x3d_"),
    "folder": (lambda f: (f / "dir").mkdir(), ["dir", "out"], "'dir' is a folder"),
    "state": (write_run, ["last.ckpt", "out"], "'last.ckpt' lies in a checkpoint already"),
    "out is full": (lambda f: [(f / "d").mkdir(), (f / "d/x").touch(), write_unknown(f)], ["other.pt", "d"], "OUT 'd'"),
    "out is a file": (lambda f: [(f / "x").touch(), write_unknown(f)], ["other.pt", "x"], "OUT 'x' exists"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refusal: str
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare, args, message = REFUSALS[refusal]
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["convert", *args]) == 2
    assert message in error_of(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_classes_are_refused(resnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(resnet), str(tmp_path / "out"), *RESNET, "--num_classes", "0"]) == 2
    assert "num_classes must be a whole number of 1 or more" in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_out_is_kept_and_written_to_before_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):
        assert main(["convert", "no.pt", str(tmp_path / "out")]) == 2
    assert f"another process writes to OUT '{tmp_path / 'out'}': wait" in error_of(capsys)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert main(["convert", "no.pt", str(tmp_path / "new")]) == 2
    assert "Read-only file system" in error_of(capsys)
    assert not (tmp_path / "new").exists()


def test_a_cut_save_leaves_nothing(resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    assert main(["convert", str(resnet), str(tmp_path / "out"), *RESNET]) == 2
    assert list(tmp_path.iterdir()) == []
