"""A network in two halves does what it does in one piece."""

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import atfr
from atfr.errors import UnsupportedNetworkError
from atfr.runtime.split import split
from tests.runtime.build import Tiny
from tests.test_families import FAMILIES, FRAMES, SIDE, adapted, clips

SHAPE = (3, FRAMES, SIDE, SIDE)


def tiny(after: str | list[str], **options: object) -> Tiny:
    model = Tiny().double().eval()
    atfr.adapt_(model, after, **options)
    return model


ONCE = [("resnet3d_18", "res2"), ("slowfast_8x8_r18", "res4"), ("i3d_inception", "res3")]
"""One pathway, two, and padding by the length."""
REST = [pytest.param(family, "res2", marks=pytest.mark.soak) for family in FAMILIES if (family, "res2") not in ONCE]


@pytest.mark.parametrize(("family", "after"), ONCE + REST)
def test_the_halves_do_what_the_network_does(family: str, after: str) -> None:
    model = adapted(family, after)
    parts = split(model, SHAPE)
    with torch.no_grad(), atfr.record(model) as trace:
        whole = model(clips())
    assert len(set(trace.kept_maps)) > 1
    assert list(parts.samplers) == list(trace.sites)
    with torch.no_grad():
        halves = torch.cat([parts(clip[None]) for clip in clips()])
    torch.testing.assert_close(halves, whole, rtol=1e-9, atol=1e-12)
    before, after = (dict(half.named_parameters()) for half in (parts.before, parts.after))
    assert not before.keys() & after.keys()
    assert {id(parameter) for parameter in (before | after).values()} <= set(map(id, model.parameters())), "copied"


@pytest.mark.parametrize("options", [{"sampler": "average", "active_bins": 5.4}, {"temporal_block": 4}])
def test_whatever_stands_at_the_site(options: dict) -> None:
    model = tiny("res3", **options).train()
    parts = split(model, SHAPE)
    assert model.training
    with torch.no_grad():
        torch.testing.assert_close(parts(clips()[1:2]), model.eval()(clips()[1:2]), rtol=1e-9, atol=1e-12)


def test_any_number_of_clips_and_of_maps() -> None:
    model = tiny("res2")
    parts = split(model, SHAPE)
    with torch.no_grad():
        (maps,) = parts.before(clips())
        for kept in (1, 2, 3, 7, FRAMES):
            together = parts.after(maps[:, :, :kept])
            alone = torch.cat([parts.after(clip[None, :, :kept]) for clip in maps])
            torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
        atfr.restore_(model)
        torch.testing.assert_close(parts.after(maps), model(clips()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["tiny", pytest.param("x3d_xs", marks=pytest.mark.soak)])
def test_one_compiled_graph_serves_every_number_of_maps(family: str) -> None:
    """torch.compile makes a case of its own of a single map, and none of the others."""
    compiled = CompileCounter()
    model = tiny("res2") if family == "tiny" else adapted(family, "res2")
    parts = split(atfr.optimize_for_inference(model), SHAPE)
    late = torch.compile(parts.after, backend=compiled, dynamic=True)
    with torch.no_grad():
        (maps,) = parts.before(clips()[:1])
        for length in (3, 2, *range(1, SHAPE[1] + 1)):
            kept = maps[:, :, :length].contiguous()
            torch.testing.assert_close(late(kept), parts.after(kept))
    assert compiled.frame_count <= 2


class Around(nn.Module):
    """Adds what SGS has not seen to what comes behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.late = nn.Conv3d(3, 4, 1), nn.Conv3d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.stem(x)).mean((2, 3, 4)) + x.mean((1, 2, 3, 4))[:, None]


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(UnsupportedNetworkError, match="no SGS to be split at"):
        split(Tiny())
    with pytest.raises(UnsupportedNetworkError, match="'res4' stands behind another"):
        split(tiny(["res2", "res4"]), SHAPE)
    around = Around()
    atfr.adapt_(around, "stem")
    with pytest.raises(UnsupportedNetworkError, match="a way around SGS at stem"):
        split(around, (3, 4, 8, 8))
