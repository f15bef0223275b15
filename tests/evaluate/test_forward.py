"""What a network computes in: its own type, or bfloat16 that was asked for."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr import checks
from atfr.errors import InputError
from atfr.evaluate.forward import Forward, prepared
from tests.evaluate.build import network

pytestmark = pytest.mark.usefixtures("few_layers")
SHAPE = (3, 4, 32, 32)


def clips() -> Tensor:
    return torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))


def far_from_one(model: nn.Module) -> nn.Module:
    """Statistics of batch norms as training leaves them: folding them in changes every bit of a weight."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_var, 0.3, 3.0)
    return model


def test_bfloat16_rounds_the_weights_that_run_and_nothing_before() -> None:
    model = far_from_one(network(adapted=False))
    exact, rounded = prepared(model, SHAPE), prepared(model, SHAPE, "bfloat16")
    weights = exact.model.state_dict()
    for name, tensor in rounded.model.state_dict().items():
        assert torch.equal(tensor, weights[name].bfloat16() if tensor.is_floating_point() else weights[name]), name
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(clips().double()).softmax(1)
    found = rounded(clips()).scores
    torch.testing.assert_close(exact(clips()).scores, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.005)
    assert (found - expected).abs().max() > 10 * (exact(clips()).scores - expected).abs().max()
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("options", [{"after": "res2"}, {"after": "input", "sampler": "change", "num_bins": 3}])
def test_clips_of_different_length_run_in_bfloat16(options: dict[str, object]) -> None:
    model = far_from_one(network(adapted=False))
    atfr.adapt_(model, **options)
    together, alone = prepared(model, SHAPE, "bfloat16"), prepared(model, SHAPE, "bfloat16")
    found = together(clips())
    assert found.multiply_adds == prepared(model, SHAPE)(clips()).multiply_adds
    for number, clip in enumerate(clips()):
        torch.testing.assert_close(found.scores[number], alone(clip[None]).scores[0], rtol=0.02, atol=0.002)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_type_takes_clips_as_they_are_decoded(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    assert torch.equal(Forward(model, SHAPE)(clips()).scores, Forward(model, SHAPE)(clips().to(dtype)).scores)


def test_a_processor_without_bfloat16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for flags in ("flags : avx2 avx512_bf16 amx_int8", "Features : asimd bf16 i8mm", ""):
            monkeypatch.setattr(checks, "cpuinfo", lambda flags=flags: flags)
            prepared(network(), SHAPE, "bfloat16")
    monkeypatch.setattr(checks, "cpuinfo", lambda: "flags : fpu sse4_2 avx2 avx512f")
    with pytest.warns(UserWarning, match="no arithmetic for bfloat16"):
        prepared(network(), SHAPE, "bfloat16")
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        prepared(network(), SHAPE, "bfloat")  # type: ignore[arg-type]
