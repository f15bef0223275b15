"""Inception-I3D against the same network written in NumPy, the port's names, its stages, and what it says of videos."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

import atfr
from atfr.errors import CheckpointError
from atfr.evaluate.predict import predict
from atfr.evaluate.task import Task, kinetics400, load_checkpoint
from atfr.models import InceptionI3D
from atfr.models.inception import MeanOfPairs, SameMaxPool, SamePad
from atfr.train.recipe import Tuning
from atfr.train.tuning import frozen
from atfr.video.spec import ClipSpec
from atfr.weights import published
from tests.models.narrow import narrow
from tests.models.randomise import scramble_

NAME = "i3d_inception"
SELDOM = [("stem", "uniform"), ("res2", "random"), ("res4", "uniform"), ("res5", "random")]
MIXED = ["3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"]
UNITS = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
UNITS += [f"Mixed_{name}.{branch}" for name in MIXED for branch in ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")]


@functools.cache
def network() -> InceptionI3D:
    torch.manual_seed(0)
    return scramble_(narrow(NAME, num_classes=5, dropout=0.0)).double().eval()


# The oracle: NumPy, clips N T H W C, every window written out, TensorFlow's rule for SAME padding.


def windows(x: np.ndarray, kernel: tuple, stride: tuple, fill: float) -> np.ndarray:
    """All windows of SAME padding, N T H W C t h w."""
    around = [(0, 0)]
    for n, k, s in zip(x.shape[1:4], kernel, stride, strict=True):
        total = max((int(np.ceil(n / s)) - 1) * s + k - n, 0)
        around.append((total // 2, total - total // 2))
    padded = np.pad(x, [*around, (0, 0)], constant_values=fill)
    t, h, w = stride
    return sliding_window_view(padded, kernel, axis=(1, 2, 3))[:, ::t, ::h, ::w]


def unit(x: np.ndarray, state: dict[str, np.ndarray], path: str, stride: int = 1) -> np.ndarray:
    weight = state[f"{path}.conv3d.weight"]
    y = np.tensordot(windows(x, weight.shape[2:], (stride,) * 3, 0.0), weight, axes=([4, 5, 6, 7], [1, 2, 3, 4]))
    mean, var, scale, shift = (state[f"{path}.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    return np.maximum((y - mean) / np.sqrt(var + 1e-3) * scale + shift, 0)


def pool(x: np.ndarray, kernel: tuple, stride: tuple) -> np.ndarray:
    return windows(x, kernel, stride, -np.inf).max((5, 6, 7))


def mixed(x: np.ndarray, state: dict[str, np.ndarray], path: str) -> np.ndarray:
    branches = [
        unit(x, state, f"{path}.b0"),
        unit(unit(x, state, f"{path}.b1a"), state, f"{path}.b1b"),
        unit(unit(x, state, f"{path}.b2a"), state, f"{path}.b2b"),
        unit(pool(x, (3, 3, 3), (1, 1, 1)), state, f"{path}.b3b"),
    ]
    return np.concatenate(branches, axis=4)


def oracle(clips: Tensor, model: nn.Module) -> np.ndarray:
    """The logits of Inception-I3D, Carreira & Zisserman 2017, Fig. 3."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    x = clips.numpy().transpose(0, 2, 3, 4, 1)
    x = pool(unit(x, state, "Conv3d_1a_7x7", stride=2), (1, 3, 3), (1, 2, 2))
    x = unit(unit(x, state, "Conv3d_2b_1x1"), state, "Conv3d_2c_3x3")
    x = pool(x, (1, 3, 3), (1, 2, 2))
    for name in MIXED:
        if name == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        elif name == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        x = mixed(x, state, f"Mixed_{name}")
    window = min(2, x.shape[1]), *x.shape[2:4]  # VALID, stride 1
    x = sliding_window_view(x, window, axis=(1, 2, 3)).mean((5, 6, 7))
    x = x @ state["logits.conv3d.weight"][:, :, 0, 0, 0].T + state["logits.conv3d.bias"]
    return x.mean((1, 2, 3))


@pytest.mark.parametrize("shape", [(25, 40, 33), (16, 32, 64), (6, 23, 17), (1, 8, 9)])
def test_logits_are_those_of_the_network_in_numpy(shape: tuple) -> None:
    clips = torch.randn(2, 3, *shape, dtype=torch.float64)
    with torch.no_grad():
        logits = network()(clips)
    np.testing.assert_allclose(logits.numpy(), oracle(clips, network()), rtol=1e-9, atol=1e-9)
    assert logits.std(0).min() > 1e-3, "the clips do not differ, which proves nothing"


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("size", range(1, 9))
def test_max_pools_pad_by_size(size: int, kernel: int) -> None:
    maps = -1 - torch.rand(1, 2, size, 9 - size, size, dtype=torch.float64)  # below zero: padding must be lower still
    expected = pool(maps.numpy().transpose(0, 2, 3, 4, 1), (kernel,) * 3, (2, 2, 2)).transpose(0, 4, 1, 2, 3)
    module = SameMaxPool((kernel,) * 3, (2, 2, 2))
    np.testing.assert_array_equal(module(maps).numpy(), expected)
    over_time = pool(maps.numpy().transpose(0, 2, 3, 4, 1), (kernel, 1, 1), (2, 1, 1)).transpose(0, 4, 1, 2, 3)
    np.testing.assert_array_equal(module._over_time(maps).numpy(), over_time)


def test_the_stem_pads_two_before_and_three_behind_where_the_size_is_even() -> None:
    padded = SamePad(7, 2)(torch.ones(1, 1, 4, 5, 6))[0, 0]
    assert padded.shape == (4 + 5, 5 + 6, 6 + 5)
    inside = padded.nonzero()
    assert inside.amin(0).tolist() == [2, 3, 2]


def test_a_clips_first_and_last_map_count_half() -> None:
    maps = torch.arange(4.0).view(1, 1, 4, 1, 1) ** 2
    assert MeanOfPairs()(maps).item() == pytest.approx((0 / 2 + 1 + 4 + 9 / 2) / 3)
    assert MeanOfPairs()(maps[:, :, 3:]).item() == 9


def test_names_are_those_of_the_port_and_its_files_load(tmp_path: Path) -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {f"{unit}.conv3d.weight" for unit in UNITS} | {f"{unit}.bn.{name}" for unit in UNITS for name in norm}
    names |= {"logits.conv3d.weight", "logits.conv3d.bias"}
    assert set(network().state_dict()) == names

    with torch.device("meta"):
        counted = InceptionI3D()
    assert sum(p.numel() for p in counted.parameters()) == 12_689_984 + 7_280  # of the original, and its scales of 1
    assert atfr.clip_cost(counted, counted.clip_shape).static == pytest.approx(111.2e9, rel=1e-3)

    whole = scramble_(atfr.create_model(NAME, num_classes=5)).double().eval()
    torch.save({f"module.{name}": tensor for name, tensor in whole.state_dict().items()}, tmp_path / "rgb.pt")
    model = atfr.create_model(NAME, num_classes=5).double().eval()
    report = atfr.load_weights(model, tmp_path / "rgb.pt")
    assert (report.loaded, report.missing, report.unexpected) == (len(names), (), ())
    clips = torch.randn(1, 3, 8, 16, 16, dtype=torch.float64)
    assert torch.equal(model(clips), whole(clips))
    report = atfr.load_weights(atfr.create_model(NAME, num_classes=7), tmp_path / "rgb.pt")
    assert report.reinitialised == ("logits.conv3d.weight", "logits.conv3d.bias")


@pytest.mark.parametrize(
    ("after", "sampler"),
    [
        ("input", "change"),
        ("res3", "average"),
        *(pytest.param(*of, marks=pytest.mark.soak) for of in SELDOM),
    ],
)
def test_controls_and_change_at_every_stage(after: str, sampler: str) -> None:  # SGS: tests/test_families.py
    clips = torch.randn(3, 3, 40, 16, 16, dtype=torch.float64)
    clips[0] = clips[0, :, :1]  # a still clip, and one that stops
    clips[1, :, 6:] = clips[1, :, 6:7]
    frames = {"input": 40, "stem": 20, "res2": 20, "res3": 20, "res4": 10, "res5": 5}[after]
    model = copy.deepcopy(network())
    options = {"num_bins": frames // 2} if sampler == "change" else {"active_bins": 0.4 * frames}
    atfr.adapt_(model, after=after, sampler=sampler, **options)
    with torch.no_grad(), atfr.record(model) as trace:
        together = model(clips)
        alone = torch.cat([model(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    assert set(trace.kept_maps) < set(range(1, frames + 1))
    fast = atfr.optimize_for_inference(model)
    with torch.no_grad():
        torch.testing.assert_close(fast(clips), together, rtol=1e-9, atol=1e-9)


@pytest.mark.soak
def test_the_openvino_bundle_keeps_any_number_of_maps(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = copy.deepcopy(network()).float()
    atfr.adapt_(model, after="input", sampler="change", num_bins=5)  # all behind it has a length of its own
    task = Task(tuple("abcde"), ClipSpec(frames=16, size=32, resize=32, jitter=(32, 32)))
    bundle = atfr.export_bundle(model, task, tmp_path / "bundle", "openvino")
    lengths = set()
    for changes in (0, 1, 2, 3, 15):  # odd and even numbers of maps, of which padding depends
        clip = torch.randn(1, 3, 16, 32, 32)
        clip[:, :, changes:] = clip[:, :, changes : changes + 1]
        with torch.no_grad(), atfr.record(model) as trace:
            expected = model(clip)
        found = bundle(clip)
        assert found.trace.kept_maps == trace.kept_maps
        lengths.update(trace.kept_maps)
        torch.testing.assert_close(torch.as_tensor(found.logits), expected, rtol=1e-4, atol=1e-5)
    assert len({n % 2 for n in lengths}) == 2


def test_freezing_a_stage_freezes_all_before_its_end() -> None:
    model = copy.deepcopy(network())
    with frozen(model, Tuning(freeze="res3")):
        trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"Mixed_{name}" for name in MIXED[2:]} | {"logits"}


def test_the_labels_are_those_of_kinetics_in_alphabetical_order() -> None:
    task = kinetics400(atfr.create_model("i3d_inception"))
    assert len(task.labels) == 400
    assert list(task.labels) == sorted(task.labels, key=str.lower)
    # places that others who use these weights have published
    assert [task.labels.index(name) for name in ("archery", "lunge", "pole vault", "tai chi")] == [5, 183, 253, 346]
    assert task.clip_shape == InceptionI3D(num_classes=1).clip_shape


def test_a_missing_file_names_the_command(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="atfr weights i3d_inception"):
        load_checkpoint(NAME)


def test_a_folder_of_that_name_wins(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir()
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        load_checkpoint(NAME)


# With the published weights, PyTorch on two CPU cores.
ANSWERS = {
    "R6llTwEh07w.mp4": ("using segway", 0.9998),
    "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": ("cartwheeling", 0.8780),
}


def test_what_it_says_of_real_videos(real_data: Path) -> None:
    if not published.is_there("i3d_inception"):
        pytest.skip(f"the published weights are not in the cache: {published.command('i3d_inception')}")
    model, task = load_checkpoint(NAME)
    for prediction in predict(model, [real_data / "videos" / name for name in ANSWERS], task):
        label, probability = prediction.top(1)[0]
        expected, about = ANSWERS[Path(prediction.path).name]
        assert label == expected
        assert probability == pytest.approx(about, abs=2e-3)
