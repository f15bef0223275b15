"""`atfr compare`, small: trained on frames alone, and with a checkpoint at every place; resumed, refused, cut short."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

import atfr
from atfr.adapt.trace import site_names
from atfr.cli.main import main
from atfr.comparison import estimate, rates, run
from atfr.comparison.estimate import Pace, Work
from atfr.comparison.making import Ground
from atfr.comparison.plans import plans_for
from atfr.comparison.rates import hold_out
from atfr.comparison.recipes import FROM_NOTHING
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, VideoRecord, read_folder
from atfr.errors import CheckpointError, InputError
from atfr.evaluate.settling import views_needed
from atfr.evaluate.stopping import lead, view_order
from atfr.evaluate.task import Task, load_checkpoint, save_checkpoint
from atfr.video.file import VideoFile
from atfr.video.spec import ClipSpec, ViewSpec
from atfr.video.transforms import test_clips

pytestmark = pytest.mark.usefixtures("flat_stages")
CLIP = ClipSpec(frames=4, stride="video", size=32, resize=32, jitter=(32, 36))
RECIPE = replace(FROM_NOTHING, model="resnet3d_18", clip=CLIP, base_frames=2, batch_size=6, tune_share=0.4)
NAMES = ["static", "fewer_frames_2", "change_2"]


@pytest.fixture(scope="module", autouse=True)
def two_rates() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (rates, estimate, run):
            patch.setattr(module, "RATES", (1 / 3, 1.0))
        yield


def compared(videos: Path, out: Path, **options: object) -> tuple[run.Comparison, list[str]]:
    said: list[str] = []
    given = {"recipe": RECIPE, "after": "none", "frames_kept": [2], "epochs": 1} | options
    return atfr.compare(read_folder(videos), out, say=said.append, **given), said


@pytest.fixture(scope="module")
def trained(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("compare") / "out"
    return out, compared(videos, out)[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """A network with a sampler, which a comparison takes out."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = atfr.create_model("resnet3d_18", num_classes=6)
    atfr.adapt_(model, "input", sampler="uniform", active_bins=1)
    save_checkpoint(model.eval(), Task(read_folder(videos)["test"].labels, CLIP), folder)
    return folder


def test_trains_each_network_at_the_rate_of_its_kind_and_tests_it(trained: tuple[Path, list[str]]) -> None:
    out, said = trained
    found = json.loads((out / "compare.json").read_text())
    assert list(found["networks"]) == NAMES
    losses = json.loads((out / "rates.json").read_text())
    for one in found["networks"].values():
        of_kind = losses[one["kind"]]
        assert [float(rate) for rate in of_kind] == [1 / 3, 1.0]
        assert one["rate"] == float(min(of_kind, key=of_kind.__getitem__))
        assert one["test"]["num_videos"] == 6
        assert one["time_share"] > 0
    static, fewer, change = found["networks"].values()
    assert 0.3 < fewer["gflops_share"] < 0.6
    assert change["gflops_share"] <= fewer["gflops_share"] * 1.01
    assert change["over_control"]["other"] == "fewer_frames_2"
    mean = change["test"]["top1"] - static["test"]["top1"]
    assert change["over_static"]["top1"]["mean"] == pytest.approx(mean)
    assert "decide nothing" in found["sentence"]
    assert found["take"] is None
    assert found["conditions"]["base_epochs"] == found["conditions"]["tune_epochs"] == 1
    assert said[0].startswith("3 networks; this takes about")
    with Image.open(out / "compare.png") as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(2**24)) > 10


def test_the_loss_is_the_cross_entropy_of_the_checkpoint_that_is_kept(
    trained: tuple[Path, list[str]], videos: Path
) -> None:
    found = json.loads((trained[0] / "compare.json").read_text())["networks"]
    for name in NAMES:
        model, task = load_checkpoint(trained[0] / name)
        dataset = ClipDataset(read_folder(videos)["test"], task.spec, train=False)
        with torch.inference_mode():
            logits = torch.cat([model(dataset[index][0]) for index in range(6)])
        labels = torch.tensor([dataset[index][1] for index in range(6)])
        assert found[name]["loss"] == pytest.approx(cross_entropy(logits.double(), labels).item(), rel=1e-4)


def test_goes_on_row_by_row_and_says_what_is_there(
    trained: tuple[Path, list[str]], videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = trained[0]
    before = json.loads((out / "change_2" / "test" / "result.json").read_text())
    (out / "change_2" / "test" / "result.json").unlink()  # as after Ctrl-C
    made: list[str] = []
    make = Ground.make
    monkeypatch.setattr(Ground, "make", lambda self, plan, *args: made.append(plan.name) or make(self, plan, *args))
    _, said = compared(videos, out)
    assert made == ["change_2"]
    assert said[0].startswith("3 networks, 2 of them are there already; this takes about")
    after = json.loads((out / "change_2" / "test" / "result.json").read_text())
    assert after["videos"] == before["videos"]


def test_other_arguments_and_other_folders_are_refused(trained: tuple[Path, list[str]], videos: Path) -> None:
    with pytest.raises(CheckpointError, match=r"other arguments: seed was 0 and is 1; go on with those") as error:
        compared(videos, trained[0], seed=1)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="is not empty and holds no comparison to go on with"):
        compared(videos, videos)
    with pytest.raises(InputError, match="numbers of frames from 1 to 3, fewer than a clip's 4, got \\[4\\]"):
        compared(videos, trained[0], frames_kept=[4])


def test_a_budget_too_short_for_any_comparison_is_refused(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="static, fewer_frames_2, change_2 alone take about 1 min: give --budget"):
        compared(videos, tmp_path / "out", budget_min=1e-3)
    assert not (tmp_path / "out").exists()  # so that other arguments may be tried


def test_with_a_checkpoint_nothing_is_trained(
    checkpoint: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("atfr.viz.page.svg", lambda *_: "<svg></svg>")  # what a page shows is tested where it is made
    data = Path(shutil.copytree(videos, tmp_path / "data"))
    first, broken = (min((data / split).rglob("*.mp4")) for split in ("train", "test"))
    first.write_bytes(b"no video")
    broken.write_bytes(b"no video")
    options = ["--data", str(data), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    assert main(["compare", *options, "--frames_kept", "[2]"]) == 0
    printed, err = capsys.readouterr()
    assert "These 5 videos decide nothing" in printed
    assert "atfr: 6 networks; this takes about" in err
    (left_out,) = (line for line in err.splitlines() if "left out" in line)  # told once, not for each network
    assert str(broken) in left_out
    tables = [line for line in printed.splitlines() if not line.startswith(("Written", "See it", "These"))]
    assert max(map(len, tables)) <= 80
    weights = atfr.from_pretrained(checkpoint).state_dict()
    sites = {"static": [], "fewer_frames_2": ["input"], "change_2": ["input"]}
    sites |= {name: ["res2"] for name in ("uniform_maps_2", "change_maps_2", "sgs_2")}
    for name, expected in sites.items():
        model, task = load_checkpoint(tmp_path / "out" / name)
        assert list(site_names(model)) == expected
        own = model.state_dict()
        assert all(torch.equal(own[key], value) for key, value in weights.items())
        assert task.spec == CLIP
    found = json.loads((tmp_path / "out" / "compare.json").read_text())["networks"]
    assert list(found) == list(sites)
    assert all(one["test"]["num_skipped"] == 1 for one in found.values())
    runs = [str(tmp_path / "out" / name) for name in ("static", "change_2")]
    assert main(["report", *runs, "-o", str(tmp_path / "page.html")]) == 0
    assert main(["compare", *options, "--clip.frames", "3"]) == 2
    assert "clip.frames was 4 and is 3" in capsys.readouterr().err


def test_networks_are_left_out_from_the_end_until_the_rest_fits(videos: Path) -> None:
    splits = read_folder(videos)
    base = atfr.create_model("resnet3d_18", num_classes=6)
    plans = plans_for(base, (3, 8, 32, 32), None, "res2", RECIPE)
    assert [plan.name for plan in plans[:5]] == ["static", "fewer_frames_2", "change_2", "fewer_frames_1", "change_1"]
    assert len(plans) == 16
    assert plans[1].share == pytest.approx(0.25, abs=0.03)
    ground = Ground(base, splits, replace(CLIP, frames=8), RECIPE, 10, 0, Path(), torch.device("cpu"))
    work = Work(ground, Pace(1.0, 0.3, 0.01), 0, frozenset(), frozenset({"sgs_4"}))
    whole_s = work.seconds(plans)
    assert work.fitting(plans, whole_s) == work.fitting(plans, None) == plans
    fewer = work.fitting(plans, 0.6 * whole_s)
    assert work.seconds(fewer) <= 0.6 * whole_s
    assert fewer == [*plans[: len(fewer) - 1], plans[-1]]  # the last is there already
    assert work.fitting(plans, 0) == [*plans[:3], plans[-1]]


def test_what_sgs_cannot_keep_is_said(videos: Path) -> None:
    """Of frames that look alike to an untrained network few bins are met, however many there are."""
    torch.manual_seed(0)
    base, said = atfr.create_model("resnet3d_18", num_classes=6), list[str]()
    spec = replace(CLIP, frames=8)
    ground = Ground(base, read_folder(videos), spec, RECIPE, 10, 0, Path(), torch.device("cpu"), say=said.append)
    plans = {plan.name: plan for plan in plans_for(base, (3, 8, 32, 32), [2, 6], "res2", RECIPE)}
    for name in ("uniform_maps_6", "change_maps_6", "sgs_6"):
        ground.adapted(plans[name])
    (told,) = said
    kept = re.fullmatch(r"sgs_6: SGS keeps (\d\.\d) maps of a clip and never 6, with any bins", told)
    assert kept
    assert 1 <= float(kept[1]) < 5.5


def test_videos_held_out_are_of_every_class_and_the_same_again() -> None:
    records = tuple(VideoRecord(Path(f"{label}/{number}.mp4"), label) for label in range(3) for number in range(10))
    videos = VideoList((*records, VideoRecord(Path("3/only.mp4"), 3)), ("a", "b", "c", "d"))
    train, held = hold_out(videos)
    assert sorted(record.label for record in held.records) == [0, 0, 1, 1, 2, 2]
    assert {*train.records} | {*held.records} == {*videos.records}
    assert not {*train.records} & {*held.records}
    assert hold_out(videos) == (train, held)


def test_views_that_stop_are_held_against_as_many_of_every_video(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = atfr.create_model("resnet3d_18", num_classes=6).eval()
    spec, tested = replace(CLIP, stride=2), read_folder(videos)["test"]
    paths = [record.path for record in tested.records]
    with torch.inference_mode():
        clips = [test_clips(VideoFile(path, shorter_side=spec.decode_side), spec, 4) for path in paths]
        leads = lead(torch.stack([model(one).double().softmax(1) for one in clips])[:, list(view_order(4, 1))])
    settled = float(leads[:, 0].quantile(0.5))  # between two: rounding decides nothing
    needed = views_needed(leads, settled).double()
    assert 1 < needed.mean() <= 3
    save_checkpoint(model, Task(tested.labels, spec, ViewSpec(4, 1, settled)), tmp_path / "run")
    options = ["--data", str(videos), "--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    options += ["--frames_kept", "[2]", "--after", "none", "--views", "auto", "--json"]
    assert main(["compare", *options]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "compare on others than it took" in printed.err  # there is no val split
    control = f"fewer_views_{math.ceil(needed.mean())}"
    names = ["static", *dict.fromkeys(["fewer_views_1", control]), "until_settled", "fewer_frames_2", "change_2"]
    rows = found["networks"]
    assert list(rows) == names
    expected = {"static": 4, "fewer_views_1": 1, control: math.ceil(needed.mean()), "until_settled": needed.mean()}
    for name, count in (expected | {"fewer_frames_2": 4, "change_2": 4}).items():
        assert rows[name]["views"] == pytest.approx(float(count)), name
    for name, count in expected.items():  # the network of all of these is static's
        assert rows[name]["gflops_share"] == pytest.approx(float(count) / 4)
        assert rows[name]["time_share"] == pytest.approx(float(count) / 4)
    assert rows["until_settled"]["over_control"]["other"] == control
    assert found["conditions"]["views"] == [4, 1]
    for name in names:  # each can be tested again as it was
        kept = load_checkpoint(tmp_path / "out" / name)[1].views
        assert kept == (ViewSpec(4, 1, settled) if name == "until_settled" else None)
    assert main(["compare", *options[:-1]]) == 0
    printed = capsys.readouterr()
    assert "testing" not in printed.err  # what is there is not made again
    assert "against fewer  " in printed.out
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["networks"].keys() == rows.keys()
    assert f"See it:  atfr report {tmp_path / 'out' / 'static'} {tmp_path / 'out' / 'until_settled'}" in printed.out


def test_views_belong_to_a_network_as_it_is(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["compare", "--data", str(videos), "--out", str(tmp_path / "out"), "--views"]
    assert main([*options, "3x1"]) == 2
    assert (
        "several views are for --checkpoint; trained here, a clip spans the video; leave out --views"
        in capsys.readouterr().err
    )
    assert main([*options, "auto", "--checkpoint", str(checkpoint)]) == 2
    assert "when the views of" in capsys.readouterr().err
    model, task = load_checkpoint(checkpoint)
    with pytest.raises(InputError, match="found with the sampler that is taken out here"):
        compared(videos, tmp_path / "out", checkpoint=(model, task), views=ViewSpec(4, 1, 0.5))
    with pytest.raises(InputError, match="several views are for a checkpoint"):
        compared(videos, tmp_path / "out", views=ViewSpec(4))
    assert not (tmp_path / "out").exists()
