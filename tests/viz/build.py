"""A network small enough to follow by hand, and clips for it."""

import torch
from torch import Tensor, nn

import atfr


class Sum(nn.Module):
    """A stage that changes nothing, the mean over time and space, and a linear classifier."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Identity())
        self.head = nn.Linear(3, classes)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.stage(clips).mean((2, 3, 4)))


def by_hand(**options: object) -> Sum:
    """SGS with two bins by the mean of the first channel: of 1, 0.5, 3 and 2 the last lies on an edge.

    gamma = 3 / (2 * 2 - 1) = 1, the bins are [0, 2) and [2, 4), their centres 1 and 3.
    """
    model = Sum().eval()
    atfr.adapt_(model, after="stage", num_bins=2, embedding_dim=1, **options)
    similarity = model.stage.sgs.similarity
    with torch.no_grad():
        for convolution in (similarity.hidden, similarity.output):
            convolution.bias.zero_()
        similarity.hidden.weight.copy_(torch.eye(3)[:, :, None])
        similarity.output.weight.copy_(torch.tensor([[[1.0], [0], [0]]]))
        model.head.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 2]]))
        model.head.bias.copy_(torch.tensor([5.0, 7]))
    return model


def clip_by_hand() -> Tensor:
    """1 x 3 x 4 x 2 x 2: what is compared in the first channel, one place of each frame in the second."""
    clip = torch.zeros(1, 3, 4, 2, 2)
    clip[0, 0] = torch.tensor([1, 0.5, 3, 2])[:, None, None]
    clip[0, 1, 0, 0, 0], clip[0, 1, 1, 0, 1], clip[0, 1, 2, 1, 0], clip[0, 1, 3, 1, 1] = 8, 16, 32, 64
    return clip
