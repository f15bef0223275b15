import json
from pathlib import Path

import pytest
import torch

import atfr
from atfr.errors import CheckpointError, InputError
from atfr.evaluate.task import Task, load_checkpoint, save_checkpoint
from tests.evaluate.build import NAMES, SPEC, network

pytestmark = pytest.mark.usefixtures("flat_stages")


def test_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    model, task = network(), Task(NAMES, SPEC)
    save_checkpoint(model, task, tmp_path / "new" / "folder")
    again, task_again = load_checkpoint(tmp_path / "new" / "folder")
    assert task_again == task
    clips = torch.randn(2, *task.clip_shape)
    with torch.no_grad():
        assert torch.equal(again(clips), model(clips))
    assert not list((tmp_path / "new" / "folder").glob(".*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "a task is"),
        (json.dumps({"labels": ["a"], "clip": {"framse": 3}}), "did you mean 'frames'"),
        (json.dumps({"labels": ["a", "b"], "clip": {}}), "6 classes and its task names 2"),
        (json.dumps({"labels": ["a", "a"], "clip": {}}), "differ"),
    ],
)
def test_a_bad_task_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    save_checkpoint(network(), Task(NAMES, SPEC), tmp_path)
    (tmp_path / "task.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_of_another_type_computes_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    """As a training with --trainer.precision bf16-true leaves it."""
    model, task = network().to(dtype), Task(NAMES, SPEC)
    save_checkpoint(model, task, tmp_path)
    loaded, _ = load_checkpoint(tmp_path)
    clips = torch.rand(2, *task.clip_shape)
    with torch.inference_mode():
        assert torch.equal(loaded(clips), model.float()(clips))


def test_a_folder_without_a_task_reads_the_clips_its_network_was_published_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    atfr.create_model("x3d_xs", num_classes=3).save_pretrained(tmp_path)
    with caplog.at_level("INFO", "atfr"):
        _, task = load_checkpoint(tmp_path)
    assert task.labels == ("class 0", "class 1", "class 2")
    assert (task.clip_shape, task.spec.stride) == ((3, 4, 182, 182), 12)
    assert "4 x 182 x 182, 12 frames of the video apart" in caplog.text


def test_labels_must_be_names() -> None:
    with pytest.raises(InputError, match="names of the classes"):
        Task((), SPEC)
