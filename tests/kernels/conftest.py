"""What tests of kernels share."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def unwritten_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write of its results is NaN."""
    real = torch.Tensor.new_empty

    def full_of_nan(x: Tensor, *sizes, **options) -> Tensor:
        made = real(x, *sizes, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", full_of_nan)
