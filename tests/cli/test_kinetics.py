"""The published network on the command line: without a checkpoint, by its name, and where its weights are missing."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import atfr
from atfr.cli import doctor
from atfr.cli.main import main
from atfr.cli.predict import KINETICS
from atfr.cli.quickstart import real_answer
from atfr.evaluate import task as tasks
from atfr.video.spec import ClipSpec
from atfr.viz.explain import ROUNDS
from atfr.weights import published
from tests.video.video_files import ramp_video, write_video

LABELS = tuple(f"action {number}" for number in range(400))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def full_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with weights at random in their place."""
    folder = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        published.cached(KINETICS).parent.mkdir(parents=True)
        torch.manual_seed(0)
        safetensors.torch.save_file(atfr.create_model(KINETICS).state_dict(), published.cached(KINETICS))
    return folder


@pytest.fixture
def there(full_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are there, and clips are small."""
    monkeypatch.setenv("TORCH_HOME", str(full_cache))
    spec = ClipSpec(frames=8, stride=1, size=32, resize=32, jitter=(32, 32))
    monkeypatch.setattr(tasks, "kinetics400", lambda model: tasks.Task(LABELS, spec))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4", ramp_video())


@pytest.mark.parametrize("args", [[], ["--checkpoint", KINETICS]])
def test_where_the_weights_are_missing_one_line_says_how_to_get_them(args, video, capsys) -> None:
    assert main(["predict", str(video), *args]) == 2
    said = capsys.readouterr().err
    assert f"atfr weights {KINETICS}" in said
    assert len(said.splitlines()) == 1


def test_without_a_checkpoint_the_published_network_answers(there, video, capsys) -> None:
    assert main(["predict", str(video), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "no --checkpoint: this is i3d_inception" in err
    unsaid = json.loads(out)[0]
    assert {answer["label"] for answer in unsaid["top"]} < set(LABELS)
    assert main(["predict", str(video), "--json", "--checkpoint", KINETICS]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)[0], err) == (unsaid, "")


def test_the_demo_ends_with_its_answer(video, request) -> None:
    assert f"atfr weights {KINETICS}" in real_answer(video, drawn=True)
    request.getfixturevalue("there")
    said = real_answer(video, drawn=True)
    assert "drawn; it learned from films" in said
    assert said.count("action ") == 3
    assert "drawn" not in real_answer(video, drawn=False)


def test_the_name_stands_for_the_network_in_other_commands(
    there, video, tmp_path, monkeypatch, capsys, drawn_at_once
) -> None:
    drawn_at_once()
    monkeypatch.setitem(ROUNDS, "rounds", 1)
    monkeypatch.setitem(ROUNDS, "at_least", 1)
    assert main(["explain", str(video), "--checkpoint", KINETICS, "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 0
    assert main(["export", KINETICS, str(tmp_path / "bundle"), "--runtime", "torch"]) == 0
    capsys.readouterr()
    assert main(["predict", str(video), "--bundle", str(tmp_path / "bundle")]) == 0
    assert "Predictions" in capsys.readouterr().out


@pytest.mark.parametrize("is_there", [True, False])
def test_the_doctor_says_whether_the_weights_are_there(is_there, request, monkeypatch, capsys) -> None:
    if is_there:
        request.getfixturevalue("there")
    trial = [trial for trial in doctor.trials() if trial[1] == "Kinetics weights"]
    monkeypatch.setattr(doctor, "trials", lambda: iter(trial))
    assert main(["doctor", "--json"]) == 0
    (finding,) = [row for row in json.loads(capsys.readouterr().out)["findings"] if row["name"] == "Kinetics weights"]
    assert finding["works"] is (True if is_there else None)
    assert ("i3d_inception: start with them" if is_there else "atfr weights i3d_inception") in finding["detail"]
