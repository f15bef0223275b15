"""Variants take turns, each round begins with another one, and figures are made of a round's own times."""

import gc
import time
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atfr.errors import InputError
from atfr.measure import Ratio, Timing, in_turns


class Loop:
    """Holds itself."""

    def __init__(self) -> None:
        self.self = self


TIMES = st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=1, max_size=9)


def test_each_round_begins_with_the_next_variant_and_warm_up_does_not_count() -> None:
    calls: list[str] = []
    timing = in_turns({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=4, at_least=4, warm_up=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert timing.rounds == 4
    assert list(timing.seconds) == ["a", "b", "c"]


def test_rounds_end_with_the_budget_but_not_before_the_least() -> None:
    calls: list[int] = []

    def run() -> None:
        calls.append(1)
        time.sleep(0.002)

    assert in_turns({"a": run}, rounds=50, at_least=7, budget_s=0, warm_up=0).rounds == 7 == len(calls)


def test_seconds_are_seconds() -> None:
    timing = in_turns({"short": lambda: time.sleep(0.02), "long": lambda: time.sleep(0.06)}, rounds=3, at_least=3)
    assert 20 <= timing.ms("short").median < 40
    assert 1.5 < timing.speedup("short", over="long").median <= 3.1


@given(TIMES)
def test_a_ratio_is_made_of_each_round_by_itself(rounds: list[tuple[float, float]]) -> None:
    slow, fast = (tuple(values) for values in zip(*rounds, strict=True))
    found = Timing({"slow": slow, "fast": fast}).speedup("fast", over="slow")
    own = sorted(a / b for a, b in rounds)
    assert (found.least, found.most) == (own[0], own[-1])
    middle = len(own) // 2
    assert found.median == pytest.approx(own[middle] if len(own) % 2 else (own[middle - 1] + own[middle]) / 2)


@given(TIMES, st.floats(0.1, 10))
def test_noise_that_lasts_for_a_round_cancels(rounds: list[tuple[float, float]], noise: float) -> None:
    slow, fast = (tuple(values) for values in zip(*rounds, strict=True))
    disturbed = Timing({"slow": (noise * slow[0], *slow[1:]), "fast": (noise * fast[0], *fast[1:])})
    found, quiet = (
        disturbed.speedup("fast", over="slow"),
        Timing({"slow": slow, "fast": fast}).speedup("fast", over="slow"),
    )
    assert found.to_dict() == pytest.approx(quiet.to_dict())


def test_a_ratio_reads_as_median_and_range() -> None:
    assert str(Ratio.of([1.0, 3.0, 2.0])) == "2 (1 to 3)"


def test_the_collector_rests_meanwhile_and_is_as_before_after_an_error() -> None:
    states: list[bool] = []

    def fail() -> None:
        states.append(gc.isenabled())
        raise RuntimeError("broken variant")

    with pytest.raises(RuntimeError, match="broken variant"):
        in_turns({"a": fail}, warm_up=0)
    assert states == [False]
    assert gc.isenabled()


def test_what_holds_itself_goes_before_the_next_round() -> None:
    made: weakref.WeakSet[Loop] = weakref.WeakSet()
    there: list[int] = []

    def leave_one() -> None:
        there.append(len(made))
        made.add(Loop())

    in_turns({"a": leave_one}, rounds=3, at_least=3, warm_up=1)
    assert there == [0, 0, 0, 0]


@pytest.mark.parametrize(("variants", "least"), [({}, 7), ({"a": lambda: None}, 0)])
def test_nothing_to_time(variants: dict, least: int) -> None:
    with pytest.raises(InputError, match="expected variants to time and at least one round"):
        in_turns(variants, at_least=least)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: times by events are not tested")
def test_cuda_times_hold_all_work_and_no_other() -> None:
    wide = torch.rand(8192, 8192, device="cuda")

    def queue_much() -> None:
        for _ in range(20):
            wide @ wide

    timing = in_turns({"long": queue_much, "short": lambda: wide @ wide}, rounds=7, device="cuda")
    assert 15 < timing.speedup("short", over="long").median < 25
