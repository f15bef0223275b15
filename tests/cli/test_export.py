"""`atfr export` and `atfr predict --bundle`: a bundle answers as its checkpoint does."""

import io
import json
import os
import re
import signal
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from atfr.cli.main import main
from atfr.errors import BundleError
from atfr.evaluate.task import Task, save_checkpoint
from atfr.files import locked
from atfr.runtime.export import replacing
from tests.evaluate.build import NAMES, SPEC, network, write_level
from tests.processes import forked

pytestmark = pytest.mark.usefixtures("flat_stages")


def atfr(*args: object) -> subprocess.CompletedProcess[str]:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(list(map(str, args)))
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its bundle, and two videos."""
    folder = tmp_path_factory.mktemp("export")
    save_checkpoint(network(), Task(NAMES, SPEC), folder / "run")
    for label in (1, 4):
        write_level(folder / "videos" / f"{label}.mp4", label, seed=label)
    done = atfr("export", folder / "run", folder / "bundle", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["runtime"] == "openvino"
    assert summary["sites"] == ["res2"]
    assert summary["logits_within"] < 1e-4
    return folder


def test_a_bundle_predicts_what_its_checkpoint_does(folder: Path) -> None:
    options = (folder / "videos", "--views", "2x3", "--json")
    ours, theirs = (
        atfr("predict", *options, *given)
        for given in (
            ("--bundle", folder / "bundle"),
            ("--checkpoint", folder / "run"),
        )
    )
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    for one, other in zip(json.loads(ours.stdout), json.loads(theirs.stdout), strict=True):
        for ours_top, theirs_top in zip(one.pop("top"), other.pop("top"), strict=True):
            assert ours_top["probability"] == pytest.approx(theirs_top["probability"], rel=1e-4)
        assert one == other  # path, views, active bins, GFLOPs, warning


def test_the_table_is_there_too(folder: Path) -> None:
    done = atfr("predict", folder / "videos", "--bundle", folder / "bundle")
    assert done.returncode == 0, done.stderr
    assert "active bins" in done.stdout
    assert "GFLOPs (multiply-adds) of all views" in done.stdout


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(when: str, bundle: Path) -> None:
    """Write a bundle in place of the old one, and end in the middle of it."""
    rename = Path.rename
    Path.rename = lambda path, target: die() if target == bundle else rename(path, target)
    with replacing(bundle) as scratch:
        (scratch / "network.bin").write_bytes(b"half")
        if when == "writing":
            die()


@pytest.mark.timeout(120)
def test_a_killed_export_leaves_the_old_bundle_or_the_next_puts_it_back(tmp_path: Path) -> None:
    folders = [tmp_path / when for when in ("writing", "putting it in place")]
    for folder in folders:
        (folder / "bundle").mkdir(parents=True)
        (folder / "bundle" / "bundle.json").write_text("{}")
    for folder in folders:
        process = forked(killed, folder.name, folder / "bundle")
        process.join()
        assert process.exitcode == -signal.SIGKILL
        old = folder / "bundle"
        assert not (old / "network.bin").exists()
        left = next(folder.glob(".bundle-*"))
        with (
            locked(left),
            pytest.raises(BundleError, match=f"another export writes to '{re.escape(str(old))}': wait for it"),
            replacing(old),
        ):
            pass
        assert left.exists(), "what another process holds stays"
        with replacing(old) as scratch:
            assert (old / "bundle.json").read_text() == "{}"
            (scratch / "bundle.json").write_text("new")
        assert [path.name for path in folder.iterdir()] == ["bundle"]
        assert (old / "bundle.json").read_text() == "new"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "VIDEO", "--bundle", "bundle", "--num_bins", "2"), "a bundle runs as it was exported; leave out"),
        (("predict", "VIDEO", "--bundle", "run"), "it has no bundle.json"),
        (("export", "run", "run"), "exists and is no bundle"),
        (("export", "bundle", "new"), "config.json is missing"),
        (("export", "run", "new", "--runtime", "tensorrt"), "runtime"),
    ],
)
def test_errors_are_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    named = {"VIDEO": folder / "videos" / "1.mp4", "run": folder / "run", "bundle": folder / "bundle"}
    done = atfr(*(named.get(argument, argument) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
