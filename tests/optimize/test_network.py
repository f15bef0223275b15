"""optimize_for_inference against the network it was made of: logits, records, costs, whatever the network is."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.adapt.trace import site_names
from atfr.errors import AdaptError, InputError
from atfr.optimize.conv import FusedConv3d
from tests.models.narrow import narrow, narrowed, short, shorter
from tests.models.randomise import scramble_

FAMILIES = {
    "x3d_xs": (8, 32),
    "resnet3d_18": (6, 32),
    "r2plus1d_18": (6, 32),
    "i3d_efficientnet_lite0": (6, 64),
    "slowfast_8x8_r18": (16, 32),
}


def network_of(name: str, **options: object) -> nn.Module:
    with short():
        model = narrow(name, num_classes=5)
    model = scramble_(shorter(model) if name == "r2plus1d_18" else model).eval()
    if options:
        atfr.adapt_(model, **options)
    return model


def assert_same(ours: Tensor, expected: Tensor) -> None:
    """Logits agree within 1e-4 of the largest."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4 * scale)


def of_class(network: nn.Module, *classes: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, classes)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_static_and_adapted(name: str) -> None:
    frames, size = FAMILIES[name]
    clips = torch.randn(3, 3, frames, size, size)
    clips[0] = clips[0, :, :1]  # a still clip, and one that jumps once
    clips[1, :, : frames // 2], clips[1, :, frames // 2 :] = clips[1, :, :1], 3 * clips[1, :, 1:2]
    model = network_of(name)
    fast = atfr.optimize_for_inference(model)
    assert not of_class(fast, nn.BatchNorm3d)
    assert of_class(fast, FusedConv3d)
    with torch.inference_mode():
        assert_same(fast(clips), model(clips))
    atfr.adapt_(model, after="res2", kernel="linear_mean")
    fast = atfr.optimize_for_inference(model)
    with torch.inference_mode(), atfr.record(model) as expected, atfr.record(fast) as got:
        assert_same(fast(clips), model(clips))
    assert got.kept_maps == expected.kept_maps
    assert len(set(got.kept_maps)) > 1, "the batch is not ragged: the test says little"
    shape = (3, frames, size, size)
    assert atfr.clip_cost(fast, shape).of(got) == atfr.clip_cost(model, shape).of(expected)


def test_every_number_of_active_bins() -> None:
    model = network_of("resnet3d_18", after="res2", sampler="average", active_bins=1)
    fast = atfr.optimize_for_inference(model)
    clips = torch.randn(2, 3, 6, 32, 32)
    with torch.inference_mode(), atfr.record(fast) as trace:
        for active_bins in range(1, 7):
            for network in (model, fast):
                site_names(network)["res2"].active_bins = active_bins
            assert_same(fast(clips), model(clips))
            assert_same(fast(clips[:1]), model(clips[:1]))
    assert trace.kept_maps == [active_bins for active_bins in range(1, 7) for _ in range(3)]


def test_the_network_itself_is_left_as_it_was() -> None:
    model = network_of("x3d_xs", after="res2").train()
    before = copy.deepcopy(model.state_dict())
    trained = model.blocks[2].res_blocks[0].branch2.conv_a.weight.requires_grad
    fast = atfr.optimize_for_inference(model)
    assert not fast.training
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert (model.training, trained) == (True, True)
    assert model.state_dict().keys() == before.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    atfr.restore_(model)


def test_copies_pickles_and_other_types() -> None:
    model = network_of("x3d_xs", after="res2", sampler="average", active_bins=3)
    clips = torch.randn(2, 3, 4, 32, 32)
    fast = atfr.optimize_for_inference(model)
    with torch.inference_mode():
        expected = fast(clips)  # the kernels are in oneDNN's layout now
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert torch.equal(other(clips), expected)
        wide = copy.deepcopy(fast).double()
        assert_same(wide(clips.double()).float(), expected)
        half = copy.deepcopy(fast).to(torch.bfloat16)
        rough = half(clips.to(torch.bfloat16)).float()
    assert 0 < (rough - expected).abs().max() < 0.2 * expected.abs().max()


def test_new_weights_reach_the_kernels() -> None:
    fast = atfr.optimize_for_inference(network_of("resnet3d_18"))
    clips = torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        before = fast(clips)
        fast.load_state_dict({name: 2 * value for name, value in fast.state_dict().items()})
        assert not torch.allclose(fast(clips), before, rtol=0.1)


def test_gradients_of_the_input_are_those_of_the_network() -> None:
    model = network_of("resnet3d_18").double()
    clips = torch.randn(1, 3, 4, 32, 32, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(model(clips).sum(), clips)
    (got,) = torch.autograd.grad(atfr.optimize_for_inference(model)(clips).sum(), clips)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


def test_export_of_one_clip_keeps_time_dynamic() -> None:
    model = network_of("resnet3d_18", after="res2")
    fast = atfr.optimize_for_inference(model)
    clip = torch.randn(1, 3, 6, 32, 32)
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(fast, (clip,)).module()
        kept = set()
        for loud in (0, 2, 6):
            clip = torch.randn(1, 3, 6, 32, 32)
            clip[:, :, loud:] = 0
            with atfr.record(model) as trace:
                assert_same(program(clip), model(clip))
            kept |= set(trace.kept_maps)
    assert len(kept) > 1


def test_other_peoples_networks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is written in torch.jit.script
        from pytorchvideo.models.x3d import create_x3d
    from torchvision.models.video import r3d_18

    x3d = create_x3d(input_clip_length=4, input_crop_size=64, model_num_class=5, depth_factor=0.5, head_activation=None)
    for model, after, size in ((shorter(narrowed(lambda: r3d_18(num_classes=5))), "layer1", 32), (x3d, "blocks.1", 64)):
        clips = torch.randn(2, 3, 4, size, size)
        scramble_(model).eval()
        assert not of_class(atfr.optimize_for_inference(model), nn.BatchNorm3d)
        atfr.adapt_(model, after=after, kernel="linear_mean", example=clips)
        fast = atfr.optimize_for_inference(model)
        assert not of_class(fast, nn.BatchNorm3d)
        with torch.inference_mode(), atfr.record(model) as expected, atfr.record(fast) as got:
            assert_same(fast(clips), model(clips))
        assert got.kept_maps == expected.kept_maps


def test_wrong_input() -> None:
    with pytest.raises(InputError, match=r"takes a network.* got str"):
        atfr.optimize_for_inference("x3d_s")  # type: ignore[arg-type]
    with pytest.raises(AdaptError, match="DataParallel"):
        atfr.optimize_for_inference(nn.DataParallel(nn.Conv3d(3, 3, 1)))
