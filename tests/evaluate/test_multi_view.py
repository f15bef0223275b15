import csv
import io
import json
import math
from pathlib import Path

import pytest

from atfr.data.records import VideoList, VideoRecord
from atfr.errors import DataError
from atfr.evaluate.test import Spread
from atfr.evaluate.test import test as run_test
from tests.evaluate.build import NAMES, SPEC, Brightness, network, video_list


def test_figures_are_those_told_by_hand(tmp_path: Path) -> None:
    # Brightness is always told right, so the videos whose told class differs are the wrong ones.
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
    assert result.active_bins is None
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
    assert steps == [(i, 7) for i in range(1, 8)]
    assert sum((result.active_bins or {}).values()) == 14
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
    with pytest.raises(DataError, match="none of the 1 test videos"):
        run_test(Brightness(), VideoList((VideoRecord(broken, 0),), NAMES), SPEC)


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    videos = video_list(tmp_path, [0, 1, 2], told=[0, 1, 3])
    result = run_test(network(), videos, SPEC, num_clips=2, num_crops=3)
    report = json.loads(result.to_json())
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert report["num_videos"] == len(rows) == 3
    for video, row in zip(report["videos"], rows, strict=True):
        assert row["path"] == video["path"]
        assert bool(int(row["correct"])) == video["correct"]
        assert row["active_bins"] == " ".join(map(str, video["active_bins"]))
        assert float(row["gflops"]) == video["gflops"]
    assert report["active_bins"] == {str(bins): count for bins, count in (result.active_bins or {}).items()}


def test_spread() -> None:
    assert Spread.of([1, 2, 3, 6]) == Spread(3, math.sqrt(3.5), 1, 6)
