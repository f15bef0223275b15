"""The engine around the steps: accumulation, bf16, the linear-scaling rule, precise statistics, states on disk."""

import copy
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, read_folder
from atfr.errors import CheckpointError, InputError
from atfr.models import VideoModel
from atfr.train import precise_bn
from atfr.train.checkpoints import DAMAGED, PREVIOUS, RESUME, WholeFiles
from atfr.train.loaders import ClipLoaders, EpochShuffle, Share
from atfr.train.module import learning_rate_factor
from atfr.train.recipe import Tuning
from tests.evaluate.build import SPEC, network, write_folder
from tests.models.narrow import flat
from tests.train.test_fit import Watch, run

pytestmark = pytest.mark.usefixtures("few_layers")
FIXED = Tuning(norm="fixed")


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoList]:
    return read_folder(write_folder(tmp_path_factory.mktemp("data"), classes=2, train=4, test=1))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# Steps ---------------------------------------------------------------------------------------------------------------


def test_accumulated_batches_are_one_large_batch(splits: dict[str, VideoList], tmp_path: Path) -> None:
    """With batch norm fixed: its statistics are those of the batch that a device runs."""
    large, accumulated = network(classes=2), network(classes=2)
    watches = [Watch(), Watch()]
    options: dict[str, Any] = {"epochs": 2, "warmup_epochs": 1.5, "tuning": FIXED, "learning_rate": 0.02}
    one = run(large, splits, tmp_path / "1", batch_size=4, callbacks=[watches[0]], **options)
    two = run(
        accumulated, splits, tmp_path / "2", batch_size=2, accumulate_grad_batches=2, callbacks=[watches[1]], **options
    )
    assert watches[0].rates == pytest.approx([0.02 * learning_rate_factor(step, 4, 3) for step in range(4)])
    assert watches[1].rates == pytest.approx([rate for rate in watches[0].rates for _ in range(2)])
    for left, right in zip(one.history, two.history, strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    for name, tensor in large.state_dict().items():
        torch.testing.assert_close(accumulated.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


@flat()
def test_bf16_autocast_trains_packed_clips(splits: dict[str, VideoList], tmp_path: Path) -> None:
    model = network(classes=2)
    seen = []
    model.res3.register_forward_hook(lambda _, inputs, output: seen.append((type(output).__name__, output.dtype)))
    slow: dict[str, Any] = {"epochs": 1, "learning_rate": 0.0001}  # where rounding has not yet led elsewhere
    (first,) = run(network(classes=2), splits, tmp_path / "slow bf16", precision="bf16-mixed", **slow).history
    (expected,) = run(network(classes=2), splits, tmp_path / "slow float32", **slow).history
    assert first["train/loss"] == pytest.approx(expected["train/loss"], rel=0.05)  # 8 bits a number
    assert first["train/loss"] != expected["train/loss"]
    options: dict[str, Any] = {"epochs": 5, "learning_rate": 0.02, "precise_bn": 1}
    history = run(model, splits, tmp_path / "bf16", precision="bf16-mixed", **options).history
    assert ("PackedClips", torch.bfloat16) in seen
    assert history[-1]["train/loss"] < 0.85 * history[0]["train/loss"]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@flat()
def test_the_learning_rate_goes_with_the_clips_in_a_step(splits: dict[str, VideoList], tmp_path: Path) -> None:
    rates = {}
    for reference in (None, 4, 16):
        watch = Watch()
        options: dict[str, Any] = {"batch_size": 2, "accumulate_grad_batches": 2, "epochs": 1, "warmup_epochs": 0}
        options |= {"limit_train_batches": 2, "limit_val_batches": 0}
        options |= {"reference_batch": reference, "callbacks": [watch]}
        run(network(classes=2), splits, tmp_path / str(reference), **options)
        rates[reference] = watch.rates[0]
    assert rates == pytest.approx({None: 0.05, 4: 0.05, 16: 0.0125})
    with pytest.raises(InputError, match="reference_batch must be at least 1, got 0"):
        run(network(classes=2), splits, tmp_path, reference_batch=0)


def test_processes_share_the_batches_of_one(splits: dict[str, VideoList]) -> None:
    train = ClipDataset(splits["train"], SPEC, train=True)
    order = list(EpochShuffle(train, 0))
    for world_size, batch_size in ((2, 2), (2, 3), (3, 2), (4, 2), (3, 4)):
        shares = [list(Share(EpochShuffle(train, 0), batch_size, rank, world_size)) for rank in range(world_size)]
        assert {len(share) for share in shares} == {len(Share(EpochShuffle(train, 0), batch_size, 0, world_size))}
        together = batch_size * world_size
        whole = len(order) - len(order) % (together if len(order) >= together else world_size)
        for step in range(0, whole // world_size, batch_size):
            batch = {index for share in shares for index in share[step : step + batch_size]}
            assert batch == set(order[step * world_size : min(step * world_size + together, whole)])
        assert sum(map(len, shares)) == whole
    with pytest.raises(InputError, match="8 training videos are too few for 9 processes"):
        Share(EpochShuffle(train, 0), 1, 0, 9)


# Precise statistics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("validated", [True, False])
def test_precise_statistics_are_those_of_the_final_weights(
    splits: dict[str, VideoList], tmp_path: Path, validated: bool
) -> None:
    model, plain = network(classes=2), network(classes=2)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 3, "learning_rate": 0.02}
    options |= {} if validated else {"limit_val_batches": 0}
    precise = run(model, splits, tmp_path / "precise", precise_bn=50, **options)
    usual = run(plain, splits, tmp_path / "plain", **options)
    for key, value in usual.history[-1].items():
        if not key.startswith("val/"):
            assert precise.history[-1][key] == value, key
    assert not validated or precise.history[-1]["val/loss"] != usual.history[-1]["val/loss"]
    train = ClipDataset(splits["train"], SPEC, train=True)
    train.set_epoch(1)
    loader = ClipLoaders(train, None, batch_size=3, num_workers=0, seed=0).train_dataloader()
    expected = copy.deepcopy(plain).train()
    precise_bn.update_batch_norm(expected, [clips for clips, _ in loader])
    for name, tensor in expected.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
        if "running" in name:
            assert not torch.equal(tensor, plain.state_dict()[name]), name


# States --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cut_short(splits: dict[str, VideoList], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of three epochs leaves that is stopped before the last."""
    out = tmp_path_factory.mktemp("cut") / "out"
    torch.manual_seed(0)
    with flat(), pytest.raises(KeyboardInterrupt):
        run(network(classes=2), splits, out, callbacks=[Watch(stop_before=2)])
    return out.rename(out.with_name("kept"))


@pytest.fixture
def out(cut_short: Path) -> Iterator[Path]:
    """The same, where it was made, as Lightning warns of a folder that has moved, and of networks as flat."""
    out = cut_short.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    with flat():
        yield Path(shutil.copytree(cut_short, out))


def test_a_truncated_state_falls_back_to_the_one_before_and_says_so(
    splits: dict[str, VideoList], out: Path, tmp_path: Path
) -> None:
    whole, resumed = network(classes=2), network(classes=2)
    expected = run(whole, splits, tmp_path / "whole")
    last, previous = out / RESUME, out / PREVIOUS
    assert [torch.load(path, weights_only=True)["epoch"] for path in (previous, last)] == [0, 1]
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"last\.ckpt' is damaged.* going on from '.*previous\.ckpt', after epoch 0"):
        result = run(resumed, splits, out, resume=last)
    assert result.history == expected.history
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert (out / DAMAGED).read_bytes() == content[: len(content) // 2]
    assert [torch.load(path, weights_only=True)["epoch"] for path in (previous, last)] == [1, 2]


@pytest.mark.parametrize("links", [True, False])
def test_what_stops_before_the_last_move_leaves_a_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    files, last, move = WholeFiles(), tmp_path / RESUME, Path.replace
    files.save_checkpoint({"epoch": 0}, last)

    def stopped(path: Path, to: Path) -> Path:
        if to == last:
            raise KeyboardInterrupt
        return move(path, to)

    def refuse(*_: Path) -> None:
        raise OSError("no hard links here")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        if not links:
            patch.setattr(os, "link", refuse)
        for _ in range(2 if links else 1):
            with pytest.raises(KeyboardInterrupt):
                files.save_checkpoint({"epoch": 1}, last)
            names = {RESUME, PREVIOUS} if links else {PREVIOUS}
            assert {path.name: torch.load(path)["epoch"] for path in tmp_path.iterdir()} == dict.fromkeys(names, 0)
    files.save_checkpoint({"epoch": 1}, last)
    assert torch.load(last)["epoch"] == 1
    assert torch.load(tmp_path / PREVIOUS)["epoch"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {RESUME, PREVIOUS}


def test_a_kill_between_moving_two_states_loses_one_epoch_only(splits: dict[str, VideoList], out: Path) -> None:
    (out / RESUME).unlink()
    with pytest.warns(UserWarning, match=r"there is no '.*last\.ckpt'.*going on from '.*previous\.ckpt'"):
        result = run(network(classes=2), splits, out, resume=out / RESUME)
    assert [row["epoch"] for row in result.history] == [0, 1, 2]


def test_two_damaged_states_are_an_error(splits: dict[str, VideoList], out: Path) -> None:
    for name in (RESUME, PREVIOUS):
        (out / name).write_bytes((out / name).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"previous\.ckpt' is damaged"):
        run(network(classes=2), splits, out, resume=out / RESUME)


def test_other_arguments_videos_or_kernels_are_refused(splits: dict[str, VideoList], out: Path) -> None:
    def refused(message: str, model: VideoModel, lists: dict[str, VideoList], **options: Any) -> None:
        with pytest.raises(CheckpointError, match=f"of a training with other arguments: {message}; resume with"):
            run(model, lists, out, resume=out / RESUME, **options)

    model = network(classes=2)
    refused("learning_rate was 0.05 and is 0.1", model, splits, learning_rate=0.1)
    refused("clips in a step was 4 and is 2", model, splits, batch_size=2)
    refused("tuning.balanced was False and is True", model, splits, tuning=Tuning(balanced=True))
    refused("weight_decay was 0.0001 and is 0; seed was 0 and is 1", model, splits, seed=1, weight_decay=0)
    fewer = splits | {"train": VideoList(splits["train"].records[1:], splits["train"].labels)}
    refused(r"training videos was '8, digest \w+' and is '7, digest \w+'", model, fewer)
    model.res2.sgs.kernel = "kronecker"
    refused(r"sgs\.kernel was 'linear' and is 'kronecker'", model, splits)


def test_a_full_disk_is_told_with_the_name_of_the_state(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(OSError, match=f"too large: '{tmp_path}/{RESUME}'"):
            WholeFiles().save_checkpoint({"weights": torch.zeros(10_000)}, tmp_path / RESUME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_states_as_they_were(
    splits: dict[str, VideoList], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in (out / RESUME, out / PREVIOUS)}
    files = {*out.iterdir()}

    def half(state: Any, file: Any) -> None:
        file.write(before[out / RESUME][:100])
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        run(network(classes=2), splits, out, resume=out / RESUME)
    assert {path: path.read_bytes() for path in before} == before
    assert {*out.iterdir()} == files
