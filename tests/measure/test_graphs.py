"""A network as graphs of a runtime: A is what was asked for, and the parts of a round are its differences."""

from __future__ import annotations

import pytest
import torch

import atfr
from atfr.measure import Timing
from atfr.measure.graphs import in_runtime, with_parts
from atfr.measure.saving import measure, work_of
from atfr.runtime.engines import installed
from tests.runtime.test_graphs import Tiny

SHAPE = (3, 4, 32, 32)


@pytest.mark.parametrize("runtime", ["openvino", pytest.param("onnx", marks=pytest.mark.soak)])
def test_a_graph_keeps_what_was_asked_for(runtime: str) -> None:
    if not installed({"openvino": "openvino", "onnx": "onnxscript"}[runtime]):
        pytest.skip(f"{runtime} is not installed")
    torch.manual_seed(0)
    model = Tiny().eval()
    atfr.adapt_(model, after="early")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clip = torch.rand(1, *SHAPE)
    work = work_of(model, SHAPE, (3,))
    with in_runtime(model, clip, work, runtime) as pair:
        _, trace = pair.variants["adaptive"]()
        saving = measure({runtime: pair}, rounds=2, at_least=2)[0][runtime]
        static, _ = pair.variants["static"]()
    assert trace.sites["early"].lengths == [3]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    atfr.restore_(model)
    with torch.no_grad():
        torch.testing.assert_close(static, model(clip), rtol=1e-3, atol=1e-4)
    assert saving.timing.rounds == 2
    for s in zip(*saving.timing.seconds.values(), strict=True):
        of = dict(zip(saving.timing.seconds, s, strict=True))
        assert of["before"] + of["after"] == pytest.approx(of["static"])
        assert of["before"] + of["sgs"] + of["after sgs"] == pytest.approx(of["adaptive"])


def test_parts_are_differences_in_a_round() -> None:
    timing = Timing({"static": (9.0, 7.0), "adaptive": (6.0, 5.0), "before": (2.0, 1.0), "early": (3.0, 1.5)})
    assert with_parts(timing) == {
        "static": (9.0, 7.0),
        "adaptive": (6.0, 5.0),
        "before": (2.0, 1.0),
        "after": (7.0, 6.0),
        "sgs": (1.0, 0.5),
        "after sgs": (3.0, 3.5),
    }
