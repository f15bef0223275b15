"""A worker process that dies is reported with the file it was reading, whatever kills it; its errors stay one line."""

import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import atfr.evaluate.predict as predict_module
from atfr.data import dataset as dataset_module
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, VideoRecord
from atfr.data.workers import WatchedLoader
from atfr.errors import DataError
from atfr.evaluate.predict import predict
from atfr.evaluate.task import Task
from atfr.train.loaders import ClipLoaders
from atfr.video.file import VideoFile
from tests.data.test_dataset import SPEC
from tests.evaluate.build import SPEC as SMALL
from tests.evaluate.build import network
from tests.video.video_files import ramp_video, write_video


@pytest.fixture(scope="module", autouse=True)
def _looked_after_often() -> Iterator[None]:
    """PyTorch looks after the processes of a loader every 5 s, and waits as long for one to end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
        patch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))  # which it was, once
        yield
        gc.collect()  # loaders that an error has left


@pytest.fixture
def videos(tmp_path: Path) -> VideoList:
    paths = [write_video(tmp_path / f"{i}.mp4", ramp_video(20)) for i in range(8)]
    return VideoList(tuple(VideoRecord(path, i % 2) for i, path in enumerate(paths)), ("a", "b"))


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file 5.mp4 kills the process that reads it, as damaged data may do in a decoder."""

    class Deadly(VideoFile):
        def __len__(self) -> int:
            if self.path.name == "5.mp4":
                os.kill(os.getpid(), signal.SIGSEGV)
            return super().__len__()

    monkeypatch.setattr(dataset_module, "VideoFile", Deadly)
    monkeypatch.setattr(predict_module, "VideoFile", Deadly)


@pytest.mark.usefixtures("deadly")
@pytest.mark.parametrize("split", ["train", "val"])
def test_training_names_the_file(videos: VideoList, split: str) -> None:
    train, val = (ClipDataset(videos, SPEC, train=part, cache_bytes=0) for part in (True, False))
    loaders = ClipLoaders(train, val, batch_size=2, num_workers=2, seed=0)
    loader = loaders.train_dataloader() if split == "train" else loaders.val_dataloader()
    with pytest.raises(DataError, match=r"died while it was reading '[^']*/5\.mp4' \(pid \d+: ") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("deadly")
def test_predicting_names_the_file(videos: VideoList) -> None:
    paths = [record.path for record in videos.records]
    with pytest.raises(DataError, match=r"died while it was reading '[^']*/5\.mp4'"):
        list(predict(network(classes=2), paths, Task(("a", "b"), SMALL), num_workers=1))


def broken_connection(worker: int) -> None:
    """What happens to the loader when a worker dies in the middle of handing over a batch."""
    threading.Timer(0.2, os.kill, (worker, signal.SIGKILL)).start()
    raise ConnectionResetError("reset by peer")


class Unready:
    """A clip that a worker never gets to hand over."""

    def __reduce__(self) -> tuple:
        return broken_connection, (os.getpid(),)


def test_a_death_while_handing_over_is_told_as_any_other(videos: VideoList, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ClipDataset(videos, SPEC, train=True)
    monkeypatch.setattr(dataset_module, "train_clip", lambda *_: Unready())
    options = {"readings": dataset.readings, "path_of": dataset.path}
    loader = WatchedLoader(dataset, num_workers=1, collate_fn=lambda items: items[0], **options)
    with pytest.raises(DataError, match=r"died between two videos \(pid \d+: "):
        list(loader)


def test_an_error_in_a_worker_is_one_line(videos: VideoList, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    records = tuple(VideoRecord(bad, i % 2) for i in range(8))
    dataset = ClipDataset(VideoList(records, ("a", "b")), SMALL, train=True)
    loaders = ClipLoaders(dataset, None, batch_size=2, num_workers=1, seed=0)
    with pytest.raises(DataError, match=r"^3 of 8 videos do not decode, more than 25 %.*bad\.mp4") as caught:
        list(loaders.train_dataloader())
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_worker_stay_as_they_are(videos: VideoList, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("something else")

    monkeypatch.setattr(dataset_module, "train_clip", broken)
    dataset = ClipDataset(videos, SPEC, train=True)
    with pytest.raises(RuntimeError, match="something else"):
        list(ClipLoaders(dataset, None, batch_size=2, num_workers=1, seed=0).train_dataloader())
