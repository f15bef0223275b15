"""explain: the answer of predict, the frames of the file, and everything on one page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import atfr
from atfr import viz
from atfr.errors import CheckpointError, InputError
from atfr.evaluate.predict import predict
from atfr.evaluate.task import Task
from atfr.models import VideoModel
from atfr.video.decode import decode
from atfr.viz import explain_page
from atfr.viz.explain import ROUNDS
from tests.evaluate.build import NAMES, SPEC, network, write_level
from tests.viz.test_page import check_stands_alone

pytestmark = pytest.mark.usefixtures("flat_stages")
TASK = Task(NAMES, SPEC)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_level(tmp_path_factory.mktemp("videos") / "a <b> & $c$.mp4", 3, frames=12)


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROUNDS, "rounds", 2)
    monkeypatch.setitem(ROUNDS, "at_least", 2)


def test_it_says_what_predict_says_of_the_frames_that_predict_takes(video: Path) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = viz.explain(model, video, TASK)
    (predicted,) = predict(model, [video], TASK)
    assert replace(found.prediction, ms_per_clip=0, scores=None) == replace(predicted, ms_per_clip=0, scores=None)
    torch.testing.assert_close(found.prediction.scores, predicted.scores)

    assert found.numbers == (2, 4, 6, 8)  # 4 frames of 12, every second one, centred
    whole = decode(video, shorter_side=36).data  # as the clip's frames are decoded
    resized = nn.functional.interpolate(
        whole[[2, 4, 6, 8]].float(), (32, 38), mode="bilinear", antialias=True, align_corners=False
    )
    expected = resized[..., 3:35].permute(0, 2, 3, 1)
    assert found.frames.dtype == torch.uint8
    assert (found.frames.float() - expected).abs().max() < 1.1  # bytes are rounded in each direction

    assert found.activation.class_index == int(predicted.scores.argmax())
    assert found.timing is not None
    assert {name: len(seconds) for name, seconds in found.timing.seconds.items()} == {"static": 2, "adaptive": 2}
    assert found.prediction.ms_per_clip == found.timing.ms("adaptive").median
    assert found.speedup == found.timing.ms("static").median / found.timing.ms("adaptive").median  # of what is shown
    assert found.conditions["threads"] == torch.get_num_threads()
    assert found.watched.trace.active_bins.tolist() == list(predicted.active_bins["res2"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hasattr(model.res2, "sgs")


def test_the_data_and_the_page_say_the_same(video: Path) -> None:
    found = viz.explain(network(), video, TASK, label="b")
    data = json.loads(json.dumps(found.to_dict()))
    site = data["sites"]["res2"]
    assert data["activation"]["label"] == "b"
    assert site["maps"] == len(site["weights"]) == len(site["coordinates"][0]["values"]) == 4
    assert site["active_bins"] == len(site["bins"]) == len(set(site["assignment"]) - {-1})
    assert sum(data["activation"]["by_frame"]) == pytest.approx(
        data["activation"]["logit"] - network().head.fc.bias[1].item(), abs=1e-4
    )
    written = viz.explanation_page(found)
    page = check_stands_alone(written)
    text = " ".join("".join(page.text).split())
    assert "a <b> & $c$.mp4" in text
    assert f"{site['active_bins']} of 4 maps at res2" in text
    assert "What speaks for b" in text
    for frame, slot in zip(data["clip"]["frames"], site["output_map_of_frame"], strict=True):
        assert f"<td>{frame}</td><td>{'dropped' if slot < 0 else site['bins'][slot]}</td>" in written
    assert len(page.all("svg")) == 8
    titles = ["What the network saw", "Why: similarity over time", "Where maps go", "With which weight"]
    for title in [*titles, "Feature maps before and after", "The answer", "What it saved", "How this was made"]:
        assert title in text


@pytest.mark.parametrize(
    ("options", "figures", "sites"),
    [
        (None, 3, []),
        ({"sampler": "uniform", "active_bins": 2}, 7, ["res2"]),
        (
            {"after": ["stem", "res3"], "similarity": "spherical", "embedding_dim": 2},
            8,
            ["stem", "res3"],
        ),
    ],
)
def test_static_networks_controls_and_several_sites(
    options: dict | None, figures: int, sites: list[str], video: Path
) -> None:
    model = network(adapted=False)
    if options:
        atfr.adapt_(model, **options)
    found = viz.explain(model, video, TASK)
    assert list(found.to_dict()["sites"]) == sites
    assert (found.timing is None) == (not sites)
    page = check_stands_alone(viz.explanation_page(found))
    assert len(page.all("svg")) == figures
    text = " ".join("".join(page.text).split())
    assert ("Behind the sampler" in text) == bool(sites)
    assert ("forward pass" in text) == bool(sites), "a time, with its conditions"
    assert [name for name, _ in explain_page.facts(found) if name == "ms"] == (["ms"] if sites else [])


def test_slowfast_shows_both_pathways(video: Path) -> None:
    model: VideoModel = atfr.create_model("slowfast_8x8_r18", num_classes=6).eval()
    atfr.adapt_(model, after="res2")
    task = Task(NAMES, replace(SPEC, frames=8, stride=1))
    found = viz.explain(model, video, task)
    assert list(found.to_dict()["sites"]) == ["res2.fast", "res2.slow"]
    assert [site["maps"] for site in found.to_dict()["sites"].values()] == [8, 2]
    assert set(found.to_dict()["activation"]["by_pathway_and_frame"]) == {"fast", "slow"}
    text = "".join(check_stands_alone(viz.explanation_page(found)).text)
    for told in ("frames by bin at res2.fast", "frames by bin at res2.slow", "fast pathway", "slow pathway"):
        assert told in text


def test_what_cannot_be_explained_is_refused(video: Path) -> None:
    with pytest.raises(InputError, match="no class 'run'; the network's are a, b, c"):
        viz.explain(network(), video, TASK, label="run")
    with pytest.raises(CheckpointError, match="6 classes and its task names 2"):
        viz.explain(network(), video, Task(("a", "b"), SPEC))
    broken = network()
    nn.init.constant_(broken.res2.sgs.similarity.output.bias, torch.nan)
    with pytest.raises(InputError, match="similarity at res2 is not finite"):
        viz.explain(broken, video, TASK)


@pytest.mark.parametrize("after", ["input", "res2"])
def test_change_over_time_stands_in_the_place_of_similarity(tmp_path: Path, after: str) -> None:
    torch.manual_seed(0)
    model = atfr.create_model("resnet3d_18", num_classes=len(NAMES)).eval()
    atfr.adapt_(model, after, sampler="change", num_bins=2)
    video = tmp_path / "moving.mp4"
    write_moving(video)
    found = viz.explain(model, video, TASK)
    (maps,) = found.watched.sites.values()
    ((path,),) = maps.coordinates
    layer = next(module for module in model.modules() if isinstance(module, atfr.ChangeGuidedSampling))
    place = layer.path(layer.describe(maps.before[0][None]), torch.tensor([4])).place[0]
    torch.testing.assert_close(path.values, place)
    assert path.blocks[0].edges.tolist() == [0, 1, 2]
    kept = [t for t, slot in enumerate(found.to_dict()["sites"][after]["output_maps"]) if slot >= 0]
    assert 1 <= len(kept) <= 2
    assert torch.equal(maps.after[0], maps.before[0][:, kept])
    page = viz.explain_page.explanation_page(found)
    check_stands_alone(page)
    assert "Why: change over time" in page
    assert "accumulated change" in page


def write_moving(path: Path) -> None:
    """A video of a bright square that moves."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 48
        for time in range(12):
            image = np.zeros((48, 48, 3), dtype=np.uint8)
            image[8:24, 2 * time : 2 * time + 16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
