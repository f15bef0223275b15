import functools
import gc
import multiprocessing
import platform
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.errors import CheckpointError, DataError, InputError, VideoError
from atfr.evaluate.predict import Prediction, predict
from atfr.evaluate.task import Task
from atfr.video import file as file_module
from atfr.video.decode import decode
from atfr.video.spec import ClipSpec
from atfr.video.transforms import test_clips as views_of
from tests.alone import alone
from tests.evaluate.build import NAMES, SPEC, network, video_list, write_level
from tests.kernels.test_allocator import MEBIBYTES, held

pytestmark = pytest.mark.usefixtures("flat_stages")
TASK = Task(NAMES, SPEC)


def bytes_of_tensors() -> int:
    """The memory of all tensors of this process."""
    tensors = (each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter))  # a tracer's have no memory
    storages = [
        each.untyped_storage() for each in tensors if each.layout == torch.strided and each.device.type == "cpu"
    ]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class Nothing(nn.Module):
    """Says the same of every clip, and needs no memory."""

    config: ClassVar = {"model": "nothing", "arguments": {"num_classes": 6}}

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(6))

    def forward(self, clips: Tensor) -> Tensor:
        return self.scores.expand(len(clips), 6)


class Killing(Nothing):
    """Kills the processes that decode while it runs."""

    def forward(self, clips: Tensor) -> Tensor:
        if workers := multiprocessing.active_children():
            for worker in workers:
                worker.kill()
            time.sleep(1)  # torch's signal handler ends it at once, where nobody has taken its place
        return super().forward(clips)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    videos = video_list(tmp_path_factory.mktemp("videos with spaces ü"), [0, 1, 2, 3, 4])
    return [record.path for record in videos.records]


@pytest.mark.parametrize("settled", [None, 1.0])
def test_a_process_that_dies_while_the_network_runs_is_told(paths: list[Path], settled: float | None) -> None:
    with pytest.raises(DataError, match="a process that decodes videos died"):
        list(predict(Killing(), paths, TASK, num_clips=2, settled=settled, num_workers=1, batch_size=1))


@pytest.mark.parametrize("adapted", [True, False])
def test_is_the_mean_over_views_run_one_by_one(paths: list[Path], adapted: bool) -> None:
    model = network(adapted=adapted)
    cost = atfr.clip_cost(model, (3, 4, 32, 32))
    found = list(predict(model, paths[:3], TASK, num_clips=3, num_crops=3, batch_size=4))
    for path, prediction in zip(paths[:3], found, strict=True):
        scores, active_bins = [], []
        for view in views_of(decode(path, shorter_side=SPEC.decode_side), SPEC, 3, 3):
            with torch.no_grad(), atfr.record(model) as trace:
                scores.append(model(view[None])[0].double().softmax(0))
            if adapted:
                active_bins.append(int(trace.active_bins))
        assert prediction.path == path
        assert prediction.scores.dtype == torch.float64
        torch.testing.assert_close(prediction.scores, torch.stack(scores).mean(0), rtol=1e-4, atol=1e-7)
        assert prediction.active_bins == ({"res2": tuple(active_bins)} if adapted else {})
        spent = [cost.adaptive[a] for a in active_bins] if adapted else [cost.static] * 9
        assert prediction.gflops == pytest.approx([count / 1e9 for count in spent])
        assert prediction.total_gflops == pytest.approx(sum(spent) / 1e9)
        assert prediction.static_gflops == cost.static / 1e9


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_while_videos_are_predicted(paths: list[Path]) -> None:
    alone(functools.partial(look_at_memory, paths[:2]))


def look_at_memory(paths: list[Path]) -> None:
    found = predict(network(), paths, TASK)
    next(found)
    assert held() > MEBIBYTES // 2
    found.close()
    assert held() < MEBIBYTES // 2


def test_clips_of_different_length_come_out_in_one_batch(paths: list[Path]) -> None:
    found = list(predict(network(), paths, TASK, num_clips=3, batch_size=8))
    assert len({active for prediction in found for active in prediction.active_bins["res2"]}) > 1


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (4, 1), (64, 0)])
def test_order_and_figures_do_not_depend_on_the_batch(paths: list[Path], batch_size: int, num_workers: int) -> None:
    model = network()
    expected = list(predict(model, paths, TASK, num_clips=2))
    found = list(predict(model, paths, TASK, num_clips=2, batch_size=batch_size, num_workers=num_workers))
    assert [p.path for p in found] == paths
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-7)
        assert a.active_bins == b.active_bins


def test_a_file_is_decoded_once(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    open_video = file_module.open_video
    monkeypatch.setattr(
        file_module, "open_video", lambda path, threads: opened.append(path) or open_video(path, threads)
    )
    assert len(list(predict(network(), paths, TASK, num_clips=5, num_crops=3, batch_size=2))) == len(paths)
    assert opened == paths


@pytest.mark.parametrize("num_frames", [300, None])
def test_a_long_file_is_decoded_once_where_it_declares_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_frames: int | None
) -> None:
    """Longer than what is kept; with a wrong declaration it is decoded twice, to the same result."""
    path = write_level(tmp_path / "long.mp4", 3, frames=300)
    expected = next(predict(network(), [path], TASK, num_clips=4, num_crops=3))
    opened = []
    open_video = file_module.open_video
    monkeypatch.setattr(file_module, "KEEP_BYTES", 10_000)
    monkeypatch.setattr(file_module, "expected_frames", lambda *_: num_frames)
    monkeypatch.setattr(file_module, "open_video", lambda *how: opened.append(how[0]) or open_video(*how))
    found = next(predict(network(), [path], TASK, num_clips=4, num_crops=3))
    assert torch.equal(found.scores, expected.scores)
    assert found.active_bins == expected.active_bins
    assert len(opened) == (1 if num_frames else 2)


def test_decoding_goes_on_beside_the_network(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second file is opened while the first one's forward pass has not ended."""
    second = threading.Event()

    open_video = file_module.open_video

    def opening(path: Path, threads: int) -> AbstractContextManager:
        if path == paths[1]:
            second.set()
        return open_video(path, threads)

    monkeypatch.setattr(file_module, "open_video", opening)
    waited = []

    def wait(_: nn.Module, clips: tuple[Tensor]) -> None:
        if not clips[0].is_meta:  # the network is counted on paper first
            waited.append(second.wait(timeout=20))

    model = Nothing()
    model.register_forward_pre_hook(wait)
    list(predict(model, paths[:2], TASK, num_clips=2, batch_size=2))
    assert waited[0]


def test_memory_does_not_grow_with_the_number_of_views(tmp_path: Path) -> None:
    """All views of this video are 45 or 90 MB; cut in batches, they are held a batch and a clip at a time."""
    path = write_level(tmp_path / "video.mp4", 3, frames=60)
    task = Task(NAMES, ClipSpec(frames=16, stride=2, size=112, resize=112, jitter=(112, 112)))
    held: list[int] = []
    model = Nothing()

    def look(_: nn.Module, clips: tuple[Tensor]) -> None:
        if not clips[0].is_meta:  # the network is counted on paper first
            held.append(bytes_of_tensors())

    model.register_forward_pre_hook(look)
    most = []
    for num_clips in (4, 8):
        held.clear()
        gc.collect()
        before = bytes_of_tensors()
        list(predict(model, [path], task, num_clips=num_clips, num_crops=3, batch_size=6))
        most.append(max(held) - before)
    view = 3 * 16 * 112 * 112 * 4
    assert min(most) >= 6 * view, "the batch itself is seen"
    assert max(most) < 18 * view  # of 24
    assert most[1] - most[0] < view


def test_a_broken_file_is_an_error_or_is_handed_over(paths: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    mixed = [paths[0], broken, paths[1]]
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        list(predict(network(), mixed, TASK))
    handed: list[Path] = []
    found = list(predict(network(), mixed, TASK, on_error=lambda path, error: handed.append(path)))
    assert [p.path for p in found] == [paths[0], paths[1]]
    assert handed == [broken]


def test_a_truncated_file_gives_what_decodes_and_says_so(tmp_path: Path) -> None:
    path = write_level(tmp_path / "cut.mp4", 1, frames=30)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    (prediction,) = predict(network(), [path], TASK)
    assert prediction.warning is not None
    assert "cut.mp4" in prediction.warning
    assert prediction.to_dict()["warning"] == prediction.warning


def test_each_part_of_the_network_keeps_its_mode(paths: list[Path]) -> None:
    model = network().train()
    model.stem.eval()
    modes = [part.training for part in model.modules()]
    statistics = model.stem.norm.running_mean.clone()
    list(predict(model, paths[:1], TASK))
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(model.stem.norm.running_mean, statistics)


def test_top_is_sorted_and_no_longer_than_the_classes() -> None:
    scores = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    prediction = Prediction(Path("x"), ("a", "b", "c"), scores, {"res2": (3, 5)}, (1.0, 2.0), 4.0, 1.0)
    assert prediction.top(2) == [("b", 0.6), ("c", 0.3)]
    assert [label for label, _ in prediction.top()] == ["b", "c", "a"]
    report = prediction.to_dict()
    assert (report["gflops"], report["static_gflops"], report["views"]) == (3.0, 8.0, 2)


def test_one_path_in_place_of_a_list_is_refused(paths: list[Path]) -> None:
    for path in (paths[0], str(paths[0])):
        with pytest.raises(InputError, match=r"must be a list of video files, got one: .*; give \[path\]"):
            next(predict(network(), path, TASK))


def test_bad_arguments_are_refused_at_once(paths: list[Path]) -> None:
    with pytest.raises(InputError, match="num_crops=2"):
        predict(network(), paths, TASK, num_crops=2)
    with pytest.raises(InputError, match="batch_size must be an integer of at least 1, got 0"):
        predict(network(), paths, TASK, batch_size=0)
    with pytest.raises(CheckpointError, match=r"has 4 classes and its task names 6"):
        predict(network(classes=4), paths, TASK)


def test_a_notebook_shows_the_answer_and_nothing_of_names_as_html(paths: list[Path]) -> None:
    evil = Path("/videos/<script>&\udcff.mp4")
    answer = next(predict(network(), paths[:1], TASK))
    (first, _), (label, share), *_ = answer.top()
    labels = tuple("<b>bold</b>" if name == first else name for name in NAMES)
    shown = replace(answer, path=evil, labels=labels)._repr_html_()
    assert "<caption>/videos/&lt;script&gt;&amp;\\xff.mp4</caption>" in shown
    assert "&lt;b&gt;bold&lt;/b&gt;" in shown
    assert f"<td>{label}</td><td>{100 * share:.1f} %</td>" in shown
    assert f"{answer.total_gflops:.4g} GFLOPs" in shown
    assert len(ElementTree.fromstring(f"<div>{shown}</div>").findall("table/tr")) == 5
