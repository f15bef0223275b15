"""Networks of torchvision and PyTorchVideo, whose forwards are theirs, and one's own: ragged clips as each alone."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.errors import UnsupportedOperationError
from atfr.ragged import PackedClips
from tests.models.narrow import narrowed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorchVideo imports torch.jit's deprecated names
    from pytorchvideo.models.csn import create_csn
    from pytorchvideo.models.r2plus1d import create_r2plus1d
    from pytorchvideo.models.resnet import create_resnet
    from pytorchvideo.models.slowfast import create_slowfast
    from pytorchvideo.models.x3d import create_x3d

SWISH = pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")
FRAMES = 8
TORCHVISION = {"r3d_18": "layer1", "mc3_18": "layer1", "r2plus1d_18": "layer1", "s3d": "features.2"}


class OwnNetwork(nn.Module):
    """A user's own: temporal convolution, residual add, concatenation, a mean for a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3, padding=1)
        self.early = nn.Sequential(nn.Conv3d(8, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(inplace=True))
        self.temporal = nn.Conv3d(8, 8, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
        self.group_norm, self.layer_norm = nn.GroupNorm(2, 8), nn.LayerNorm(8)
        self.spatial = nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(self.stem(x))
        x = F.gelu(self.temporal(F.max_pool3d(x, (2, 2, 2))))
        x = self.group_norm(x) + self.layer_norm(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        left, right = x.chunk(2, dim=1)
        x = torch.cat([self.spatial(x), left * right.sigmoid(), x[:, 4:]], dim=1)
        return self.head(x.flatten(2).mean(2))


class TimeIntoBatch(nn.Module):
    """2D convolutions on time folded into the batch: SGS cannot stand before that."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 4, 3, padding=1)
        self.frame = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, t, h, w = x.shape
        x = self.frame(x.permute(0, 2, 1, 3, 4).reshape(n * t, c, h, w))
        return x.view(n, t, c, h, w).mean((1, 3, 4))


def pytorchvideo(name: str) -> nn.Module:
    """A network of PyTorchVideo with its own head; narrow, or of no spatial strides in its stages, for small clips."""
    narrow = {"stem_dim_out": 8, "model_num_class": 5, "dropout_rate": 0.0}
    makers: dict[str, Callable[[], nn.Module]] = {
        "x3d": lambda: create_x3d(
            input_clip_length=13,
            input_crop_size=10,
            depth_factor=0.5,
            stage_spatial_stride=(1, 1, 1, 1),
            model_num_class=5,
        ),
        "x3d_bn_lin5": lambda: create_x3d(
            input_clip_length=FRAMES, input_crop_size=64, model_num_class=5, head_dim_out=32, head_bn_lin5_on=True
        ),
        "slow": lambda: create_resnet(**narrow, stem_conv_kernel_size=(1, 7, 7), head_pool_kernel_size=(8, 2, 2)),
        "i3d": lambda: create_resnet(
            **narrow,
            stem_conv_kernel_size=(5, 7, 7),
            stage1_pool=nn.MaxPool3d,
            stage_conv_a_kernel_size=(
                (3, 1, 1),
                [(3, 1, 1), (1, 1, 1)],
                [(3, 1, 1), (1, 1, 1)],
                [(1, 1, 1), (3, 1, 1)],
            ),
            head_pool_kernel_size=(4, 2, 2),
        ),
        "r2plus1d": lambda: create_r2plus1d(**narrow, head_pool_kernel_size=(2, 2, 2)),
        "csn": lambda: create_csn(**narrow, stem_pool=nn.MaxPool3d, head_pool_kernel_size=(4, 2, 2)),
        "slowfast": lambda: create_slowfast(
            model_depth=18,
            stem_dim_outs=(16, 2),
            model_num_class=5,
            slowfast_fusion_conv_kernel_size=(7, 1, 1),
            stage_spatial_strides=((1, 1, 1, 1), (1, 1, 1, 1)),
        ),
    }
    model = makers[name]()
    for stage in model.blocks:
        del getattr(stage, "res_blocks", [])[2:]  # one that projects its shortcut, and one that does not
    return model


@functools.cache
def network(name: str) -> nn.Module:
    """A network in evaluation and float64, whose batch norm has statistics of its own; made once."""
    torch.manual_seed(0)
    if name in TORCHVISION:
        from torchvision.models import video

        classes = 20 if name == "s3d" else 5  # its classifier is a convolution, which gets narrow too
        model = narrowed(lambda: getattr(video, name)(num_classes=classes))
        if name == "s3d":
            model.avgpool.kernel_size = (2, 2, 2)  # it takes maps of 7 x 7, of clips of 209 x 209
    else:
        model = OwnNetwork() if name == "own" else pytorchvideo(name)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.25, generator=generator)
            with torch.no_grad():  # zero-initialised residual branches would hide their input
                module.weight.uniform_(0.8, 1.25, generator=generator)
    return model.double().eval()


def each_clip_as_alone(name: str, sites: Sequence[str], inputs: Tensor | Sequence[Tensor], early: str) -> None:
    """The batch's logits are those of its clips alone, its clips differ in length, and gradients reach the start."""
    pathways = [inputs] if isinstance(inputs, Tensor) else list(inputs)

    def part(rows: slice) -> Tensor | list[Tensor]:
        cut = [pathway[rows] for pathway in pathways]  # a fresh list: PyTorchVideo writes into the one it gets
        return cut[0] if isinstance(inputs, Tensor) else cut

    model = copy.deepcopy(network(name))
    plain = list(model.state_dict())
    report = atfr.adapt_(model, after=sites, kernel="linear_mean", example=part(slice(0, 1)))
    assert report.tried
    assert [key for key in model.state_dict() if ".sgs." not in key] == plain
    layers = [module for module in model.modules() if isinstance(module, atfr.SimilarityGuidedSampling)]
    assert len(layers) == len(sites)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # tell frames well apart
        for parameter in (p for layer in layers for p in layer.similarity.parameters()):
            parameter.normal_(0, 0 if parameter.dim() == 1 else 1, generator=generator)

    with atfr.record(model) as trace:
        together = model(part(slice(None)))
    assert together.shape == (len(pathways[0]), 5)
    assert all(len(set(site.lengths)) > 1 for site in trace.sites.values()), trace
    with torch.no_grad():
        alone = torch.cat([model(part(slice(i, i + 1))) for i in range(len(together))])
    assert not torch.allclose(alone[0], alone[1], rtol=1e-4)
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    (together * torch.randn(together.shape, dtype=together.dtype)).sum().backward()
    parameters = [p for layer in layers for p in layer.similarity.parameters() if p.dim() > 1]
    assert all(parameter.grad.abs().max() > 0 for parameter in [*parameters, model.get_parameter(early)])
    atfr.restore_(model)
    assert list(model.state_dict()) == plain
    if name not in ("s3d", "csn"):  # their heads take longer clips, where SGS does not clamp their windows
        with torch.no_grad():
            assert torch.equal(model(part(slice(0, 1))), network(name)(part(slice(0, 1))))


def video(frames: int = FRAMES, size: int = 16) -> Tensor:
    """A still clip, one that brightens, one that stops, noise: of different redundancy."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 3, frames, size, size, generator=generator, dtype=torch.float64)
    x[0] = x[0, :, :1]
    x[1] = x[1, :, :1] * torch.linspace(0.1, 2, frames, dtype=x.dtype).view(1, -1, 1, 1)
    x[2, :, frames // 2 :] = x[2, :, frames // 2 - 1 : frames // 2]
    return x


@pytest.mark.parametrize(
    "name", ["s3d", *(pytest.param(n, marks=pytest.mark.soak) for n in TORCHVISION if n != "s3d")]
)  # the others: test_batch_invariance
def test_torchvision(name: str) -> None:
    early = {"r2plus1d_18": "stem.0.weight", "s3d": "features.0.0.0.weight"}.get(name, "stem.0.weight")
    x = video(8, 65) if name == "s3d" else video()
    each_clip_as_alone(name, [TORCHVISION[name]], x, early)


@SWISH
@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=pytest.mark.soak) for n in ("x3d_bn_lin5", "slow")), "i3d", "r2plus1d", "csn"]
)
def test_pytorchvideo(name: str) -> None:
    early = next(n for n, p in network(name).named_parameters() if p.dim() == 5)
    each_clip_as_alone(name, ["blocks.1"], video(12, 64), early)


@SWISH
def test_x3d_with_its_real_head() -> None:
    each_clip_as_alone("x3d", ["blocks.1"], video(13, 10), "blocks.0.conv.conv_t.weight")


def test_slowfast_with_its_real_head() -> None:
    sites = ["blocks.1.multipathway_blocks.0", "blocks.1.multipathway_blocks.1"]
    fast = video(32, 28)
    early = "blocks.0.multipathway_blocks.0.conv.weight"
    each_clip_as_alone("slowfast", sites, [fast[:, :, ::4], fast], early)


def test_ones_own() -> None:
    each_clip_as_alone("own", ["early"], video(), "stem.weight")


def test_time_folded_into_the_batch_is_refused() -> None:
    model = TimeIntoBatch().double()
    with pytest.raises(UnsupportedOperationError, match="the network's own forward: operation 'reshape'"):
        atfr.adapt_(model, after="stem")
    model.stem.register_forward_hook(lambda module, args, output: PackedClips.pack(list(output)))  # without a trial
    with pytest.raises(UnsupportedOperationError, match="'reshape'"):
        model(video())
