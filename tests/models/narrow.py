"""Networks with a quarter of their channels, or fewer blocks: every layer, stride and way of the whole one, but quick.

What is exported or recorded takes its time for each layer, however narrow: there fewer blocks help.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

import atfr
from atfr.models import X3D, resnet3d, slowfast
from atfr.models.zoo import MODELS

BY = 4


def narrow(name: str, **options: object) -> nn.Module:
    """A network of a family that `create_model` knows, with random weights; X3D and EfficientNet are narrow enough."""
    if name.startswith(("x3d", "i3d_efficientnet")):
        return atfr.create_model(name, **options)
    return narrowed(lambda: atfr.create_model(name, **options))


def narrowed(make: Callable[[], nn.Module]) -> nn.Module:
    """Whatever `make` makes of convolutions, batch norms and linear layers, with fewer channels inside."""
    with torch.device("meta"):
        model = make()
    for module in model.modules():
        for attribute in ("in_channels", "out_channels", "groups", "num_features", "in_features"):
            if (channels := getattr(module, attribute, 1)) >= BY:  # fewer are an image's, or classes
                setattr(module, attribute, channels // BY)
        if isinstance(module, nn.modules.conv._ConvNd):
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            module.weight = nn.Parameter(torch.empty(shape, device="meta"))
            module.bias = module.bias if module.bias is None else nn.Parameter(torch.empty(shape[0], device="meta"))
        elif isinstance(module, nn.Linear):
            module.weight = nn.Parameter(torch.empty(module.out_features, module.in_features, device="meta"))
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                fewer = torch.empty(module.num_features if tensor.dim() else (), dtype=tensor.dtype, device="meta")
                setattr(module, name, nn.Parameter(fewer) if isinstance(tensor, nn.Parameter) else fewer)
        else:
            assert not [*module.parameters(recurse=False), *module.buffers(recurse=False)], type(module)
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if isinstance(module, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight)  # maps keep their scale, and differ at the last stage too
    return model


SHORT = {
    "resnet3d_18": (2, 1, 1, 1),
    "slowfast_8x8_r18": {"depths": (2, 1, 1, 1)},
    "slowfast_8x8_r101_nl": {"depths": (1, 1, 2, 1), "nonlocal_behind": (0,)},
    "x3d_xs": {"depth": 0.5},
}


@contextmanager
def short() -> Iterator[None]:
    """Within it these networks are made with fewer blocks, one of which at least has no convolution in its shortcut."""
    with pytest.MonkeyPatch.context() as patch:
        for name, fewer in SHORT.items():
            of_class = MODELS[name].variants
            variant = replace(of_class[name], **fewer) if isinstance(fewer, dict) else fewer
            patch.setattr(MODELS[name], "variants", {**of_class, name: variant})
        yield


@contextmanager
def flat() -> Iterator[None]:
    """Within it a stage of 3DResNets and SlowFast is one convolution, others are short: they are not the point."""

    def conv(channels: tuple[int, int, int], temporal_kernel: int, stride: int) -> nn.Module:
        kernel, stride_THW = (temporal_kernel, 1, 1), (1, stride, stride)
        return nn.Conv3d(channels[0], channels[2], kernel, stride_THW, (temporal_kernel // 2, 0, 0))

    with short(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet3d, "_stage", lambda _blocks, *shape, **options: conv(*shape, **options))
        patch.setattr(
            slowfast, "Stage", lambda _blocks, channels, kernels, strides: conv(channels, kernels[0], strides[1])
        )
        yield


def shorter(model: nn.Module) -> nn.Module:
    """A residual network that keeps the first block of each stage, two of its first one; also one of torchvision."""
    stages = [getattr(model, "stage_paths", {}).get(f"res{i + 1}", f"layer{i}") for i in (1, 2, 3, 4)]
    for stage, blocks in zip(map(model.get_submodule, stages), (2, 1, 1, 1), strict=True):
        del getattr(stage, "res_blocks", stage)[blocks:]
    return model


def shallow_x3d(monkeypatch: pytest.MonkeyPatch) -> None:
    """X3D has one block a stage in this test, where it is about files and names."""
    monkeypatch.setattr(X3D, "variants", {name: replace(own, depth=1.0) for name, own in X3D.variants.items()})
