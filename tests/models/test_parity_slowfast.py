"""SlowFast against PyTorchVideo's: same state dict, same logits, in float64, with random weights and statistics.

PyTorchVideo pools windows of a clip size it is told, so that is one of 64 x 64 pixels here.
"""

import warnings
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from atfr.models.nonlocal_block import NonLocal
from atfr.models.slowfast import SlowFast
from tests.models.randomise import alike, scramble_

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorchVideo imports torch.jit's deprecated names
    from pytorchvideo.layers.nonlocal_net import create_nonlocal
    from pytorchvideo.models import slowfast as pytorchvideo_slowfast

R101_KERNELS = ((3, 1, 1),) * 6 + ((1, 1, 1),) * 17  # as in PyTorchVideo's slowfast_16x8_r101_50_50
ORIGINALS = {  # frames, alpha, depth, kernel of the lateral connections
    "slowfast_4x16_r50": (16, 8, 50, 5),
    "slowfast_8x8_r50": (8, 4, 50, 7),
    "slowfast_8x8_r18": (8, 4, 18, 7),
    "slowfast_16x8_r101_nl": (8, 4, 101, 5),
}


def reference(name: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    frames, alpha, depth, kernel = ORIGINALS[name]
    # PyTorchVideo's depth 18 has one block a stage; PySlowFast's, whose cost is the published one, two
    monkeypatch.setitem(pytorchvideo_slowfast._MODEL_STAGE_DEPTH, 18, (2, 2, 2, 2))
    res4 = R101_KERNELS if depth == 101 else (3, 1, 1)
    return pytorchvideo_slowfast.create_slowfast(
        model_depth=depth,
        model_num_class=7,
        slowfast_fusion_conv_kernel_size=(kernel, 1, 1),
        slowfast_fusion_conv_stride=(alpha, 1, 1),
        stage_conv_a_kernel_sizes=(
            ((1, 1, 1), (1, 1, 1), res4, (3, 1, 1)),
            ((3, 1, 1), (3, 1, 1), res4, (3, 1, 1)),
        ),
        head_pool_kernel_sizes=((frames // alpha, 2, 2), (frames, 2, 2)),
    )


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", ORIGINALS)
def test_logits_are_those_of_pytorchvideo(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected_network, network = alike(partial(reference, name, monkeypatch), partial(SlowFast, name, num_classes=7))
    frames, alpha = ORIGINALS[name][:2]
    fast = torch.randn(1, 3, frames, 64, 64, dtype=torch.float64)
    slow = fast[:, :, ::alpha]
    with torch.no_grad():
        expected = expected_network([slow, fast])  # overwrites the list
        assert expected.std() > 0.01  # a reference that says something
        pathways = [slow, fast]
        assert relative_error(network(pathways), expected) < 1e-10
        assert pathways[0] is slow
        assert pathways[1] is fast
        assert relative_error(network(fast), expected) < 1e-10
        assert relative_error(network(fast.flip(2)), expected) > 1e-3


@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")
def test_training_step_is_that_of_pytorchvideo(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = partial(SlowFast, "slowfast_8x8_r18", num_classes=7, dropout=0.0)
    expected_network, network = (model.train() for model in alike(partial(reference, ours.args[0], monkeypatch), ours))
    expected_network.blocks[-1].dropout.p = 0.0
    fast = torch.randn(2, 3, 8, 64, 64, dtype=torch.float64)
    for logits in (expected_network([fast[:, :, ::4], fast]), network(fast)):
        nn.functional.cross_entropy(logits, torch.tensor([1, 5])).backward()
    expected_gradients = {key: parameter.grad for key, parameter in expected_network.named_parameters()}
    for key, parameter in network.named_parameters():
        assert relative_error(parameter.grad, expected_gradients[key]) < 1e-8, key
    for key, statistic in expected_network.named_buffers():
        torch.testing.assert_close(network.get_buffer(key), statistic, msg=key)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_the_nonlocal_block_is_that_of_pytorchvideo(size: tuple[int, int]) -> None:
    original = create_nonlocal(dim_in=12, dim_inner=6, pool_size=(1, 2, 2), instantiation="dot_product").double()
    scramble_(original)
    block = NonLocal(12).double()
    block.load_state_dict(original.state_dict(), strict=True)
    features = torch.randn(2, 12, 3, *size, dtype=torch.float64)
    for mode in (True, False):
        expected = original.train(mode)(features)
        assert relative_error(expected, features) > 0.1
        assert relative_error(block.train(mode)(features), expected) < 1e-12
