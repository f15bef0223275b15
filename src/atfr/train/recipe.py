"""With what a network is trained: values only, without torch, so that the command line reads them in no time."""

from dataclasses import dataclass
from typing import Literal, get_args

from atfr.errors import InputError

NormMode = Literal["train", "fixed"]


@dataclass(frozen=True)
class Tuning:
    """How a network with weights from elsewhere is trained further; as it stands, everything is trained alike.

    Args:
        freeze: the last stage that keeps its weights, with all stages before it, as "res3"; an SGS layer among them is
            still trained.
        earlier_rate: the learning rate of all weights but the classifier's and SGS's, as a share of theirs.
        norm: "fixed" keeps batch norm at the statistics it came with, which small batches would spoil; its scales and
            shifts are trained.
        balanced: draw each class equally often.
        mixup: alpha of mixup (Zhang et al. 2018): clips and labels of a batch are mixed in pairs; 0 mixes none.
        patience: stop when the validation loss has not fallen for so many epochs, and keep the weights of the best.
    """

    freeze: str | None = None
    earlier_rate: float = 1.0
    norm: NormMode = "train"
    balanced: bool = False
    mixup: float = 0.0
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in get_args(NormMode):
            raise InputError(f"Tuning.norm must be one of {', '.join(get_args(NormMode))}, got {self.norm!r}")
        if not 0 < self.earlier_rate <= 1:
            raise InputError(f"Tuning.earlier_rate must be above 0 and at most 1, got {self.earlier_rate}")
        if self.mixup < 0:
            raise InputError(f"Tuning.mixup must be 0 or more, got {self.mixup}")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"Tuning.patience must be 1 epoch or more, got {self.patience}")


AS_IT_STANDS = Tuning()
