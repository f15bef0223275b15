"""What decoders and runners do with real videos."""

import itertools
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from atfr.bulk.network import Predictor, ViewReader, chosen, together
from atfr.bulk.testing import _tester
from atfr.evaluate.forward import Forward
from atfr.evaluate.predict import predict
from atfr.evaluate.task import load_checkpoint
from atfr.measure.memory import peak_memory
from atfr.video.spec import ClipSpec, ViewSpec
from tests.alone import alone
from tests.evaluate.build import SPEC, write_level

pytestmark = pytest.mark.usefixtures("flat_stages")
HOURS = 10


def ten_hours(path: Path) -> Path:
    """A frame a second: 36,000 frames that take 221 MB when they are decoded."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 64
        stream.codec_context.thread_count = 1
        image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
        for number in range(3600 * HOURS):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _read_ten_hours() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = ten_hours(Path(folder, "long.mp4"))
        reader = ViewReader(ClipSpec(frames=16, stride=2, size=64, resize=64, jitter=(64, 64)), ViewSpec(10))
        assert peak_memory(lambda: reader(path)) < 180 * 2**20


def test_ten_hours_are_read_in_bounded_memory() -> None:
    alone(_read_ten_hours)


def test_rows_are_those_of_predict_in_any_grouping(checkpoint: Path, tmp_path: Path) -> None:
    paths = [write_level(tmp_path / f"{number}.mp4", number, seed=number) for number in range(5)]
    model, task = load_checkpoint(checkpoint)
    expected = list(predict(model, paths, task, num_clips=2))
    _, _, of_device = chosen(checkpoint, None, None, 3)
    predictor = pickle.loads(pickle.dumps(of_device("cpu", ViewSpec(2))))()  # as it travels to a runner
    reader = ViewReader(task.spec, ViewSpec(2))
    payloads = [reader(path)[0] for path in paths]
    for size in (1, 2, 5):
        groups = [payloads[start : start + size] for start in range(0, 5, size)]
        for row, one in zip(itertools.chain.from_iterable(map(predictor, groups)), expected, strict=True):
            assert row["label"] == one.top(1)[0][0]
            assert row["probability"] == pytest.approx(one.top(1)[0][1], abs=1e-6)
            assert row["active_bins"] == {site: list(kept) for site, kept in one.active_bins.items()}


def test_another_precision_is_another_configuration(checkpoint: Path, tmp_path: Path) -> None:
    path = write_level(tmp_path / "a.mp4", 2)
    model, task = load_checkpoint(checkpoint)
    (expected,) = predict(model, [path], task, precision="bfloat16")
    exact, _, _ = chosen(checkpoint, None, None, 3)
    found, _, of_device = chosen(checkpoint, None, None, 3, "bfloat16")
    assert found == exact | {"precision": "bfloat16"}
    (row,) = of_device("cpu", ViewSpec())()([ViewReader(task.spec, ViewSpec())(path)[0]])
    assert row["top"] == expected.to_dict()["top"]


def test_views_stop_in_runners_as_they_do_in_predict(checkpoint: Path, tmp_path: Path) -> None:
    paths = [write_level(tmp_path / f"{number}.mp4", number % 6, frames=30, seed=number) for number in range(7)]
    model, task = load_checkpoint(checkpoint)
    views = ViewSpec(4, 3, settled=0.02)
    expected = list(predict(model, paths, task, num_clips=4, num_crops=3, settled=0.02))
    counts = [len(one.gflops) for one in expected]
    assert min(counts) < max(counts)
    _, _, of_device = chosen(checkpoint, None, None, 3)
    read = ViewReader(task.spec, views)
    rows = of_device("cpu", views)()([read(path)[0] for path in paths])
    assert [(row["label"], row["views"]) for row in rows] == [
        (one.top(1)[0][0], count) for one, count in zip(expected, counts, strict=True)
    ]
    tested = _tester(model, task.clip_shape, 3, "float32", views, "cpu")(
        [ViewReader(task.spec, views, motion=True)(path)[0] for path in paths]
    )
    assert [len(row["passed"].scores) for row in tested] == [len(row["loaded"].motion) for row in tested] == counts
    assert [together(8, one) for one in (ViewSpec(), ViewSpec(3, 3), views)] == [8, 1, 8]


class Small:
    """A network that stands for one on a device whose memory is enough for so many clips."""

    def __init__(self, forward: Forward, most: int) -> None:
        self.forward, self.most, self.sizes = forward, most, list[int]()
        self.cost, self.device = forward.cost, forward.device

    def __call__(self, clips: torch.Tensor) -> object:
        self.sizes.append(len(clips))
        if len(clips) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.forward(clips)


def test_batches_follow_the_maps_that_are_kept_and_the_memory(checkpoint: Path, tmp_path: Path) -> None:
    model, task = load_checkpoint(checkpoint)
    payload, _ = ViewReader(SPEC, ViewSpec(10))(write_level(tmp_path / "a.mp4", 1))
    small = Small(Forward(model, task.clip_shape), 5)
    predictor = Predictor(small, task, 4, ViewSpec(10))  # type: ignore[arg-type]
    for _ in range(15):
        predictor([payload])
    assert small.sizes[0] == 4  # clips of all their maps: none is known to keep fewer
    assert max(size for size in small.sizes if size <= 5) > predictor.batch_size
    assert predictor.batch_size == 2  # more did not fit once they were counted by the half that they keep
    assert 0.4 < predictor.share < 0.8
