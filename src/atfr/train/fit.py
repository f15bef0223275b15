"""fit: train a network on a data set through Lightning, and write its checkpoint folder.

out/config.json, model.safetensors, task.json   the trained network (`atfr test`, `atfr predict`)
out/last.ckpt, previous.ckpt                    the states after the last two whole epochs, to resume from
out/logs/                                       TensorBoard
"""

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.progress import BarColumn

from atfr.adapt import adaptation
from atfr.checks import processes
from atfr.data.dataset import ClipDataset
from atfr.data.pool import cpu_cores
from atfr.errors import InputError
from atfr.evaluate.task import Task, check_classes, save_checkpoint
from atfr.kernels.allocator import freed_memory_kept
from atfr.models import VideoModel
from atfr.train.checkpoints import RESUME, WholeFiles, check_state, read_state
from atfr.train.loaders import ClipLoaders
from atfr.train.module import ClassificationModule, Optimizer, clips_in_a_step
from atfr.train.recipe import AS_IT_STANDS, Tuning
from atfr.train.tuning import frozen
from atfr.words import counted

log = logging.getLogger(__name__)
BEST, WATCHED = "best", "val/loss"
SHOWN = {"train/loss": "loss", "val/accuracy": "val"}
BAR_WIDTH = 10
ABOVE_ZERO = "accumulate_grad_batches check_val_every_n_epoch limit_train_batches max_steps val_check_interval".split()
"""Options of Lightning's Trainer by which it divides, or with which it would end before the first step."""


@dataclass(frozen=True)
class FitResult:
    """What a training did.

    Attributes:
        history: the figures of each epoch: "train/loss", "train/accuracy", "train/active_bins", "val/accuracy", ...
        skipped: the videos that do not decode, each with the reason.
        damaged: the videos of which only a part could be used, each with the warning.
    """

    history: list[dict[str, float]]
    skipped: list[tuple[Path, str]]
    damaged: list[tuple[Path, str]]


def fit(
    model: VideoModel,
    train: ClipDataset,
    val: ClipDataset | None = None,
    *,
    out: str | os.PathLike[str],
    epochs: int = 30,
    batch_size: int = 16,
    optimizer: Optimizer = "sgd",
    learning_rate: float = 0.05,
    reference_batch: int | None = None,
    warmup_epochs: float = 2,
    weight_decay: float = 1e-4,
    precise_bn: int = 0,
    num_workers: int | None = None,
    seed: int = 0,
    tuning: Tuning = AS_IT_STANDS,
    resume: str | os.PathLike[str] | None = None,
    **trainer_options: Any,
) -> FitResult:
    """Train a network in place, and write it with its task to the folder `out`.

    SGD with momentum 0.9, or AdamW; the learning rate rises linearly, then falls as half a cosine to 0 at the end.
    Weight decay spares batch norm and biases. The network comes out as after the last epoch, or with `tuning.patience`
    after the best, in evaluation mode on the CPU.

    Args:
        model: a network whose classes are those of the data; adapt it before.
        train: a data set with `train=True`.
        val: a data set with `train=False`, tested after each epoch; without `tuning.patience` it chooses nothing.
        out: the checkpoint folder, made where missing.
        epochs: passes over the training videos, one random clip of each.
        batch_size: clips in a step (on each device).
        optimizer: "sgd" as in the paper, or "adamw", which learns in fewer steps at a learning rate near 0.003.
        learning_rate: at the top of the schedule.
        reference_batch: the clips in a step (of all devices, and of all batches that are accumulated) that
            `learning_rate` is for: with other numbers it is scaled in proportion (Goyal et al. 2017). None: it is not.
        warmup_epochs: epochs in which the learning rate rises, which may be a fraction.
        weight_decay: on matrices and kernels.
        precise_bn: batches of the training (of each device), at most an epoch, over which batch-norm statistics are
            taken with fixed weights, before each validation and at the end; 0 leaves them running averages.
        num_workers: processes that decode; None: one less than the CPU cores, four at most.
        seed: of order and dropout; the clips are drawn by the data set's own.
        tuning: what is different where the network has learned before.
        resume: a `last.ckpt` to go on from, of the same network and arguments; the number of epochs may differ, and
            with it the schedule. Where it is damaged, the `previous.ckpt` beside it takes its place, with a warning.
        trainer_options: any option of `lightning.Trainer`; they take precedence, callbacks are added.

    Raises:
        InputError: an argument is out of range, a data set is of the wrong kind, or more epochs are done than asked.
        CheckpointError: `out` cannot be written, or `resume` is damaged, unsafe to load, or of another network or
            other arguments.
        KeyboardInterrupt: the training was interrupted; `last.ckpt` holds the epochs before.
    """
    out = Path(out)
    task = Task(train.video_list.labels, train.spec)
    if not train.train or (val is not None and val.train):
        raise InputError("fit needs a ClipDataset with train=True to train on, and one with train=False to validate on")
    check_classes(model, task)
    if tuning.patience is not None and val is None:
        raise InputError("Tuning.patience stops by the validation loss: fit needs val, a data set to validate on")
    for name, value, least in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("learning_rate", learning_rate, 0),
        ("reference_batch", 1 if reference_batch is None else reference_batch, 1),
        ("warmup_epochs", warmup_epochs, 0),
        ("weight_decay", weight_decay, 0),
        ("precise_bn", precise_bn, 0),
        ("seed", seed, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    processes("num_workers", num_workers or 0)
    workers = min(4, cpu_cores() - 1) if num_workers is None else num_workers
    options: dict[str, Any] = {"optimizer": optimizer, "learning_rate": learning_rate, "weight_decay": weight_decay}
    options |= {"reference_batch": reference_batch, "warmup_epochs": warmup_epochs, "precise_bn": precise_bn}
    options["seed"] = seed
    module = ClassificationModule(model, task.clip_shape, tuning=tuning, **options)
    loaders = ClipLoaders(train, val, batch_size=batch_size, num_workers=workers, seed=seed, balanced=tuning.balanced)
    module.train()
    with _quiet():
        if val is None:
            trainer_options = {"limit_val_batches": 0} | trainer_options
        trainer = _trainer(out, epochs, tuning, trainer_options)
        interrupt = _Interrupt()
        trainer.callbacks.append(interrupt)  # type: ignore[attr-defined]
        module.arguments = {
            **model.config,
            "sgs": adaptation(model),
            "labels": list(train.video_list.labels),
            "training videos": train.video_list.fingerprint,
            "clip": train.spec.to_dict(),
            "clips in a step": clips_in_a_step(trainer, batch_size),
            "tuning": asdict(tuning),
            **options,
        }
        state_path = None if resume is None else _resume(Path(resume), module, train, trainer)
        try:
            with _interruptible(interrupt), frozen(model, tuning), freed_memory_kept():
                trainer.fit(module, datamodule=loaders, ckpt_path=state_path, weights_only=True)
        except (MisconfigurationException, ZeroDivisionError, OverflowError, ValueError) as error:
            if isinstance(error, ValueError) and "val_check_interval" not in str(error):
                raise
            raise InputError(f"lightning.Trainer cannot train with these options: {error}") from error
    if trainer.global_step == 0:
        raise InputError("the training ended before its first step; give lightning.Trainer a longer max_time")
    if tuning.patience is not None:
        module.load_state_dict(torch.load(out / f"{BEST}.ckpt", weights_only=True)["state_dict"])
    model.eval()
    if trainer.is_global_zero:
        save_checkpoint(model, task, out)
    sets = [train] if val is None else [train, val]
    skipped, damaged = [one for part in sets for one in part.skipped], [one for part in sets for one in part.damaged]
    return FitResult(module.history, skipped, damaged)


def _resume(path: Path, module: ClassificationModule, train: ClipDataset, trainer: pl.Trainer) -> Path:
    """Return the checkpoint to go on from, after a look whether it is whole, safe to load and of this training."""
    path, state = read_state(path)
    check_state(path, state, module.state_dict(), module.arguments)
    done, epochs = int(state["epoch"]) + 1, trainer.max_epochs
    if epochs in (None, -1):
        told = f"going on after {counted(done, 'epoch')}"
    elif done > epochs:
        raise InputError(
            f"the training in '{path.parent}' has {done} epochs behind it, and epochs={epochs} (--epochs {epochs}) is "
            f"fewer; ask for more than {done} to go on"
        )
    else:
        told = f"going on after {done} of {epochs} epochs" if done < epochs else f"all {epochs} epochs are done already"
    if trainer.is_global_zero:
        log.info(told)
    train.set_epoch(done)
    return path


def _trainer(out: Path, epochs: int, tuning: Tuning, options: dict[str, Any]) -> pl.Trainer:
    """Make the Trainer: our defaults, which any option of the caller replaces."""
    callbacks: list[pl.Callback] = []
    if tuning.patience is not None:
        best = ModelCheckpoint(out, BEST, monitor=WATCHED, enable_version_counter=False)
        callbacks += [EarlyStopping(WATCHED, patience=tuning.patience), best]
    if options.get("enable_checkpointing", True):
        callbacks.append(
            ModelCheckpoint(
                out,
                filename=Path(RESUME).stem,
                enable_version_counter=False,
                save_on_train_epoch_end=True,
                auto_insert_metric_name=False,
            )
        )
    show = sys.stderr.isatty() and options.get("enable_progress_bar") is not False
    if show:
        callbacks.append(_Bar(console_kwargs={"stderr": True}))
    defaults: dict[str, Any] = {
        "max_epochs": epochs,
        "default_root_dir": out,
        "log_every_n_steps": 10,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,  # ours share the clips and videos themselves: Lightning's pads with copies
        "enable_model_summary": False,
    }
    own = options.get("callbacks") or []
    callbacks += own if isinstance(own, list) else [own]
    if none := [f"{name}=0" for name in ABOVE_ZERO if options.get(name) == 0]:
        raise InputError(f"lightning.Trainer cannot train with {', '.join(none)}; leave it out, or give more")
    options = defaults | options | {"callbacks": callbacks, "enable_progress_bar": show}
    if options.get("logger") in (None, True):
        options["logger"] = TensorBoardLogger(out, name="", version="logs")
    if not options.get("plugins") and str(options.get("strategy") or "auto").startswith(("auto", "ddp")):
        options["plugins"] = [WholeFiles()]
    try:
        trainer = pl.Trainer(**options)
    except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"lightning.Trainer does not take these options: {error}") from error
    _check_machines(trainer)
    if options.get("sync_batchnorm") and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise InputError("sync_batchnorm needs GPUs: torch has no SyncBatchNorm for CPUs; leave it out")
    return trainer


def _check_machines(trainer: pl.Trainer) -> None:
    """Refuse several machines of which none knows where to meet the others: they would wait without end."""
    by_hand = isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if trainer.num_nodes > 1 and by_hand and missing:
        raise InputError(
            f"num_nodes={trainer.num_nodes}: {trainer.num_nodes} machines cannot meet, {' and '.join(missing)} not "
            "set; start the training by srun or torchrun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each machine"
        )


class _Bar(RichProgressBar):
    """Lightning's bar, with no more figures than fit into 80 columns beside the rate and the time left."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the loss of the last training epoch and the accuracy of the last validation."""
        found = super().get_metrics(trainer, pl_module)
        return {short: found[name] for name, short in SHOWN.items() if name in found}

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Return Lightning's columns with a shorter bar."""
        columns = super().configure_columns(trainer)
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = BAR_WIDTH
        return columns


class _Interrupt(pl.Callback):
    """Notices Ctrl-C at the next batch where it came in a finaliser, in which Python loses an exception."""

    pressed = False
    signals: Sequence[signal.Signals] = ()

    def press(self, number: int, _: Any) -> None:
        """Interrupt at once (a signal handler)."""
        again, self.pressed = self.pressed, True
        if not (again and number == signal.SIGTERM):  # `timeout` sends it twice: let the first one's end be
            raise KeyboardInterrupt

    def on_train_start(self, *_: Any) -> None:
        """Take SIGTERM back from Lightning, which has the handler call the other processes and so may hang."""
        if signal.SIGTERM in self.signals:
            signal.signal(signal.SIGTERM, self.press)

    def on_train_batch_start(self, *_: Any) -> None:
        """Interrupt where that was lost."""
        if self.pressed:
            raise KeyboardInterrupt


@contextmanager
def _interruptible(interrupt: _Interrupt) -> Iterator[None]:
    """Let Ctrl-C through as what it is: Lightning makes it an exit with 1, and stays deaf to further ones.

    So too SIGTERM, where the caller has it raise KeyboardInterrupt. It often comes to the workers as well: their death
    is then no error of its own.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if threading.current_thread() is threading.main_thread():
        interrupt.signals = [number for number, now in before.items() if now is signal.default_int_handler]
    for number in interrupt.signals:
        signal.signal(number, interrupt.press)
    try:
        yield
    except BaseException as stop:
        died = any(sign in str(stop) for sign in ("killed by signal: Terminated", "process that decodes videos died"))
        if interrupt.signals and (died or interrupt.pressed):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error there for every worker that dies
        if died and not interrupt.pressed:
            time.sleep(1)  # ours may be on its way
        if interrupt.pressed or (isinstance(stop, SystemExit) and isinstance(stop.__context__, KeyboardInterrupt)):
            raise KeyboardInterrupt from stop
        raise
    finally:
        for number, handler in before.items():
            silenced = signal.getsignal(number) is signal.SIG_IGN and handler is not signal.SIG_IGN
            if number in interrupt.signals or silenced:
                signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what Lightning says of hardware it does not use, tips, and loaders that are as asked for."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in (
                r"The '\w+' does not have many workers",
                r"The number of training batches \(\d+\) is smaller than the logging interval",
                r"Checkpoint directory .* exists and is not empty",
                r"GPU available but not used",
                r"The `srun` command is available",  # on the machines of a cluster
                r"It is recommended to use `self.log\('val/",  # the module adds up over processes itself
                r"Found \d+ module\(s\) in eval mode",  # frozen stages and fixed batch norms
                r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 on torch 2.15
            ):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
