"""Temporal double attention against loops in float64, and at the place of SGS in a network."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.errors import AdaptError, InputError
from atfr.ragged import PackedClips
from atfr.samplers import TemporalDoubleAttention
from tests.samplers.build import noise


def softmax(values: np.ndarray) -> np.ndarray:
    powers = [np.exp(value - max(values)) for value in values]
    return np.array(powers) / sum(powers)


def attended(clip: np.ndarray, layer: TemporalDoubleAttention) -> np.ndarray:
    """One clip C T H W: descriptors gathered over time, handed out to each map, expanded and added."""

    def parameters(conv: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        return conv.weight.detach().double().numpy().reshape(len(conv.weight), -1), conv.bias.detach().double().numpy()

    reduce, gather, distribute, expand = (
        parameters(getattr(layer, name)) for name in ("reduce", "gather", "distribute", "expand")
    )
    frames = clip.shape[1]
    maps = [clip[:, t] for t in range(frames)]
    reduced = np.stack([np.einsum("mc,chw->mhw", reduce[0], each) + reduce[1][:, None, None] for each in maps])
    means = [each.mean(axis=(1, 2)) for each in maps]
    asked_when = np.stack([gather[0] @ mean + gather[1] for mean in means])  # T D
    asked_which = np.stack([distribute[0] @ mean + distribute[1] for mean in means])
    out = clip.copy()
    descriptors = []
    for d in range(asked_when.shape[1]):
        share = softmax(asked_when[:, d])  # over time
        descriptors.append(sum(share[t] * reduced[t] for t in range(frames)))
    for t in range(frames):
        share = softmax(asked_which[t])  # over descriptors
        mixture = sum(share[d] * descriptors[d] for d in range(len(descriptors)))
        out[:, t] += np.einsum("cm,mhw->chw", expand[0], mixture) + expand[1][:, None, None]
    return out


def learned(channels: int, dtype: torch.dtype = torch.float64) -> TemporalDoubleAttention:
    """A block whose every parameter is drawn, the output convolution's too."""
    layer = TemporalDoubleAttention(channels).to(dtype)
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = noise(*parameter.shape, seed=10 + i, dtype=dtype)
    return layer


@pytest.mark.parametrize(("channels", "frames"), [(8, 6), (5, 1), (1, 4), (3, 9)])
def test_equals_the_loops(channels, frames):
    layer = learned(channels)
    clips = noise(3, channels, frames, 2, 3, dtype=torch.float64)
    got = layer(clips).detach().numpy()
    for i in range(3):
        np.testing.assert_allclose(got[i], attended(clips[i].numpy(), layer), rtol=1e-9, atol=1e-9)
    assert np.abs(got - clips.numpy()).max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_as_the_identity(dtype):
    clips = noise(2, 8, 5, 3, 3, dtype=dtype)
    layer = TemporalDoubleAttention(8).to(dtype)
    assert torch.equal(layer(clips), clips)
    assert layer.gather.weight.abs().max() > 0  # only the output convolution is 0


def test_clips_do_not_see_each_other():
    layer, clips = learned(8), noise(4, 8, 5, 2, 2, dtype=torch.float64)
    want = layer(clips)
    for i in range(4):
        torch.testing.assert_close(layer(clips[[i]]), want[[i]], rtol=1e-12, atol=1e-12)
    clips[1, 0, 3] = torch.nan
    got = layer(clips)
    assert got[1].isnan().any()
    torch.testing.assert_close(got[[0, 2, 3]], want[[0, 2, 3]], rtol=1e-12, atol=1e-12)


def test_maps_see_all_of_their_clip_in_whatever_order():
    layer, clips = learned(8), noise(1, 8, 5, 2, 2, dtype=torch.float64).requires_grad_()
    order = [3, 0, 4, 2, 1]
    torch.testing.assert_close(layer(clips[:, :, order]), layer(clips)[:, :, order], rtol=1e-12, atol=1e-12)
    layer(clips)[:, :, 0].square().sum().backward()
    assert (clips.grad.abs().amax(dim=(0, 1, 3, 4)) > 0).all()


def test_gradients_reach_every_parameter_once_the_output_is_not_zero():
    layer, clips = TemporalDoubleAttention(8), noise(2, 8, 5, 2, 2)
    layer(clips).square().sum().backward()
    assert layer.expand.weight.grad.abs().max() > 0  # from the start: it is how the others come to learn
    for parameter in layer.expand.parameters():
        parameter.data = noise(*parameter.shape)
    layer.zero_grad()
    layer(clips).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 1e-6, name


def test_gradcheck():
    layer, clips = learned(2), noise(1, 2, 3, 1, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (clips, *layer.parameters()))


def test_what_is_no_batch_of_maps_is_refused():
    with pytest.raises(InputError, match="C = 8"):
        TemporalDoubleAttention(8)(torch.zeros(2, 4, 5, 2, 2))
    with pytest.raises(InputError, match="at least 1"):
        TemporalDoubleAttention(0)


def test_packed_clips_are_attended_to_one_by_one() -> None:
    layer, clips = learned(4), [noise(4, length, 3, 2, dtype=torch.float64) for length in (3, 1, 5)]
    found = layer(PackedClips.pack(clips))
    assert found.lengths == (3, 1, 5)
    for one, clip in zip(found.unpack(), clips, strict=True):
        torch.testing.assert_close(one, layer(clip[None])[0])


def adapted() -> nn.Module:
    model = atfr.create_model("resnet3d_18", num_classes=4).eval()
    atfr.adapt_(model, after="res2", sampler="attention")
    return model


def layer_of(model: nn.Module, stage: str = "res2") -> nn.Module:
    return model.get_submodule(model.stage_paths[stage]).sgs


def learn(model: nn.Module) -> nn.Module:
    nn.init.normal_(layer_of(model).expand.weight)
    return model


def clips() -> Tensor:
    return noise(2, 3, 4, 32, 32)


@torch.no_grad()
def test_in_a_network_and_out_again():
    model = atfr.create_model("resnet3d_18", num_classes=4).eval()
    keys, plain = list(model.state_dict()), model(clips())
    report = atfr.adapt_(model, after="res2", sampler="attention")
    layer = layer_of(model)
    assert isinstance(layer, TemporalDoubleAttention)
    assert (report.site, report.channels) == ("res2", 32)
    assert report.new_parameters == sum(p.numel() for p in layer.parameters()) == 3 * (32 * 8 + 8) + 8 * 32 + 32
    assert torch.equal(model(clips()), plain)
    changed = learn(model)(clips())
    assert (changed - plain).abs().max() > 1e-3
    torch.testing.assert_close(model(clips()[:1]), changed[:1], rtol=1e-4, atol=1e-5)
    with pytest.raises(AdaptError, match="already"):
        atfr.adapt_(model, after="res3")
    atfr.restore_(model)
    assert torch.equal(model(clips()), plain)
    assert list(model.state_dict()) == keys


@torch.no_grad()
def test_several_places():
    model = atfr.create_model("resnet3d_18", num_classes=4).eval()
    plain = model(clips())
    report = atfr.adapt_(model, after=["res2", "res4"], sampler="attention")
    assert [site.channels for site in report.sites] == [32, 512]
    assert torch.equal(model(clips()), plain)
    settings = json.loads(json.dumps(atfr.adapt.adaptation(model)))
    atfr.restore_(model)
    atfr.adapt_(model, **settings)
    assert isinstance(layer_of(model, "res4"), TemporalDoubleAttention)


@torch.no_grad()
def test_saved_copied_and_pickled(tmp_path):
    model = learn(adapted())
    want = model(clips())
    model.save_pretrained(tmp_path)
    for other in (atfr.from_pretrained(tmp_path).eval(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(layer_of(other), TemporalDoubleAttention)
        assert torch.equal(other(clips()), want)


def test_its_cost_is_counted_and_small():
    model = atfr.create_model("resnet3d_18", num_classes=4)
    static = atfr.clip_cost(model, (3, 4, 160, 160)).static
    atfr.adapt_(model, after="res2", sampler="attention")
    cost = atfr.clip_cost(model, (3, 4, 160, 160))
    assert cost.adaptive == {}  # it merges nothing: every clip costs the same
    added = cost.static - static
    places, inner, frames = 40 * 40, 8, 4
    convolutions = frames * places * 32 * inner * 2 + frames * 32 * inner * 2
    products = 2 * frames * inner * inner * places
    assert added == convolutions + products
    assert 0 < added < 0.05 * static


@torch.no_grad()
def test_a_record_has_no_site():
    model = adapted()
    with atfr.record(model) as trace:
        model(clips())
    assert trace.sites == {}
    assert trace.kept_maps == []
