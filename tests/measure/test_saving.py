"""The saving of networks whose times are known, and the formulas by hand."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.errors import InputError
from atfr.measure import Timing
from atfr.measure.clocked import Clocked
from atfr.measure.eager import eager
from atfr.measure.saving import Saving, Work, measure, work_of
from tests.models.narrow import narrow

WORK = Work({"res2": (2, 4)}, {"res2": 12}, static_multiply_adds=8_000_000_000, adaptive_multiply_adds=2_000_000_000)
BEFORE_S, PER_MAP_S = 0.05, 0.015


def test_formulas_by_hand() -> None:
    parts = {"before": (2.0, 4.0), "after": (6.0, 12.0), "sgs": (0.1, 0.4)}
    found = Saving(Timing({"static": (8.0, 16.0), "adaptive": (4.0, 8.0), **parts}), WORK)
    assert WORK.share == 0.25
    assert found.speedup.median == 2
    assert found.ideal.median == pytest.approx(8 / 3.5)
    assert found.efficiency.median == pytest.approx(2 / (8 / 3.5))
    assert found.over_flops.median == pytest.approx(2 / 4)
    assert (found.sgs_share.least, found.sgs_share.most) == (0.025, 0.05)
    assert (found.static_gflops.most, found.adaptive_gflops.most) == (1.0, 0.5)
    assert found.to_dict()["flops_ratio"] == 4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on when somebody sleeps, and at no other time."""
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])


class Wait(nn.Module):
    """Takes as long as its maps say."""

    def __init__(self, fixed_s: float, per_map_s: float) -> None:
        super().__init__()
        self.fixed_s, self.per_map_s = fixed_s, per_map_s
        self.weight = nn.Conv3d(3, 3, 1)

    def forward(self, maps: Tensor) -> Tensor:
        features = self.weight(maps)
        frames = features.plain().shape[2] if isinstance(features, atfr.PackedClips) else len(maps) * maps.shape[2]
        time.sleep(self.fixed_s + self.per_map_s * frames)
        return features


def waiting(*stages: Wait) -> tuple[nn.Module, Work]:
    model = nn.Sequential(*stages)
    atfr.adapt_(model, after="0", example=torch.zeros(1, 3, 12, 4, 4))
    return model.train(), Work({"0": (2, 4)}, {"0": 12}, 4, 2)


@pytest.mark.usefixtures("clock")
def test_a_network_that_saves_ideally_has_an_efficiency_of_one() -> None:
    model, work = waiting(Wait(BEFORE_S, 0), Wait(0, PER_MAP_S))
    with eager(model, torch.rand(2, 3, 12, 4, 4), work) as pair:
        assert not model.training
        others = {"other": lambda: time.sleep(0.001)}
        savings, timing = measure({"eager": pair}, others, rounds=3, at_least=3, warm_up=1)
    assert model.training
    assert set(timing.seconds) == {"eager static", "eager adaptive", "other"}
    found = savings["eager"]
    before, after = BEFORE_S, 24 * PER_MAP_S
    assert found.timing.ms("before").median == pytest.approx(1000 * before)
    assert found.timing.ms("after").median == pytest.approx(1000 * after)
    assert found.ideal.median == pytest.approx((before + after) / (before + after / 4))
    assert found.efficiency.median == pytest.approx(1)
    assert found.sgs_share.median == 0  # nobody sleeps there
    rounds = zip(*(found.timing.seconds[name] for name in ("static", "before", "after")), strict=True)
    assert all(static == pytest.approx(before + after) for static, before, after in rounds)


@pytest.mark.usefixtures("clock")
def test_a_network_that_takes_as_long_for_fewer_maps_saves_nothing() -> None:
    model, work = waiting(Wait(BEFORE_S, 0), Wait(24 * PER_MAP_S, 0))
    with eager(model, torch.rand(2, 3, 12, 4, 4), work) as pair:
        found = measure({"eager": pair}, rounds=3, at_least=3, warm_up=1)[0]["eager"]
    assert found.speedup.median == pytest.approx(1)
    assert found.efficiency.median == pytest.approx((BEFORE_S + 6 * PER_MAP_S) / (BEFORE_S + 24 * PER_MAP_S))


@pytest.mark.usefixtures("clock")
def test_all_of_a_network_lies_behind_its_input() -> None:
    model = nn.Sequential(Wait(0, PER_MAP_S))
    atfr.adapt_(model, after="input", example=torch.zeros(1, 3, 12, 4, 4))
    with eager(model, torch.rand(2, 3, 12, 4, 4), Work({"input": (2, 4)}, {"input": 12}, 4, 1)) as pair:
        found = measure({"eager": pair}, rounds=3, at_least=3, warm_up=1)[0]["eager"]
    assert found.timing.ms("before").median == 0
    assert found.timing.ms("after").median == pytest.approx(1000 * 24 * PER_MAP_S)
    assert (found.ideal.median, found.speedup.median) == (pytest.approx(4), pytest.approx(4))


def test_slowfast_is_clocked_in_both_pathways() -> None:
    model = narrow("slowfast_8x8_r18", num_classes=3)
    atfr.adapt_(model, after="res2")
    shape = (3, 8, 32, 32)
    work = work_of(model, shape, (4, 8))
    assert work.maps == {"res2.fast": 8, "res2.slow": 2}
    assert work.active_bins == {"res2.fast": (4, 8), "res2.slow": (1, 2)}
    with eager(model, torch.rand(2, *shape), work) as pair, atfr.record(model) as trace:
        (found,) = measure({"eager": pair}, rounds=1, at_least=1)[0].values()
    assert trace.sites["res2.slow"].lengths[:2] == [1, 2]
    assert 0 < found.sgs_share.median < 1


def test_work_is_what_the_cost_table_says() -> None:
    model = narrow("resnet3d_18", num_classes=3)
    atfr.adapt_(model, after="res3", num_bins=3)
    cost = atfr.clip_cost(model, (3, 4, 32, 32))
    work = work_of(model, (3, 4, 32, 32), (1, 3))
    assert work.static_multiply_adds == 2 * cost.static
    assert work.adaptive_multiply_adds == cost.adaptive[1] + cost.adaptive[3]
    assert work.flops_ratio > 1


@pytest.mark.parametrize("after", [None, ["res2", "res4"]])
def test_the_saving_is_that_of_one_place(after: list[str] | None) -> None:
    model = narrow("resnet3d_18", num_classes=3)
    if after:
        atfr.adapt_(model, after=after)
    with pytest.raises(InputError, match="SGS at one place"):
        work_of(model, (3, 4, 32, 32), (1,))


def test_too_many_maps_to_keep() -> None:
    model = narrow("resnet3d_18", num_classes=3)
    atfr.adapt_(model, after="res2", num_bins=3)
    with pytest.raises(InputError, match="can keep 1 to 3 maps of 4 at 'res2', asked for 4"):
        work_of(model, (3, 4, 32, 32), (2, 4))


@pytest.mark.usefixtures("clock")
def test_parts_of_one_name_are_added_up() -> None:
    def run() -> None:
        for seconds in (0.01, 0.02):
            time.sleep(seconds)
            clocked.mark()
        time.sleep(0.03)

    clocked = Clocked(run, ("a", "b", "a"))
    for _ in range(3):
        clocked()
    found = clocked.seconds(2)
    assert found["a"] == pytest.approx((0.04, 0.04))
    assert found["b"] == pytest.approx((0.02, 0.02))


def test_a_pass_that_misses_a_point() -> None:
    with pytest.raises(InputError, match="a pass has 1 parts, expected before, after"):
        Clocked(lambda: None, ("before", "after"))()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: parts by events are not tested")
def test_parts_on_cuda_add_up_to_the_whole() -> None:
    model = atfr.create_model("x3d_xs", num_classes=3).cuda()
    atfr.adapt_(model, after="res2")
    clips = torch.rand(2, 3, 4, 64, 64, device="cuda")
    work = work_of(model, (3, 4, 64, 64), (1, 3))
    with eager(model, clips, work) as pair:
        found = measure({"eager": pair}, device="cuda")[0]["eager"]
    parts = found.timing.ms("before").median + found.timing.ms("after").median
    assert parts == pytest.approx(found.timing.ms("static").median, rel=0.1)
