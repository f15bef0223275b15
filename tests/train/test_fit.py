import os
import pickle
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

import atfr
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, VideoRecord, read_folder
from atfr.errors import CheckpointError, InputError
from atfr.evaluate.task import load_checkpoint
from atfr.models import VideoModel
from atfr.train.fit import RESUME, FitResult, fit
from atfr.train.module import learning_rate_factor
from tests.evaluate.build import SPEC, network, write_folder

pytestmark = pytest.mark.usefixtures("flat_stages")


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoList]:
    return read_folder(write_folder(tmp_path_factory.mktemp("data"), classes=2, train=4, test=2))


def run(model: VideoModel, splits: dict[str, VideoList], out: Path, **options: Any) -> FitResult:
    train, val = ClipDataset(splits["train"], SPEC, train=True), ClipDataset(splits["test"], SPEC, train=False)
    defaults: dict[str, Any] = {"epochs": 3, "batch_size": 4, "warmup_epochs": 1, "num_workers": 0}
    return fit(model, train, val, out=out, **(defaults | options))


class Watch(pl.Callback):
    """Notes what happens, and stops like Ctrl-C before an epoch."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.stop_before = stop_before
        self.rates: list[float] = []
        self.epochs: list[int] = []
        self.clips: list[torch.Tensor] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.stop_before:
            raise KeyboardInterrupt

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[1]["lr"])
        self.epochs.append(trainer.datamodule.train.epoch)  # type: ignore[attr-defined]
        self.clips.append(batch[0])


def test_learns_writes_and_tells(splits: dict[str, VideoList], tmp_path: Path) -> None:
    model, watch = network(classes=2).train(), Watch()
    result = run(model, splits, tmp_path / "out", epochs=6, learning_rate=0.02, callbacks=[watch])
    assert result.history[-1]["train/loss"] < 0.5 * result.history[0]["train/loss"]
    assert [row["epoch"] for row in result.history] == list(range(6))
    assert watch.rates == pytest.approx([0.02 * learning_rate_factor(step, 12, 2) for step in range(12)])
    assert watch.epochs == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert not torch.equal(torch.cat(watch.clips[:2]), torch.cat(watch.clips[2:4]))
    cost = atfr.clip_cost(model, (3, 4, 32, 32))
    for row in result.history:
        assert 1 <= row["train/active_bins"] <= 4
        assert cost.adaptive[1] <= 1e9 * row["train/gflops_per_clip"] * 1.0001 <= cost.adaptive[4] * 1.001
        assert {"val/loss", "val/accuracy", "val/active_bins", "val/gflops_per_clip"} <= row.keys()
    assert (result.skipped, result.damaged) == ([], [])
    assert not model.training
    again, task = load_checkpoint(tmp_path / "out")
    assert (task.labels, task.spec) == (("a", "b"), SPEC)
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(clips), model(clips))
    assert list((tmp_path / "out" / "logs").glob("events.out.tfevents.*"))


def test_logged_cost_is_that_of_the_static_network(splits: dict[str, VideoList], tmp_path: Path) -> None:
    model = network(classes=2, adapted=False)
    (row,) = run(model, splits, tmp_path, epochs=1).history
    assert row["train/gflops_per_clip"] == pytest.approx(atfr.clip_cost(model, (3, 4, 32, 32)).static / 1e9)
    assert "train/active_bins" not in row


def test_resumed_training_ends_with_the_same_weights(splits: dict[str, VideoList], tmp_path: Path) -> None:
    """In processes that read ahead; `test_engine` goes on without."""
    whole, first, second = network(classes=2), network(classes=2), network(classes=2)
    expected = run(whole, splits, tmp_path / "whole", num_workers=1)
    with pytest.raises(KeyboardInterrupt):
        run(first, splits, tmp_path / "cut", callbacks=[Watch(stop_before=2)], num_workers=1)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    resume = tmp_path / "cut" / RESUME
    result = run(second, splits, tmp_path / "cut", resume=resume, num_workers=1)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    assert result.history == expected.history


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code of a checkpoint was run')",)


@pytest.mark.parametrize("kind", ["code", "noise", "other", "missing"])
def test_a_bad_resume_file_is_refused(splits: dict[str, VideoList], tmp_path: Path, kind: str) -> None:
    path = tmp_path / RESUME
    if kind == "code":
        torch.save({"epoch": 0, "state_dict": Malicious()}, path)
    elif kind == "noise":
        path.write_bytes(pickle.dumps([1, 2, 3])[:-3])
    elif kind == "other":
        run(network(classes=2, adapted=False), splits, tmp_path, epochs=1)
    message = {
        "code": "holds code, which is not loaded",
        "noise": "damaged",
        "other": r"model\.res2\.sgs\S+ is missing there",
        "missing": "there is no",
    }
    with pytest.raises(CheckpointError, match=message[kind]):
        run(network(classes=2), splits, tmp_path, resume=path)


def test_videos_that_do_not_decode_are_named_and_end_nothing(splits: dict[str, VideoList], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    lists = {
        split: VideoList((*videos.records, VideoRecord(broken, 0)), videos.labels) for split, videos in splits.items()
    }
    result = run(network(classes=2), lists, tmp_path / "out", epochs=1, batch_size=3)
    assert [path for path, _ in result.skipped] == [broken, broken]  # of the training, and of the validation
    assert "val/accuracy" in result.history[0]


def test_trainer_options_take_precedence(splits: dict[str, VideoList], tmp_path: Path) -> None:
    watch = Watch()
    run(network(classes=2), splits, tmp_path, callbacks=[watch], limit_train_batches=1, logger=False)
    assert len(watch.rates) == 3
    assert not (tmp_path / "logs").exists()


def test_a_machine_with_slurm_gives_no_warning(
    splits: dict[str, VideoList], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    run(network(classes=2), splits, tmp_path / "out", epochs=1, limit_train_batches=1)  # warnings are errors


def test_bad_arguments(splits: dict[str, VideoList], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lightning\.Trainer does not take these options"):
        run(network(classes=2), splits, tmp_path, accelerator="abacus")
    with pytest.raises(InputError, match="sync_batchnorm needs GPUs"):
        run(network(classes=2), splits, tmp_path, accelerator="cpu", devices=2, strategy="ddp", sync_batchnorm=True)
    with pytest.raises(InputError, match="did you mean 'sgd'"):
        run(network(classes=2), splits, tmp_path, optimizer="sdg")
    for name in ("learning_rate", "warmup_epochs", "weight_decay", "num_workers", "seed"):
        with pytest.raises(InputError, match=f"{name} must be (an integer of )?at least 0, got -1"):
            run(network(classes=2), splits, tmp_path, **{name: -1})
    with pytest.raises(InputError, match="epochs must be at least 1, got 0"):
        run(network(classes=2), splits, tmp_path, epochs=0)
    with pytest.raises(CheckpointError, match="6 classes"):
        run(network(), {name: VideoList(v.records, v.labels) for name, v in splits.items()}, tmp_path)
    with pytest.raises(InputError, match="train=True"):
        fit(network(classes=2), ClipDataset(splits["train"], SPEC, train=False), out=tmp_path)


def test_a_training_that_diverges_is_an_error(splits: dict[str, VideoList], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diverged"):
        run(network(classes=2), splits, tmp_path, learning_rate=1e30, warmup_epochs=0)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_in_a_finaliser_is_noticed_at_the_next_batch(splits: dict[str, VideoList], tmp_path: Path) -> None:
    """Python loses what is raised in a finaliser."""

    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    class Press(pl.Callback):
        batches = 0

        def on_train_batch_end(self, *_: Any) -> None:
            self.batches += 1
            if self.batches == 1:
                thing = Finalised()
                del thing

    press = Press()
    with pytest.raises(KeyboardInterrupt):
        run(network(classes=2), splits, tmp_path / "out", epochs=50, callbacks=[press])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert press.batches == 1
