"""atfr explain: a page written whole or not at all, its data as JSON, errors in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from atfr.cli.main import main
from atfr.evaluate.task import Task, save_checkpoint
from atfr.viz.explain import ROUNDS
from tests.cli.test_main import error_of
from tests.evaluate.build import NAMES, SPEC, network, write_level
from tests.viz.test_page import check_stands_alone

pytestmark = pytest.mark.usefixtures("flat_stages")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint [x]")
    save_checkpoint(network(classes=2), Task(NAMES[:2], SPEC), folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_level(tmp_path_factory.mktemp("videos ü") / "a.mp4", 2)


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROUNDS, "rounds", 1)
    monkeypatch.setitem(ROUNDS, "at_least", 1)


def test_page_table_and_json(
    video: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    drawn_at_once: Callable[[], None],
) -> None:
    out = tmp_path / "out.html"
    assert main(["explain", str(video), "--checkpoint", str(checkpoint), "-o", str(out)]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    assert f"Written: {out}" in printed
    assert re.search(
        r"ms of a clip: [\d.]+, without the sampler [\d.]+ \(in turns, medians of 1; threads: \d+\)", printed
    )
    check_stands_alone(out.read_text(encoding="utf-8"))
    assert list(tmp_path.iterdir()) == [out]

    drawn_at_once()
    monkeypatch.chdir(tmp_path)
    assert main(["explain", str(video), "--checkpoint", str(checkpoint), "--num_bins", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["prediction"]["path"] == str(video)
    assert data["sites"]["res2"]["active_bins"] <= 2
    assert len(data["sites"]["res2"]["coordinates"][0]["blocks"][0]["edges"]) == 3
    assert (tmp_path / "explanation.html").is_file()

    assert main(["predict", str(video), "--checkpoint", str(checkpoint), "--num_bins", "2", "--json"]) == 0
    (predicted,) = json.loads(capsys.readouterr().out)
    found, wanted = data["prediction"].pop("top"), predicted.pop("top")  # predict optimises the network: other rounding
    assert predicted == data["prediction"]
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    assert [one["probability"] for one in found] == pytest.approx([one["probability"] for one in wanted], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-o", "{tmp}/none/out.html"], "would lie in '{tmp}/none', which is no folder"),
        (["-o", "{tmp}"], "'{tmp}' is a folder"),
        (["-o", "{tmp}/a.mp4"], "'{tmp}/a.mp4' does not end in .html"),
        (["--device", "meta"], "--device 'meta' cannot be used: it holds no numbers"),
        (["--label", "run"], "there is no class 'run'; the network's are a, b"),
        (["--lable", "run"], "did you mean --label?"),
        (["--num_bins", "0"], "num_bins must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_options_are_one_line(
    options: list[str], told: str, video: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [option.format(tmp=tmp_path) for option in options]
    out = [] if "-o" in arguments else ["-o", str(tmp_path / "out.html")]
    assert main(["explain", str(video), "--checkpoint", str(checkpoint), *arguments, *out]) == 2
    assert told.format(tmp=tmp_path) in error_of(capsys)
    assert not list(tmp_path.iterdir())


def test_bins_too_many_to_be_seen_have_no_edges(
    video: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn_at_once: Callable[[], None]
) -> None:
    drawn_at_once()
    line = ["explain", str(video), "--checkpoint", str(checkpoint), "-o", str(tmp_path / "out.html"), "--json"]
    assert main([*line, "--num_bins", "100000000"]) == 0
    (coordinate,) = json.loads(capsys.readouterr().out)["sites"]["res2"]["coordinates"]
    assert [block["edges"] for block in coordinate["blocks"]] == [[]]


@pytest.mark.parametrize("content", [None, b"", b"no video"])
def test_what_is_no_video_leaves_the_page_that_was_there(
    content: bytes | None, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = tmp_path / "v.mp4", tmp_path / "out.html"
    out.write_text("an older page")
    if content is not None:
        video.write_bytes(content)
    assert main(["explain", str(video), "--checkpoint", str(checkpoint), "-o", str(out)]) == 2
    assert "v.mp4" in error_of(capsys)
    assert out.read_text() == "an older page"
    assert sorted(tmp_path.iterdir()) == sorted([out, *[video] * (content is not None)])


def test_a_page_that_cannot_be_written_leaves_nothing(
    video: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    drawn_at_once: Callable[[], None],
) -> None:
    drawn_at_once()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert main(["explain", str(video), "--checkpoint", str(checkpoint), "-o", str(tmp_path / "out.html")]) == 2
    assert "No space left on device" in error_of(capsys)
    assert not list(tmp_path.iterdir())
