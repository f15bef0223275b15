"""The training step of a network: loss, optimiser, the learning-rate schedule, and what is logged.

Mean active bins and GFLOPs are logged beside the loss, so that one can watch the network lose or keep frames.
"""

import math
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

from atfr.cost import clip_cost
from atfr.errors import InputError
from atfr.models import VideoModel
from atfr.sgs.sampler import one_of
from atfr.trace import SamplingTrace, record
from atfr.train.recipe import AS_IT_STANDS, Tuning
from atfr.train.tuning import parameter_groups, set_modes

MOMENTUM = 0.9
Optimizer = Literal["sgd", "adamw"]
HISTORY = "atfr_history"


class ClassificationModule(pl.LightningModule):
    """Trains a network with cross entropy, linear warm-up and half-period cosine; the paper's optimiser is SGD.

    Source: Fayyaz et al. 2021, Sec. 5 (momentum 0.9, weight decay 1e-4).

    Args:
        model: the network, static or with one SGS layer.
        clip_shape: C T H W of the clips it will see, for their cost.
        optimizer: "sgd", or "adamw" for short trainings.
        learning_rate: at the top of the schedule.
        warmup_epochs: epochs of linear warm-up, which may be a fraction.
        weight_decay: on weight matrices and kernels; not on vectors: batch norm's scales and shifts, and biases.
        tuning: what stays, what moves slowly, and mixup.
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
        self._log("train", figures | self._spent(trace), len(clips))
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
        loss = F.nll_loss(scores.clamp_min(1e-30).log(), labels).float()
        figures = {"loss": loss, "accuracy": (scores.argmax(1) == labels).float().mean()}
        self._log("val", figures | self._spent(trace), len(views))

    def configure_optimizers(self) -> Any:
        """The optimiser, and a learning rate that changes with each step."""
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise InputError("the cosine schedule needs an end: set epochs, or max_steps")
        self.trainer.fit_loop.setup_data()  # tells the batches of an epoch, also where max_steps sets the end
        steps_an_epoch = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        warmup = min(round(self.warmup_epochs * steps_an_epoch), int(total) - 1)
        groups = parameter_groups(self.model, self.tuning, self.learning_rate, self.weight_decay)
        optimizer: torch.optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, self.learning_rate, momentum=MOMENTUM)
        else:
            optimizer = torch.optim.AdamW(groups, self.learning_rate)
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
        """Put the figures of the epochs so far into the checkpoint."""
        checkpoint[HISTORY] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the figures of the epochs so far."""
        self.history = list(checkpoint.get(HISTORY, ()))

    def _spent(self, trace: SamplingTrace) -> dict[str, float]:
        """Return what a batch spent, by table look-up of lengths that are known already: no waiting for the device."""
        if not trace.sites:
            return {"gflops_per_clip": self.cost.static / 1e9}
        gflops = [count / 1e9 for count in self.cost.of(trace)]
        return {"active_bins": fmean(trace.kept_maps), "gflops_per_clip": fmean(gflops)}

    def _log(self, split: str, figures: dict[str, Tensor | float], count: int) -> None:
        for name, value in figures.items():
            self.log(
                f"{split}/{name}",
                value,
                on_step=False,
                on_epoch=True,
                prog_bar=name in ("loss", "accuracy", "active_bins"),
                batch_size=count,
                sync_dist=True,
            )


def learning_rate_factor(step: int, total_steps: float, warmup_steps: int) -> float:
    """Return the share of the full learning rate at a step, 0-based: linear up to 1, then half a cosine down to 0.

    Example:
        >>> [round(learning_rate_factor(step, 10, 2), 3) for step in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * min((step - warmup_steps) / (total_steps - warmup_steps), 1)))
