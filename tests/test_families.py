"""Every family of networks with SGS behind every stage: pairs of what can vary, not the full product."""

from __future__ import annotations

import copy
import functools
import io

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.models import VideoModel
from tests.models.narrow import narrow, short, shorter

FAMILIES = ["resnet3d_18", "x3d_xs", "r2plus1d_18", "r2plus1d_50", "i3d_50", "i3d_inception", "slowfast_8x8_r18"]
STAGES = ["stem", "res2", "res3", "res4", "res5"]
KERNELS = ["linear", "linear_mean", "kronecker"]
SIMILARITIES = ["magnitude", "angular", "spherical"]
FRAMES, SIDE = 16, 16

# Each stage of each family once: the first family at all of them, the others at two each, which is every pair of modes,
# kernels and similarities; the rest in the soak. Then a network with non-local blocks, which attend across time
# behind res4.
CASES = [
    pytest.param(
        family,
        stage,
        (i + j) % 2 == 1,
        KERNELS[(i + j) % 3],
        SIMILARITIES[(i + 2 * j) % 3],
        id=f"{family}-{stage}",
        marks=() if i == 0 or (2 * i + j) % 5 < 2 else pytest.mark.soak,
    )
    for i, family in enumerate(FAMILIES)
    for j, stage in enumerate(STAGES)
]
CASES += [pytest.param("slowfast_8x8_r101_nl", "res2", False, "linear", "magnitude", id="slowfast_8x8_r101_nl-res2")]


@functools.cache
def network(family: str) -> VideoModel:
    """A network in float64 with batch-norm statistics of its own, and residual branches that say something."""
    torch.manual_seed(0)
    with short():
        model = narrow(family, num_classes=5, dropout=0.0)
    if family in ("r2plus1d_18", "r2plus1d_50", "i3d_50"):
        shorter(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.running_mean, std=0.1)
    return model.double().eval()


def adapted(family: str, after: str | list[str], whole: VideoModel | None = None, **options: object) -> VideoModel:
    """A copy with SGS whose similarity network tells maps apart."""
    model = copy.deepcopy(whole or network(family))
    atfr.adapt_(model, after, **options)
    generator = torch.Generator().manual_seed(1)
    for layer in layers(model):
        for parameter in layer.similarity.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def layers(model: nn.Module) -> list[atfr.SimilarityGuidedSampling]:
    return [module for module in model.modules() if isinstance(module, atfr.SimilarityGuidedSampling)]


@functools.cache
def clips(frames: int = FRAMES) -> Tensor:
    """A still clip, one that changes all the time, one that stops."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 3, frames, SIDE, SIDE, generator=generator, dtype=torch.float64)
    x[0] = x[0, :, :1]
    x[1] *= torch.linspace(0, 4, frames).view(-1, 1, 1)
    x[2, :, 3:] = x[2, :, 3:4]
    return x


@pytest.mark.parametrize(("family", "stage", "training", "kernel", "similarity"), CASES)
def test_a_clip_alone_and_in_a_ragged_batch(family, stage, training, kernel, similarity) -> None:
    bins = {"magnitude": 24, "angular": (8, 64), "spherical": (4, 5, 9)}[similarity]
    model = adapted(family, stage, kernel=kernel, similarity=similarity, num_bins=bins, embedding_dim=3)
    if training:  # with batch norm frozen: its statistics are of the batch, by definition
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()
    late = (
        {"res4": 40, "res5": 64} if family.startswith(("r2plus1d", "i3d_inception")) else {}
    )  # its strides leave little of time
    batch = clips(late.get(stage, FRAMES))
    with atfr.record(model) as trace:
        together = model(batch)
    assert any(len(set(site.lengths)) > 1 for site in trace.sites.values()), "a batch that is not ragged proves nothing"
    with torch.no_grad():
        alone = torch.cat([model(clip[None]) for clip in batch])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)

    together.square().sum().backward()
    # Not at every site: where each bin holds one map, linear_mean and kronecker have nothing to weigh.
    gradients = [[p.grad.abs().sum() > 0 for p in layer.similarity.parameters()] for layer in layers(model)]
    assert any(all(of_layer) for of_layer in gradients)

    again = copy.deepcopy(model)
    torch.testing.assert_close(again(batch), together)
    atfr.restore_(model)
    assert torch.equal(model.eval()(batch), network(family)(batch))
    assert list(model.state_dict()) == list(network(family).state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_may_change_at_inference(family: str) -> None:
    model = adapted(family, "res2")
    for frames in (1, 4, 13, 24):
        with torch.no_grad(), atfr.record(model) as trace:
            assert model(clips(frames)).isfinite().all()
        assert max(max(site.lengths) for site in trace.sites.values()) <= frames


@pytest.mark.parametrize("family", ["x3d_xs", "slowfast_8x8_r18"])
def test_pickled_and_saved(family: str, tmp_path) -> None:
    with torch.no_grad(), short():
        model = adapted(family, ["res2", "res3"], atfr.create_model(family).double().eval(), temporal_block=None)
        logits = model(clips())
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        assert torch.equal(torch.load(buffer, weights_only=False)(clips()), logits)
        model.save_pretrained(tmp_path)
        assert torch.equal(atfr.from_pretrained(tmp_path)(clips()), logits)


@pytest.mark.parametrize(
    ("family", "after"),
    [
        ("slowfast_8x8_r18", "res4"),
        pytest.param("resnet3d_18", "res2", marks=pytest.mark.soak),
        pytest.param("x3d_xs", "res3", marks=pytest.mark.soak),
        pytest.param("r2plus1d_18", "res2", marks=pytest.mark.soak),
        pytest.param("r2plus1d_50", "stem", marks=pytest.mark.soak),
        pytest.param("i3d_50", "res2", marks=pytest.mark.soak),
    ],
)
def test_export_of_one_clip_keeps_the_time_axis_dynamic(family: str, after: str) -> None:
    model = adapted(family, after)
    with torch.no_grad():
        exported = torch.export.export(model, (clips(8)[1:2],)).module()
        lengths = set()
        for clip in (clips(8)[:1], clips(8)[1:2], clips(8)[2:], clips(8)[1:2].flip(0).square()):
            with atfr.record(model) as trace:
                logits = model(clip)
            lengths.add(tuple(trace.kept_maps))
            torch.testing.assert_close(exported(clip), logits, rtol=1e-9, atol=1e-9)
    assert len(lengths) > 1


def test_export_of_a_batch_is_refused() -> None:
    model = adapted("resnet3d_18", "res2")
    with pytest.raises(Exception, match="takes one clip, got 3"):
        torch.export.export(model, (clips(8),))
