"""R(2+1)D against torchvision's and PyTorchVideo's: the same state dict, logits and gradients, in float64."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.video import r2plus1d_18

from atfr.models import create_model
from tests.models.randomise import alike
from tests.models.test_x3d_parity import relative_error

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorchVideo imports torch.jit's deprecated names
    from pytorchvideo.models.hub.r2plus1d import r2plus1d_r50


def assert_logits_are_those_of(expected_network: nn.Module, network: nn.Module, *clip_shape: int) -> None:
    """The networks say the same of a clip T x H x W."""
    clips = torch.randn(1, 3, *clip_shape, dtype=torch.float64)
    with torch.no_grad():
        expected = expected_network(clips)
        assert expected.std() > 0.01  # a reference that says something
        assert relative_error(network(clips), expected) < 1e-10


def assert_training_step_is_that_of(expected_network: nn.Module, network: nn.Module, *clip_shape: int) -> None:
    """Without dropout, the networks get the same gradients and batch-norm statistics from two clips T x H x W."""
    clips = torch.randn(2, 3, *clip_shape, dtype=torch.float64)
    for model in (expected_network.train(), network.train()):
        nn.functional.cross_entropy(model(clips), torch.tensor([1, 5])).backward()
    expected_gradients = {key: parameter.grad for key, parameter in expected_network.named_parameters()}
    for key, parameter in network.named_parameters():
        assert relative_error(parameter.grad, expected_gradients[key]) < 1e-8, key
    for key, statistic in expected_network.named_buffers():
        torch.testing.assert_close(network.get_buffer(key), statistic, msg=key)


def with_strides(network: nn.Module, strides: tuple[int, ...]) -> nn.Module:
    """torchvision's network has no temporal strides to choose: set those of the convolutions from res3 on."""
    for i, stride in enumerate(strides[1:], 2):
        block = network.get_submodule(f"layer{i}.0")
        block.conv1[0][3].stride = (stride, 1, 1)
        block.downsample[0].stride = (stride, 2, 2)
    return network


def of_torchvision() -> nn.Module:
    return r2plus1d_18(num_classes=7)


def test_logits_are_those_of_torchvision() -> None:
    assert_logits_are_those_of(*alike(of_torchvision, partial(create_model, "r2plus1d_18", num_classes=7)), 7, 24, 17)


@pytest.mark.parametrize("strides", [(1, 1, 2, 2), (1, 2, 1, 4)])
def test_logits_with_other_temporal_strides_are_those_of_torchvision(strides: tuple[int, ...]) -> None:
    ours = partial(create_model, "r2plus1d_18", num_classes=7, temporal_strides=strides)
    assert_logits_are_those_of(*alike(lambda: with_strides(of_torchvision(), strides), ours), 5, 16, 16)


@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")
def test_training_step_is_that_of_torchvision() -> None:
    ours = partial(create_model, "r2plus1d_18", num_classes=7)
    assert_training_step_is_that_of(*alike(of_torchvision, ours), 4, 32, 32)


def of_pytorchvideo(left: tuple, **options: object) -> nn.Module:
    return r2plus1d_r50(model_num_class=7, head_activation=None, head_pool_kernel_size=left, **options)


@pytest.mark.parametrize(
    ("strides", "clip_shape", "left"),
    [
        (None, (7, 48, 33), (2, 2, 2)),
        ((1, 2, 2, 2), (8, 32, 32), (1, 1, 1)),
        ((2, 1, 1, 3), (8, 32, 32), (2, 1, 1)),
    ],
)
def test_logits_are_those_of_pytorchvideo(strides: tuple | None, clip_shape: tuple, left: tuple) -> None:
    ours, theirs = ({"temporal_strides": strides}, {"stage_temporal_stride": strides}) if strides else ({}, {})
    network = partial(create_model, "r2plus1d_50", num_classes=7, **ours)
    assert_logits_are_those_of(*alike(partial(of_pytorchvideo, left, **theirs), network), *clip_shape)


@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")
def test_training_step_is_that_of_pytorchvideo() -> None:
    ours = partial(create_model, "r2plus1d_50", num_classes=7, dropout=0.0)
    expected_network, network = alike(partial(of_pytorchvideo, (1, 1, 1)), ours)
    expected_network.blocks[-1].dropout.p = 0.0
    assert_training_step_is_that_of(expected_network, network, 4, 32, 32)
