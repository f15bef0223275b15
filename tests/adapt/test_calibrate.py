"""calibrate_: what it sets is what clips have, and what it promises is what they cost."""

import json
import re
import statistics
from pathlib import Path

import pytest
import torch
from torch import Tensor

import atfr
from atfr.cli.main import main
from atfr.errors import AdaptError, InputError
from atfr.evaluate.task import Task, load_checkpoint, save_checkpoint
from atfr.video.spec import ClipSpec
from tests.evaluate.build import write_level
from tests.models.narrow import narrow
from tests.samplers.test_change import clips_with_events

SELDOM = [("res2", 0.5), ("res2", 0.9), ("input", 0.3), ("input", 0.5)]


def adapted(after: str | list[str] = "input", **options: object) -> atfr.models.VideoModel:
    torch.manual_seed(0)
    model = narrow("resnet3d_18", num_classes=4)
    atfr.adapt_(model, after, **({"sampler": "change"} | options))
    return model.eval()


def costs(model: torch.nn.Module, clips: Tensor) -> list[int]:
    with torch.no_grad(), atfr.record(model) as trace:
        model(clips)
    return atfr.clip_cost(model, clips.shape[1:]).of(trace)


@pytest.mark.parametrize(
    ("after", "share"),
    [("res2", 0.3), ("input", 0.9), *(pytest.param(*of, marks=pytest.mark.soak) for of in SELDOM)],
)
def test_the_cost_that_was_wished_for_is_kept_and_told(after: str, share: float) -> None:
    model, clips = adapted(after), clips_with_events(8)
    found = atfr.calibrate_(model, list(clips.split(3)), share=share)
    spent = [cost / 1e9 for cost in costs(model, clips)]
    assert found.clips == 8
    assert found.gflops == pytest.approx(
        (statistics.fmean(spent), statistics.pstdev(spent), min(spent), max(spent)), rel=1e-9
    )
    wanted = share * found.static_gflops
    assert statistics.fmean(spent) <= wanted
    atfr.set_num_bins_(model, found.num_bins + 1)
    more = statistics.fmean(costs(model, clips)) / 1e9
    assert more > wanted or more == pytest.approx(statistics.fmean(spent))  # all moving frames are kept already


@pytest.mark.parametrize("options", [{}, {"sampler": "sgs", "kernel": "linear_mean"}])
def test_bins_may_become_more_than_they_were(options: dict[str, str]) -> None:
    model = adapted(num_bins=2, **options)
    assert atfr.calibrate_(model, clips_with_events(5), share=0.6).num_bins > 2


def test_the_noise_floor_is_the_median_of_what_clips_have() -> None:
    model, clips = adapted(), clips_with_events(7)
    layer = model.get_submodule("sgs")
    own = layer.floor(layer.describe(clips), torch.full((7,), 24))[:, 0]
    found = atfr.calibrate_(model, clips)
    assert found.dead_zone == {"input": pytest.approx(float(own.median()))}
    assert layer.dead_zone == found.dead_zone["input"]
    assert found.num_bins is None
    quiet = clips_with_events(1)[:, :, :1] + 0.01 * torch.randn(2, 3, 24, 20, 20)
    with torch.no_grad(), atfr.record(model) as trace:
        model(quiet)
    assert trace.active_bins.tolist() == [1, 1]


def test_sgs_gets_its_bins_and_keeps_everything_else() -> None:
    model = adapted("res2", sampler="sgs", kernel="linear_mean")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clips = clips_with_events(6)
    found = atfr.calibrate_(model, clips, gflops=0.5 * atfr.clip_cost(model, clips.shape[1:]).static / 1e9)
    assert found.dead_zone == {}
    assert model.res2.sgs.num_bins == found.num_bins
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"share": 0.3, "gflops": 1.0}, "not both"),
        ({"share": 0.001}, "less than that of one map a clip"),
        ({"clips": []}, "at least one clip"),
    ],
)
def test_wishes_that_cannot_be_met(wish: dict[str, object], message: str) -> None:
    model = adapted(num_bins=3)
    with pytest.raises(InputError, match=message):
        atfr.calibrate_(model, wish.pop("clips", clips_with_events(2)), **wish)
    assert model.get_submodule("sgs").num_bins == 3


def test_networks_that_have_nothing_to_set() -> None:
    with pytest.raises(AdaptError, match="no sampler with bins"):
        atfr.calibrate_(atfr.create_model("resnet3d_18", num_classes=4), clips_with_events(1))
    with pytest.raises(InputError, match=r"a budget is for one sampler, the network has 2: res2, res3"):
        atfr.calibrate_(adapted(["res2", "res3"]), clips_with_events(1), share=0.5)


def test_the_command_keeps_it_in_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task(("a", "b", "c", "d"), ClipSpec(frames=8, stride="video", size=32, resize=32, jitter=(32, 32)))
    model = atfr.create_model("resnet3d_18", num_classes=4).eval()
    atfr.adapt_(model, "input", sampler="change")
    save_checkpoint(model, task, tmp_path / "run")
    videos = [write_level(tmp_path / "videos" / f"{i}.mp4", i, frames=20) for i in range(3)]
    assert main(["calibrate", str(tmp_path / "run"), str(videos[0].parent), "--share", "0.4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model, _ = load_checkpoint(tmp_path / "run")
    layer = model.get_submodule("sgs")
    assert (layer.num_bins, layer.dead_zone) == (found["num_bins"], found["dead_zone"]["input"])
    assert found["gflops"][0] <= 0.4 * found["static_gflops"]
    assert main(["calibrate", str(tmp_path / "run"), str(videos[0])]) == 0
    assert "noise floor at input" in capsys.readouterr().out
    assert main(["calibrate", str(tmp_path / "run"), str(videos[0]), "--share", "0.0001"]) == 2
    assert "one map a clip" in capsys.readouterr().err


def test_a_refusal_leaves_the_network_as_it_was() -> None:
    model = atfr.create_model("resnet3d_18", num_classes=3)
    atfr.adapt_(model, "input", sampler="change", num_bins=7)
    clips = torch.rand(2, 3, 8, 16, 16)
    bad: list[tuple[object, dict[str, object], str]] = [
        (clips, {"share": 1e-4}, "less than that of one map a clip"),
        (clips, {"share": 30}, "share must be a number from 0 to 1, got 30"),
        (clips, {"share": "a"}, "share must be a number"),
        (list(clips), {}, "torch.stack"),
        ("videos", {}, "takes clips N x C x T x H x W"),
        (clips[0], {}, "takes clips N x C x T x H x W"),
        (clips / 0, {}, "NaN or infinite"),
    ]
    for given, options, message in bad:
        with pytest.raises(InputError, match=message):
            atfr.calibrate_(model, given, **options)
        assert (model.sgs.dead_zone, model.sgs.num_bins) == (None, 7)


@pytest.mark.parametrize("number", [0, -1])
def test_no_bins_are_refused(number: int) -> None:
    with pytest.raises(InputError, match=f"num_bins must be an integer of at least 1, got {number}"):
        atfr.adapt_(atfr.create_model("resnet3d_18", num_classes=3), "input", sampler="change", num_bins=number)


def test_what_is_told_has_names() -> None:
    model, clips = adapted(), clips_with_events(3)
    found = atfr.calibrate_(model, clips)
    kept = found.active_bins
    assert kept == (kept.mean, kept.std, kept.min, kept.max)
    assert re.search(
        r"active_bins=Spread\(mean=[\d.]+, std=[\d.]+, min=[\d.]+, max=[\d.]+\), gflops=Spread\(", repr(found)
    )
