"""The training step of a network: loss, optimiser, the learning-rate schedule, and what is logged.

Mean active bins and GFLOPs are logged beside the loss, so that one can watch the network lose or keep frames.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import MixUp
from torchvision.tv_tensors import Video

from atfr.adapt.cost import clip_cost
from atfr.adapt.trace import SamplingTrace, record
from atfr.checks import one_of
from atfr.errors import InputError
from atfr.models import VideoModel
from atfr.train.checkpoints import ARGUMENTS
from atfr.train.precise_bn import update_batch_norm
from atfr.train.recipe import AS_IT_STANDS, Tuning
from atfr.train.tuning import parameter_groups, set_modes

MOMENTUM = 0.9
Optimizer = Literal["sgd", "adamw"]
HISTORY = "atfr_history"


class ClassificationModule(pl.LightningModule):
    """Trains a network with cross entropy, linear warm-up and half-period cosine; the paper's optimiser is SGD.

    Source: Fayyaz et al. 2021, Sec. 5 (momentum 0.9, weight decay 1e-4).

    Args:
        clip_shape: C T H W of the clips it will see, for their cost.
        seed: of dropout; each epoch starts from it and its own number, so that a resumed training goes on alike.
    """

    def __init__(
        self,
        model: VideoModel,
        clip_shape: Sequence[int],
        *,
        optimizer: Optimizer,
        learning_rate: float,
        warmup_epochs: float,
        weight_decay: float,
        seed: int,
        reference_batch: int | None = None,
        precise_bn: int = 0,
        tuning: Tuning = AS_IT_STANDS,
    ) -> None:
        super().__init__()
        self.model = model
        self.tuning = tuning
        num_classes = model.config["arguments"]["num_classes"]
        self.mix = MixUp(alpha=tuning.mixup, num_classes=num_classes) if tuning.mixup else None
        self.optimizer = one_of("optimizer", optimizer, get_args(Optimizer))
        self.learning_rate = learning_rate
        self.warmup_epochs = warmup_epochs
        self.weight_decay = weight_decay
        self.seed = seed
        self.reference_batch = reference_batch
        self.precise_bn = precise_bn
        self._precise_at = -1
        self._validated: Counter[str] = Counter()
        self.arguments: dict[str, Any] = {}  # what a training that goes on must have in common with the one before
        self.history: list[dict[str, float]] = []
        self.cost = clip_cost(model, clip_shape)

    def forward(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N K"]:
        """Return the logits of the network."""
        return self.model(clips)

    def training_step(self, batch: tuple[Float[Tensor, "N C T H W"], Int[Tensor, " N"]], batch_idx: int) -> Tensor:
        """Return the mean cross entropy of a batch of clips."""
        clips, labels = batch
        targets = labels
        if self.mix is not None:
            mixed, targets = self.mix(Video(clips), labels)
            clips = mixed.as_subclass(Tensor)
        with record(self.model) as trace:
            logits = self.model(clips)
        loss = F.cross_entropy(logits.float(), targets)
        figures = {"loss": loss.detach(), "accuracy": (logits.argmax(1) == labels).float().mean()}
        for name, value in (figures | self._spent(trace)).items():
            self.log(
                f"train/{name}",
                value,
                on_step=False,
                on_epoch=True,
                prog_bar=name in ("loss", "accuracy", "active_bins"),
                batch_size=len(clips),
                sync_dist=True,
            )
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor] | None, batch_idx: int) -> None:
        """Log loss and accuracy of videos, their softmax scores averaged over their views (N V C T H W)."""
        if batch is None:  # none of its videos decodes
            return
        views, labels = batch
        with record(self.model) as trace:
            logits = self.model(views.flatten(0, 1))
        scores = logits.double().softmax(1).unflatten(0, views.shape[:2]).mean(1)
        loss = F.nll_loss(scores.clamp_min(1e-30).log(), labels)
        figures = {"loss": float(loss), "accuracy": float((scores.argmax(1) == labels).double().mean())}
        self._validated["videos"] += len(views)
        for name, value in (figures | self._spent(trace)).items():
            self._validated[name] += len(views) * value  # type: ignore[assignment]

    def on_validation_epoch_end(self) -> None:
        """Log the means over the videos of all processes; one that had none takes part too."""
        names = ["videos", "loss", "accuracy", "gflops_per_clip", "active_bins"]
        sums = torch.tensor([self._validated[name] for name in names], device=self.device)
        videos, *totals = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        self._validated.clear()
        for name, total in zip(names[1:], totals, strict=True):
            if videos and (name != "active_bins" or self.cost.sites):
                self.log(f"val/{name}", total / videos, prog_bar=name != "gflops_per_clip")

    def on_validation_model_eval(self) -> None:
        """Take precise statistics while the layers are in the modes of training."""
        self._take_statistics()
        super().on_validation_model_eval()

    def on_train_end(self) -> None:
        """Take precise statistics where no validation has just done so."""
        self._take_statistics()

    def _take_statistics(self) -> None:
        if not self.precise_bn or self._precise_at == self.global_step or self.trainer.sanity_checking:
            return
        precision = self.trainer.precision_plugin
        batches = itertools.islice(self.trainer.datamodule.train_dataloader(), self.precise_bn)  # type: ignore[attr-defined]
        with precision.forward_context():
            update_batch_norm(self.model, (precision.convert_input(clips.to(self.device)) for clips, _ in batches))
        self._precise_at = self.global_step

    def configure_optimizers(self) -> Any:
        """The optimiser, and a learning rate that changes with each step."""
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise InputError("the cosine schedule needs an end: set epochs, or max_steps")
        self.trainer.fit_loop.setup_data()  # tells the batches of an epoch, also where max_steps sets the end
        steps_an_epoch = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        warmup = min(round(self.warmup_epochs * steps_an_epoch), int(total) - 1)
        rate = self.learning_rate
        if self.reference_batch is not None:
            batch_size = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
            rate *= clips_in_a_step(self.trainer, batch_size) / self.reference_batch
        groups = parameter_groups(self.model, self.tuning, rate, self.weight_decay)
        optimizer: torch.optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, rate, momentum=MOMENTUM)
        else:
            optimizer = torch.optim.AdamW(groups, rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, total, warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train(self, mode: bool = True) -> "ClassificationModule":
        """Change the mode, except that of what must not change in training."""
        super().train(mode)
        if mode:
            set_modes(self.model, self.tuning)
        return self

    def on_train_epoch_start(self) -> None:
        """Draw other clips, in another order, than in other epochs."""
        self.trainer.datamodule.train.set_epoch(self.current_epoch)  # type: ignore[attr-defined]
        key = np.random.SeedSequence([self.seed, self.current_epoch, self.global_rank])
        torch.manual_seed(int(key.generate_state(1)[0]))

    def on_train_epoch_end(self) -> None:
        """Keep the figures of the epoch."""
        figures = {name: float(value) for name, value in self.trainer.callback_metrics.items() if "/" in name}
        self.history.append({"epoch": self.current_epoch, **figures})
        if not math.isfinite(figures.get("train/loss", 0.0)):
            raise InputError(
                f"the training diverged: its loss is {figures['train/loss']} in epoch {self.current_epoch}; "
                f"use a smaller learning rate than {self.learning_rate}"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the figures of the epochs so far into the checkpoint, and what the training was started with."""
        checkpoint[HISTORY] = self.history
        checkpoint[ARGUMENTS] = self.arguments

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the figures of the epochs so far."""
        self.history = list(checkpoint.get(HISTORY, ()))

    def _spent(self, trace: SamplingTrace) -> dict[str, float]:
        """Return what a batch spent, by table look-up of lengths that are known already: no waiting for the device."""
        if not trace.sites:
            return {"gflops_per_clip": self.cost.static / 1e9}
        gflops = [count / 1e9 for count in self.cost.of(trace)]
        return {"active_bins": fmean(trace.kept_maps), "gflops_per_clip": fmean(gflops)}


def clips_in_a_step(trainer: pl.Trainer, batch_size: int) -> int:
    """Return the training clips between two changes of the weights, of all processes together."""
    return batch_size * trainer.world_size * trainer.accumulate_grad_batches


def learning_rate_factor(step: int, total_steps: float, warmup_steps: int) -> float:
    """Return the share of the full learning rate at a step, 0-based: linear up to 1, then half a cosine down to 0.

    Examples:
        >>> [round(learning_rate_factor(step, 10, 2), 3) for step in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * min((step - warmup_steps) / (total_steps - warmup_steps), 1)))
