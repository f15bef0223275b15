"""The study that decides trains on maps that were computed once: what the networks learn and say must be the same."""

import copy
import csv
import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import atfr
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, read_folder
from atfr.data.samples import render_samples
from atfr.models import VideoModel
from atfr.train.fit import fit
from tests.models.narrow import narrow
from tests.models.randomise import scramble_

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EPOCHS, RATE, SEED = 2, 3e-3, 5


def script(name: str) -> ModuleType:
    """Return a script of the folder of benchmarks as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def study() -> ModuleType:
    module = script("deciding_study")
    clip = replace(module.CLIP, frames=5, size=16, resize=28, jitter=(28, 32))
    module.CLIP = clip
    module.SPECS = {"plain": clip, "embedded": replace(clip, size=28)}
    module.EPOCHS = {"plain": EPOCHS, "embedded": EPOCHS}
    return module


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoList:
    root = tmp_path_factory.mktemp("videos") / "set"
    render_samples(root, clips_per_class_train=2, clips_per_class_test=1, size=48, frames=20)
    return read_folder(root)["train"]


@pytest.fixture(scope="module")
def base() -> VideoModel:
    torch.manual_seed(0)
    return scramble_(atfr.create_model("i3d_efficientnet_lite0", num_classes=6, dropout=0.0))


@pytest.fixture(scope="module")
def views(study: ModuleType, base: VideoModel, videos: VideoList, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """In float64: AdamW makes whole steps of what is rounding, where a bias has no gradient."""
    clips_of = study.clips_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "clips_of", lambda *which: (clip.double() for clip in clips_of(*which)))
        return study.views_of("plain", videos, copy.deepcopy(base).double(), tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("kind", ["change", "sgs_keep"])
def test_maps_computed_once_teach_the_same(
    study: ModuleType, base: VideoModel, videos: VideoList, views: Any, tmp_path: Path, kind: str
) -> None:
    whole = copy.deepcopy(base)
    atfr.adapt_(whole, **study.SAMPLERS[kind], num_bins=3)
    behind = copy.deepcopy(whole.double())
    clips = ClipDataset(videos, study.CLIP, train=True, seed=0)
    fit(
        whole, clips, out=tmp_path / "out", seed=SEED, epochs=EPOCHS, batch_size=study.BATCH, optimizer="adamw",
        learning_rate=RATE, warmup_epochs=study.WARMUP * EPOCHS, tuning=study.TUNING, num_workers=0, logger=False,
        enable_checkpointing=False, precision="64-true",
    )  # fmt: skip
    places = torch.arange(len(videos))
    said = partial(study.answers, behind, views)
    study.train_(behind, said, videos, places, epochs=EPOCHS, rate=RATE, seed=SEED)
    # a step of AdamW is the rate times g / (sqrt(v) + 1e-8): where g is nothing but rounding, of 1e-14 say, it is 3e-9
    assert_close(behind.state_dict(), whole.state_dict(), rtol=1e-9, atol=2e-8)
    losses, _, kept = study.tested(behind, said, videos, places)
    test = ClipDataset(videos, study.CLIP, train=False)
    with torch.inference_mode(), atfr.record(behind) as trace:
        said = behind(torch.cat([test[index][0] for index in range(len(test))]).double())
    assert kept == trace.kept_maps
    labels = torch.tensor([record.label for record in videos.records])
    assert_close(losses, cross_entropy(said, labels, reduction="none").float(), rtol=1e-5, atol=1e-6)


def test_frozen_layers_computed_once_say_what_the_whole_network_says() -> None:
    """Of the Kinetics I3D with each sampler, one clip alone and two together."""
    study = script("deciding_kinetics")
    torch.manual_seed(0)
    base = scramble_(narrow("i3d_inception", num_classes=6)).eval()
    networks = {kind: study.adapted(base, kind).eval() for kind in study.SAMPLERS}
    clips = torch.randn(2, 3, 16, 32, 32)
    each = [{kind: (maps, kept) for kind, maps, kept in study.frozen_maps(networks, clip)} for clip in clips]
    for kind, network in networks.items():
        view = tuple(zip(*(found[kind] for found in each), strict=True))
        with torch.inference_mode(), atfr.record(network) as trace:
            whole = network(clips)
        for places in ([0, 1], [1]):
            with torch.inference_mode():
                said, kept = study.answers(network, [view] * (study.VIEWS + 1), -1, torch.tensor(places))
            assert_close(said, whole[places], rtol=1e-4, atol=1e-5)
            assert kept == tuple(trace.kept_maps[place] if trace.kept_maps else 16 for place in places)


def test_the_report_judges_whole_folds_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 videos a fold: change is right in all, fewer frames in 21, static in 23; of plain clips a fold lacks."""
    report = script("deciding_report")
    rows = []
    for footage, kind, kept, right in (
        *(("embedded", "change", kept, 24) for kept in (4, 8)),
        *(("embedded", "fewer_frames", kept, 21) for kept in (4, 8)),
        ("embedded", "static", 32, 23),
        *(("plain", kind, kept, 23) for kind in ("change", "fewer_frames") for kept in (4, 8)),
    ):
        folds = range(4) if (footage, kind, kept) == ("plain", "change", 8) else range(5)
        each = "1" * right + "0" * (24 - right)
        rows += [
            {
                "footage": footage, "kind": kind, "kept": kept, "fold": fold, "seed": 0, "videos": 24, "gflops": 1.0,
                "active_bins": kept, "right": each, "losses": " ".join(["0.5"] * 24),
            }
            for fold in folds
        ]  # fmt: skip
    with (tmp_path / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.setattr(sys, "argv", ["deciding_report", str(tmp_path)])
    report.main()
    said = capsys.readouterr().out
    assert [line[:13].strip() for line in said.splitlines() if ": change_" in line] == [
        *["met so far"] * 4, "no verdict",
    ]  # fmt: skip
    assert "met so far     embedded: change_8 over fewer_frames_8, at least +10.0, interval above 0: +12.5 (" in said
    assert "plain change_8 seed 0: folds 4" in said
    assert "embedded sgs_4 seed 2: folds 0 1 2 3 4" in said
    identical = next(line for line in said.splitlines() if "plain: change_4" in line)
    assert "+0.0 (-3.1 to +3.1)" in identical  # the score interval: 120 pairs, none of which differs


@pytest.mark.parametrize("seed", range(4))
def test_embedded_clips_show_the_event_within_still_footage(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The channels of a clip say when and where a pixel is from."""
    side, frames = 20 + study.DRIFT, 32
    when, down, across = torch.meshgrid(*(torch.arange(float(n)) for n in (frames, side, side)), indexing="ij")
    spec = replace(study.CLIP, size=20)
    noisy = study.embedded(torch.stack([when, across, down]), torch.Generator().manual_seed(seed), spec)
    monkeypatch.setattr(study, "NOISE", 0.0)
    time, x, y = study.embedded(torch.stack([when, across, down]), torch.Generator().manual_seed(seed), spec)
    shown = time[:, 0, 0]
    assert time.shape == (32, 20, 20)
    assert (time == shown[:, None, None]).all()
    steps = shown.diff()
    assert set(steps.tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}  # every fourth of 128 frames, 32 of them the event
    assert 7 <= ((shown > 0) & (shown < 31)).sum() <= 8
    for place in (x, y):
        corner = place[:, 0, 0]
        assert corner.min() >= 0
        assert corner.max() <= study.DRIFT
        assert (corner.diff() >= 0).all() or (corner.diff() <= 0).all()
    assert (x.diff(dim=2) == 1).all()
    assert (y.diff(dim=1) == 1).all()
    noise = (noisy - torch.stack([time, x, y])) * torch.tensor(spec.std)[:, None, None, None]
    assert abs(float(noise.std()) - 0.02) < 1e-3
    assert (noise.diff(dim=1).abs().mean((0, 2, 3)) > 0.01).all()
