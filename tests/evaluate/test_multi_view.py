import csv
import io
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

import atfr
from atfr.data.records import VideoList, VideoRecord
from atfr.errors import DataError, InputError
from atfr.evaluate.forward import Forward
from atfr.evaluate.result import Spread, TestResult
from atfr.evaluate.test import test as run_test
from atfr.models import VideoModel
from atfr.optimize.conv import FusedConv3d
from atfr.video.decode import decode
from atfr.video.transforms import test_clips
from tests.evaluate.build import NAMES, SPEC, Brightness, network, video_list
from tests.processes import run_processes

pytestmark = pytest.mark.usefixtures("flat_stages")


def test_figures_are_those_told_by_hand(tmp_path: Path) -> None:
    # Brightness is always classified correctly, so the videos whose told class differs are the wrong ones.
    videos = video_list(tmp_path, [0, 1, 2, 4, 4, 5, 0], told=[0, 1, 2, 2, 4, 0, 0])
    result = run_test(Brightness(), videos, SPEC, num_clips=2, num_crops=3, batch_size=5)
    assert [video.correct for video in result.videos] == [True, True, True, False, True, False, True]
    assert result.top1 == 5 / 7
    assert result.top1_standard_error == pytest.approx(math.sqrt(5 / 7 * 2 / 7 / 7))
    # Class a: two right of three; b: one of one; c: one of two; e: one of one.
    assert result.mean_class_accuracy == pytest.approx((2 / 3 + 1 + 1 / 2 + 1) / 4)
    # Told c, brightness of e: behind e, d and f. Told a, brightness of f: behind all.
    assert [video.rank for video in result.videos] == [1, 1, 1, 4, 1, 6, 1]
    assert result.top5 == 6 / 7
    assert result.active_bins == {}
    assert [(one.label, one.num_videos, one.accuracy) for one in result.classes] == [
        ("a", 3, 2 / 3),
        ("b", 1, 1),
        ("c", 2, 1 / 2),
        ("e", 1, 1),
    ]
    assert [video.prediction for video in result.videos] == list("abceefa")


def test_top5_needs_more_than_five_classes(tmp_path: Path) -> None:
    videos = video_list(tmp_path, [0, 1])
    five = VideoList(videos.records, NAMES[:5])
    assert run_test(network(classes=5), five, SPEC, num_clips=1, num_crops=1).top5 is None


def test_every_video_counts_once_and_every_clip_is_in_the_histogram(tmp_path: Path) -> None:
    videos = video_list(tmp_path, [0, 1, 2, 3, 4, 5, 0])
    steps: list[tuple[int, int]] = []
    result = run_test(
        network(), videos, SPEC, num_clips=2, num_crops=1, batch_size=4, progress=lambda *step: steps.append(step)
    )
    assert [video.path for video in result.videos] == [str(record.path) for record in videos.records]
    assert steps == [(i, 7) for i in range(8)]
    assert sum(result.active_bins["res2"].values()) == 14
    gflops = result.gflops_per_clip
    assert gflops.mean == pytest.approx(sum(video.gflops for video in result.videos) / 14)
    assert 0 < gflops.min <= gflops.mean <= gflops.max
    assert result.ms_per_clip > 0
    assert result.timing["clip_shape"] == [3, 4, 32, 32]


def test_a_broken_video_is_left_out_counted_and_named(tmp_path: Path) -> None:
    good = video_list(tmp_path, [0, 1, 2])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 100)
    records = (good.records[0], VideoRecord(broken, 4), *good.records[1:])
    result = run_test(Brightness(), VideoList(records, NAMES), SPEC, num_clips=1, num_crops=1)
    assert [skip.path for skip in result.skipped] == [str(broken)]
    assert result.top1 == 1  # labels did not slip behind the gap
    assert result.to_dict()["num_skipped"] == 1
    with pytest.raises(DataError, match="of 1 test video none decodes"):
        run_test(Brightness(), VideoList((VideoRecord(broken, 0),), NAMES), SPEC)


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    videos = video_list(tmp_path, [0, 1, 2], told=[0, 1, 3])
    result = run_test(network(), videos, SPEC, num_clips=2, num_crops=3)
    report = json.loads(result.to_json())
    rows = list(csv.DictReader(io.StringIO(result.videos_csv())))
    assert report["num_videos"] == len(rows) == 3
    for video, row in zip(report["videos"], rows, strict=True):
        assert row["path"] == video["path"]
        assert bool(int(row["correct"])) == video["correct"]
        assert row["active_bins res2"] == " ".join(map(str, video["active_bins"]["res2"]))
        assert float(row["gflops"]) == video["gflops"]
    assert report["active_bins"]["res2"] == {str(bins): count for bins, count in result.active_bins["res2"].items()}
    classes = list(csv.DictReader(io.StringIO(result.classes_csv())))
    for row, told in zip(classes, report["classes"], strict=True):
        assert (row["label"], int(row["videos"])) == (told["label"], told["num_videos"])
        kept = [a for video in report["videos"] if video["label"] == row["label"] for a in video["active_bins"]["res2"]]
        assert float(row["active_bins res2"]) == told["active_bins"]["res2"]["mean"] == pytest.approx(fmean(kept))
        assert float(row["gflops_per_clip"]) == told["gflops_per_clip"]["mean"] < report["static_gflops_per_clip"]


def test_each_site_has_its_own_figures(tmp_path: Path) -> None:
    model = network(adapted=False)
    atfr.adapt_(model, after=["res2", "res3"])
    result = run_test(model, video_list(tmp_path, [0, 1]), SPEC, num_clips=2, num_crops=1)
    assert list(result.active_bins) == ["res2", "res3"]
    cost = atfr.clip_cost(model, (3, 4, 32, 32))
    for video in result.videos:
        kept = list(zip(video.active_bins["res2"], video.active_bins["res3"], strict=True))
        assert all(first >= second for first, second in kept)
        assert video.view_gflops == tuple(cost.adaptive[pair] / 1e9 for pair in kept)
    assert {"active_bins res2", "active_bins res3"} <= set(next(csv.DictReader(io.StringIO(result.videos_csv()))))


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 4), (1, 13)])
def test_motion_and_maps_are_those_of_the_very_clips_that_are_tested(
    tmp_path: Path, workers: int, batch_size: int
) -> None:
    """Beside a broken video, in batches of a part of a video and of two: each video has its own."""
    good = video_list(tmp_path, [2, 3, 2])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 100)
    videos = VideoList((good.records[0], VideoRecord(broken, 4), *good.records[1:]), NAMES)
    spec, model = replace(SPEC, size=24), network()
    options = {"num_clips": 2, "num_crops": 3, "batch_size": batch_size, "num_workers": workers, "max_skipped": 0.5}
    result = run_test(model, videos, spec, **options)
    for video in result.videos:
        frames = decode(Path(video.path), shorter_side=spec.decode_side)
        views = test_clips(frames, spec, 2, 3)
        pixels = (255 * (views * SPEC.std[0] + SPEC.mean[0])).numpy().round() / 255
        expected = [np.abs(np.diff(view, axis=1)).mean() for view in pixels]
        assert video.motion == pytest.approx(expected, rel=1e-4)
        with atfr.record(model) as trace, torch.no_grad():
            model(views)
        assert video.sites == {"res2": trace.sites["res2"].counts}
    assert len({video.motion for video in result.videos}) == 3


def test_random_crops_are_drawn_by_seed_and_video(tmp_path: Path) -> None:
    videos = video_list(tmp_path, [2, 3, 2])
    spec = replace(SPEC, size=16)

    def probabilities(crops: str, seed: int, batch_size: int = 8) -> list[float]:
        options = {"num_clips": 2, "num_crops": 3, "batch_size": batch_size}
        result = run_test(network(), videos, spec, crops=crops, seed=seed, **options)
        assert result.views["places"] == crops
        return [video.probability for video in result.videos]

    first, again, other = probabilities("random", 0), probabilities("random", 0, 5), probabilities("random", 1)
    assert first == pytest.approx(again, rel=1e-5)  # batches differ
    assert first != pytest.approx(other, rel=1e-5)
    assert first != pytest.approx(probabilities("uniform", 0), rel=1e-5)
    with pytest.raises(InputError, match="crops must be one of 'uniform', 'random'"):
        probabilities("centre", 0)


def share_of_the_test(rank: int, folder: Path, videos: VideoList, model: VideoModel) -> None:
    seven = run_test(model, videos, SPEC, num_clips=2, num_crops=3, crops="random", batch_size=4)
    one = run_test(model, VideoList(videos.records[:1], NAMES), SPEC, num_clips=1, num_crops=1)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps((seven, one)))


def test_each_video_counts_once_however_many_processes_share_them(tmp_path: Path) -> None:
    """Seven videos, of which one does not decode, do not divide by 2; and one video leaves a process idle."""
    good = video_list(tmp_path, [0, 1, 2, 3, 4, 5])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 100)
    videos = VideoList((*good.records[:3], VideoRecord(broken, 4), *good.records[3:]), NAMES)
    model = network()
    alone = run_test(model, videos, SPEC, num_clips=2, num_crops=3, crops="random", batch_size=4)
    run_processes(share_of_the_test, tmp_path, videos, model, count=2)
    result: TestResult
    one: TestResult
    for rank in range(2):
        result, one = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        assert [video.path for video in one.videos] == [str(good.records[0].path)]
        assert [video.path for video in result.videos] == [str(record.path) for record in good.records]
        assert result.skipped == alone.skipped
        assert result.timing["processes"] == 2
        for video, expected in zip(result.videos, alone.videos, strict=True):
            assert replace(video, probability=0) == replace(expected, probability=0)
            assert video.probability == pytest.approx(expected.probability, rel=1e-5)
        assert (result.top1, result.mean_class_accuracy) == (alone.top1, alone.mean_class_accuracy)
        assert result.gflops_per_clip == alone.gflops_per_clip


def test_the_network_runs_as_it_is_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr("atfr.evaluate.forward.Forward", lambda *args: ran.append(Forward(*args)) or ran[0])
    model = network()
    run_test(model, video_list(tmp_path, [1]), SPEC)
    assert any(isinstance(module, FusedConv3d) for module in ran[0].model.modules())
    assert not any(isinstance(module, FusedConv3d) for module in model.modules())


def test_spread() -> None:
    assert Spread.of([1, 2, 3, 6]) == Spread(3, math.sqrt(3.5), 1, 6)
