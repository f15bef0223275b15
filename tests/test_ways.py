"""The ways that docs/design.md shows are all it takes: a new sampler and a new operation, each in one place."""

from typing import Any

import pytest
import torch
from torch import Tensor

import atfr
from atfr.adapt import layers
from atfr.errors import UnsupportedOperationError
from atfr.ragged import PackedClips
from atfr.ragged.operations import OPERATIONS, by_name, pointwise
from atfr.samplers import TemporalSampler
from atfr.samplers.sampler import pooled
from atfr.samplers.sampling import Grouping, Sampling, arranged


class Bright(TemporalSampler):
    """Keeps the maps whose mean is at least that of their clip."""

    one_each = True

    def describe(self, features: Tensor) -> Tensor:
        return pooled(features).mean(1)[..., None]

    def sampling(self, description: Tensor, lengths: Tensor) -> Sampling:
        value, frames = description[..., 0], description.shape[1]
        there = torch.arange(frames, device=value.device) < lengths[:, None]
        mean = torch.where(there, value, 0).sum(1, keepdim=True) / lengths[:, None]
        kept = there & (value >= mean)
        own_bin = torch.arange(frames, device=value.device).expand_as(kept)
        return arranged(Grouping(own_bin, kept.float(), kept), lengths, 1, frames, frames, "time", one_each=True)

    def possible_active_bins(self, frames: int) -> range:
        return range(1, frames + 1)

    def settings(self) -> dict[str, Any]:
        return {"sampler": "bright"}


def test_a_new_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "CLASSES", {**layers.CLASSES, "bright": Bright})
    model = atfr.create_model("resnet3d_18", num_classes=4).eval()
    atfr.adapt_(model, after="res2", sampler="bright")
    brightness = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    clips = (
        torch.randn(3, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1)) + brightness[:, None, :, None, None]
    )
    with torch.inference_mode(), atfr.record(model) as trace:
        together = model(clips)
    kept = trace.active_bins.tolist()
    assert all(1 <= number < 8 for number in kept)
    with torch.inference_mode():
        alone = torch.cat([model(clip[None]) for clip in clips])
        fast = atfr.optimize_for_inference(model)(clips)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together, fast, rtol=1e-3, atol=1e-4)
    assert atfr.check(model, clips).forward < 1e-6
    cost = atfr.clip_cost(model, (3, 8, 32, 32))
    assert all(saved < cost.static for saved in cost.of(trace))
    assert atfr.adapt.adaptation(model)["sampler"] == "bright"
    atfr.restore_(model)


def test_a_new_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PackedClips.pack([torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)])
    with pytest.raises(UnsupportedOperationError, match="erfinv"):
        torch.erfinv(packed)
    listed = dict(OPERATIONS)
    by_name(["erfinv"], pointwise)
    try:
        result = torch.erfinv(packed)
    finally:
        OPERATIONS.clear()
        OPERATIONS.update(listed)
    assert result.lengths == (3, 5)
    torch.testing.assert_close(result.plain(), torch.erfinv(packed.plain()))
