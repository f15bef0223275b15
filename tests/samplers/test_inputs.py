"""What a sampler says of what is no batch of maps, also where it stands at the input of a network."""

import functools

import pytest
import torch
from torch import nn

import atfr
from atfr.errors import InputError
from tests.models.narrow import narrow


@functools.cache
def network(sampler: str) -> nn.Module:
    torch.manual_seed(0)
    model = narrow("resnet3d_18", num_classes=3)
    atfr.adapt_(model, after="input", sampler=sampler, **({"active_bins": 2} if sampler == "uniform" else {}))
    return model


@pytest.mark.parametrize(
    ("clips", "said"),
    [
        (None, r"got NoneType$"),
        (torch.zeros(2, 3, 4, 16, 16).numpy(), r"got ndarray$"),
        (torch.zeros(3, 4, 16, 16), r"a single clip needs a batch axis: features.unsqueeze\(0\)$"),
        (torch.zeros(2, 3, 4, 16, 16, dtype=torch.uint8), r"; scale and normalise frames first$"),
        (torch.zeros(2, 2, 4, 16, 16), r"with C = 3 .*got torch.float32 of shape \(2, 2, 4, 16, 16\)$"),
        (torch.zeros(0, 3, 4, 16, 16), r"at least one of each, got torch.float32 of shape \(0, 3, 4, 16, 16\)$"),
    ],
)
@pytest.mark.parametrize("sampler", ["sgs", "change", "uniform"])
def test_what_is_no_batch_is_told(clips: object, said: str, sampler: str) -> None:
    with pytest.raises(InputError, match=said):
        network(sampler)(clips)
