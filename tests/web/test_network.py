"""A shared network: bins are a request's own, whoever else is served, and the page says what they change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import atfr
from atfr import viz
from atfr.adapt.trace import site_names
from atfr.errors import InputError
from atfr.evaluate.predict import Prediction
from atfr.evaluate.task import Task
from atfr.models import VideoModel
from atfr.viz.explain import ROUNDS
from atfr.web import result
from atfr.web.network import SharedNetwork
from tests.evaluate.build import NAMES, SPEC, network, write_level
from tests.viz.test_page import Page

pytestmark = pytest.mark.usefixtures("flat_stages")
TASK = Task(NAMES, SPEC)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[viz.CentredClip]:
    folder = tmp_path_factory.mktemp("videos")
    return [viz.centred_clip(write_level(folder / f"{seed} <b>.mp4", 3, seed=seed), SPEC) for seed in range(2)]


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROUNDS, "rounds", 1)
    monkeypatch.setitem(ROUNDS, "at_least", 1)


def by_hand(clip: viz.CentredClip, bins: int | None) -> tuple[int, list[int], Tensor]:
    """The class, the maps kept and the scores of a clip in a network of its own with so many bins."""
    model = network()
    if bins is not None:
        atfr.set_num_bins_(model, bins)
    with atfr.record(model) as trace, torch.no_grad():
        scores = model(clip.clips).double().softmax(1)[0]
    return int(scores.argmax()), trace.active_bins.tolist(), scores


def check(answer: Prediction, wanted: tuple[int, list[int], Tensor]) -> None:
    assert list(answer.active_bins["res2"]) == wanted[1]
    torch.testing.assert_close(answer.scores, wanted[2])


def test_bins_are_those_of_set_num_bins_and_are_taken_back(clips: list[viz.CentredClip]) -> None:
    model = network()
    shared = SharedNetwork(model, TASK)
    assert shared.most_bins == 4
    for bins in (None, 1, 3):
        check(shared.explain(clips[0], bins).prediction, by_hand(clips[0], bins))
        assert model.res2.sgs.num_bins is None
    with pytest.raises(InputError, match="num_bins must be an integer of at least 1, got 0"):
        shared.explain(clips[0], 0)
    assert model.res2.sgs.num_bins is None


def test_two_at_once_do_not_mix(clips: list[viz.CentredClip]) -> None:
    shared = SharedNetwork(network(), TASK)
    asked = list(zip(clips, (1, None), strict=True)) * 3
    wanted = [by_hand(clip, bins) for clip, bins in asked]
    assert wanted[0][1] != wanted[1][1]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda one: shared.explain(*one).prediction, asked))
    for answer, one in zip(answers, wanted, strict=True):
        check(answer, one)


def test_a_pathway_with_fewer_bins_keeps_its_own(clips: list[viz.CentredClip]) -> None:
    model: VideoModel = atfr.create_model("slowfast_8x8_r18", num_classes=6).eval()
    atfr.adapt_(model, after="res2")
    task = Task(NAMES, replace(SPEC, frames=8, stride=1))
    shared = SharedNetwork(model, task)
    assert shared.most_bins == 8
    seen = []
    for bins in (1, 5, 8):
        with shared._with_bins(bins):
            seen.append({site: layer.num_bins for site, layer in site_names(model).items()})
    assert seen == [{"res2.fast": bins, "res2.slow": min(bins, 2)} for bins in (1, 5, 8)]
    clip = viz.centred_clip(clips[0].path, task.spec)
    found = shared.explain(clip, 3)
    text = "".join(Page(result.details_html(found)).text)
    assert "frames by bin at res2.fast" in text
    assert "frames by bin at res2.slow" in text


def test_what_bins_change_is_told(clips: list[viz.CentredClip]) -> None:
    shared = SharedNetwork(network(), TASK)
    trained, now = shared.explain(clips[0]), shared.explain(clips[0], 1)
    before = "".join(Page(result.change_html(trained, trained, 4, 4)).text)
    assert "Move the slider" in before
    assert "1 bin" not in before
    page = Page(result.change_html(now, trained, 1, 4))
    text = "".join(page.text)
    assert "With 1 of 4 bins: " in text
    assert len(page.all("tr")) == 4
    assert "1 of 4" in text
    for one in (trained, now):
        ((label, share),) = one.prediction.top(1)
        assert f"{label} {100 * share:.1f} %" in text
        assert f"{one.prediction.total_gflops:.3g}" in text
    answer = Page(result.answer_html(now))
    assert "0 <b>.mp4" in "".join(answer.text)
    assert answer.all("img")[0]["src"].startswith("data:image/webp;base64,")


@pytest.mark.parametrize("options", [None, {"sampler": "uniform", "active_bins": 2}])
def test_static_networks_and_controls_have_no_bins_to_set(options: dict | None, clips: list[viz.CentredClip]) -> None:
    model = network(adapted=False)
    if options:
        atfr.adapt_(model, **options)
    shared = SharedNetwork(model, TASK)
    assert shared.most_bins == 0
    found = shared.explain(clips[0])
    assert ("It kept 2 of 4 maps" in result.answer_html(found)) == bool(options)
    sections = Page(result.details_html(found))
    assert len(sections.all("svg")) == (5 if options else 3)


def test_bins_of_change_guided_sampling_at_the_input(clips: list[viz.CentredClip]) -> None:
    torch.manual_seed(0)
    model = atfr.create_model("resnet3d_18", num_classes=len(TASK.labels)).eval()
    atfr.adapt_(model, "input", sampler="change")
    shared = SharedNetwork(model, TASK)
    assert shared.most_bins == SPEC.frames
    assert shared.kind == "network with change-guided sampling at input"
    answer = shared.explain(clips[0], 2).prediction
    assert answer.active_bins["input"][0] <= 2
    assert model.get_submodule("sgs").num_bins is None
