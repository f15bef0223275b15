"""R(2+1)D against torchvision's and PyTorchVideo's: the same state dict, the same logits and gradients, in float64."""

import warnings

import pytest
import torch
from torch import nn
from torchvision.models.video import r2plus1d_18

from atfr.models import create_model
from tests.models.randomise import scramble_
from tests.models.test_x3d_parity import relative_error

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorchVideo imports torch.jit's deprecated names
    from pytorchvideo.models.hub.r2plus1d import r2plus1d_r50


def randomised(network: nn.Module) -> nn.Module:
    """A network in float64 and evaluation mode, no parameter or statistic at its default."""
    torch.manual_seed(0)
    return scramble_(network.double().eval())


def assert_logits_are_those_of(expected_network: nn.Module, network: nn.Module, *clip_shape: int) -> None:
    """The networks take each other's state dicts and say the same of a clip T x H x W."""
    expected_network.load_state_dict(network.double().eval().state_dict(), strict=True)
    network.load_state_dict(randomised(expected_network).state_dict(), strict=True)
    clips = torch.randn(1, 3, *clip_shape, dtype=torch.float64)
    with torch.no_grad():
        expected = expected_network(clips)
        assert expected.std() > 0.01  # a reference that says something
        assert relative_error(network(clips), expected) < 1e-10


def assert_training_step_is_that_of(expected_network: nn.Module, network: nn.Module, *clip_shape: int) -> None:
    """Without dropout, the networks get the same gradients and batch-norm statistics from two clips T x H x W."""
    network.double().load_state_dict(randomised(expected_network).state_dict(), strict=True)
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


def test_logits_are_those_of_torchvision() -> None:
    assert_logits_are_those_of(r2plus1d_18(num_classes=7), create_model("r2plus1d_18", num_classes=7), 7, 24, 17)


@pytest.mark.parametrize("strides", [(1, 1, 2, 2), (1, 2, 1, 4)])
def test_logits_with_other_temporal_strides_are_those_of_torchvision(strides: tuple[int, ...]) -> None:
    network = create_model("r2plus1d_18", num_classes=7, temporal_strides=strides)
    assert_logits_are_those_of(with_strides(r2plus1d_18(num_classes=7), strides), network, 5, 16, 16)


@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")
def test_training_step_is_that_of_torchvision() -> None:
    assert_training_step_is_that_of(r2plus1d_18(num_classes=7), create_model("r2plus1d_18", num_classes=7), 4, 32, 32)


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
    expected_network = r2plus1d_r50(model_num_class=7, head_activation=None, head_pool_kernel_size=left, **theirs)
    network = create_model("r2plus1d_50", num_classes=7, **ours)
    assert_logits_are_those_of(expected_network, network, *clip_shape)


@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")
def test_training_step_is_that_of_pytorchvideo() -> None:
    expected_network = r2plus1d_r50(model_num_class=7, head_activation=None, head_pool_kernel_size=(1, 1, 1))
    expected_network.blocks[-1].dropout.p = 0.0
    network = create_model("r2plus1d_50", num_classes=7, dropout=0.0)
    assert_training_step_is_that_of(expected_network, network, 4, 32, 32)


def test_output_is_logits_where_pytorchvideo_returns_probabilities() -> None:
    network = randomised(create_model("r2plus1d_50", num_classes=7))
    original = r2plus1d_r50(model_num_class=7, head_pool_kernel_size=(1, 1, 1)).double().eval()
    original.load_state_dict(network.state_dict(), strict=True)
    clips = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(clips).softmax(1), original(clips))
