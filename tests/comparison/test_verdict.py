"""What a comparison says, on results that were never run: each sentence where it is due, and honest intervals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from atfr.comparison.making import Row
from atfr.comparison.plans import Plan
from atfr.comparison.verdict import Findings, wide_enough
from atfr.evaluate.analysis import wilson
from atfr.evaluate.result import TestResult, VideoResult
from atfr.evaluate.runs import Difference, loss_difference, paired_difference
from atfr.video.spec import ViewSpec

LABELS = ("a", "b", "c", "d")
PLANS = {
    "static": Plan("static", "static", of=32),
    "fewer_frames_8": Plan("fewer_frames_8", "fewer_frames", {"after": "input"}, 8, 32),
    "change_8": Plan("change_8", "change", {"after": "input"}, 8, 32),
    "uniform_maps_8": Plan("uniform_maps_8", "uniform_maps", {"after": "res2"}, 8, 32),
    "sgs_8": Plan("sgs_8", "sgs", {"after": "res2"}, 8, 32),
}


def result(right: Sequence[bool], gflops: float, probability: float = 0.7) -> TestResult:
    """A test of videos that are classified correctly or not."""
    videos = tuple(
        VideoResult(
            f"{number}.mp4", LABELS[number % 4], LABELS[(number + (not one)) % 4], probability, 1 if one else 2, {},
            (gflops,), (0.0,), None, probability if one else 1 - probability,
        )
        for number, one in enumerate(right)
    )  # fmt: skip
    return TestResult(videos, (), LABELS, {}, {}, 1.0, 1.0, {})


def findings(right: dict[str, Sequence[bool]], time: dict[str, float], margin: float = 0.02) -> Findings:
    rows = {
        name: Row(result(one, time[name]), 0.0, None, 10 * time[name], 1 / time[name]) for name, one in right.items()
    }
    return Findings({name: PLANS[name] for name in rows}, rows, margin)


def wrong_at(videos: int, wrong: range) -> list[bool]:
    return [number not in wrong for number in range(videos)]


TIME = {"static": 1.0, "fewer_frames_8": 0.3, "change_8": 0.31, "uniform_maps_8": 0.6, "sgs_8": 0.61}


def test_change_that_is_level_where_fewer_frames_lose_is_recommended() -> None:
    right = {"static": wrong_at(300, range(1)), "fewer_frames_8": wrong_at(300, range(48))}
    found = findings(right | {"change_8": wrong_at(300, range(2))}, TIME)
    verdict = found.verdict()
    assert verdict.take == "change_8"
    assert verdict.sentence.startswith("Take 8 of 32 frames, by change: level with static at 0.31 of its time (-0.3 po")
    assert "better than 8 of 32 frames, evenly spaced (+15.3 points, 95 %: +11." in verdict.sentence


def test_uniform_frames_that_are_level_are_recommended_over_change_that_is_no_better() -> None:
    right = {name: wrong_at(300, range(number)) for number, name in enumerate(("static", "fewer_frames_8", "change_8"))}
    for time in (TIME, TIME | {"fewer_frames_8": 0.32, "change_8": 0.3}):
        verdict = findings(right, time).verdict()
        assert verdict.take == "fewer_frames_8"
        assert verdict.sentence.endswith("adaptivity brings nothing that these 300 videos show.")


def test_change_that_is_as_quick_and_better_is_recommended_where_fewer_frames_are_level_too() -> None:
    right = {"static": wrong_at(900, range(20)), "fewer_frames_8": wrong_at(900, range(20)), "change_8": [True] * 900}
    verdict = findings(right, TIME).verdict()
    assert verdict.take == "change_8"
    assert "better than static at 0.31" in verdict.sentence


def test_what_is_better_still_for_more_is_said() -> None:
    right = {"static": wrong_at(300, range(40)), "fewer_frames_8": wrong_at(300, range(90))}
    found = findings(right | {"change_8": wrong_at(300, range(15)), "uniform_maps_8": [True] * 300}, TIME)
    verdict = found.verdict()
    assert verdict.take == "change_8"
    assert " Better still at 0.60: 8 of 32 maps behind res2, evenly spaced (+5.0 points, 95 %: +" in verdict.sentence


def test_few_videos_decide_nothing_even_where_all_agree() -> None:
    verdict = findings({name: [True] * 24 for name in ("static", "fewer_frames_8", "change_8")}, TIME).verdict()
    assert verdict.take is None
    assert verdict.sentence.startswith("These 24 videos decide nothing: no cheaper network is shown within 2 points of")
    assert findings({name: [True] * 24 for name in ("static", "change_8")}, TIME, margin=0.2).verdict().take


def test_what_is_shown_all_the_same_is_said() -> None:
    right = {"static": wrong_at(60, range(3)), "fewer_frames_8": wrong_at(60, range(20))}
    right["change_8"] = wrong_at(60, range(3, 6))
    verdict = findings(right, TIME).verdict()
    assert verdict.take is None
    assert verdict.sentence.startswith("These 60 videos decide little: no cheaper network is shown within 2 points of")
    assert "change_8 is right more often than fewer_frames_8 (+28.3 points, 95 %: +" in verdict.sentence


def test_all_frames_are_recommended_where_whatever_costs_less_loses() -> None:
    right = {"static": [True] * 300, "fewer_frames_8": wrong_at(300, range(60)), "change_8": wrong_at(300, range(40))}
    verdict = findings(right, TIME).verdict()
    assert verdict.take == "static"
    assert "8 of 32 frames, by change, comes nearest (-13.3 points" in verdict.sentence


def test_networks_that_have_learned_nothing_decide_nothing() -> None:
    guesses = [number % 4 == 0 for number in range(300)]
    verdict = findings(dict.fromkeys(("static", "fewer_frames_8", "change_8"), guesses), TIME).verdict()
    assert verdict.take is None
    assert "static is right in 25 % of them, guessing would be in 25 %" in verdict.sentence


def test_what_is_slower_than_static_is_not_recommended() -> None:
    right = {name: [True] * 300 for name in ("static", "fewer_frames_8", "change_8")}
    assert findings(right, TIME | {"fewer_frames_8": 1.1, "change_8": 1.2}).verdict().take is None


def test_maps_are_held_against_the_dearest_fewer_frames_that_cost_no_more() -> None:
    found = findings({name: [True] * 30 for name in TIME}, TIME)
    assert [found.control(name) for name in TIME] == [None, None, *["fewer_frames_8"] * 3]
    assert found.frontier("gflops") == found.frontier("time") == ["fewer_frames_8"]


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (6, 1), (5, 5), (2, 9)])
def test_mcnemar_counts_the_splits_that_are_as_uneven(gained: int, lost: int) -> None:
    splits = list(itertools.product((-1, 1), repeat=gained + lost))
    as_uneven = sum(abs(sum(split)) >= abs(gained - lost) for split in splits)
    found = paired_difference(result(wrong_at(20, range(lost)), 1), result(wrong_at(20, range(lost, lost + gained)), 1))
    assert (found.gained, found.lost, found.videos) == (gained, lost, 20)
    assert found.p == pytest.approx(as_uneven / len(splits))


@pytest.mark.parametrize(("gains", "loses"), [(0, 1 / 12), (0, 0.02), (0.05, 0.1), (0.2, 0.2)])
def test_intervals_hold_the_truth_with_few_videos_too(gains: float, loses: float) -> None:
    """In 2000 tests of 24 videos; with a bootstrap alone, one in which no video changes would not hold it."""
    counts = np.random.default_rng(0).multinomial(24, (gains, loses, 1 - gains - loses), 2000)[:, :2].tolist()
    ends = {pair: wide_enough(Difference((pair[0] - pair[1]) / 24, 0, 0, *pair, 1, 24)) for pair in map(tuple, counts)}
    inside = [ends[pair].low <= gains - loses <= ends[pair].high for pair in map(tuple, counts)]
    assert np.mean(inside) >= 0.94


def test_where_no_video_changes_the_interval_is_that_of_wilson() -> None:
    one = wide_enough(Difference(0, 0, 0, 0, 0, 1, 24))
    assert (-one.low, one.high) == pytest.approx([wilson(0, 24)[1]] * 2)


def test_losses_are_compared_video_by_video() -> None:
    one, other = result([True] * 40, 1, 0.9), result(wrong_at(40, range(20)), 1, 0.9)
    found = loss_difference(one, other)
    assert found is not None
    assert found.mean == pytest.approx((np.log(0.1) - np.log(0.9)) / 2)
    assert found.low < found.mean < found.high < 0
    assert one.loss == pytest.approx(-np.log(0.9))


def test_views_until_settled_are_recommended_where_as_many_of_every_video_lose() -> None:
    plans = {name: PLANS[name] for name in ("static", "fewer_frames_8")}
    plans |= {
        f"fewer_views_{n}": Plan(f"fewer_views_{n}", "fewer_views", None, n, 32, views=ViewSpec(n)) for n in (1, 3)
    }
    plans["until_settled"] = Plan("until_settled", "until_settled", of=32, views=ViewSpec(10, 1, 2.0))
    right = {"static": 1, "fewer_frames_8": 48, "fewer_views_1": 60, "fewer_views_3": 30, "until_settled": 1}
    time = {"static": 1.0, "fewer_frames_8": 0.3, "fewer_views_1": 0.1, "fewer_views_3": 0.3, "until_settled": 0.24}
    rows = {
        name: Row(result(wrong_at(300, range(right[name])), time[name]), 0.0, None, 1.0, 1 / time[name])
        for name in plans
    }
    found = Findings(plans, rows, 0.02)
    assert found.control("until_settled") == "fewer_views_3"  # not the cheaper one
    assert found.control("fewer_views_3") is None
    dearest = Findings({name: plans[name] for name in ("static", "fewer_views_1", "until_settled")}, rows, 0.02)
    assert dearest.control("until_settled") == "static"  # all views; one view costs less
    verdict = found.verdict()
    assert verdict.take == "until_settled"
    assert verdict.sentence.startswith("Take all 32 frames, views until settled: level with static at 0.24 of its time")
    assert "better than all 32 frames, 3 views of each video (+9.7 points" in verdict.sentence


@pytest.mark.parametrize(
    ("cost", "control"),
    [(0.9, "fewer_frames_16"), (0.501, "fewer_frames_16"), (0.4, "fewer_frames_8"), (0.1, "fewer_frames_8")],
)
def test_what_costs_no_more_is_what_a_sampler_behind_a_stage_is_held_against(cost: float, control: str) -> None:
    """The dearest of these; where all cost more, the cheapest."""
    costs = {"static": 1.0, "fewer_frames_8": 0.3, "fewer_frames_16": 0.51, "fewer_frames_31": 0.97, "sgs_8": cost}
    plans = PLANS | {
        name: Plan(name, "fewer_frames", {"after": "input"}, int(name[-2:]), 32) for name in list(costs)[2:4]
    }
    rows = {name: Row(result([True] * 4, gflops), 0.0, None, 1.0, 1.0) for name, gflops in costs.items()}
    found = Findings({name: plans[name] for name in costs}, rows, 0.02)
    assert found.control("sgs_8") == control
