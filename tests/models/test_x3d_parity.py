"""X3D against PyTorchVideo's: the same state dict, the same logits, in float64, with random weights and statistics."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from atfr.models import create_model
from tests.models.randomise import scramble_

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorchVideo imports torch.jit's deprecated names
    from pytorchvideo.models.x3d import create_x3d

FACTORS = {"x3d_l": {"depth_factor": 5.0}, "x3d_xl": {"depth_factor": 5.0, "width_factor": 2.9}}


def reference(name: str, frames: int, size: int) -> nn.Module:
    """PyTorchVideo's network for a clip size, without softmax, no parameter or statistic at its default."""
    torch.manual_seed(0)
    network = create_x3d(
        input_clip_length=frames, input_crop_size=size, model_num_class=7, head_activation=None, **FACTORS.get(name, {})
    )
    return scramble_(network.double().eval())


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [
        ("x3d_xs", 4, 72),
        pytest.param("x3d_s", 13, 160, marks=pytest.mark.soak),  # the network of x3d_xs at another size
        pytest.param("x3d_m", 16, 96, marks=pytest.mark.soak),  # likewise
        pytest.param("x3d_l", 4, 56, marks=pytest.mark.soak),  # x3d_xl is as deep
        ("x3d_xl", 3, 64),
    ],
)
def test_logits_are_those_of_pytorchvideo(name: str, frames: int, size: int) -> None:
    expected_network = reference(name, frames, size)
    network = create_model(name, num_classes=7).double().eval()
    network.load_state_dict(expected_network.state_dict(), strict=True)
    clips = torch.randn(1, 3, frames, size, size, dtype=torch.float64)
    with torch.no_grad():
        expected = expected_network(clips)
        assert expected.std() > 0.01  # a reference that says something
        assert relative_error(network(clips), expected) < 1e-10


@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")
def test_training_step_is_that_of_pytorchvideo() -> None:
    expected_network = reference("x3d_xs", 4, 64).train()
    network = create_model("x3d_xs", num_classes=7, dropout=0.0).double()
    network.load_state_dict(expected_network.state_dict(), strict=True)
    expected_network.blocks[-1].dropout.p = 0.0
    clips = torch.randn(2, 3, 4, 64, 64, dtype=torch.float64)
    for model in (expected_network, network):
        nn.functional.cross_entropy(model(clips), torch.tensor([1, 5])).backward()
    expected_gradients = {key: parameter.grad for key, parameter in expected_network.named_parameters()}
    for key, parameter in network.named_parameters():
        assert relative_error(parameter.grad, expected_gradients[key]) < 1e-8, key
    for key, statistic in expected_network.named_buffers():
        torch.testing.assert_close(network.get_buffer(key), statistic, msg=key)
