"""Image networks inflated: the same logits on a still clip, frames kept apart by SGS, and what is refused."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision.models as vision
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

import atfr
from atfr.errors import InputError
from atfr.models.inflate import ClipConv3d, DropBranch, inflate, inflate_weight
from atfr.ragged import PackedClips

FEW = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2], [6, 64, 1, 2]]
"""Blocks of a MobileNetV2: expansion, channels, number, stride."""
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {  # with a place early enough for SGS
    "resnet18": (lambda: vision.ResNet(BasicBlock, [2, 1, 1, 1], num_classes=7), "layer1"),
    "resnet50": (lambda: vision.resnet50(num_classes=7), "layer1"),
    "mobilenet_v3_small": (lambda: vision.mobilenet_v3_small(num_classes=7), "features.1"),
    "efficientnet_b0": (lambda: vision.efficientnet_b0(num_classes=7), "features.1"),
    "tf_efficientnet_lite0": (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=7), "blocks.0"),
}
OTHERS: dict[str, Callable[[], nn.Module]] = {  # whose forwards name axes of images, in the network itself or below
    "mobilenet_v2": lambda: vision.mobilenet_v2(num_classes=7, inverted_residual_setting=FEW),
    "timm efficientnet_b0": lambda: timm.create_model("efficientnet_b0", num_classes=7, drop_path_rate=0.2),
    "timm regnety_002": lambda: timm.create_model("regnety_002", num_classes=7),
}
SELDOM = [(name, "center") for name in ("resnet50", "efficientnet_b0", "tf_efficientnet_lite0")]
SELDOM += [(name, "average") for name in ("resnet18", "timm efficientnet_b0")]
SIDE = 32


def awake(network: nn.Module) -> nn.Module:
    """The network in float64 and evaluation, with batch-norm statistics of its own."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.3, 1.0)
    return network.double().eval()


@functools.cache
def image_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return awake((NETWORKS[name][0] if name in NETWORKS else OTHERS[name])())


def some_kernels(network: nn.Module) -> dict[str, int]:
    """Every third convolution looks at three frames, another at five."""
    paths = [path for path, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return dict.fromkeys(paths[::3], 3) | {paths[-2]: 5}


@functools.cache
def video_network(name: str, init: str) -> nn.Module:
    return inflate(image_network(name), some_kernels(image_network(name)), init)


def repeated(images: Tensor, frames: int) -> Tensor:
    return images.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def stills(frames: int) -> tuple[Tensor, Tensor]:
    """Images, and clips of each repeated."""
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    return images, repeated(images, frames)


@pytest.mark.parametrize(
    ("name", "init"),
    [
        ("resnet18", "center"),
        *((name, "average") for name in ("tf_efficientnet_lite0", "mobilenet_v3_small", "mobilenet_v2")),
        ("timm regnety_002", "average"),
        *(pytest.param(*of, marks=pytest.mark.soak) for of in SELDOM),
    ],
)
def test_a_still_clip_has_the_logits_of_its_image(name: str, init: str) -> None:
    network, image = video_network(name, init), image_network(name)
    images, _ = stills(1)
    with torch.no_grad():
        expected = image(images)
        for frames in (2, 5):  # also shorter than the kernels
            torch.testing.assert_close(network(repeated(images, frames)), expected, rtol=1e-9, atol=1e-12)
    assert expected.std() > 1e-3
    assert not any(isinstance(module, nn.Conv2d | nn.BatchNorm2d) for module in network.modules())
    assert list(network.state_dict()) == list(image.state_dict())


@pytest.mark.parametrize("init", ["center", "average"])
def test_strides_in_time_keep_that(init: str) -> None:
    image = image_network("resnet18")
    kernels = {"maxpool": 3, "layer2.0.conv1": 3, "layer3.0.conv2": 3}
    strides = {"maxpool": 2, "layer2.0.conv1": 2, "layer2.0.downsample.0": 2}
    network = inflate(image, kernels, init, temporal_stride=strides)
    times: list[int] = []
    network.layer2.register_forward_hook(lambda _module, _args, output: times.append(output.shape[2]))
    images, clips = stills(9)
    with torch.no_grad():
        torch.testing.assert_close(network(clips), image(images), rtol=1e-9, atol=1e-12)
    assert times == [3]


def test_without_temporal_kernels_frames_do_not_meet() -> None:
    image, clips = image_network("resnet18"), torch.randn(2, 3, 4, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        frames = torch.stack([image(frame) for frame in clips.unbind(2)])
        torch.testing.assert_close(inflate(image)(clips), frames.mean(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 6])
def test_what_each_kernel_sees_of_a_moving_clip(frames: int, stride: int) -> None:
    conv = nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), groups=2).double()
    image = nn.Sequential(nn.Identity(), conv)
    clip = torch.randn(1, 4, frames, 9, 8, dtype=torch.float64)
    maps = [conv(frame) for frame in clip.unbind(2)]
    for init, window in (("center", [0]), ("average", [-2, -1, 0, 1, 2])):
        network = inflate(image, {"1": 5}, init, temporal_stride={"1": stride})
        expected = [
            torch.stack([maps[min(max(t + step, 0), frames - 1)] for step in window]).mean(0)
            for t in range(0, frames, stride)
        ]
        torch.testing.assert_close(network(clip), torch.stack(expected, dim=2), rtol=1e-12, atol=1e-12)


def test_kernels_sum_to_the_images() -> None:
    weight = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    for init in ("center", "average"):
        inflated = inflate_weight(weight, 5, init)
        assert inflated.shape == (4, 2, 5, 3, 3)
        torch.testing.assert_close(inflated.sum(2), weight)
    assert torch.equal(inflate_weight(weight, 3).bool().any(dim=(0, 1, 3, 4)), torch.tensor([False, True, False]))


@pytest.mark.parametrize(
    ("name", "init"),
    [
        ("mobilenet_v3_small", "center"),
        *(pytest.param(name, "average", marks=pytest.mark.soak) for name in ("resnet18", "tf_efficientnet_lite0")),
        *(pytest.param(name, "center", marks=pytest.mark.soak) for name in NETWORKS if name != "mobilenet_v3_small"),
    ],
)
def test_a_clip_alone_and_in_a_ragged_batch(name: str, init: str) -> None:
    network = copy.deepcopy(video_network(name, init))
    with torch.no_grad():  # so that neighbours in time matter
        for module in network.modules():
            if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
                module.weight += 0.3 * module.weight.std() * torch.randn_like(module.weight)
    assert atfr.adapt_(network, NETWORKS[name][1], embedding_dim=3, num_bins=24).tried
    for layer in network.modules():
        if isinstance(layer, atfr.SimilarityGuidedSampling):
            for parameter in layer.similarity.parameters():
                nn.init.normal_(parameter, std=0.3)
    clips = torch.randn(3, 3, 8, SIDE // 2, SIDE // 2, dtype=torch.float64)
    clips[0] = clips[0, :, :1]
    clips[1] *= torch.logspace(0, 2, 8).view(8, 1, 1)
    clips[2, :, 3:] = clips[2, :, 3:4]
    with torch.no_grad(), atfr.record(network) as trace:
        together = network(clips)
        active = trace.active_bins.tolist()
        alone = torch.cat([network(clip[None]) for clip in clips])
    assert len(set(active)) > 1, f"a batch that is not ragged proves nothing: {active}"
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    network.train()(clips).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    atfr.restore_(network)
    assert list(network.state_dict()) == list(image_network(name).state_dict())


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v2"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_say_the_same_and_stand_alone(name: str, copied: Callable[[nn.Module], nn.Module]) -> None:
    network, (_, clips) = copy.deepcopy(video_network(name, "average")), stills(2)
    with torch.no_grad():
        expected = network(clips)
        twin = copied(network)
        assert torch.equal(twin(clips), expected)
        assert twin.inflation == network.inflation
        for parameter in twin.parameters():
            parameter.add_(1)
        assert torch.equal(network(clips), expected)
        twin.load_state_dict(network.state_dict())
        assert torch.equal(twin(clips), expected)


def test_the_image_network_and_the_random_state_stay_as_they_were() -> None:
    image = vision.resnet18(num_classes=3)
    image.layer1.requires_grad_(False)
    image.layer2.eval()
    before, state = copy.deepcopy(image), torch.get_rng_state()
    network = inflate(image, {"conv1": 3})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a, b) for a, b in zip(image.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert {id(p) for p in image.parameters()}.isdisjoint({id(p) for p in network.parameters()})
    assert not any(parameter.requires_grad for parameter in network.layer1.parameters())
    assert network.layer3[0].conv1.weight.requires_grad
    modes = {path: module.training for path, module in image.named_modules()}
    assert {path: module.training for path, module in network.named_modules()} == modes


def test_the_report_names_what_was_exchanged() -> None:
    image = timm.create_model("efficientnet_b0", drop_path_rate=0.2)
    network = inflate(image, {"blocks.1.0.conv_dw": 3}, temporal_stride={"blocks.1.0.conv_dw": 2})
    report = {entry.path: entry for entry in network.inflation}
    assert set(report) == {path for path, m in image.named_modules() if kind(m) in CHANGED}
    entry = report["blocks.1.0.conv_dw"]
    assert (entry.before, entry.after, entry.temporal_kernel, entry.temporal_stride) == ("Conv2d", "Conv3d", 3, 2)
    assert (report["bn1"].before, report["bn1"].after) == ("BatchNormAct2d", "BatchNormAct3d")
    assert report["blocks.1.0.se"].before == report["blocks.1.0.se"].after == "SqueezeExcite"
    assert all(entry.temporal_kernel == 1 for path, entry in report.items() if path != "blocks.1.0.conv_dw")
    assert type(network) is type(image)


CHANGED = {"Conv2d", "BatchNormAct2d", "SqueezeExcite", "DropPath", "AdaptiveAvgPool2d"}


def kind(module: nn.Module) -> str:
    return type(module).__name__


class Forwards(nn.Module):
    """Operations of forwards, each of which reads the same for clips or is exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding="same", bias=False)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode="reflect")
        self.pools = nn.Sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.MaxPool2d(2, ceil_mode=True))
        self.norm, self.group = nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8)
        self.head = nn.Sequential(nn.Linear(16 + 16 + 32, 5), nn.Softmax(1))

    def forward(self, x: Tensor, scale: float = 2.0, *, shift: float = 0.5) -> Tensor:
        x = scale * self.group(self.norm(self.dilated(F.relu(self.conv(x))))) + shift
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left * right.sigmoid(), right], dim=1)
        x = x * x.mean([3, 2], keepdim=True) + F.max_pool2d(x, 3, stride=1, padding=1)
        x = self.pools(F.avg_pool2d(x, (2, 1)))
        rows = F.adaptive_avg_pool2d(x, (2, 1)).flatten(1), torch.cat([x.amax((-2, -1)), torch.mean(x, dim=(2, 3))], 1)
        square = F.adaptive_max_pool2d(x, output_size=2)
        return self.head(torch.cat([*rows, square.view(square.size(0), -1)], dim=1))


def test_operations_of_forwards_are_carried() -> None:
    image = Forwards().double()
    images, clips = stills(4)
    network = pickle.loads(pickle.dumps(inflate(image, {"conv": 3, "dilated": 3, "pools.1": 3}, "average")))
    with torch.no_grad():
        torch.testing.assert_close(network(clips), image(images), rtol=1e-9, atol=1e-12)


class DiffersInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x.mean((2, 3), keepdim=True), 0.5, self.training)


def test_a_forward_that_differs_in_training_still_does() -> None:
    network = copy.deepcopy(inflate(nn.Sequential(DiffersInTraining())))
    ones = torch.ones(1, 64, 3, 4, 4)
    assert network(ones).unique().tolist() == [0, 2]
    assert network.eval()(ones).unique().tolist() == [1]
    assert network.train()(ones).unique().tolist() == [0, 2]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation"), [(7, 3, 2, 1), (8, 3, 2, 1), (9, 5, 2, 2), (8, 2, 1, 1), (4, 1, 3, 1)]
)
def test_same_padding_is_that_of_timm(size: int, kernel: int, stride: int, dilation: int) -> None:
    conv = Conv2dSame(4, 4, kernel, stride=stride, dilation=dilation, groups=4)
    image = torch.randn(2, 4, size, size + 1)
    network = inflate(nn.Sequential(conv))
    assert type(network[0]) is ClipConv3d
    torch.testing.assert_close(network(image.unsqueeze(2)).squeeze(2), conv(image))


def test_stochastic_depth_drops_whole_clips() -> None:
    clips = PackedClips.pack([torch.ones(2, length, 3, 3) for length in [1, 2, 3, 4] * 50])
    drop = DropBranch(0.25)
    values = [clip.unique() for clip in drop(clips).unpack()]
    assert all(len(value) == 1 for value in values)  # one draw a clip
    kept = torch.cat(values) > 0
    torch.testing.assert_close(torch.cat(values)[kept], torch.full([int(kept.sum())], 4 / 3))
    assert 0.6 < kept.float().mean() < 0.9
    assert drop.eval()(clips) is clips
    assert DropBranch(0.5, each=False)(torch.ones(64, 1, 1, 1, 1)).unique().numel() == 1
    assert DropBranch(1.0)(torch.ones(4, 1, 1, 1, 1)).abs().sum() == 0


def test_exports_with_any_number_of_frames() -> None:
    network = video_network("mobilenet_v2", "average")  # whose own forward is exchanged
    frames = {2: torch.export.Dim("T", min=2, max=32)}
    example = torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)
    program = torch.export.export(network, (example,), dynamic_shapes={"x": frames})
    clips = torch.randn(1, 3, 7, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(clips), network(clips))


def test_the_report_is_printed_one_row_a_module() -> None:
    network = video_network("resnet18", "center")
    head, *rows = str(network.inflation).splitlines()
    assert head.split() == ["path", "before", "after", "kernel", "stride"]
    assert len(rows) == len(network.inflation)
    for row, entry in zip(rows, network.inflation, strict=True):
        kernel, stride = str(entry.temporal_kernel), str(entry.temporal_stride)
        assert row.split() == [entry.path, entry.before, entry.after, kernel, stride]
    assert repr(network.inflation) == repr(tuple(network.inflation))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])  # the latter's own forward is exchanged
@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (torch.zeros(2, 3, 64, 64), r"5-D, N x 3 x T x H x W, .*\[2, 3, 64, 64\]; add the batch axis"),
        (torch.zeros(1, 4, 3, 32, 32), r"3 channels on axis 1.*movedim\(2, 1\)"),
        (torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8), "floating-point frames, got torch.uint8"),
        (torch.zeros(1, 3, 0, 32, 32), "at least 1 clip of 1 frame"),
    ],
)
def test_what_is_no_clip_is_refused(name: str, clips: Tensor, message: str) -> None:
    for network in (video_network(name, "average"), copy.deepcopy(video_network(name, "average"))):
        with pytest.raises(InputError, match=message):
            network(clips)


def test_clips_of_other_channels_and_packed_ones_are_taken() -> None:
    network = inflate(nn.Sequential(nn.Conv2d(2, 5, 1), nn.ReLU()), {"0": 3})
    with pytest.raises(InputError, match=r"2 channels on axis 1 \(N x 2 x T"):
        network(torch.zeros(1, 3, 4, 5, 5))
    clips = [torch.randn(2, length, 5, 5) for length in (1, 3)]
    for packed, clip in zip(network(PackedClips.pack(clips)).unpack(), clips, strict=True):
        torch.testing.assert_close(packed, network(clip[None])[0])


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Does(nn.Module):
    """A forward of one operation."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x)


class DependsOnSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[2] > 8 else x.relu()


REFUSED: list[tuple[nn.Module, str]] = [
    (nn.ConvTranspose2d(3, 3, 2), r"'at' \(ConvTranspose2d\): no form of it for clips"),
    (nn.Upsample(scale_factor=2), r"'at' \(Upsample\)"),
    (nn.LayerNorm(3), r"'at' \(LayerNorm\)"),
    (nn.Flatten(2), r"'at' \(Flatten\)"),
    (nn.Softmax2d(), r"'at' \(Softmax2d\)"),
    (nn.Softmax(-1), r"'at' \(Softmax\)"),
    (nn.Conv2d(3, 3, 3, padding="same", padding_mode="circular"), r"'at' \(Conv2d\): padding 'same' with 'circular'"),
    (nn.MaxPool2d(2, return_indices=True), r"'at' \(MaxPool2d\): a pool with hooks, with indices"),
    (nn.AdaptiveAvgPool2d((None, 1)), r"'at' \(AdaptiveAvgPool2d\): a pool with .* None"),
    (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), r"'at' \(ParametrizedConv2d\): its kernel is made by"),
    (nn.Sequential(Scaled()), r"'at\.0' \(Scaled\): its forward uses its own tensor 'scale'"),
    (DependsOnSize(), r"'at' \(DependsOnSize\): torch\.fx cannot read its forward"),
    *[
        (Does(operation), rf"'at' \(Does\): its forward has the operation '{name}'")
        for name, operation in {
            "permute": lambda x: x.permute(0, 2, 3, 1),
            "transpose": lambda x: x.transpose(2, 3),
            "mean": lambda x: x.mean(3),
            "amax": lambda x: x.amax((1, 2)),
            "sum": lambda x: x.sum((2, 3)),
            "cat": lambda x: torch.cat([x, x], 2),
            "chunk": lambda x: x.chunk(2, -1)[0],
            "flatten": lambda x: x.flatten(2),
            "view": lambda x: x.view(2, -1),
            "size": lambda x: x.view(x.size(0), 3, x.size(2), -1),
            "getitem": lambda x: x[:, :, ::2],
            "interpolate": lambda x: F.interpolate(x, scale_factor=2),
            "softmax": lambda x: x.softmax(-1),
            "getattr": lambda x: F.avg_pool2d(x, x.shape[2:]),
            "pad": lambda x: F.pad(x, (1, 1)),
        }.items()
    ],
]


@pytest.mark.parametrize(("module", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_cannot_be_inflated_is_named(module: nn.Module, message: str) -> None:
    network = nn.Sequential()
    network.add_module("first", nn.Conv2d(3, 3, 1))
    network.add_module("at", module)
    before = copy.deepcopy(network.first)
    with pytest.raises(InputError, match=f"cannot inflate {message}"):
        inflate(network)
    assert type(network.first) is type(before)
    assert torch.equal(network.first.weight, before.weight)


def test_a_network_that_flattens_its_maps_is_refused_by_the_trial() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 5), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 24 * 24, 10))  # for 28 x 28
    with pytest.raises(InputError, match="Sequential was inflated, and a trial clip did not pass"):
        inflate(network)


def small_vit() -> nn.Module:
    return vision.VisionTransformer(32, 16, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"temporal_kernel": 3},
            r"temporal_kernel must be a dict of path: size, such as \{'layer4.0.downsample.0': 3\}, got 3",
        ),
        ({"temporal_stride": 2}, "temporal_stride must be a dict of path: size"),
        ({"temporal_kernel": {"layer1.0.conv": 3}}, r"unknown path 'layer1\.0\.conv' \(did you mean layer1\.0\.conv"),
        ({"temporal_kernel": {"bn1": 3}}, "temporal_kernel: unknown path 'bn1'"),
        ({"temporal_kernel": {"avgpool": 3}}, "temporal_kernel: unknown path 'avgpool'"),
        ({"temporal_kernel": {"conv1": 2}}, "must be an odd number of 1 or more for each path, got 2 for 'conv1'"),
        ({"temporal_kernel": {"conv1": True}}, "odd number .* got True"),
        ({"temporal_stride": {"conv1": 0}}, "temporal_stride must be a whole number .* got 0 for 'conv1'"),
        ({"temporal_stride": {"layer2.0.conv1": 2}}, "ResNet was inflated, and a trial clip did not pass"),
        ({"init": "centre"}, r"unknown init 'centre' \(did you mean center\?\)"),
        ({"image_model": vision.video.r3d_18()}, r"VideoResNet is a video network already \('stem\.0' .*atfr\.adapt_"),
        ({"image_model": small_vit()}, r"cannot inflate VisionTransformer: .*\(MultiheadAttention\).* transformers"),
        (
            {"image_model": timm.create_model("test_vit")},
            r"'blocks\.0\.attn' \(\w*Attention\).* network of convolutions",
        ),
        ({"image_model": [nn.ReLU()]}, "inflate takes an image network, an nn.Module, got list"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inflate(**{"image_model": image_network("resnet18"), **arguments})
