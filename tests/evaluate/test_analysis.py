"""What a test tells, against torchmetrics and against loops written out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchmetrics.functional import spearman_corrcoef
from torchmetrics.functional.classification import binary_calibration_error, multiclass_confusion_matrix

from atfr.adapt.trace import MapCounts
from atfr.evaluate import analysis
from atfr.evaluate.result import TestResult
from tests.evaluate.made_up import made_up


@pytest.fixture(scope="module")
def result() -> TestResult:
    return made_up(classes=7, videos=300)


def test_rank_correlation_is_that_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 9, 40).astype(float), rng.normal(size=40)  # the first with ties
        second = second + rng.uniform(0, 1) * first
        expected = spearman_corrcoef(torch.from_numpy(first), torch.from_numpy(second)).item()
        assert analysis.rank_correlation(first, second) == pytest.approx(expected, abs=1e-6)
    assert analysis.rank_correlation([1, 2, 3, 10], [0, 5, 6, 7]) == pytest.approx(1)
    assert analysis.rank_correlation([1, 2, 3, 10], [7, 6, 5, -9]) == pytest.approx(-1)
    for nothing in ([], [1.0], [2.0, 2.0, 2.0]):
        assert math.isnan(analysis.rank_correlation(nothing, [1.0, 2.0, 3.0][: len(nothing)]))


def test_motion_relation_over_clips_videos_and_within_classes(result: TestResult) -> None:
    found = analysis.motion_relation(result, "res2")
    kept = torch.tensor([video.active_bins["res2"] for video in result.videos], dtype=torch.float64)
    motion = torch.tensor([video.motion for video in result.videos], dtype=torch.float64)
    assert found.clips == pytest.approx(spearman_corrcoef(kept.flatten(), motion.flatten()).item(), abs=1e-6)
    assert found.videos == pytest.approx(spearman_corrcoef(kept.mean(1), motion.mean(1)).item(), abs=1e-6)
    within = []
    for label in result.labels:
        rows = [i for i, video in enumerate(result.videos) if video.label == label]
        within.append(spearman_corrcoef(kept[rows].mean(1), motion[rows].mean(1)).item())
    assert found.within_class == pytest.approx(np.mean(within), abs=1e-6)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_calibration_error_is_that_of_torchmetrics(result: TestResult, num_bins: int) -> None:
    probabilities = torch.tensor([video.probability for video in result.videos])
    correct = torch.tensor([video.correct for video in result.videos]).long()
    expected = binary_calibration_error(probabilities, correct, n_bins=num_bins, norm="l1").item()
    found = analysis.calibration(result, num_bins)
    assert found.error == pytest.approx(expected, abs=1e-6)
    assert sum(one.videos for one in found.bins) == len(result.videos)
    for one in found.bins:
        inside = (probabilities > one.low) & (probabilities <= one.high)
        assert one.videos == inside.sum()
        assert one.probability == pytest.approx(probabilities[inside].mean().item(), rel=1e-5)
        assert one.accuracy == pytest.approx(correct[inside].double().mean().item())


def test_probabilities_at_the_ends_and_not_finite(result: TestResult) -> None:
    values = (0.0, 1.0, 1 / 15, math.nan)
    rows = [replace(video, probability=value) for video, value in zip(result.videos, values, strict=False)]
    found = analysis.calibration(replace(result, videos=tuple(rows)))
    assert [(one.videos, one.low) for one in found.bins] == [(2, 0), (1, pytest.approx(14 / 15))]
    broken = replace(result, videos=tuple(replace(video, probability=math.nan) for video in result.videos))
    assert math.isnan(analysis.calibration(broken).error)


def test_confusion_is_that_of_torchmetrics(result: TestResult) -> None:
    place = {label: number for number, label in enumerate(result.labels)}
    told = torch.tensor([place[video.prediction] for video in result.videos])
    right = torch.tensor([place[video.label] for video in result.videos])
    expected = multiclass_confusion_matrix(told, right, num_classes=7).numpy()
    found = analysis.confusion(result)
    assert found.labels == result.labels
    np.testing.assert_array_equal(found.counts, expected)
    np.testing.assert_allclose(found.shares, expected / expected.sum(1, keepdims=True))
    pairs = found.pairs(100)
    wrong = sorted((expected * (1 - np.eye(7))).ravel(), reverse=True)
    assert [count for _, _, count, _ in pairs] == wrong[: len(pairs)]
    assert sum(count for _, _, count, _ in pairs) == sum(not video.correct for video in result.videos)
    for label, prediction, count, share in pairs:
        assert label != prediction
        assert count == expected[place[label], place[prediction]]
        assert share == pytest.approx(count / expected[place[label]].sum())


def test_of_many_classes_those_confused_most_stand_side_by_side(result: TestResult) -> None:
    found = analysis.confusion(result)
    labels, shares = found.part(4)
    (first, second, *_), *_ = found.pairs(1)
    assert labels[:2] == (first, second)
    assert shares.shape == (4, 5)
    np.testing.assert_allclose(shares.sum(1), 1)  # the last column has the rest
    assert shares[0, 1] == found.pairs(1)[0][3]
    labels, shares = found.part(7)
    assert labels == result.labels
    assert shares.shape == (7, 7)


def test_classes_that_are_only_predicted_have_a_row_of_zeros(result: TestResult) -> None:
    rows = [replace(video, prediction="class 006") for video in result.videos if video.label == "class 001"]
    found = analysis.confusion(replace(result, videos=tuple(rows)))
    assert found.labels == ("class 001", "class 006")
    assert found.shares.tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (3, 7), (50, 60), (9, 9)])
def test_interval_ends_are_where_the_score_test_turns(successes: int, trials: int) -> None:
    share = successes / trials
    for end in analysis.wilson(successes, trials):
        if 0 < end < 1:
            assert abs(end - share) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / trials), abs=1e-6)
        else:
            assert end == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("most", [2, 10, 40])
def test_accuracy_by_maps_kept_counts_each_video_once(result: TestResult, most: int) -> None:
    groups = analysis.accuracy_by_bins(result, "res2", most)
    assert len(groups) <= most
    assert sum(one.videos for one in groups) == len(result.videos)
    for one in groups:
        inside = [v for v in result.videos if one.low <= np.mean(v.active_bins["res2"]) < one.high]
        assert (one.videos, one.correct) == (len(inside), sum(v.correct for v in inside))


def test_classes_at_either_end(result: TestResult) -> None:
    means = {}
    for label in result.labels:
        kept = [count for video in result.videos if video.label == label for count in video.active_bins["res2"]]
        means[label] = np.mean(kept)
    expected = sorted(means, key=means.__getitem__)
    low, high = analysis.resolution_ends(result, "res2", 2)
    assert [one.label for one in low] + [one.label for one in high] == expected[:2] + expected[-2:]
    low, high = analysis.resolution_ends(result, "res2", 4)
    assert ([one.label for one in low], high) == (expected, [])


def test_what_becomes_of_maps_told_by_hand(result: TestResult) -> None:
    counts = (MapCounts((8, 8), (2, 4), (1, 0), (3, 0)), MapCounts((8, 4), (1, 1), (0, 3), (2, 0)))
    rows = [replace(v, sites={"res2": one}) for v, one in zip(result.videos, counts, strict=False)]
    found = analysis.map_use(replace(result, videos=tuple(rows)), "res2")
    assert found == analysis.MapUse(kept=8 / 28, dropped=4 / 28, down_weighted=5 / 28, clips_with_dropped=2 / 4)


def test_right_and_wrong(result: TestResult) -> None:
    right, wrong = analysis.correct_and_wrong(result, "res2")
    assert len(right) == sum(video.correct for video in result.videos)
    assert len(wrong) == len(result.videos) - len(right)
    assert sum(right + wrong) == pytest.approx(sum(np.mean(video.active_bins["res2"]) for video in result.videos))
