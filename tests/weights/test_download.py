"""Published files from an address, here a server on this machine: the known file or none, nothing run, nothing left."""

import inspect
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

import atfr
from atfr.cli.main import main
from atfr.cli.weights import weights
from atfr.errors import CheckpointError
from atfr.evaluate.task import load_checkpoint
from atfr.files import sha256_of
from atfr.weights import published
from tests.models.narrow import shallow_x3d


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served, where x3d_xs is said to be published; a cache of its own."""
    shallow_x3d(monkeypatch)
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    publish(monkeypatch, f"http://127.0.0.1:{server.server_port}/X3D_XS.pyth", "")
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def publish(monkeypatch: pytest.MonkeyPatch, address: str, sha256: str) -> None:
    entry = published.Published(address, "none", 12, 182, 182, sha256)
    monkeypatch.setattr(published, "PUBLISHED", {"x3d_xs": entry})


def write(folder: Path) -> dict[str, torch.Tensor]:
    """PyTorchVideo's file, with random weights."""
    torch.manual_seed(0)
    state = atfr.create_model("x3d_xs").state_dict()
    torch.save({"model_state": state}, folder / "X3D_XS.pyth")
    return state


def left() -> list[Path]:
    folder = published.cached("x3d_xs").parent
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_a_file_comes_and_starts_the_network(served: Path, capsys) -> None:
    with pytest.raises(CheckpointError, match="atfr weights x3d_xs"):
        atfr.create_model("x3d_xs", pretrained=True)
    state = write(served)
    assert main(["weights", "x3d_xs"]) == 0
    out = capsys.readouterr().out
    assert sha256_of(served / "X3D_XS.pyth") in out
    assert "--checkpoint x3d_xs" in out
    assert left() == [published.cached("x3d_xs")]

    model, task = load_checkpoint("x3d_xs")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert (len(task.labels), task.labels[5]) == (400, "archery")
    assert (task.clip_shape, task.spec.stride) == ((3, 4, 182, 182), 12)
    assert not model.training
    other = atfr.create_model("x3d_xs", num_classes=3, pretrained=True).state_dict()
    kernel = "blocks.4.res_blocks.0.branch2.conv_a.weight"
    assert torch.equal(other[kernel], state[kernel])
    assert len(other["blocks.5.proj.weight"]) == 3


def test_the_command_knows_every_published_network() -> None:
    assert get_args(inspect.signature(weights).parameters["name"].annotation) == tuple(published.PUBLISHED)


def test_the_hash_decides_where_it_is_known(served: Path, monkeypatch, capsys) -> None:
    write(served)
    address = published.PUBLISHED["x3d_xs"].address
    publish(monkeypatch, address, "0123abcd")
    assert main(["weights", "x3d_xs"]) == 2
    assert "expected SHA-256 0123abcd" in capsys.readouterr().err
    assert left() == []
    publish(monkeypatch, address, sha256_of(served / "X3D_XS.pyth")[:8])
    assert main(["weights", "x3d_xs"]) == 0


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize("case", ["truncated", "code", "another network", "nothing", "nobody"])
def test_what_else_may_come(case: str, served: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    write(served)
    file = served / "X3D_XS.pyth"
    if case == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    if case == "code":
        torch.save(Runs(), file)
    if case == "another network":
        torch.save(atfr.create_model("resnet3d_18").state_dict(), file)
    if case == "nothing":
        file.unlink()
    if case == "nobody":
        publish(monkeypatch, "http://127.0.0.1:1/X3D_XS.pyth", "")
    assert main(["weights", "x3d_xs"]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "run" not in out.split()
    assert left() == []
    assert main(["weights", "x3d_xs", "--from", str(file)]) == (0 if case == "nobody" else 2)
    given = capsys.readouterr().err
    assert case == "nobody" or f"'{file}'" in given, "the file that was given is named, not a copy of it"
    assert ".tmp" not in err + given
    assert "--prefix" not in err + given, "an option of another command"


def test_a_damaged_cache_says_so(served: Path) -> None:
    published.cached("x3d_xs").parent.mkdir(parents=True)
    published.cached("x3d_xs").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged; get it again: atfr weights x3d_xs"):
        atfr.create_model("x3d_xs", pretrained=True)
